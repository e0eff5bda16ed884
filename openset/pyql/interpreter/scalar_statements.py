"""Statements of PyQL as Python closures, and whole scripts as Programs.

`break top` and `break all` become numbers of loops here, since loops are counted within one function body.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from openset.errors import RunTimeError
from openset.pyql import tree
from openset.pyql.actions import Emission, checked_name, checked_span, checked_value
from openset.pyql.interpreter.cursor import LeaveMatch, PersonCursor
from openset.pyql.interpreter.scalar_expressions import compile_expression, compile_expressions
from openset.pyql.interpreter.scalar_run import (
    CONTINUE,
    NORMAL,
    RETURN,
    CompiledFunction,
    Evaluator,
    Executor,
    ExitPerson,
    Program,
    Run,
    placed,
)
from openset.pyql.interpreter.tallying import tally
from openset.pyql.interpreter.tracing import TracedCondition, TracedMatch
from openset.pyql.meaning import containers
from openset.pyql.meaning.containers import CONTAINERS, Value
from openset.pyql.meaning.text import to_text
from openset.pyql.meaning.values import arithmetic, is_true


@lru_cache(maxsize=128)
def compile_program(script: tree.Script) -> Program:
    """The closures of a script. Kept for the scripts used last."""
    expressions = tuple(
        None if aggregator.expression is None else compile_expression(aggregator.expression)
        for aggregator in script.aggregators
    )
    functions = {
        name: CompiledFunction(function.parameters, compile_body(function.body, 0))
        for name, function in script.functions.items()
    }
    return Program(script, compile_body(script.body, 0), functions, expressions)


def compile_body(body: tree.Body, loops: int) -> Executor:
    """The closure of a block of statements that stands in `loops` loops of its function."""
    statements = [_COMPILERS[type(statement)](statement, loops) for statement in body]

    def execute(run: Run) -> int:
        for statement in statements:
            signal = statement(run)
            if signal != NORMAL:
                return signal
        return NORMAL

    return execute


# ---------------------------------------------------------------- variables and containers


def _assign(statement: tree.Assign, loops: int) -> Executor:
    if isinstance(statement.target, tree.Index):
        return _assign_element(statement.target, statement)
    name, operator, at = statement.target.name, statement.operator, statement.at
    value = compile_expression(statement.value)

    def execute(run: Run) -> int:
        try:
            run.variables[name] = run.copied(value(run))
        except RunTimeError as error:
            raise placed(error, at) from None
        return NORMAL

    def execute_with_operator(run: Run) -> int:
        held = run.variables.get(name)
        right = value(run)
        try:
            run.variables[name] = _operated(run, operator or "", held, right)
        except RunTimeError as error:
            raise placed(error, at) from None
        return NORMAL

    return execute if operator is None else execute_with_operator


def _operated(run: Run, operator: str, held: Value, right: Value) -> Value:
    """held operator= right. Containers are changed in place, which nobody else can see since none is shared."""
    if isinstance(held, CONTAINERS) and operator == "+":
        containers.add_into(held, run.copied_element(right))
        return held
    if isinstance(held, CONTAINERS) and operator == "-":
        containers.subtract_from(held, run.copied(right))
        run.budget.step(len(containers.elements_of(held)))
        return held
    return arithmetic(operator, held, right)


def _assign_element(target: tree.Index, statement: tree.Assign) -> Executor:
    container, index = compile_expression(target.container), compile_expression(target.index)
    value = compile_expression(statement.value)
    operator, at = statement.operator, statement.at

    def execute(run: Run) -> int:
        new = value(run)
        held, position = container(run), index(run)
        try:
            containers.set_element(held, position, run.copied_element(new))
        except RunTimeError as error:
            raise placed(error, at) from None
        return NORMAL

    def execute_with_operator(run: Run) -> int:
        held, position = container(run), index(run)
        try:
            before = containers.element(held, position)
            right = value(run)
            containers.set_element(held, position, _operated(run, operator or "", before, right))
        except RunTimeError as error:
            raise placed(error, at) from None
        return NORMAL

    return execute if operator is None else execute_with_operator


def _delete(statement: tree.Delete, loops: int) -> Executor:
    container = compile_expression(statement.target.container)
    index = compile_expression(statement.target.index)
    at = statement.at

    def execute(run: Run) -> int:
        held, position = container(run), index(run)
        try:
            containers.delete_element(held, position)
        except RunTimeError as error:
            raise placed(error, at) from None
        return NORMAL

    return execute


def _evaluate(statement: tree.Evaluate, loops: int) -> Executor:
    expression = compile_expression(statement.expression)

    def execute(run: Run) -> int:
        expression(run)
        return NORMAL

    return execute


# ---------------------------------------------------------------- results


def _tally(statement: tree.Tally, loops: int) -> Executor:
    keys = compile_expressions(statement.keys)
    at = statement.at

    def execute(run: Run) -> int:
        values = [key(run) for key in keys]
        if run.tracer is not None:
            run.tracer.note("tally", at.line, keys=[run.tracer.show_value(value) for value in values])
        try:
            tally(run, values)
        except RunTimeError as error:
            raise placed(error, at) from None
        return NORMAL

    return execute


def _log(statement: tree.Log, loops: int) -> Executor:
    arguments = compile_expressions(statement.arguments)
    at = statement.at

    def execute(run: Run) -> int:
        values = [argument(run) for argument in arguments]
        if run.tracer is not None:
            run.tracer.note("log", at.line, text=" ".join(to_text(value) for value in values))
        try:
            run.partial.add_log(" ".join(to_text(value) for value in values))
        except RunTimeError as error:
            raise placed(error, at) from None
        return NORMAL

    return execute


# ---------------------------------------------------------------- triggers


def _emit(statement: tree.Emit, loops: int) -> Executor:
    name = compile_expression(statement.name)
    value = None if statement.value is None else compile_expression(statement.value)
    at = statement.at

    def execute(run: Run) -> int:
        called = name(run)
        carried = None if value is None else run.copied(value(run))
        try:
            run.emitted = Emission(run.person, checked_name(called), checked_value(carried))
            if run.tracer is not None:
                run.tracer.note("emit", at.line, name=run.emitted.name, value=run.emitted.value)
        except RunTimeError as error:
            raise placed(error, at) from None
        raise ExitPerson

    return execute


def _schedule(statement: tree.Schedule, loops: int) -> Executor:
    span = compile_expression(statement.span)
    function, at = statement.function, statement.at

    def execute(run: Run) -> int:
        wanted = span(run)
        try:
            span_ms = checked_span(wanted)
            run.schedule(function, span_ms)
            if run.tracer is not None:
                run.tracer.note("schedule", at.line, function=function, span=span_ms)
        except RunTimeError as error:
            raise placed(error, at) from None
        run.budget.step()
        return NORMAL

    return execute


def _cancel(statement: tree.Cancel, loops: int) -> Executor:
    def execute(run: Run) -> int:
        run.schedule(statement.function, None)
        if run.tracer is not None:
            run.tracer.note("cancel", statement.at.line, function=statement.function)
        run.budget.step()
        return NORMAL

    return execute


# ---------------------------------------------------------------- control


def _if(statement: tree.If, loops: int) -> Executor:
    branches = [(compile_expression(condition), compile_body(body, loops)) for condition, body in statement.branches]
    orelse = compile_body(statement.orelse, loops)

    def execute(run: Run) -> int:
        for condition, body in branches:
            if is_true(condition(run)):
                return body(run)
        return orelse(run)

    return execute


def _match(statement: tree.Match, loops: int) -> Executor:
    where = None if statement.where is None else compile_expression(statement.where)
    limit = None if statement.limit is None else compile_expression(statement.limit)
    body = compile_body(statement.body, loops + 1)
    at = statement.at

    def execute(run: Run) -> int:
        cursor = run.cursor
        most_events = None if limit is None else _event_limit(limit(run), at)
        standing, call_depth = cursor.row, run.call_depth
        enclosing, outermost = cursor.match_row, cursor.first_match_row
        traced = None if run.tracer is None else TracedMatch(run.tracer, statement, cursor.row)
        try:
            if traced is not None:
                return _visit_traced(run, statement, traced, body, most_events)
            return _visit_rows(run, where, body, most_events)
        except LeaveMatch:
            run.call_depth = call_depth
            return NORMAL
        finally:
            if traced is not None:
                traced.end()
            cursor.row, cursor.match_row, cursor.first_match_row = standing, enclosing, outermost

    return execute


def _visit_rows(run: Run, where: Evaluator | None, body: Executor, most_events: int | None) -> int:
    """Runs a match's body on its rows, from the cursor to the person's last row."""
    cursor = run.cursor
    enclosing, outermost = cursor.match_row, cursor.first_match_row
    events, last_event = 0, -1
    for row in range(cursor.row, cursor.count):
        event = cursor.event_of[row]
        if events == most_events and event != last_event:
            break
        run.budget.visit_row()
        # The body may have moved the cursor; the condition sees this row and the match around this one.
        cursor.row, cursor.match_row, cursor.first_match_row = row, enclosing, outermost
        if where is not None and not is_true(where(run)):
            continue
        if event != last_event:
            events, last_event = events + 1, event
        cursor.row, cursor.match_row = row, row
        cursor.first_match_row = row if outermost is None else outermost
        signal = body(run)
        if signal == RETURN:
            return RETURN
        if signal > 0:
            return signal - 1
    return NORMAL


def _visit_traced(run: Run, statement: tree.Match, traced: TracedMatch, body: Executor, most_events: int | None) -> int:
    """`_visit_rows`, telling of every row."""
    assert run.tracer is not None
    where: Evaluator | None = None
    if statement.where is not None:
        condition = TracedCondition(statement.where, compile_expression)

        def where(run: Run) -> bool:
            holds = condition.holds(run)
            if not holds:
                traced.failed(run.cursor.row, condition.failing, condition.values)
            return holds

    depth = run.tracer.depth

    def told(run: Run) -> int:
        assert run.cursor.match_row is not None and run.tracer is not None
        traced.visited(run.cursor.match_row)
        try:
            return body(run)
        finally:
            run.tracer.depth = depth

    return _visit_rows(run, where, told, most_events)


def _event_limit(limit: Value, at: tree.Position) -> int:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise RunTimeError(
            f"match takes a whole number of events from 1, not {to_text(limit)}", line=at.line, column=at.column
        )
    return limit


def _for(statement: tree.For, loops: int) -> Executor:
    iterable = compile_expression(statement.iterable)
    body = compile_body(statement.body, loops + 1)
    names, at = statement.names, statement.at

    def elements(run: Run) -> list[Any]:
        """A tuple of values for the names, per pass, from a copy of the container."""
        try:
            value = run.copied(iterable(run))
            if len(names) == 1:
                return [(held,) for held in containers.loop_values(value)]
            return containers.loop_pairs(value)
        except RunTimeError as error:
            raise placed(error, at) from None

    def execute(run: Run) -> int:
        for values in elements(run):
            run.budget.step()
            run.variables.update(zip(names, values, strict=True))
            signal = body(run)
            if signal == RETURN:
                return RETURN
            if signal > 0:
                return signal - 1
        return NORMAL

    return execute


def _break(statement: tree.Break, loops: int) -> Executor:
    if statement.levels == "all":
        left = loops
    elif statement.levels == "top":
        left = loops - 1
    else:
        left = statement.levels
    assert 1 <= left <= loops
    return lambda run: left


def _continue(statement: tree.Continue, loops: int) -> Executor:
    return lambda run: CONTINUE


def _exit(statement: tree.Exit, loops: int) -> Executor:
    def execute(run: Run) -> int:
        if run.tracer is not None:
            run.tracer.note("exit", statement.at.line)
        raise ExitPerson

    return execute


def _return(statement: tree.Return, loops: int) -> Executor:
    value = None if statement.value is None else compile_expression(statement.value)

    def execute(run: Run) -> int:
        run.returned = None if value is None else run.copied(value(run))
        if run.tracer is not None:
            run.tracer.note("return", statement.at.line, value=run.tracer.show_value(run.returned))
        return RETURN

    return execute


def _pass(statement: tree.Pass, loops: int) -> Executor:
    return lambda run: NORMAL


# ---------------------------------------------------------------- cursor moves

_MOVES: dict[str, Callable[[PersonCursor], None]] = {
    "next": PersonCursor.next_event,
    "prev": PersonCursor.previous_event,
    "move_first": PersonCursor.move_first,
    "move_last": PersonCursor.move_last,
    "reset_event": PersonCursor.reset_event,
}


def _move(statement: tree.Move, loops: int) -> Executor:
    if statement.kind == "set":
        return _set_position(statement)
    move = _MOVES[statement.kind]

    def execute(run: Run) -> int:
        move(run.cursor)
        return NORMAL

    return execute


def _set_position(statement: tree.Move) -> Executor:
    assert statement.position is not None
    position = compile_expression(statement.position)
    at = statement.at

    def execute(run: Run) -> int:
        wanted = position(run)
        try:
            run.cursor.set_position(wanted)
        except RunTimeError as error:
            raise placed(error, at) from None
        return NORMAL

    return execute


_COMPILERS: dict[type[tree.Statement], Callable[[Any, int], Executor]] = {
    tree.Assign: _assign,
    tree.Delete: _delete,
    tree.Evaluate: _evaluate,
    tree.Tally: _tally,
    tree.Log: _log,
    tree.Emit: _emit,
    tree.Schedule: _schedule,
    tree.Cancel: _cancel,
    tree.If: _if,
    tree.Match: _match,
    tree.For: _for,
    tree.Break: _break,
    tree.Continue: _continue,
    tree.Exit: _exit,
    tree.Return: _return,
    tree.Pass: _pass,
    tree.Move: _move,
}
