"""Random histories and triggers: a backtest finds what the trigger emits when the same events come live.

The live side is the real runner under a clock that the test moves: every event is a request of its own, in the order of
stamps; the clock stands at every moment at which something is due before it goes on to the next event.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
from support.choices import Choices
from support.revent_node import TABLE, ReventNode, revent_node

from openset.revent import replay, timelines
from openset.revent.backtests import BacktestRequest, backtest

START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
PEOPLE: tuple[str | int, ...] = ("ada", "ben", 42, "42")
ACTIONS = ("see", "cart", "buy")
CASES = 32

_MAIN = """
match where is_new and action is 'buy':
    emit('bought', [product, units])
---
match where is_new:
    schedule(units * 3600 * 1000, 'later')
    if action is 'buy':
        cancel('later')
---
n = 0
match where action is 'see':
    n += 1
if n >= 3:
    emit('third', {'n': n, 'at': now})
---
schedule(5 hours, 'silent')
if COUNT action > 4:
    cancel('silent')
    emit('many')
---
match where is_new and units > 3:
    schedule(0, 'later')
    emit(product)
---
if units is 2:
    schedule(1 hour, 'silent')
    schedule(1 hour, 'later')
match where is_new:
    emit('here', iter_get())
---
match where is_new:
    x = product - units
    emit('wrong')
---
if person is 'ada' or person is 42:
    schedule(20 hours, 'again')
    match where is_new and action is 'cart':
        emit('known', person)
"""
_LATER = """
emit('later', [event_count, now - last_event])
---
if event_count < 6:
    schedule(90 minutes, 'later')
else:
    emit('enough', COUNT units all where is_new)
---
cancel('silent')
schedule(2 hours, 'again')
---
match where is_new:
    emit('never')
if get_hour(now) % 2 is 0:
    emit('even', SUM units)
"""
_SILENT = """
emit('silent', to_hours(now - last_event))
---
schedule(0, 'again')
emit('asleep')
---
cancel('again')
schedule(3 hours, 'silent')
"""
_AGAIN = """
emit('again', [session_count, person])
---
schedule(4 hours, 'later')
"""


def parts(text: str) -> list[str]:
    return [indent(part.strip(), "    ") for part in text.split("---")]


def make_script(choices: Choices) -> str:
    """A trigger with on_insert, later, silent and again."""
    main = choices.shuffled(parts(_MAIN))[: choices.integer(1, 3)]
    lines = ["def on_insert():", *main]
    for name, ways in (("later", _LATER), ("silent", _SILENT), ("again", _AGAIN)):
        lines += [f"def {name}():", choices.pick(parts(ways))]
    return "\n".join(lines)


def make_history(choices: Choices) -> list[dict[str, Any]]:
    """Events in the order of their stamps, no two of one person, stamp and action; some are of several rows."""
    events: dict[tuple[Any, ...], dict[str, Any]] = {}
    stamp = START_MS
    for _ in range(choices.integer(3, 22)):
        stamp += choices.pick((0, 0, 1, 60_000, HOUR_MS, HOUR_MS, 90 * 60_000, 5 * HOUR_MS, 26 * HOUR_MS))
        person, action = choices.pick(PEOPLE), choices.pick(ACTIONS)
        attributes: dict[str, Any] = {"product": choices.pick(("rug", "tent", "mug")), "units": choices.integer(0, 5)}
        if choices.chance(25):
            attributes = {"_": [attributes, {"product": ["mug", "rug"], "units": choices.integer(0, 5)}]}
        events[person, stamp, action] = {"person": person, "action": action, "stamp": stamp, "attr": attributes}
    return list(events.values())


async def insert(node: ReventNode, *events: dict[str, Any]) -> None:
    prepared = node.store.prepare_insert(TABLE, json.dumps(events).encode())
    await node.store.commit(TABLE, prepared)


async def live(node: ReventNode, history: list[dict[str, Any]], until_ms: int) -> None:
    """The events one by one, with everything that is due at its time."""
    for event in history:
        await run_due(node, event["stamp"])
        node.clock_ms = event["stamp"]
        await insert(node, event)
        await settled(node)
    await run_due(node, until_ms - 1)


async def run_due(node: ReventNode, until_ms: int) -> None:
    while True:
        with node.store.triggers.states(node.schema.id) as states:
            due = [one for state in states.values() if (one := state.next_due()) is not None]
        if not due or min(due) > until_ms:
            return
        node.clock_ms = min(due)
        for wake in node.runner._wake:
            wake.set()
        await settled(node)


async def settled(node: ReventNode) -> None:
    """Until no insert waits, and nothing is due or being run."""

    def nothing_is_due() -> bool:
        with node.store.triggers.states(node.schema.id) as states:
            held = [
                due for state in states.values() for entries in state._schedules.values() for due in entries.values()
            ]
        return all(due_ms > node.clock_ms for due_ms, _ in held)

    await node.settled()
    await node.until(nothing_is_due)


def shown(emissions: Any) -> list[str]:
    return sorted(
        json.dumps([one.stamp_ms, type(one.person).__name__, one.person, one.name, one.value]) for one in emissions
    )


async def compare(choices: Choices, data_dir: Path) -> int:
    script, history = make_script(choices), make_history(choices)
    once, filtered = choices.chance(50), choices.chance(30)
    until_ms = history[-1]["stamp"] + choices.pick((1, HOUR_MS, 40 * HOUR_MS))
    async with revent_node(data_dir, 2) as node:
        node.runner._limit = 1_000_000
        node.clock_ms = START_MS - 1_000
        # Who is in the segment stands before the history begins.
        await insert(
            node,
            *({"person": person, "action": "born", "stamp": START_MS - 1_000_000, "attr": {}} for person in PEOPLE),
        )
        await node.count("@segment some ttl=forever:\n    return person is not 'ben'")
        options = {"once": once, "filter": "some" if filtered else ""}
        await node.save("t", script, **options)
        await live(node, history, until_ms)
        expected = shown(await node.messages("t"))
        node.clock_ms = until_ms + 1
        for body in ("", script):
            request = BacktestRequest(
                TABLE, "t" if not body else "other", body, START_MS, until_ms, **(options if body else {})
            )
            found = await backtest(node.tools, request)
            assert shown(found.emissions) == expected, f"once={once} filter={filtered}\n{script}\n{history}"
        assert shown(await node.messages("t")) == expected
    return len(expected)


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("small", [False, True], ids=["whole", "in pieces"])
def test_a_backtest_finds_what_comes_live(
    part: int, small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if small:
        monkeypatch.setattr(replay, "ROWS_AT_ONCE", 13)
        monkeypatch.setattr(timelines, "_STEPS_TOGETHER", 0)
    emitted = 0
    for number in range(CASES // 8):
        seeded = Choices.seeded(f"backtest {small}/{part}/{number}")
        emitted += asyncio.run(compare(seeded, tmp_path / str(number)))
    assert emitted > CASES // 8
