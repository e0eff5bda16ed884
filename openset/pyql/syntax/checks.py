"""The raw script → the checked `tree.Script`: statements, aggregators, and every rule that needs no data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

from openset.pyql import names, tree
from openset.pyql.syntax import syntax
from openset.pyql.syntax.messages import did_you_mean, nearest, quoted
from openset.pyql.syntax.resolve import Scope
from openset.pyql.syntax.source import Source
from openset_format.block import ColumnType

_NO_TALLY = "A trigger has no result to tally in; emit(…) says that something happened."
_KEY_SORTS = ("g", "key")


# Checks a call that only trigger scripts have.
TriggerCalls = Callable[[Scope, syntax.Call, tree.Position], tree.Statement]


def check_script(
    source: Source, script: syntax.Script, columns: Mapping[str, ColumnType], *, segment: bool, at: int = 0
) -> tree.Script:
    """The checked script. segment: it belongs to a @segment.  at: offset of the script in its source.

    Raises:
        ParseError: the first rule that the script breaks.
    """
    functions: dict[str, int] = {}
    for definition in script.functions:
        if definition.name.name in functions:
            raise source.error(
                definition.name.at, f"The function {quoted(definition.name.name)} is defined twice; rename one."
            )
        functions[definition.name.name] = len(definition.parameters)
    scope = Scope(source, columns, functions, ())
    scope.variables = frozenset(name for name in assigned_names(script) if scope.why_not_assignable(name) is None)
    statements = Statements(scope, segment=segment)
    checked_functions = {
        definition.name.name: statements.function(definition, columns) for definition in script.functions
    }
    body = statements.body(script.body)
    if segment and (script.aggregators is not None or script.sort is not None):
        raise source.error(at, "A @segment has no agg: and no sort:; it only says who belongs to it. Remove them.")
    if not body:
        raise source.error(at, "This script has no statement; write at least one, such as tally('all').")
    aggregators = _aggregators(scope, script.aggregators)
    sort = _sort(scope, script.sort, aggregators)
    if not aggregators:
        position = source.position(at)
        person = tree.ColumnRead("person", None, at=position)
        aggregators = (tree.Aggregator("count", "person", person, None, None, False, at=position),)
    return tree.Script(
        text=source.text, aggregators=aggregators, sort=sort, functions=checked_functions, body=body,
        variables=scope.variables, parameters=frozenset(scope.read_parameters), columns=frozenset(scope.read_columns),
        at=source.position(at),
    )  # fmt: skip


def assigned_names(script: syntax.Script) -> Iterator[str]:
    """Every name that the script assigns: targets, loop variables, parameters."""
    bodies = [script.body]
    for definition in script.functions:
        yield from (parameter.name for parameter in definition.parameters)
        bodies.append(definition.body)
    while bodies:
        for statement in bodies.pop():
            if isinstance(statement, syntax.Assign) and isinstance(statement.target, syntax.Name):
                yield statement.target.name
            elif isinstance(statement, syntax.For):
                yield from (name.name for name in statement.names)
                bodies.append(statement.body)
            elif isinstance(statement, syntax.Match):
                bodies.append(statement.body)
            elif isinstance(statement, syntax.If):
                bodies += [body for _, body in statement.branches]
                bodies.append(statement.orelse)


class Statements:
    """Checks statements. `_loops` is how many match and for loops stand around the statement, in the same function."""

    def __init__(self, scope: Scope, *, segment: bool, trigger: TriggerCalls | None = None):
        self._scope = scope
        self._segment = segment
        self._trigger = trigger
        self._loops = 0
        self._in_function = False

    def body(self, statements: list[syntax.Statement]) -> tree.Body:
        """The checked statements of a body."""
        return tuple([_CHECKS[type(statement)](self, statement) for statement in statements])

    def function(self, definition: syntax.Def, columns: Mapping[str, ColumnType]) -> tree.Function:
        """A checked function definition."""
        scope = self._scope
        name = definition.name
        without_functions = Scope(scope.source, columns, {}, ())
        reason = without_functions.why_not_assignable(name.name)
        if self._trigger is not None and name.name == names.ON_INSERT:
            reason = None
        if reason is not None:
            raise scope.error(name.at, f"{quoted(name.name)} {reason}; name this function differently.")
        if name.name in names.SEGMENT_NAMES:
            raise scope.error(name.at, f"{quoted(name.name)} is a word of segments; name this function differently.")
        seen = set()
        for parameter in definition.parameters:
            if parameter.name in seen:
                raise scope.error(
                    parameter.at, f"The parameter {quoted(parameter.name)} stands here twice; rename one."
                )
            seen.add(parameter.name)
            reason = scope.why_not_assignable(parameter.name)
            if reason is not None:
                raise scope.error(parameter.at, f"{quoted(parameter.name)} {reason}; name this parameter differently.")
        self._in_function = True
        body = self.body(definition.body)
        self._in_function = False
        parameters = tuple(parameter.name for parameter in definition.parameters)
        return tree.Function(name.name, parameters, body, at=scope.source.position(definition.at))

    def _assignable(self, name: syntax.Name) -> None:
        reason = self._scope.why_not_assignable(name.name)
        if reason is not None:
            raise self._scope.error(
                name.at, f"{quoted(name.name)} {reason} and cannot be assigned; choose another name for the variable."
            )

    def _position(self, node: syntax.Statement) -> tree.Position:
        return self._scope.source.position(node.at)

    # -------------------------------------------------- simple statements

    def _assign(self, node: syntax.Assign) -> tree.Statement:
        target = node.target
        checked: tree.Variable | tree.Index
        if isinstance(target, syntax.Name):
            self._assignable(target)
            checked = tree.Variable(target.name, at=self._scope.source.position(target.at))
        elif isinstance(target, syntax.Subscript):
            checked = self._element(target, "assigned")
        else:
            hint = "write == to compare." if node.operator is None else "write a variable before it."
            if isinstance(target, syntax.Cut):
                hint = "build the list anew: x = x[:1] + other."
            raise self._scope.error(node.operator_at, f"Only a variable or an element x[k] can be assigned; {hint}")
        return tree.Assign(checked, self._scope.expression(node.value), node.operator, at=self._position(node))

    def _element(self, target: syntax.Subscript, verb: str) -> tree.Index:
        root: syntax.Expression = target
        while isinstance(root, syntax.Subscript):
            root = root.container
        if not isinstance(root, syntax.Name):
            raise self._scope.error(
                target.at, f"Only elements of variables can be {verb}; write x[k] with a variable x."
            )
        checked = self._scope.subscript(target)
        if root.name not in self._scope.variables:
            raise self._scope.error(
                root.at,
                f"{quoted(root.name)} is no variable, so its elements cannot be {verb}; copy it into one first.",
            )
        return checked

    def _delete(self, node: syntax.Delete) -> tree.Statement:
        target = node.target
        if isinstance(target, syntax.Cut):
            raise self._scope.error(
                target.at, "`del` removes one element; write del x[k] in a loop, or keep a slice: x = x[a:b]."
            )
        if not isinstance(target, syntax.Subscript):
            raise self._scope.error(
                target.at, "`del` removes an element; write del x[k], or x = None to empty a variable."
            )
        return tree.Delete(self._element(target, "removed"), at=self._position(node))

    def _evaluate(self, node: syntax.Evaluate) -> tree.Statement:
        expression = node.expression
        at = self._position(node)
        if isinstance(expression, syntax.Call):
            name = expression.name
            if name == "exit" and not expression.arguments:
                return tree.Exit(at=at)
            known = names.STATEMENT_CALLS.get(name) or names.MOVES.get(name)
            if known is not None:
                return self._statement_call(expression, known, at)
            if self._trigger is not None and name in names.TRIGGER_CALLS:
                return self._trigger(self._scope, expression, at)
        if isinstance(expression, syntax.Operation) and self._is_statement_call(expression.left):
            raise self._scope.error(expression.operator_at, _after_statement(expression.operator))
        if isinstance(expression, syntax.Name):
            name = expression.name
            if name == "tally" and self._segment:
                return tree.Tally((), at=at)
            if name in names.MOVES:
                raise self._scope.error(
                    expression.at, f"{quoted(name)} needs brackets; write {name}({_argument(name)})."
                )
            if name == "tally" and self._trigger is not None:
                raise self._scope.error(expression.at, _NO_TALLY)
            if name == "tally":
                raise self._scope.error(expression.at, "`tally` needs a key; write tally('all') to count everyone.")
            self._refuse_misspelt(expression)
        return tree.Evaluate(self._scope.expression(expression), at=at)

    def _is_statement_call(self, node: syntax.Expression) -> bool:
        return isinstance(node, syntax.Call) and (node.name in self._scope.statement_calls or node.name in names.MOVES)

    def _refuse_misspelt(self, name: syntax.Name) -> None:
        """A line that is one unknown name is most likely a misspelt statement."""
        if self._scope.is_known(name.name):
            return
        close = nearest(name.name, ("break", "continue", "exit", "pass", "return"))
        if close is not None:
            raise self._scope.error(name.at, f"{quoted(name.name)} is unknown; did you mean {quoted(close)}?")

    def _statement_call(self, call: syntax.Call, known: names.Builtin, at: tree.Position) -> tree.Statement:
        scope = self._scope
        scope.require_arguments(call, known.min_arguments, known.max_arguments)
        arguments = tuple([scope.expression(argument) for argument in call.arguments])
        if known.name == "tally" and self._trigger is not None:
            raise scope.error(call.at, _NO_TALLY)
        if known.name == "tally":
            if not arguments and not self._segment:
                raise scope.error(call.at, "`tally` needs a key; write tally('all') to count everyone.")
            return tree.Tally(arguments, at=at)
        if known.name == "log":
            return tree.Log(arguments, at=at)
        kind = cast(tree.MoveKind, known.name.removeprefix("iter_"))
        return tree.Move(kind, arguments[0] if arguments else None, at=at)

    def _return(self, node: syntax.Return) -> tree.Statement:
        value = self._scope.expression(node.value) if node.value is not None else None
        return tree.Return(value, at=self._position(node))

    def _bare(self, node: syntax.Bare) -> tree.Statement:
        at = self._position(node)
        if node.word == "pass":
            return tree.Pass(at=at)
        if node.word == "exit":
            return tree.Exit(at=at)
        if self._loops == 0:
            raise self._scope.error(node.at, f"`continue` goes on with a loop, but {self._no_loop()}")
        return tree.Continue(at=at)

    def _break(self, node: syntax.Break) -> tree.Statement:
        at = self._position(node)
        loops = self._loops
        if loops == 0:
            raise self._scope.error(node.at, f"`break` leaves a loop, but {self._no_loop()}")
        if node.levels == "top":
            if loops < 2:
                raise self._scope.error(
                    node.levels_at,
                    "`break top` leaves all loops but the outermost, and here there is 1 loop; write break.",
                )
            return tree.Break("top", at=at)
        if node.levels == "all":
            return tree.Break("all", at=at)
        levels = int(node.levels or 1) if len(node.levels) < 6 else loops + 1
        if levels < 1:
            raise self._scope.error(node.levels_at, "`break` leaves at least one loop; write break, or break 2.")
        if levels > loops:
            there, instead = ("there is 1 loop", "break") if loops == 1 else (f"there are {loops} loops", "break all")
            raise self._scope.error(
                node.levels_at,
                f"{quoted('break ' + node.levels)} leaves more loops than there are: here {there}; write {instead}.",
            )
        return tree.Break(levels, at=at)

    def _no_loop(self) -> str:
        if self._in_function:
            return "there is no loop around it in this function; write return to leave the function."
        return "there is no loop around it; write exit to end the script."

    # -------------------------------------------------- blocks

    def _if(self, node: syntax.If) -> tree.Statement:
        branches = tuple([(self._scope.expression(condition), self.body(body)) for condition, body in node.branches])
        return tree.If(branches, self.body(node.orelse), at=self._position(node))

    def _match(self, node: syntax.Match) -> tree.Statement:
        limit: tree.Literal_ | tree.Parameter | None = None
        if isinstance(node.limit, syntax.Constant):
            limit = tree.Literal_(node.limit.value, at=self._scope.source.position(node.limit.at))
        elif node.limit is not None:
            limit = self._scope.placeholder(node.limit)
        where = self._scope.expression(node.where) if node.where is not None else None
        return tree.Match(limit, where, self._loop_body(node.body), at=self._position(node))

    def _for(self, node: syntax.For) -> tree.Statement:
        for name in node.names:
            self._assignable(name)
        if len(node.names) > 2:
            raise self._scope.error(node.names[2].at, "A for line has one or two names; write for k, v in dict:")
        if len(node.names) == 2 and node.names[0].name == node.names[1].name:
            raise self._scope.error(node.names[1].at, f"{quoted(node.names[1].name)} stands here twice; rename one.")
        iterable = self._scope.expression(node.iterable)
        loop_names = tuple(name.name for name in node.names)
        return tree.For(loop_names, iterable, self._loop_body(node.body), at=self._position(node))

    def _loop_body(self, statements: list[syntax.Statement]) -> tree.Body:
        self._loops += 1
        body = self.body(statements)
        self._loops -= 1
        return body


def _after_statement(operator: str) -> str:
    if operator == "//":
        return "Comments start with #, not //."
    return f"A statement has no value for {quoted(operator)}; end the line before it."


def _argument(name: str) -> str:
    return "position" if names.MOVES[name].min_arguments else ""


_Check = Callable[[Statements, Any], tree.Statement]
_CHECKS: dict[type, _Check] = {
    syntax.Assign: Statements._assign,
    syntax.Delete: Statements._delete,
    syntax.Evaluate: Statements._evaluate,
    syntax.If: Statements._if,
    syntax.Match: Statements._match,
    syntax.For: Statements._for,
    syntax.Break: Statements._break,
    syntax.Bare: Statements._bare,
    syntax.Return: Statements._return,
}


# ---------------------------------------------------------------- agg: and sort:


def _aggregators(scope: Scope, written: list[syntax.Aggregator] | None) -> tuple[tree.Aggregator, ...]:
    found: dict[str, tree.Aggregator] = {}
    for aggregator in written or ():
        alias = (aggregator.alias or aggregator.column).name
        if alias in found:
            first = found[alias].at.line
            at = aggregator.alias.at if aggregator.alias else aggregator.column.at
            raise scope.error(
                at,
                f"Two aggregators are named {quoted(alias)}, the other one in line {first}; name this one with `as`.",
            )
        found[alias] = _aggregator(scope, aggregator, alias)
    return tuple(found.values())


def _aggregator(scope: Scope, node: syntax.Aggregator, alias: str) -> tree.Aggregator:
    kind = cast(tree.AggregatorKind, node.kind)
    at = scope.source.position(node.at)
    if kind == "var":
        expression = scope.expression(node.expression if node.expression is not None else node.column)
        return tree.Aggregator(kind, alias, None, expression, None, False, at=at)
    people = kind == "count" and node.column.name in ("person", "people")
    read_before = "person" in scope.read_columns
    column = scope.column(node.column, quoted(kind))
    if people and not read_before:
        # Counting people needs no ids, so it alone is no reason to read them.
        scope.read_columns.discard("person")
    if kind in ("sum", "avg"):
        scope.require_numbers(column, kind, node.column.at)
    key = scope.column(node.key, "`with`") if node.key is not None else None
    return tree.Aggregator(kind, alias, column, None, key, node.every, at=at)


def _sort(scope: Scope, name: syntax.Name | None, aggregators: tuple[tree.Aggregator, ...]) -> str | None:
    if name is None:
        return None
    aliases = [aggregator.alias for aggregator in aggregators] or ["person"]
    by_column = [aggregator.column.name for aggregator in aggregators if aggregator.column is not None]
    canonical = names.COLUMN_SYNONYMS.get(name.name, name.name)
    if name.name in aliases or name.name in _KEY_SORTS or canonical in (*by_column, *aliases):
        return name.name
    hint = did_you_mean(name.name, (*aliases, *by_column), f"write one of {', '.join(aliases)}, or key.")
    raise scope.error(name.at, f"sort: names no aggregator with {quoted(name.name)}; {hint}")
