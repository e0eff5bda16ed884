"""The checks of trigger scripts: functions alone, `on_insert` among them, and the three calls that only they have."""

from __future__ import annotations

from collections.abc import Mapping

from openset.pyql import names, tree
from openset.pyql.settings import MOST_SPAN_MS
from openset.pyql.syntax import syntax
from openset.pyql.syntax.checks import Statements, assigned_names
from openset.pyql.syntax.messages import did_you_mean, nearest, quoted
from openset.pyql.syntax.resolve import Scope
from openset.pyql.syntax.source import Source
from openset_format.block import ColumnType

_CONTAINERS = (syntax.ListOf, syntax.SetOf, syntax.DictOf)


def check_trigger(source: Source, script: syntax.Script, columns: Mapping[str, ColumnType]) -> tree.Script:
    """The checked trigger script. Raises ParseError for the first rule that it breaks."""
    if script.aggregators is not None or script.sort is not None:
        raise source.error(0, "A trigger has no agg: and no sort:; it emits, and tallies nothing. Remove them.")
    functions: dict[str, syntax.Def] = {}
    for definition in script.functions:
        if definition.name.name in functions:
            raise source.error(
                definition.name.at, f"The function {quoted(definition.name.name)} is defined twice; rename one."
            )
        functions[definition.name.name] = definition
    if script.body:
        raise source.error(
            script.body[0].at, "A trigger consists of functions; put this line below def on_insert(): and indent it."
        )
    _require_on_insert(source, functions)
    known = {name: len(definition.parameters) for name, definition in functions.items()}
    scope = Scope(source, {**columns, names.IS_NEW: "bool"}, known, (), trigger=True)
    scope.variables = frozenset(name for name in assigned_names(script) if scope.why_not_assignable(name) is None)
    statements = Statements(scope, segment=False, trigger=_trigger_call)
    checked = {name: statements.function(definition, columns) for name, definition in functions.items()}
    return tree.Script(
        text=source.text,
        aggregators=(),
        sort=None,
        functions=checked,
        body=(),
        variables=scope.variables,
        parameters=frozenset(),
        columns=frozenset(scope.read_columns),
        at=source.position(0),
    )


def _require_on_insert(source: Source, functions: Mapping[str, syntax.Def]) -> None:
    found = functions.get(names.ON_INSERT)
    if found is None:
        close = nearest(names.ON_INSERT, functions)
        if close is not None:
            at = functions[close].name.at
            raise source.error(at, f"A trigger needs def on_insert():; did you mean that by {quoted(close)}?")
        raise source.error(0, "A trigger needs def on_insert():, which runs after an insert; write it.")
    if found.parameters:
        raise source.error(found.parameters[0].at, "on_insert() is called without arguments; remove its parameters.")


def _trigger_call(scope: Scope, call: syntax.Call, at: tree.Position) -> tree.Statement:
    known = names.TRIGGER_CALLS[call.name]
    scope.require_arguments(call, known.min_arguments, known.max_arguments)
    if call.name == "emit":
        name = call.arguments[0]
        nameless = isinstance(name, syntax.Constant) and not (isinstance(name.value, str) and name.value)
        if nameless or isinstance(name, _CONTAINERS):
            raise scope.error(name.at, 'emit(…) takes the name of what happened, a text such as "bought".')
        arguments = [scope.expression(argument) for argument in call.arguments]
        return tree.Emit(arguments[0], arguments[1] if len(arguments) > 1 else None, at=at)
    if call.name == "cancel":
        return tree.Cancel(_function(scope, call.arguments[0]), at=at)
    span, function = call.arguments
    if _is_text(span) and not _is_text(function):
        raise scope.error(span.at, "schedule(…) takes the span first and then the function; exchange the two.")
    _check_span(scope, span)
    return tree.Schedule(scope.expression(span), _function(scope, function), at=at)


def _is_text(node: syntax.Expression) -> bool:
    return isinstance(node, syntax.Constant) and isinstance(node.value, str)


def _check_span(scope: Scope, node: syntax.Expression) -> None:
    """Refuses what can be seen to be no span without running it."""
    negative = isinstance(node, syntax.Prefix) and node.operator == "-"
    inner = node.operand if isinstance(node, syntax.Prefix) else node
    value = inner.value if isinstance(inner, syntax.Constant) else 0
    if isinstance(inner, _CONTAINERS) or not isinstance(value, int | float) or not _is_whole(value):
        raise scope.error(node.at, "schedule(…) takes a span first, such as 30 days or a number of milliseconds.")
    if value < 0 or (negative and value > 0):
        raise scope.error(node.at, "schedule(…) takes a span from now on, and this one is negative; write 0 or more.")
    if value > MOST_SPAN_MS:
        raise scope.error(node.at, "schedule(…) looks ahead 100 years at most; write a shorter span.")


def _is_whole(value: int | float | bool) -> bool:
    return not isinstance(value, bool) and value == int(value)


def _function(scope: Scope, node: syntax.Expression) -> str:
    """The function that an argument names."""
    if isinstance(node, syntax.Name | syntax.Call) and node.name in scope.functions:
        raise scope.error(node.at, f'Write the name of the function as a text: "{node.name}".')
    if not isinstance(node, syntax.Constant) or not isinstance(node.value, str):
        raise scope.error(node.at, "This has to be the name of a function of the trigger, a text in quotes.")
    name = node.value
    if name not in scope.functions:
        hint = did_you_mean(name, scope.functions, f"define it with def {name}():")
        raise scope.error(node.at, f"There is no function {quoted(name)}; {hint}")
    if scope.functions[name]:
        raise scope.error(node.at, f"{quoted(name)} has parameters, and a scheduled function gets none; remove them.")
    return name
