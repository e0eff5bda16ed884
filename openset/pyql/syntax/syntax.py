"""The raw tree: what was written, before names are resolved. `checks.py` turns it into the tree of `tree.py`.

`at` is an offset into the script. `depth` is the height of an expression, kept so that a bound on it costs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(slots=True, eq=False)
class Constant:
    at: int
    value: int | float | str | bool | None
    depth: int = 1


@dataclass(slots=True, eq=False)
class Placeholder:
    """`{{name}}`"""

    at: int
    name: str
    depth: int = 1


@dataclass(slots=True, eq=False)
class Name:
    at: int
    name: str
    depth: int = 1


@dataclass(slots=True, eq=False)
class Prefix:
    at: int
    operator: str
    operand: Expression
    depth: int


@dataclass(slots=True, eq=False)
class Operation:
    at: int
    operator: str
    operator_at: int
    left: Expression
    right: Expression
    depth: int


@dataclass(slots=True, eq=False)
class ListOf:
    at: int
    items: list[Expression]
    depth: int


@dataclass(slots=True, eq=False)
class SetOf:
    """`{1, 2}`"""

    at: int
    items: list[Expression]
    depth: int


@dataclass(slots=True, eq=False)
class DictOf:
    at: int
    pairs: list[tuple[Expression, Expression]]
    depth: int


@dataclass(slots=True, eq=False)
class Subscript:
    at: int
    container: Expression
    index: Expression
    depth: int


@dataclass(slots=True, eq=False)
class Cut:
    """`container[start:stop]`"""

    at: int
    container: Expression
    start: Expression | None
    stop: Expression | None
    depth: int


@dataclass(slots=True, eq=False)
class Call:
    at: int
    name: str
    arguments: list[Expression]
    depth: int


@dataclass(slots=True, eq=False)
class Method:
    at: int
    target: Expression
    name: Name
    arguments: list[Expression]
    depth: int


@dataclass(slots=True, eq=False)
class Aggregation:
    """`SUM column with key all where condition`"""

    at: int
    kind: str
    column: Name
    key: Name | None
    every: bool
    where: Expression | None
    depth: int


Expression: TypeAlias = (
    Constant
    | Placeholder
    | Name
    | Prefix
    | Operation
    | ListOf
    | SetOf
    | DictOf
    | Subscript
    | Cut
    | Call
    | Method
    | Aggregation
)


@dataclass(slots=True, eq=False)
class Assign:
    at: int
    target: Expression
    operator: str | None
    operator_at: int
    value: Expression


@dataclass(slots=True, eq=False)
class Delete:
    at: int
    target: Expression


@dataclass(slots=True, eq=False)
class Evaluate:
    at: int
    expression: Expression


@dataclass(slots=True, eq=False)
class If:
    at: int
    branches: list[tuple[Expression, list[Statement]]]
    orelse: list[Statement]


@dataclass(slots=True, eq=False)
class Match:
    at: int
    limit: Constant | Placeholder | None
    where: Expression | None
    body: list[Statement]


@dataclass(slots=True, eq=False)
class For:
    at: int
    names: list[Name]
    iterable: Expression
    body: list[Statement]


@dataclass(slots=True, eq=False)
class Break:
    """levels: a number as written, `top`, `all`, or an empty text. `levels_at`: where it stands."""

    at: int
    levels: str
    levels_at: int


@dataclass(slots=True, eq=False)
class Bare:
    """word: `continue`, `exit` or `pass`."""

    at: int
    word: str


@dataclass(slots=True, eq=False)
class Return:
    at: int
    value: Expression | None


Statement: TypeAlias = Assign | Delete | Evaluate | If | Match | For | Break | Bare | Return


@dataclass(slots=True, eq=False)
class Def:
    at: int
    name: Name
    parameters: list[Name]
    body: list[Statement]


@dataclass(slots=True, eq=False)
class Aggregator:
    """One line of agg:.  alias None: the name of `column` as written. For var, `column` is the name after var."""

    at: int
    kind: str
    column: Name
    expression: Expression | None
    key: Name | None
    every: bool
    alias: Name | None


@dataclass(slots=True, eq=False)
class Script:
    """aggregators None: there is no agg:."""

    aggregators: list[Aggregator] | None = None
    sort: Name | None = None
    functions: list[Def] = field(default_factory=list)
    body: list[Statement] = field(default_factory=list)
