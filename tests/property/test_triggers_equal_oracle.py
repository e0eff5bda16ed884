"""Random trigger scripts: what the engine says they emit and schedule is what the interpreter says."""

from __future__ import annotations

import json
import time
from collections import ChainMap
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as configured
from support.choices import Choices, choices
from support.comparing import settings
from support.event_maker import COLUMNS, make_events, make_people, whole
from support.trigger_maker import make_trigger

from openset.errors import RunTimeError
from openset.pyql.actions import Actions
from openset.pyql.interpreter.interpreter import trigger_people
from openset.pyql.lanes import triggers
from openset.pyql.lanes.engine import compile_plan
from openset.pyql.lanes.triggers import trigger_actions
from openset.pyql.syntax.parse import parse_trigger
from openset_format.block import Block, Column

BATCHES = 4
SCRIPTS_PER_BATCH = 110


def block_of(seeded: Choices) -> Block:
    people = make_people(seeded)
    block = whole(make_events(seeded, people), people)
    new = np.array([seeded.chance(50) for _ in range(block.rows)], np.uint8)
    marked = ChainMap({"is_new": Column("bool", new)}, dict(block.columns))
    return replace(block, columns=marked, _sessions={})


def shown(actions: Actions) -> tuple[str, str, list[tuple[int, str]]]:
    return (
        json.dumps([(each.person, each.name, each.value) for each in actions.emissions]),
        json.dumps([(each.person, each.function, each.span_ms) for each in actions.schedulings]),
        [(person, error.message) for person, error in actions.failures],
    )


def check(seeded: Choices) -> Actions | None:
    text = make_trigger(seeded)
    block = block_of(seeded)
    script = parse_trigger(text, COLUMNS)
    function = seeded.pick(("on_insert", "on_insert", "on_insert", "later"))
    limits = settings()
    limits = replace(limits, parameters={}, deadline=time.monotonic() + 4)
    try:
        expected = trigger_people(script, function, block, limits, block.runnable.tolist())
        if any("budget" in error.message for _, error in expected.failures):
            return None
        found = trigger_actions(compile_plan(script), block, limits, function)
    except RunTimeError as error:
        assert "budget" in error.message, f"{text}\n{error}"
        return None
    assert shown(found) == shown(expected), text
    return found


@pytest.mark.parametrize("batch", range(BATCHES))
def test_seeded_triggers(batch: int) -> None:
    emitted = scheduled = failed = 0
    for number in range(SCRIPTS_PER_BATCH):
        found = check(Choices.seeded(f"trigger {batch}/{number}"))
        if found is not None:
            emitted += bool(found.emissions)
            scheduled += bool(found.schedulings)
            failed += bool(found.failures)
    assert emitted > SCRIPTS_PER_BATCH // 5 and scheduled > SCRIPTS_PER_BATCH // 10 and failed


@configured(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(choices())
def test_drawn_triggers(drawn: Choices) -> None:
    check(drawn)


def test_plain_deeds_need_no_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    text = """def on_insert():
    match where is_new and amount > 2:
        schedule(3 days, 'later')
        if price > 1:
            emit(action, price)
        cancel('later')

def later():
    emit('late')
"""
    monkeypatch.setattr(triggers, "trigger_people", lambda *_: pytest.fail("left to the interpreter"))
    seeded = Choices.seeded("plain")
    done = 0
    for _ in range(40):
        found = trigger_actions(compile_plan(parse_trigger(text, COLUMNS)), block_of(seeded), settings())
        done += len(found.emissions) + len(found.schedulings)
    assert done
