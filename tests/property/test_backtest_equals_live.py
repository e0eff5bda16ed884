"""A backtest says what a live trigger emitted for the same events, inserted one a request in the order of time."""

from __future__ import annotations

import asyncio
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from support.revent_node import TABLE, ReventNode, revent_node

from openset.revent.backtests import BacktestRequest, backtest

START = 1_700_000_000_000
MINUTE = 60_000
HISTORIES = 1
SCRIPTS = {
    "every event": """def on_insert():
    match where is_new and action is "buy":
        emit("bought", {"units": event_count, "at": now - event_time})
""",
    "once after three": """def on_insert():
    if COUNT stamp >= 3:
        emit("regular", event_count)
""",
    "silence": """def on_insert():
    schedule(5 minutes, "silent")

def silent():
    emit("silent", {"events": event_count, "minutes": to_minutes(now - last_event)})
""",
    "chains": """def on_insert():
    match where is_new and action is "stop":
        cancel("again")
        exit
    match where is_new:
        schedule(3 minutes, "again")
        if action is "buy":
            schedule(3 minutes, "other")
        emit("seen", action)

def again():
    n = event_count
    if now - last_event < 10 minutes:
        schedule(2 minutes, "again")
    emit("again", n)

def other():
    cancel("again")
    emit("other")
""",
    "sometimes wrong": """def on_insert():
    match where is_new:
        if action is "stop":
            x = -action
        schedule(0, "at_once")
        emit("fine")

def at_once():
    emit("at once", event_count)
""",
}


def history(seed: int) -> list[tuple[int | str, str, int]]:
    rng = random.Random(seed)
    stamps = sorted(rng.sample(range(START // MINUTE, START // MINUTE + 40), 14))
    people: list[int | str] = ["ann", "bob", 7, "7"]
    return [(rng.choice(people), rng.choice(("buy", "view", "stop")), stamp * MINUTE) for stamp in stamps]


async def live(node: ReventNode, events: list[tuple[int | str, str, int]], end_ms: int) -> list[Any]:
    """Inserts one event after the other at its own time; what is due in between runs when it is due."""
    for person, action, stamp in [*events, (None, None, end_ms)]:
        await to_moment(node, stamp)
        if person is not None:
            await node.insert((person, action, stamp))
            await node.settled()
            await settled(node)
    return [(m.stamp_ms, type(m.person), m.person, m.name, m.value) for m in await node.messages("t")]


async def settled(node: ReventNode) -> None:
    """Until nothing waits and nothing that is due, or being run, is left."""

    def nothing_is_due() -> bool:
        if is_disabled(node):
            return True
        with node.store.triggers.states(node.schema.id) as states:
            held = [
                due for state in states.values() for entries in state._schedules.values() for due in entries.values()
            ]
        return all(due_ms > node.clock_ms for due_ms, _ in held)

    await node.until(nothing_is_due)
    await node.settled()


def is_disabled(node: ReventNode) -> bool:
    """Then what is scheduled waits."""
    (trigger,) = node.store.triggers.of_table(node.schema.id)
    return not trigger.runs


async def to_moment(node: ReventNode, stamp: int) -> None:
    while not is_disabled(node):
        with node.store.triggers.states(node.schema.id) as states:
            due = [moment for state in states.values() if (moment := state.next_due()) is not None]
        upcoming = min(due, default=stamp)
        if upcoming >= stamp:
            break
        node.clock_ms = max(upcoming, node.clock_ms)
        await settled(node)
    node.clock_ms = stamp
    # What is due at the very moment of an insert runs before it.
    await settled(node)


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize("once", [True, False])
def test_backtest_equals_live(name: str, once: bool) -> None:
    for seed in range(HISTORIES):
        with tempfile.TemporaryDirectory() as directory:
            emitted = asyncio.run(compare(Path(directory), SCRIPTS[name], once, history(seed)))
        assert emitted > 0, "histories are such that every script emits"


async def compare(directory: Path, script: str, once: bool, events: list[tuple[int | str, str, int]]) -> int:
    """Asserts that both emit the same. Returns how much that is."""
    end_ms = START + 90 * MINUTE
    async with revent_node(directory / "data") as node:
        node.runner._limit = 10**9
        node.clock_ms = START - MINUTE
        await node.save("t", script, once=once)
        expected = await live(node, events, end_ms)
        request = BacktestRequest(TABLE, "t", "", from_ms=START - MINUTE, to_ms=end_ms + 1)
        tested = await backtest(node.tools, request)
        found = [(one.stamp_ms, type(one.person), one.person, one.name, one.value) for one in tested.emissions]
        assert sorted(found, key=repr) == sorted(expected, key=repr)
        assert tested.disabled_at_ms is None
    return len(expected)


WRONG = """def on_insert():
    schedule(7 minutes, "later")
    match where is_new:
        if action is not "buy":
            x = -action
        emit("bought")

def later():
    emit("later")
"""
WRONG_LATER = """def on_insert():
    schedule(7 minutes, "later")
    schedule(0, "at_once")
    match where is_new and action is "stop":
        emit("stop")

def at_once():
    if event_count % 2 is 1:
        x = -first_event

def later():
    if event_count > 2:
        x = -"text"
    emit("later")
"""

WRONG_AT_ONCE = """def on_insert():
    schedule(7 minutes, "chain")
    schedule(7 minutes, "wrong")

def chain():
    schedule(0, "next")
    emit("chain")

def next():
    schedule(0, "wrong")
    emit("next")

def wrong():
    x = -"text"
"""


@pytest.mark.parametrize("limit", [1, 2, 3, 5])
@pytest.mark.parametrize("script", [WRONG, WRONG_LATER], ids=["inserts", "scheduled"])
def test_both_end_when_errors_disable_the_trigger(script: str, limit: int) -> None:
    ended = 0
    for seed in range(20, 23):
        with tempfile.TemporaryDirectory() as directory:
            ended += asyncio.run(compare_until_disabled(Path(directory), script, limit, history(seed)))
    assert ended or limit > 2


async def compare_until_disabled(
    directory: Path, script: str, limit: int, events: list[tuple[int | str, str, int]]
) -> bool:
    end_ms = START + 90 * MINUTE
    async with revent_node(directory / "data") as node:
        node.runner._limit = limit
        node.clock_ms = START - MINUTE
        await node.save("t", script, once=False)
        expected = await live(node, events, end_ms)
        request = BacktestRequest(TABLE, "t", "", from_ms=START - MINUTE, to_ms=end_ms + 1, errors_until_disabled=limit)
        tested = await backtest(node.tools, request)
        found = [(one.stamp_ms, type(one.person), one.person, one.name, one.value) for one in tested.emissions]
        disabled = is_disabled(node)
        assert (tested.disabled_at_ms is not None) == disabled
        assert sorted(found, key=repr) == sorted(expected, key=repr)
        return disabled


@pytest.mark.parametrize("limit", [1, 2])
def test_what_is_scheduled_for_at_once_comes_after_what_was_due(limit: int, tmp_path: Path) -> None:
    """In one millisecond an error, a run without one and another error: no two in a row."""
    events: list[tuple[int | str, str, int]] = [("ann", "buy", START + place * 10 * MINUTE) for place in range(3)]
    disabled = asyncio.run(compare_until_disabled(tmp_path, WRONG_AT_ONCE, limit, events))
    assert disabled == (limit == 1)
