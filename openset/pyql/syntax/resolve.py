"""What names mean: raw expressions → expressions of `tree.py`, with every rule that concerns an expression.

A `Scope` knows the columns of the table, the functions and variables of one script, and notes what the script reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from openset.errors import ParseError
from openset.pyql import names, tree
from openset.pyql.syntax import syntax
from openset.pyql.syntax.messages import counted, did_you_mean, quoted
from openset.pyql.syntax.source import Source
from openset_format.block import ColumnType

# Functions of Python and other languages, by name: what to write here.
_FOREIGN_FUNCTIONS = {
    "print": "write log(…), and ask for info=true to see the lines.",
    "range": "write a list, or count in a variable.",
    "enumerate": "count in a variable: n += 1.",
    "sorted": "results are ordered by sort=; lists keep the order of their events.",
    "sum": "write SUM column for all rows of the person, or add up in a for loop.",
    "count": "write COUNT column for all rows of the person, or len(x).",
    "avg": "write AVG column for all rows of the person.",
    "min": "write MIN column for all rows of the person, or compare with <.",
    "max": "write MAX column for all rows of the person, or compare with >.",
    "distinct": "write DISTINCT column for all rows of the person.",
    "abs": "write if x < 0: x = -x.",
    "any": "write a for loop.",
    "all": "write a for loop.",
    "type": "values carry their kind; compare with is None.",
    "isinstance": "values carry their kind; compare with is None.",
    "floor": "write x // 1, or trunc(x) towards 0.",
    "bool": "write not not x.",
    "length": "write len(x).",
    "size": "write len(x).",
    "time": "write now, or event_time for the current row.",
    "exit": "write exit without brackets.",
    "break": "write break without brackets.",
}
# Words of other languages for the values that a keyword stands for, in small letters.
_FOREIGN_VALUES = {
    "null": "None",
    "nil": "None",
    "undefined": "None",
    "nan": "None",
    "none": "None",
    "true": "True",
    "false": "False",
}
_FOREIGN_METHODS = {
    "items": "write for k, v in d:",
    "values": "write for k, v in d:",
    "get": "write d[k], which is None where the key is missing.",
    "push": "write .append(x).",
    "extend": "write l += other.",
    "insert": "write [x] + l.",
    "length": "write len(x).",
    "size": "write len(x).",
    "count": "count in a for loop.",
    "index": "write .find(x) for text, or x in l.",
    "contains": "write x in y.",
    "has": "write x in y.",
    "includes": "write x in y.",
    "startswith": "write t[:n] == x.",
    "endswith": "write t[-n:] == x.",
    "discard": "write .remove(x).",
    "delete": "write .remove(x).",
    "trim": "write .strip().",
    "join": "add the parts up in a for loop.",
    "format": "join the parts with +, numbers with str(x).",
}


def arity(minimum: int, maximum: int) -> str:
    """How many arguments, in words: `2 arguments`, `1 to 3 arguments`, `at least 1 argument`."""
    if maximum == names.MANY:
        return f"at least {counted(minimum, 'argument')}"
    if minimum == maximum:
        return counted(maximum, "argument")
    return f"{minimum} {'or' if maximum == minimum + 1 else 'to'} {maximum} arguments"


class Scope:
    """The names of one script, and what its expressions read (`read_columns`, `read_parameters`)."""

    def __init__(
        self,
        source: Source,
        columns: Mapping[str, ColumnType],
        functions: Mapping[str, int],
        variables: Iterable[str],
        *,
        trigger: bool = False,
    ):
        """functions: of the script, with their number of parameters. trigger: it is a trigger script."""
        self.source = source
        self.columns = columns
        self.functions = functions
        self.variables = frozenset(variables)
        self.statement_calls = {**names.STATEMENT_CALLS, **(names.TRIGGER_CALLS if trigger else {})}
        self.trigger = trigger
        self.read_columns: set[str] = set()
        self.read_parameters: set[str] = set()

    # -------------------------------------------------- what a name is

    def error(self, at: int, message: str) -> ParseError:
        """An error at an offset of the script."""
        return self.source.error(at, message)

    def is_column(self, name: str) -> bool:
        """Whether a name reads the current row."""
        return name in self.columns or name in names.BUILTIN_COLUMNS or name in names.COLUMN_SYNONYMS

    def column(self, name: syntax.Name, role: str) -> tree.ColumnRead:
        """A name that has to be a column. `role` says in the message what it would be used for."""
        if not self.is_column(name.name):
            if name.name in self.variables:
                message = (
                    f"{quoted(name.name)} is a variable, but {role} takes a column; use var under agg: for variables."
                )
            else:
                known = (*self.columns, *names.BUILTIN_COLUMNS, *names.COLUMN_SYNONYMS)
                hint = did_you_mean(name.name, known, f"{role} takes a column of the table.")
                message = f"There is no column {quoted(name.name)}; {hint}"
            raise self.error(name.at, message)
        return self._column_read(name)

    def _column_read(self, name: syntax.Name) -> tree.ColumnRead:
        canonical = names.COLUMN_SYNONYMS.get(name.name, name.name)
        kind = self.columns.get(canonical)
        if canonical in names.BUILTIN_COLUMNS:
            kind = cast(ColumnType | None, names.BUILTIN_COLUMNS[canonical])
        if canonical not in ("stamp", "session"):
            self.read_columns.add(canonical)
        return tree.ColumnRead(canonical, kind, at=self.source.position(name.at))

    def why_not_assignable(self, name: str) -> str | None:
        """Why a name cannot be a variable: what it is already. None where it can."""
        if self.is_column(name):
            return "is a column"
        if name in names.FUNCTIONS or name in names.FUNCTION_SYNONYMS:
            return "is built in"
        if name in names.MOVES or name in names.STATEMENT_CALLS:
            return "is built in"
        if name in names.TRIGGER_NAMES:
            return "is a word of trigger scripts"
        if name in names.KEYWORDS:
            return "is a word of the language"
        return "is a function of this script" if name in self.functions else None

    # -------------------------------------------------- expressions

    def expression(self, node: syntax.Expression) -> tree.Expression:
        """The resolved expression.

        Raises:
            ParseError: an unknown name, a wrong number of arguments, something without a value.
        """
        return _RESOLVERS[type(node)](self, node)

    def _all(self, nodes: list[syntax.Expression]) -> tuple[tree.Expression, ...]:
        return tuple([self.expression(node) for node in nodes])

    def _constant(self, node: syntax.Constant) -> tree.Expression:
        return tree.Literal_(node.value, at=self.source.position(node.at))

    def placeholder(self, node: syntax.Placeholder) -> tree.Parameter:
        """`{{name}}`, noted as read."""
        if self.trigger:
            raise self.error(
                node.at, f"A trigger has no parameters to take {{{{{node.name}}}}} from; write the value itself."
            )
        self.read_parameters.add(node.name)
        return tree.Parameter(node.name, at=self.source.position(node.at))

    def _name(self, node: syntax.Name) -> tree.Expression:
        name = node.name
        if self.is_column(name):
            return self._column_read(node)
        if name in self.variables:
            return tree.Variable(name, at=self.source.position(node.at))
        canonical = names.FUNCTION_SYNONYMS.get(name, name)
        builtin = names.FUNCTIONS.get(canonical)
        if builtin is not None and builtin.bare:
            return tree.Call(canonical, (), at=self.source.position(node.at))
        if builtin is not None:
            brackets = "(…)" if builtin.max_arguments else "()"
            raise self.error(node.at, f"{quoted(name)} is a function; write {name}{brackets}.")
        if name in names.MOVES or name in self.statement_calls:
            raise self.error(
                node.at, f"{quoted(name)} is a statement without a value; write {name}(…) on its own line."
            )
        if name in self.functions:
            raise self.error(node.at, f"{quoted(name)} is a function; write {name}(…) to call it.")
        raise self._unknown(node.at, name)

    def _unknown(self, at: int, name: str) -> ParseError:
        reserved = self._reserved(name)
        if reserved is not None:
            return self.error(at, reserved)
        if name.lower() in _FOREIGN_VALUES:
            return self.error(at, f"The name {quoted(name)} is unknown; write {_FOREIGN_VALUES[name.lower()]}.")
        hint = did_you_mean(
            name, self._known(),
            "it is no column and no function, and nothing assigns it; write it as a text in quotes or assign it first.",
        )  # fmt: skip
        return self.error(at, f"The name {quoted(name)} is unknown; {hint}")

    def _reserved(self, name: str) -> str | None:
        if name in names.TRIGGER_NAMES:
            return f"{quoted(name)} belongs to trigger scripts and does nothing in a query; remove it."
        if name in names.SEGMENT_NAMES:
            return (
                f"{quoted(name)} combines stored segments and stands alone in a @segment of a counts request;"
                " write it there."
            )
        return None

    def is_known(self, name: str) -> bool:
        """Whether a name means something in this script."""
        return name in self._known()

    def _known(self) -> list[str]:
        return [
            *self.columns, *names.BUILTIN_COLUMNS, *names.COLUMN_SYNONYMS, *self.variables, *self.functions,
            *names.FUNCTIONS, *names.FUNCTION_SYNONYMS, *names.MOVES, *self.statement_calls, "exit",
        ]  # fmt: skip

    def _prefix(self, node: syntax.Prefix) -> tree.Expression:
        return tree.Unary(node.operator, self.expression(node.operand), at=self.source.position(node.at))

    def _operation(self, node: syntax.Operation) -> tree.Expression:
        left = self.expression(node.left)
        return tree.Binary(node.operator, left, self.expression(node.right), at=self.source.position(node.at))

    def _list(self, node: syntax.ListOf) -> tree.Expression:
        return tree.ListDisplay(self._all(node.items), at=self.source.position(node.at))

    def _set(self, node: syntax.SetOf) -> tree.Expression:
        return tree.Call("set", self._all(node.items), at=self.source.position(node.at))

    def _dict(self, node: syntax.DictOf) -> tree.Expression:
        pairs = tuple((self.expression(key), self.expression(value)) for key, value in node.pairs)
        return tree.DictDisplay(pairs, at=self.source.position(node.at))

    def _subscript(self, node: syntax.Subscript) -> tree.Expression:
        return self.subscript(node)

    def subscript(self, node: syntax.Subscript) -> tree.Index:
        """`container[index]`"""
        container = self.expression(node.container)
        return tree.Index(container, self.expression(node.index), at=self.source.position(node.at))

    def _cut(self, node: syntax.Cut) -> tree.Expression:
        container = self.expression(node.container)
        start = self.expression(node.start) if node.start is not None else None
        stop = self.expression(node.stop) if node.stop is not None else None
        return tree.Slice(container, start, stop, at=self.source.position(node.at))

    def _aggregation(self, node: syntax.Aggregation) -> tree.Expression:
        column = self.column(node.column, node.kind)
        if node.kind in ("SUM", "AVG"):
            self.require_numbers(column, node.kind, node.column.at)
        key = self.column(node.key, "with") if node.key is not None else None
        where = self.expression(node.where) if node.where is not None else None
        kind = cast(tree.InlineKind, node.kind.lower())
        return tree.Inline(kind, column, key, node.every, where, at=self.source.position(node.at))

    def require_numbers(self, column: tree.ColumnRead, kind: str, at: int) -> None:
        """Raises ParseError for a sum or an average of text."""
        if column.type in ("text", None):
            what = "holds text" if column.type == "text" else "may be text"
            instead = "COUNT, MIN or MAX" if kind.isupper() else "count, min or max"
            raise self.error(at, f"{quoted(column.name)} {what}, and {kind} needs numbers; use {instead}.")

    # -------------------------------------------------- calls

    def _call(self, node: syntax.Call) -> tree.Expression:
        name = names.FUNCTION_SYNONYMS.get(node.name, node.name)
        builtin = names.FUNCTIONS.get(name)
        if builtin is not None:
            self.require_arguments(node, builtin.min_arguments, builtin.max_arguments)
            return tree.Call(name, self._all(node.arguments), at=self.source.position(node.at))
        if name in self.functions:
            count = self.functions[name]
            self.require_arguments(node, count, count)
            return tree.UserCall(name, self._all(node.arguments), at=self.source.position(node.at))
        if name in names.MOVES or name in self.statement_calls:
            raise self.error(node.at, f"{quoted(name)} has no value; write it on a line of its own.")
        raise self._uncallable(node)

    def _uncallable(self, node: syntax.Call) -> ParseError:
        name = node.name
        if self.is_column(name):
            return self.error(node.at, f"{quoted(name)} is a column and cannot be called; write it without brackets.")
        if name in self.variables:
            return self.error(node.at, f"{quoted(name)} is a variable and cannot be called; only functions can.")
        reserved = self._reserved(name)
        if reserved is not None:
            return self.error(node.at, reserved)
        if name in _FOREIGN_FUNCTIONS:
            return self.error(node.at, f"There is no function {quoted(name)}; {_FOREIGN_FUNCTIONS[name]}")
        callable_names = (*names.FUNCTIONS, *self.functions, *names.MOVES, *self.statement_calls)
        hint = did_you_mean(name, callable_names, f"define it with def {name}(…):")
        return self.error(node.at, f"There is no function {quoted(name)}; {hint}")

    def require_arguments(self, node: syntax.Call, minimum: int, maximum: int) -> None:
        """Raises ParseError where a call has too few or too many arguments."""
        found = len(node.arguments)
        if not minimum <= found <= maximum:
            at = node.arguments[maximum].at if found > maximum else node.at
            raise self.error(
                at, f"{quoted(node.name)} takes {arity(minimum, maximum)}, but here it gets {found or 'none'}."
            )

    def _method(self, node: syntax.Method) -> tree.Expression:
        name = node.name.name
        if name not in names.METHODS:
            hint = _FOREIGN_METHODS.get(name) or did_you_mean(
                name, names.METHODS, f"the methods are {', '.join(names.METHODS)}."
            )
            raise self.error(node.name.at, f"There is no method {quoted('.' + name)}; {hint}")
        minimum, maximum = names.METHODS[name]
        found = len(node.arguments)
        if not minimum <= found <= maximum:
            takes = arity(minimum, maximum)
            raise self.error(node.name.at, f"{quoted('.' + name)} takes {takes}, but here it gets {found or 'none'}.")
        if name in names.CHANGING_METHODS and isinstance(node.target, syntax.Name):
            self._require_assigned(node.target)
        target = self.expression(node.target)
        if name in names.CHANGING_METHODS:
            self._require_changeable(node, target)
        return tree.MethodCall(target, name, self._all(node.arguments), at=self.source.position(node.at))

    def _require_assigned(self, name: syntax.Name) -> None:
        known = self._known()
        if name.name not in known and name.name not in names.TRIGGER_NAMES | names.SEGMENT_NAMES:
            hint = did_you_mean(name.name, known, f"write {name.name} = set(), [] or {{}} before it.")
            raise self.error(name.at, f"Nothing assigns {quoted(name.name)}; {hint}")

    def _require_changeable(self, node: syntax.Method, target: tree.Expression) -> None:
        root = target
        while isinstance(root, tree.Index):
            root = root.container
        if isinstance(root, tree.Variable):
            return
        what = f"column {quoted(root.name)}" if isinstance(root, tree.ColumnRead) else "value"
        raise self.error(
            node.at,
            f"{quoted('.' + node.name.name)} changes a container, and this {what} is no variable; assign it to one.",
        )


_Resolver = Callable[[Scope, Any], tree.Expression]
_RESOLVERS: dict[type, _Resolver] = {
    syntax.Constant: Scope._constant,
    syntax.Placeholder: Scope.placeholder,
    syntax.Name: Scope._name,
    syntax.Prefix: Scope._prefix,
    syntax.Operation: Scope._operation,
    syntax.ListOf: Scope._list,
    syntax.SetOf: Scope._set,
    syntax.DictOf: Scope._dict,
    syntax.Subscript: Scope._subscript,
    syntax.Cut: Scope._cut,
    syntax.Call: Scope._call,
    syntax.Method: Scope._method,
    syntax.Aggregation: Scope._aggregation,
}
