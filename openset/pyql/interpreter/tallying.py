"""Counting for one person: `tally` into the result tree, and inline aggregations over the person's rows.

Both take each (event, key value) once unless `all` says otherwise; the first row that has a value wins. What has
been taken is remembered per person only, since no event belongs to two people.
"""

from __future__ import annotations

from collections.abc import Iterator

from openset.errors import RunTimeError
from openset.pyql import tree
from openset.pyql.interpreter.scalar_run import Evaluator, Run
from openset.pyql.meaning.containers import CONTAINERS, Scalar, Value, key_of, kind_of
from openset.pyql.meaning.values import in_range, is_true
from openset.pyql.partial import ROOT
from openset.pyql.states import LatestState, VarState

# What a node of the result tree is taken to cost: its key, its place under its parent, and per aggregator a state.
NODE_BYTES = 300
NODE_AGGREGATOR_BYTES = 40


# ---------------------------------------------------------------- tally


def tally(run: Run, keys: list[Value]) -> None:
    """Goes down the tree along the keys up to the first None and runs every aggregator at every node on the way."""
    run.tallied = True
    path: list[Scalar] = []
    for key in keys:
        if key is None:
            break
        if isinstance(key, CONTAINERS):
            raise RunTimeError(f"tally() takes text, numbers and bools as keys, this is {kind_of(key)}")
        path.append(key)
    if not path:
        return
    aggregators = run.program.script.aggregators
    variables = [None if evaluate is None else evaluate(run) for evaluate in run.program.expressions]
    node = ROOT
    for key in path:
        assert key is not None
        node = run.partial.child(node, key)
        run.budget.step()
        for index, aggregator in enumerate(aggregators):
            if aggregator.kind == "var":
                _add_variable(run, index, node, variables[index])
            else:
                _add_row(run, index, node, aggregator)
    run.budget.check_nodes(len(run.partial), NODE_BYTES + NODE_AGGREGATOR_BYTES * len(aggregators))


def _add_variable(run: Run, index: int, node: int, value: Value) -> None:
    """var: numbers add up, of texts the latest stays; every tally counts."""
    state = run.partial.states[index]
    assert isinstance(state, VarState)
    if isinstance(value, CONTAINERS):
        alias = run.program.script.aggregators[index].alias
        raise RunTimeError(f"var {alias} takes numbers and text, this is {kind_of(value)}")
    if isinstance(value, str):
        state.latest.add_latest(node, _stamp(run), run.cursor.person_id, value)
    elif value is not None:
        state.sum.add_value(node, value)


def _add_row(run: Run, index: int, node: int, aggregator: tree.Aggregator) -> None:
    """Runs an aggregator of a column on the current row."""
    assert aggregator.column is not None
    row = run.cursor.row
    value = run.cursor.column(aggregator.column.name)[row]
    if value is None:
        return
    assert not isinstance(value, CONTAINERS)
    state = run.partial.states[index]
    if isinstance(state, LatestState):
        state.add_latest(node, _stamp(run), run.cursor.person_id, value)
        return
    assert not isinstance(state, VarState)
    if not aggregator.every:
        mark = (index, node, *_mark(run, aggregator.column, aggregator.key, aggregator.kind, row))
        if mark in run.marks:
            return
        run.marks.add(mark)
    if aggregator.kind in ("sum", "avg"):
        _check_number(aggregator.kind, aggregator.column, value)
    state.add_value(node, value)


def _stamp(run: Run) -> int:
    return run.cursor.stamps[run.cursor.row]


def _mark(run: Run, column: tree.ColumnRead, key: tree.ColumnRead | None, kind: str, row: int) -> tuple[object, ...]:
    """What makes a row the same as another for distinct counting: (event, key value), or the person or session."""
    value = run.cursor.column((key or column).name)[row]
    if kind == "count" and key is None and column.name in ("person", "session"):
        return (None, value)
    return (run.cursor.event_of[row], key_of(value))


def _check_number(kind: str, column: tree.ColumnRead, value: Value) -> None:
    if isinstance(value, str):
        raise RunTimeError(f"{kind} needs a column of numbers, {column.name} has text")


# ---------------------------------------------------------------- inline aggregations


def inline_value(run: Run, inline: tree.Inline, where: Evaluator | None) -> Value:
    """SUM, COUNT, MIN, MAX, AVG or DISTINCT of a column over the person's rows."""
    taken = list(_taken_values(run, inline, where))
    if inline.kind == "count":
        return len(taken)
    if inline.kind == "distinct":
        return len({key_of(value) for value in taken})
    if not taken:
        return None
    if inline.kind == "min":
        return min(taken)  # type: ignore[type-var]
    if inline.kind == "max":
        return max(taken)  # type: ignore[type-var]
    numbers: list[int | float] = []
    for value in taken:
        _check_number(inline.kind.upper(), inline.column, value)
        assert isinstance(value, (int, float))
        numbers.append(value)
    return _sum_or_mean(inline.kind, numbers)


def _sum_or_mean(kind: str, numbers: list[int | float]) -> int | float | None:
    total: int | float = 0
    for number in numbers:
        total += number
    return in_range(total) if kind == "sum" else in_range(float(total) / len(numbers))


def _taken_values(run: Run, inline: tree.Inline, where: Evaluator | None) -> Iterator[Scalar]:
    """The values that count, in row order, each (event, key value) once unless every row counts."""
    cursor = run.cursor
    values = cursor.column(inline.column.name)
    seen: set[tuple[object, ...]] = set()
    standing = cursor.row
    try:
        for row, value in enumerate(values):
            run.budget.step()
            cursor.row = row
            if where is not None and not is_true(where(run)):
                continue
            if value is None:
                continue
            if not inline.every:
                mark = _mark(run, inline.column, inline.key, inline.kind, row)
                if mark in seen:
                    continue
                seen.add(mark)
            assert not isinstance(value, CONTAINERS)
            yield value
    finally:
        cursor.row = standing
