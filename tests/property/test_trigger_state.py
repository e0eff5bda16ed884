"""The state of triggers against a plain model: random changes, sidecars, restarts, and journals that were cut."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st
from support.trigger_model import CHANGES, KnownTrigger, TriggerModel, changes, people

from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import (
    Acknowledged,
    Change,
    Emitted,
    Subscribed,
    Turn,
    Unsubscribed,
    decode_changes,
    encode_changes,
)
from openset.store.trigger_state import TriggerState

KNOWN = {1: KnownTrigger(2), 2: KnownTrigger(1)}
steps = st.lists(
    st.one_of(st.lists(changes, max_size=4), people.map(lambda one: ("erase", one)), st.just("sidecar")), max_size=25
)

TOLD = Emitted | Subscribed | Unsubscribed | Acknowledged


def stops_at(record: list[Change], turns: int) -> int:
    """How many of the changes of a record count."""
    for at, change in enumerate(record):
        if isinstance(change, Turn):
            if change.number != turns + 1:
                return at
            turns += 1
    return len(record)


@given(steps)
def test_state_is_what_the_changes_make_of_it(steps: list[object]) -> None:
    state, model = TriggerState(), TriggerModel()
    state.retain(KNOWN)
    for number, step in enumerate(steps, 1):
        if step == "sidecar":
            state = TriggerState.decode(state.encode())
            state.retain(KNOWN)
        elif isinstance(step, tuple):
            state.erase(step[1])
            model.erase(step[1])
        else:
            assert isinstance(step, list)
            own = decode_changes(encode_changes({4: step}))[4]
            assert own == step
            turns = state.turns
            told = state.apply(own, KNOWN, number)
            counted = own[: stops_at(own, turns)]
            assert told == {one.trigger_id for one in counted if isinstance(one, TOLD)} & KNOWN.keys()
            model.apply(own, KNOWN, number)
        model.check(state, KNOWN)


@given(st.lists(changes, max_size=30))
def test_what_is_about_triggers_that_are_gone_goes(given_changes: list[Change]) -> None:
    state = TriggerState()
    state.retain({**KNOWN, 3: KnownTrigger(1)})
    state.apply(given_changes, {**KNOWN, 3: KnownTrigger(1)})
    state.retain({1: KnownTrigger(9, ("soon",), runs=False)})
    assert not state.after(2, 0, 1) and not state.after(3, 0, 1)
    assert not state.once(1, 2) and not state.subscriptions(2)
    assert state.next_due() is None, "what is left belongs to a trigger that does not run"
    kept = state.schedules(1)
    state.retain({1: KnownTrigger(9, ("soon",))})
    assert len(state.take_due(1 << 60, 1_000)) == kept


@contextmanager
def scratch() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def trigger(trigger_id: int) -> Trigger:
    known = KNOWN[trigger_id]
    return Trigger(0, f"t{trigger_id}", known.epoch, "", True, True, False, None, 0, (), 0, known.functions)


def opened(directory: Path) -> tuple[Store, int]:
    """A store with the triggers of KNOWN on a table."""
    store = Store.open(directory)
    if store.partitions is None:
        store.initialise(1)
        schema = store.create_table("t", [])
        for trigger_id in KNOWN:
            assert store.triggers.put(schema.id, trigger(trigger_id), None, lambda: 0).id == trigger_id
    return store, store.table("t").id


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(st.lists(changes, min_size=1, max_size=4), st.sampled_from(["sidecar", "restart"])), max_size=14
    ),
    st.floats(0, 1),
)
def test_state_survives_restarts_and_lost_ends_of_the_journal(steps: list[object], kept_share: float) -> None:
    with scratch() as directory:
        store, table_id = opened(directory / "data")
        model = TriggerModel()
        # After each record: how long the journal was, and what the state was. saved: how many records sidecars have.
        past, saved = [], 0
        journal = next((directory / "data" / "journal").glob("*.journal"), None)
        assert journal is not None
        past.append((journal.stat().st_size, deepcopy(model)))
        for step in steps:
            if step == "restart":
                store.close()
                store, table_id = opened(directory / "data")
            elif step == "sidecar":
                store.compactions.write_sidecars(forced=True)
                saved = len(past) - 1
            else:
                assert isinstance(step, list)
                sequence = store.triggers.append(table_id, {0: step}).result(10)
                model.apply(step, KNOWN, sequence)
                past.append((journal.stat().st_size, deepcopy(model)))
            with store.triggers.state(table_id, 0) as state:
                model.check(state, KNOWN)
        store.close()
        size, lost = past[saved + round(kept_share * (len(past) - 1 - saved))]
        shutil.copytree(directory / "data", directory / "cut")
        with (directory / "cut" / "journal" / journal.name).open("r+b") as file:
            file.truncate(size)
        store, table_id = opened(directory / "cut")
        with store.triggers.state(table_id, 0) as state:
            lost.check(state, KNOWN)
        store.close()


def test_every_kind_of_change_is_in_the_strategy() -> None:
    assert CHANGES.keys() == set(get_args(Change))
