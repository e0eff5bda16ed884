"""Expressions of PyQL as Python closures: one function per kind of node of the syntax tree.

A closure takes the Run and gives a value. A variable's container is given by reference: whoever keeps a value copies
it (`Run.copied`). Errors get the position of the innermost expression that failed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from openset.errors import RunTimeError
from openset.pyql import tree
from openset.pyql.interpreter.scalar_run import RETURN, Evaluator, Run, placed
from openset.pyql.interpreter.tallying import inline_value
from openset.pyql.meaning import containers, dates
from openset.pyql.meaning.containers import DictValue, Value, key_of, kind_of
from openset.pyql.meaning.functions import call_method, pure_functions
from openset.pyql.meaning.values import BINARY_OPERATIONS, in_range, is_true, negated, unchanged
from openset.pyql.names import CHANGING_METHODS
from openset.pyql.settings import RECURSION_LIMIT

_PURE = frozenset(pure_functions())


def compile_expression(expression: tree.Expression) -> Evaluator:
    """The closure of an expression."""
    return _COMPILERS[type(expression)](expression)


def compile_expressions(expressions: tuple[tree.Expression, ...]) -> list[Evaluator]:
    return [compile_expression(expression) for expression in expressions]


# ---------------------------------------------------------------- leaves


def _literal(expression: tree.Literal_) -> Evaluator:
    value = _in_range(expression.value)
    return lambda run: value


def _in_range(value: int | float | str | bool | None) -> Value:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return in_range(value)
    return value


def _parameter(expression: tree.Parameter) -> Evaluator:
    name = expression.name
    return lambda run: _in_range(run.settings.parameters[name])


def _column(expression: tree.ColumnRead) -> Evaluator:
    name = expression.name
    return lambda run: run.cursor.column(name)[run.cursor.row]


def _variable(expression: tree.Variable) -> Evaluator:
    name = expression.name
    return lambda run: run.variables.get(name)


# ---------------------------------------------------------------- operators


def _unary(expression: tree.Unary) -> Evaluator:
    operand = compile_expression(expression.operand)
    if expression.operator == "not":
        return lambda run: not is_true(operand(run))
    operation = negated if expression.operator == "-" else unchanged
    at = expression.at

    def evaluate(run: Run) -> Value:
        value = operand(run)
        try:
            return operation(value)
        except RunTimeError as error:
            raise placed(error, at) from None

    return evaluate


def _binary(expression: tree.Binary) -> Evaluator:
    left, right = compile_expression(expression.left), compile_expression(expression.right)
    if expression.operator == "and":
        return _and(left, right)
    if expression.operator == "or":
        return _or(left, right)
    operation = BINARY_OPERATIONS[expression.operator]
    at = expression.at

    def evaluate(run: Run) -> Value:
        first = left(run)
        second = right(run)
        try:
            return operation(first, second)
        except RunTimeError as error:
            raise placed(error, at) from None

    return evaluate


def _and(left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(run: Run) -> Value:
        value = left(run)
        return right(run) if is_true(value) else value

    return evaluate


def _or(left: Evaluator, right: Evaluator) -> Evaluator:
    def evaluate(run: Run) -> Value:
        value = left(run)
        return value if is_true(value) else right(run)

    return evaluate


# ---------------------------------------------------------------- containers


def _list_display(expression: tree.ListDisplay) -> Evaluator:
    items = compile_expressions(expression.items)
    return lambda run: [item(run) for item in items]


def _dict_display(expression: tree.DictDisplay) -> Evaluator:
    pairs = [(compile_expression(key), compile_expression(value)) for key, value in expression.pairs]
    at = expression.at

    def evaluate(run: Run) -> Value:
        made = DictValue()
        for key, value in pairs:
            try:
                strict_key = key_of(key(run))
            except RunTimeError as error:
                raise placed(error, at) from None
            made.entries[strict_key] = value(run)
        return made

    return evaluate


def _index(expression: tree.Index) -> Evaluator:
    container, index = compile_expression(expression.container), compile_expression(expression.index)
    at = expression.at

    def evaluate(run: Run) -> Value:
        held = container(run)
        wanted = index(run)
        try:
            return containers.element(held, wanted)
        except RunTimeError as error:
            raise placed(error, at) from None

    return evaluate


def _slice(expression: tree.Slice) -> Evaluator:
    container = compile_expression(expression.container)
    first = None if expression.start is None else compile_expression(expression.start)
    last = None if expression.stop is None else compile_expression(expression.stop)
    at = expression.at

    def evaluate(run: Run) -> Value:
        held = container(run)
        start = None if first is None else first(run)
        stop = None if last is None else last(run)
        try:
            return containers.slice_of(held, start, stop)
        except RunTimeError as error:
            raise placed(error, at) from None

    return evaluate


# ---------------------------------------------------------------- calls


def _pure_call(expression: tree.Call) -> Evaluator:
    name = expression.function
    arguments = compile_expressions(expression.arguments)
    at = expression.at

    def evaluate(run: Run) -> Value:
        values = [argument(run) for argument in arguments]
        try:
            return run.functions[name](*values)
        except RunTimeError as error:
            raise placed(error, at) from None

    return evaluate


def _call(expression: tree.Call) -> Evaluator:
    if expression.function in _PURE:
        return _pure_call(expression)
    if expression.function in _MOMENTS:
        return _MOMENTS[expression.function]
    function = {"iter_within": _is_within, "iter_between": _is_between}[expression.function]
    first, second = compile_expressions(expression.arguments)
    at = expression.at

    def evaluate(run: Run) -> Value:
        left, right = first(run), second(run)
        try:
            return function(run, left, right)
        except RunTimeError as error:
            raise placed(error, at) from None

    return evaluate


def _is_within(run: Run, span: Value, moment: Value) -> bool:
    """iter_within(SPAN, T): |stamp - T| <= SPAN; false when either is None."""
    for value in (span, moment):
        if value is not None and not isinstance(value, (int, float)):
            raise RunTimeError(f"iter_within() needs a span and a stamp, this is {kind_of(value)}")
    if span is None or moment is None:
        return False
    assert isinstance(span, (int, float))
    assert isinstance(moment, (int, float))
    return abs(run.cursor.stamps[run.cursor.row] - moment) <= span


def _is_between(run: Run, start: Value, stop: Value) -> bool:
    """iter_between(A, B): A <= stamp < B; false when either is None."""
    zone = run.settings.zone
    first, last = dates.bound_ms(start, zone), dates.bound_ms(stop, zone)
    return first is not None and last is not None and first <= run.cursor.stamps[run.cursor.row] < last


def _stamp_of(run: Run, row: int | None) -> Value:
    return None if row is None else run.cursor.stamps[row]


# Built-in names that depend on where the script stands.
_MOMENTS: dict[str, Evaluator] = {
    "now": lambda run: run.now_ms,
    "event_time": lambda run: run.cursor.stamps[run.cursor.row],
    "first_event": lambda run: run.cursor.stamps[0],
    "last_event": lambda run: run.cursor.stamps[-1],
    "prev_match": lambda run: _stamp_of(run, run.cursor.match_row),
    "first_match": lambda run: _stamp_of(run, run.cursor.first_match_row),
    "event_count": lambda run: len(run.cursor.event_rows),
    "session_count": lambda run: run.cursor.column("session")[-1],
    "iter_get": lambda run: run.cursor.row,
}


def _user_call(expression: tree.UserCall) -> Evaluator:
    arguments = compile_expressions(expression.arguments)
    name, at = expression.function, expression.at

    def evaluate(run: Run) -> Value:
        function = run.program.functions[name]
        values = [run.copied(argument(run)) for argument in arguments]
        if run.call_depth >= RECURSION_LIMIT:
            raise RunTimeError(
                f"{name}() calls itself too deeply: functions nest up to {RECURSION_LIMIT} calls",
                line=at.line,
                column=at.column,
            )
        run.budget.step()
        run.variables.update(zip(function.parameters, values, strict=True))
        run.call_depth += 1
        signal = function.body(run)
        run.call_depth -= 1
        return run.returned if signal == RETURN else None

    return evaluate


def _method_call(expression: tree.MethodCall) -> Evaluator:
    target = compile_expression(expression.target)
    arguments = compile_expressions(expression.arguments)
    method, at = expression.method, expression.at
    changes = method in CHANGING_METHODS

    def evaluate(run: Run) -> Value:
        held = target(run)
        values = [argument(run) for argument in arguments]
        if changes:
            values = [run.copied_element(value) for value in values]
        try:
            return call_method(held, method, values)
        except RunTimeError as error:
            raise placed(error, at) from None

    return evaluate


# ---------------------------------------------------------------- inline aggregations


def _inline(expression: tree.Inline) -> Evaluator:
    where = None if expression.where is None else compile_expression(expression.where)
    fixed = expression.where is None or not _depends_on_script(expression.where)
    at = expression.at

    def evaluate(run: Run) -> Value:
        if fixed and expression in run.fixed_inlines:
            return run.fixed_inlines[expression]
        try:
            value = inline_value(run, expression, where)
        except RunTimeError as error:
            raise placed(error, at) from None
        if fixed:
            run.fixed_inlines[expression] = value
        return value

    return evaluate


def _depends_on_script(expression: tree.Expression) -> bool:
    """Whether a condition on rows reads what the script can change: variables, functions, matches."""
    if isinstance(expression, (tree.Variable, tree.UserCall, tree.MethodCall)):
        return True
    if isinstance(expression, tree.Call) and expression.function in ("prev_match", "first_match"):
        return True
    return any(_depends_on_script(part) for part in _parts(expression))


def _parts(node: Any) -> Iterator[tree.Expression]:
    """The expressions directly below a node or tuple of nodes."""
    values = node if isinstance(node, tuple) else [getattr(node, f.name) for f in dataclasses.fields(node)]
    for value in values:
        if isinstance(value, tree.Expression):
            yield value
        elif isinstance(value, tuple):
            yield from _parts(value)


_COMPILERS: dict[type[tree.Expression], Callable[[Any], Evaluator]] = {
    tree.Literal_: _literal,
    tree.Parameter: _parameter,
    tree.ColumnRead: _column,
    tree.Variable: _variable,
    tree.Unary: _unary,
    tree.Binary: _binary,
    tree.ListDisplay: _list_display,
    tree.DictDisplay: _dict_display,
    tree.Index: _index,
    tree.Slice: _slice,
    tree.Call: _call,
    tree.UserCall: _user_call,
    tree.MethodCall: _method_call,
    tree.Inline: _inline,
}
