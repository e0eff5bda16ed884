"""The syntax tree of PyQL, as the checks leave it: every name resolved, every rule that needs no data verified.

Nodes are frozen and compare by identity, so that plans can hang facts on them. Positions are 1-based.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from openset_format.block import ColumnType


@dataclass(frozen=True, slots=True)
class Position:
    """Where a node starts in the script: line and column, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Node:
    at: Position


# ---------------------------------------------------------------- expressions


class Expression(Node):
    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Literal_(Expression):
    """A number, text, bool or None written in the script. Durations are ints in milliseconds."""

    value: int | float | str | bool | None


@dataclass(frozen=True, slots=True, eq=False)
class Parameter(Expression):
    """`{{name}}`: a value given with the request."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class ColumnRead(Expression):
    """A column of the table on the current row. Built-in columns too: person (alias people), stamp, action, session.

    `type` is None for `person`, which may be text or int; `stamp` and `session` are int.
    """

    name: str
    type: ColumnType | None


@dataclass(frozen=True, slots=True, eq=False)
class Variable(Expression):
    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Unary(Expression):
    """operator: "not", "-" or "+"."""

    operator: str
    operand: Expression


@dataclass(frozen=True, slots=True, eq=False)
class Binary(Expression):
    """operator: + - * / // % == != < <= > >= in "not in" and or.  (`is`, `is not`, `<>` arrive as == and !=.)"""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True, eq=False)
class ListDisplay(Expression):
    items: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False)
class DictDisplay(Expression):
    pairs: tuple[tuple[Expression, Expression], ...]


@dataclass(frozen=True, slots=True, eq=False)
class Index(Expression):
    """container[index]"""

    container: Expression
    index: Expression


@dataclass(frozen=True, slots=True, eq=False)
class Slice(Expression):
    """container[start:stop]; either end may be missing."""

    container: Expression
    start: Expression | None
    stop: Expression | None


@dataclass(frozen=True, slots=True, eq=False)
class Call(Expression):
    """A built-in of names.py that has a value (`event_time` written without brackets arrives here too)."""

    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False)
class UserCall(Expression):
    """A call of a function that the script defines."""

    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False)
class MethodCall(Expression):
    """target.method(arguments), a method of names.METHODS. Those that change the container need a target that is a
    Variable or an Index chain that starts at one."""

    target: Expression
    method: str
    arguments: tuple[Expression, ...]


InlineKind = Literal["sum", "count", "min", "max", "avg", "distinct"]


@dataclass(frozen=True, slots=True, eq=False)
class Inline(Expression):
    """SUM|COUNT|MIN|MAX|AVG|DISTINCT column [with key] [all] [where condition] over all rows of the person."""

    kind: InlineKind
    column: ColumnRead
    key: ColumnRead | None
    every: bool  # `all`
    where: Expression | None


# ---------------------------------------------------------------- statements


class Statement(Node):
    __slots__ = ()


Body = tuple[Statement, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Assign(Statement):
    """target = value, or target += value with operator "+" (also - * / // %)."""

    target: Variable | Index
    value: Expression
    operator: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Delete(Statement):
    """del container[index]"""

    target: Index


@dataclass(frozen=True, slots=True, eq=False)
class Evaluate(Statement):
    """An expression on a line of its own: a user function call, a method call."""

    expression: Expression


@dataclass(frozen=True, slots=True, eq=False)
class Tally(Statement):
    """tally(k1, k2, …); without keys only in segment scripts."""

    keys: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False)
class If(Statement):
    """if / elif branches in order, then the else body (maybe empty)."""

    branches: tuple[tuple[Expression, Body], ...]
    orelse: Body


@dataclass(frozen=True, slots=True, eq=False)
class Match(Statement):
    """match [limit] [where condition]: body.  limit is an int literal >= 1 or a parameter."""

    limit: Literal_ | Parameter | None
    where: Expression | None
    body: Body


@dataclass(frozen=True, slots=True, eq=False)
class For(Statement):
    """for v in …: or for k, v in …:"""

    names: tuple[str, ...]
    iterable: Expression
    body: Body


@dataclass(frozen=True, slots=True, eq=False)
class Break(Statement):
    """break (levels 1), break N, break top, break all. Loops are match and for."""

    levels: int | Literal["top", "all"]


@dataclass(frozen=True, slots=True, eq=False)
class Continue(Statement):
    pass


@dataclass(frozen=True, slots=True, eq=False)
class Exit(Statement):
    pass


@dataclass(frozen=True, slots=True, eq=False)
class Return(Statement):
    value: Expression | None


MoveKind = Literal["next", "prev", "set", "move_first", "move_last", "reset_event"]


@dataclass(frozen=True, slots=True, eq=False)
class Move(Statement):
    """iter_next(), iter_prev(), iter_set(p), iter_move_first(), iter_move_last(), iter_reset_event()."""

    kind: MoveKind
    position: Expression | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Log(Statement):
    """log(a, …)"""

    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Emit(Statement):
    """emit(name[, value]) in a trigger script; ends the script for the person."""

    name: Expression
    value: Expression | None


@dataclass(frozen=True, slots=True, eq=False)
class Schedule(Statement):
    """schedule(span, "function") in a trigger script."""

    span: Expression
    function: str


@dataclass(frozen=True, slots=True, eq=False)
class Cancel(Statement):
    """cancel("function") in a trigger script."""

    function: str


@dataclass(frozen=True, slots=True, eq=False)
class Pass(Statement):
    """`pass`: nothing."""


# ---------------------------------------------------------------- the whole script

AggregatorKind = Literal["count", "sum", "min", "max", "avg", "value", "var"]


@dataclass(frozen=True, slots=True, eq=False)
class Aggregator(Node):
    """One line of agg:.  `count person` is what an empty agg: means.

    column: what is aggregated (None for var).  expression: of var only (a Variable for plain `var name`).
    key: the `with` column, or None.  every: `all`.  alias: the name results and sort= use.
    """

    kind: AggregatorKind
    alias: str
    column: ColumnRead | None
    expression: Expression | None
    key: ColumnRead | None
    every: bool


@dataclass(frozen=True, slots=True, eq=False)
class Function(Node):
    name: str
    parameters: tuple[str, ...]
    body: Body


@dataclass(frozen=True, slots=True, eq=False)
class Script(Node):
    """A checked script. `columns` are the table columns it reads (built-ins left out, except action and person)."""

    text: str
    aggregators: tuple[Aggregator, ...]
    sort: str | None
    functions: dict[str, Function]
    body: Body
    variables: frozenset[str]
    parameters: frozenset[str]
    columns: frozenset[str]


@dataclass(frozen=True, slots=True, eq=False)
class Section(Node):
    """One @segment of a counts request. ttl_seconds None means forever (the default).

    text: the section's script without its @segment line and without the indentation it has in the request, to which
    positions refer.
    """

    name: str
    ttl_seconds: float | None
    refresh_seconds: float | None
    use_cached: bool
    script: Script | None
    algebra: SetAlgebra | None
    text: str


@dataclass(frozen=True, slots=True, eq=False)
class SetAlgebra(Node):
    """population | intersection | union | complement | difference over segment names or nested operations."""

    operation: Literal["population", "intersection", "union", "complement", "difference"]
    operands: tuple[str | SetAlgebra, ...]
