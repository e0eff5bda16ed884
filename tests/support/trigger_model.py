"""A plain model of the state of a partition's triggers: lists and dicts, looked through from end to end.

Random changes of every kind, too: `CHANGES` by kind, `changes` of any kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from openset.store.trigger_changes import (
    Acknowledged,
    Buried,
    Change,
    Counted,
    Emitted,
    Evaluated,
    Inserted,
    Letter,
    OnceMarked,
    OnceUnmarked,
    Retried,
    Scheduled,
    Started,
    Subscribed,
    Turn,
    Unburied,
    Unscheduled,
    Unsubscribed,
)
from openset.store.trigger_state import TriggerState

triggers = st.sampled_from([1, 2, 3])
people = st.one_of(st.integers(-3, 3), st.sampled_from(["a", "b", "3"]))
ordinals = st.integers(0, 6)
functions = st.sampled_from(["later", "soon"])
names = st.sampled_from(["mail", "board"])
numbers = st.lists(st.integers(0, 12), max_size=6)
values = st.one_of(
    st.none(), st.integers(-5, 5), st.text(max_size=3), st.dictionaries(st.text(max_size=2), st.booleans())
)
letters = st.builds(
    Letter,
    st.integers(1, 12),
    people.map(lambda one: {"person": one}),
    st.just("why"),
    st.just(3),
    st.just(7),
    st.booleans(),
)
CHANGES: dict[type, st.SearchStrategy[Change]] = {
    Evaluated: st.builds(Evaluated, st.integers(0, 50)),
    Emitted: st.builds(
        Emitted, st.integers(0, 99), ordinals, people, triggers, st.just("t"), names, values, st.booleans()
    ),
    OnceMarked: st.builds(OnceMarked, triggers, st.integers(1, 2), st.lists(ordinals, max_size=4)),
    OnceUnmarked: st.builds(OnceUnmarked, triggers, st.integers(1, 2), st.lists(ordinals, max_size=4)),
    Scheduled: st.builds(
        Scheduled, triggers, functions, st.lists(st.tuples(ordinals, st.integers(0, 9), people), max_size=4)
    ),
    Unscheduled: st.builds(Unscheduled, triggers, functions, st.lists(ordinals, max_size=4)),
    Counted: st.builds(Counted, triggers, st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
    Inserted: st.builds(Inserted, numbers),
    Subscribed: st.builds(Subscribed, triggers, names, st.integers(1, 9)),
    Unsubscribed: st.builds(Unsubscribed, triggers, names),
    Acknowledged: st.builds(Acknowledged, triggers, names, numbers),
    Buried: st.builds(Buried, triggers, names, st.lists(letters, max_size=3), st.booleans()),
    Retried: st.builds(Retried, triggers, names),
    Unburied: st.builds(Unburied, triggers, names, st.none() | numbers),
    Turn: st.builds(Turn, st.integers(1, 4)),
    Started: st.builds(Started, triggers, st.integers(1, 3)),
}
changes = st.one_of(*CHANGES.values())


@dataclass(frozen=True)
class KnownTrigger:
    """What a state knows of a trigger."""

    epoch: int
    functions: tuple[str, ...] = ("later", "soon")
    runs: bool = True
    id: int = 0
    from_sequence: int = 0
    start: int = 0


@dataclass
class TriggerModel:
    """What `TriggerState` has to be, for messages that are never forgotten."""

    evaluated: int = 0
    emitted: int = 0
    turns: int = 0
    started: dict[int, tuple[int, int]] = field(default_factory=dict)
    messages: list[tuple[Any, ...]] = field(default_factory=list)
    inserts: set[int] = field(default_factory=set)
    once: set[tuple[int, int, int]] = field(default_factory=set)
    schedules: dict[tuple[int, str, int], tuple[int, int | str]] = field(default_factory=dict)
    subscriptions: dict[tuple[int, str], tuple[int, set[int]]] = field(default_factory=dict)
    counts: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    letters: dict[tuple[int, str], list[Letter]] = field(default_factory=dict)

    def apply(self, record: Sequence[Change], known: Mapping[int, KnownTrigger], sequence: int) -> None:
        """The changes of a record, as far as they count."""
        for change in record:
            if isinstance(change, Turn):
                if change.number != self.turns + 1:
                    return
                self.turns += 1
            elif isinstance(change, Started):
                if change.trigger_id in known and change.start > self.started.get(change.trigger_id, (0, 0))[0]:
                    self.started[change.trigger_id] = (change.start, sequence)
            else:
                self._apply(change, known)

    def _apply(self, change: Change, known: Mapping[int, KnownTrigger]) -> None:
        trigger_id = getattr(change, "trigger_id", None)
        if isinstance(change, Emitted):
            self.emitted += 1
        if trigger_id is not None and trigger_id not in known:
            return
        match change:
            case Evaluated(sequence):
                self.evaluated = max(self.evaluated, sequence)
            case Emitted():
                self.messages.append(
                    (self.emitted, change.stamp_ms, change.ordinal, change.person, change.trigger_id, change.name,
                     change.value)
                )  # fmt: skip
                if change.insert:
                    self.inserts.add(self.emitted)
            case OnceMarked():
                if change.epoch == known[change.trigger_id].epoch:
                    self.once |= {(change.trigger_id, change.epoch, one) for one in change.ordinals}
            case OnceUnmarked():
                if change.epoch == known[change.trigger_id].epoch:
                    self.once -= {(change.trigger_id, change.epoch, one) for one in change.ordinals}
            case Scheduled():
                for ordinal, due_ms, person in change.entries:
                    self.schedules[change.trigger_id, change.function, ordinal] = (due_ms, person)
            case Unscheduled():
                for ordinal in change.ordinals:
                    self.schedules.pop((change.trigger_id, change.function, ordinal), None)
            case Counted():
                old = self.counts.get(change.trigger_id, (0, 0, 0))
                self.counts[change.trigger_id] = (
                    old[0] + change.people, old[1] + change.emissions, old[2] + change.errors
                )  # fmt: skip
            case Inserted():
                self.inserts -= set(change.numbers)
            case Buried():
                for letter in change.letters if (change.trigger_id, change.name) in self.subscriptions else ():
                    own = self.letters.setdefault((change.trigger_id, change.name), [])
                    if not change.again or letter.number in {one.number for one in own}:
                        own[:] = [one for one in own if one.number != letter.number] + [letter]
            case Retried():
                own = self.letters.get((change.trigger_id, change.name), [])
                own[:] = [Letter(one.number, one.message, one.reason, one.tries, one.at_ms, True) for one in own]
            case Unburied():
                own = self.letters.get((change.trigger_id, change.name), [])
                own[:] = [] if change.numbers is None else [one for one in own if one.number not in change.numbers]
            case Subscribed():
                acked = self.subscriptions.get((change.trigger_id, change.name), (0, set()))[1]
                self.subscriptions[change.trigger_id, change.name] = (change.hold_ms, acked)
            case Unsubscribed():
                self.subscriptions.pop((change.trigger_id, change.name), None)
                self.letters.pop((change.trigger_id, change.name), None)
            case Acknowledged():
                if (change.trigger_id, change.name) in self.subscriptions:
                    own = {one for one in change.numbers if 0 < one <= self.emitted}
                    self.subscriptions[change.trigger_id, change.name][1].update(own)

    def erase(self, person: int | str) -> None:
        self.messages = [one for one in self.messages if not _same(one[3], person)]
        self.inserts &= {one[0] for one in self.messages}
        self.schedules = {key: one for key, one in self.schedules.items() if not _same(one[1], person)}
        for own in self.letters.values():
            own[:] = [one for one in own if not _same(one.message["person"], person)]

    def check(self, state: TriggerState, known: Mapping[int, KnownTrigger]) -> None:
        """That a state says the same wherever it is asked."""
        assert state.evaluated == self.evaluated
        assert state.next_number == self.emitted + 1
        assert state.turns == self.turns
        for trigger_id, trigger in known.items():
            own = [one for one in self.messages if one[4] == trigger_id]
            found = state.after(trigger_id, 0, 10_000)
            assert [
                (one.number, one.stamp_ms, one.ordinal, one.person, one.trigger_id, one.name, one.value)
                for one in found
            ] == own
            assert set(state.once(trigger_id, trigger.epoch)) == {
                one[2] for one in self.once if one[:2] == (trigger_id, trigger.epoch)
            }
            counts = state.counts.get(trigger_id)
            wanted = self.counts.get(trigger_id)
            assert (None if counts is None else (counts.people, counts.emissions, counts.errors)) == wanted
            self._check_subscriptions(state, trigger_id, [one[0] for one in own])
            for name in ("mail", "board"):
                assert state.letters(trigger_id, name) == (self.letters.get((trigger_id, name), []), 0)
            start, sequence = self.started.get(trigger_id, (0, 0))
            for asked in (1, 2, 3):
                begin = state.begin(KnownTrigger(0, id=trigger_id, start=asked))
                assert begin == (sequence if asked == start else None)
            assert state.begin(KnownTrigger(0, id=trigger_id, from_sequence=7)) == 7
        assert set(state.inserts) == self.inserts
        self._check_due(state)

    def _check_subscriptions(self, state: TriggerState, trigger_id: int, numbers: list[int]) -> None:
        subscriptions = {key[1]: one for key, one in self.subscriptions.items() if key[0] == trigger_id}
        assert state.subscriptions(trigger_id) == {name: hold_ms for name, (hold_ms, _) in subscriptions.items()}
        for name, (_, acked) in subscriptions.items():
            cursor = state.cursor(trigger_id, name)
            assert cursor is not None
            done = {one for one in numbers if one <= cursor.acked_up_to or one in cursor.acked}
            assert done == acked & set(numbers)

    def _check_due(self, state: TriggerState) -> None:
        """What is due, in order; taking it changes nothing when it is given back."""
        wanted = sorted((due_ms, *key) for key, (due_ms, _) in self.schedules.items())
        assert state.next_due() == (wanted[0][0] if wanted else None)
        taken = state.take_due(1 << 60, 10_000)
        assert [(one.due_ms, one.trigger_id, one.function, one.ordinal) for one in taken] == wanted
        state.give_back(taken)


def _same(one: int | str, other: int | str) -> bool:
    return one == other and type(one) is type(other)
