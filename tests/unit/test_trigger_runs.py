"""Runs of trigger functions: whom a failure concerns, what an emission may carry, people at moments of their own."""

from __future__ import annotations

import time
from collections import ChainMap
from dataclasses import replace

import numpy as np
import pytest
from support_blocks import block_of

from openset.errors import BudgetError
from openset.pyql.actions import Actions
from openset.pyql.interpreter.interpreter import trigger_people
from openset.pyql.lanes import triggers
from openset.pyql.lanes.engine import compile_plan
from openset.pyql.lanes.triggers import trigger_actions
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_trigger
from openset_format.block import Block, Column, ColumnType

COLUMNS: dict[str, ColumnType] = {"units": "int"}
NOW_MS = 1_800_000_000_000
SETTINGS = RunSettings(now_ms=NOW_MS)


def some_people() -> Block:
    """ada has 2,500 events, 7 has three."""
    start = 1_700_000_000
    events = [
        {"person": person, "stamp": start + place, "action": "step", "attr": {"units": place}}
        for person, count in (("ada", 2_500), (7, 3))
        for place in range(count)
    ]
    return block_of(events, COLUMNS)


def run(text: str, block: Block | None = None, settings: RunSettings = SETTINGS) -> Actions:
    """What both sides find."""
    script = parse_trigger(text, COLUMNS)
    block = some_people() if block is None else block
    found = trigger_actions(compile_plan(script), block, settings)
    expected = trigger_people(script, "on_insert", block, settings, block.runnable.tolist())
    assert (found.emissions, found.schedulings) == (expected.emissions, expected.schedulings)
    assert [(p, e.message, e.line) for p, e in found.failures] == [(p, e.message, e.line) for p, e in expected.failures]
    return found


@pytest.mark.parametrize(
    ("grow", "reason"),
    [
        ("t = t + '0123456789012345678901234567890'", "a text grew longer than 64 KB"),
        ("l = [l]", "containers are nested deeper than 64"),
        ("l = l + [t]", "the value of emit(…) takes more than 65,536 bytes as JSON"),
        ("t = t - 1", None),
    ],
)
def test_what_goes_wrong_for_one_person_concerns_nobody_else(grow: str, reason: str | None) -> None:
    found = run(f"""
def on_insert():
    t = 'abcdefghijklmnopqrstuvwxyz'
    l = []
    match where event_count > 3 or units is None:
        {grow}
    emit('done', [l, len(t)])
""")
    assert [(one.person, one.name) for one in found.emissions] == [(1, "done")]
    ((person, error),) = found.failures
    assert person == 0 and (reason is None or error.message == reason)


@pytest.mark.parametrize("brackets", [1, 2, 10, 30])
@pytest.mark.parametrize("use", ["emit('done', f(40))", "log(f(40))", "held = f(40)", "emit('done', len([f(40)]))"])
def test_what_functions_nest_has_a_limit(brackets: int, use: str) -> None:
    found = run(f"""
def on_insert():
    {use}
def f(n):
    if n == 0:
        return []
    return {"[" * brackets}f(n - 1){"]" * brackets}
""")
    reasons = {error.message for _, error in found.failures}
    assert reasons == (set() if brackets == 1 else {"containers are nested deeper than 64"})


def test_containers_are_emitted_without_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
def on_insert():
    seen = set()
    by_rest = {}
    match 5:
        seen.add(units % 2)
        by_rest[units % 3] = [units, [seen, True]]
    emit('held', {'seen': seen, 'rest': by_rest, 'none': None, 2.5: {}})
"""
    expected = run(text)
    assert expected.emissions[1].value == {
        "seen": [0, 1],
        "rest": {"0": [0, [[0], True]], "1": [1, [[0, 1], True]], "2": [2, [[0, 1], True]]},
        "none": None,
        "2.5": {},
    }
    monkeypatch.setattr(triggers, "trigger_people", lambda *_: pytest.fail("left to the interpreter"))
    assert trigger_actions(compile_plan(parse_trigger(text, COLUMNS)), some_people(), SETTINGS) == expected


def test_the_last_scheduling_of_a_function_counts() -> None:
    found = run("""
def on_insert():
    match where units < 3:
        schedule(units, 'a')
        if units is 1:
            cancel('b')
        else:
            schedule(5 minutes, 'b')
    schedule(0, 'c')
    cancel('c')
def a():
    pass
def b():
    pass
def c():
    pass
""")
    assert [(one.function, one.span_ms) for one in found.schedulings if one.person == 1] == [
        ("a", 2), ("b", 300_000), ("c", None),
    ]  # fmt: skip


def test_people_may_be_seen_at_moments_of_their_own() -> None:
    block = some_people()
    moments = np.where(block.person_of_row == 0, 1_600_000_000_000, 1_900_000_000_000)
    block = replace(block, columns=ChainMap({"now": Column("int", moments)}, dict(block.columns)), _sessions={})
    found = run(
        "def on_insert():\n    match where event_time < now:\n        emit('past', now)\n    emit('to come', now)",
        block,
    )
    assert [(one.name, one.value) for one in found.emissions] == [
        ("to come", 1_600_000_000_000), ("past", 1_900_000_000_000),
    ]  # fmt: skip


def test_no_row_is_new_where_the_block_does_not_say() -> None:
    found = run(
        "def on_insert():\n"
        "    emit('rows', [COUNT is_new all, COUNT units all where is_new, SUM units where not is_new])"
    )
    assert [one.value for one in found.emissions] == [[2_500, 0, 3_123_750], [3, 0, 3]]


@pytest.mark.parametrize(
    "settings",
    [replace(SETTINGS, max_expanded_rows=100), replace(SETTINGS, deadline=time.monotonic() - 1)],
    ids=["rows", "time"],
)
def test_budgets_end_the_whole_run(settings: RunSettings) -> None:
    text = "def on_insert():\n    match:\n        match:\n            schedule(units, 'on_insert')"
    with pytest.raises(BudgetError, match="budget"):
        trigger_actions(compile_plan(parse_trigger(text, COLUMNS)), some_people(), settings)
