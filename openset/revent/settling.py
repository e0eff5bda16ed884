"""From what triggers did to what is written down: the outcomes of a run become changes of a partition's state.

Whoever has emitted from on_insert is skipped until the trigger is changed, also within one run: then nothing of that
outcome happens, whatever the worker found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from pyroaring import BitMap

from openset.pyql.names import ON_INSERT
from openset.revent.evaluation import Outcome
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Change, Counted, Emitted, OnceMarked, Scheduled, Unscheduled
from openset.store.trigger_state import Due
from openset_format.membership import bitmap_of

Person = int | str


@dataclass(slots=True)
class Failures:
    """What went wrong for one trigger in a run. people: for how many it ran. message: why for the last of them."""

    people: int = 0
    errors: int = 0
    message: str | None = None


@dataclass(slots=True)
class Settled:
    """The changes of one partition, and the failures by trigger."""

    changes: list[Change] = field(default_factory=list)
    failures: dict[int, Failures] = field(default_factory=dict)


def settle(
    outcomes: Iterable[Outcome],
    triggers: Mapping[int, Trigger],
    once: Callable[[int, int], BitMap],
    now_ms: int,
    ran: Sequence[Due] = (),
) -> Settled:
    """The changes that outcomes of one partition come to, in their order.

    triggers: those there are; outcomes of others are left out. once: by trigger and epoch, who has emitted.
    ran: the schedules that ran in it, which are over.
    """
    settled = Settled()
    schedules: dict[tuple[int, str], dict[int, tuple[int, Person] | None]] = {}
    marked: dict[int, BitMap] = {}
    for due in ran:
        schedules.setdefault((due.trigger_id, due.function), {})[due.ordinal] = None
    for outcome in outcomes:
        trigger = triggers.get(outcome.trigger_id)
        if trigger is None:
            continue
        skipped: BitMap | tuple[()] = ()
        people = len(outcome.people)
        counts_once = trigger.once and outcome.function == ON_INSERT
        if counts_once:
            new = marked.setdefault(trigger.id, BitMap())
            ran_for = bitmap_of(outcome.people)
            skipped = (once(trigger.id, trigger.epoch) | new) & ran_for
            people -= len(skipped)
        emissions = [one for one in outcome.emissions if one[0] not in skipped]
        settled.changes += [
            Emitted(now_ms, ordinal, person, trigger.id, trigger.name, name, value, trigger.emit_as_event)
            for ordinal, person, name, value in emissions
        ]
        if counts_once:
            marked[trigger.id].update(one[0] for one in emissions)
        for ordinal, person, function, span_ms in outcome.schedulings:
            if ordinal not in skipped and function in trigger.functions:
                held = schedules.setdefault((trigger.id, function), {})
                held[ordinal] = None if span_ms is None else (now_ms + span_ms, person)
        failures = settled.failures.setdefault(trigger.id, Failures())
        failed = [one for one in outcome.failures if one[0] not in skipped]
        if outcome.error is not None:
            failed = [(-1, outcome.error)]
        failures.people += people
        failures.errors += len(failed)
        if failed:
            failures.message = failed[-1][1]
        if people or failed:
            settled.changes.append(Counted(trigger.id, people, len(emissions), len(failed)))
    settled.changes += _marks(marked, triggers)
    settled.changes += _schedules(schedules)
    return settled


def _marks(marked: Mapping[int, BitMap], triggers: Mapping[int, Trigger]) -> list[Change]:
    return [OnceMarked(key, triggers[key].epoch, list(people)) for key, people in marked.items() if people]


def _schedules(schedules: Mapping[tuple[int, str], Mapping[int, tuple[int, Person] | None]]) -> list[Change]:
    changes: list[Change] = []
    for (trigger_id, function), held in schedules.items():
        set_ = [(ordinal, *entry) for ordinal, entry in held.items() if entry is not None]
        gone = [ordinal for ordinal, entry in held.items() if entry is None]
        if gone:
            changes.append(Unscheduled(trigger_id, function, gone))
        if set_:
            changes.append(Scheduled(trigger_id, function, set_))
    return changes


def people_of(due: Iterable[Due]) -> dict[tuple[int, str], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Whom functions are due for, by trigger and function: ascending ordinals."""
    found: dict[tuple[int, str], list[int]] = {}
    for one in due:
        found.setdefault((one.trigger_id, one.function), []).append(one.ordinal)
    return {key: np.unique(np.array(ordinals, np.int64)) for key, ordinals in found.items()}
