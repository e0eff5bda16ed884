"""The state of a partition's triggers in memory: who has emitted, what is scheduled, messages, subscriptions, counts.

It is what changes make of it, in the order of the journal: nothing here knows clocks, files or threads. Messages that
nobody waits for any more are forgotten by `prune`, which the journal does not record: after a crash some come back,
and go again.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, Protocol, cast

import msgspec
from pyroaring import BitMap

from openset.store.trigger_changes import (
    Acknowledged,
    Buried,
    Change,
    Counted,
    Cursor,
    Emitted,
    Evaluated,
    Inserted,
    Letter,
    Message,
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
from openset_format.errors import FormatError
from openset_format.membership import serialized

BODY_VERSION = 1
# So many entries of the heap may be out of date, and twice as many as are not.
_HEAP_SLACK = 10_000
# Of the dead letters of a subscription in a partition.
LETTERS_KEPT = 1_000

_number = attrgetter("number")
Person = int | str


class Known(Protocol):
    """What a state has to know of a trigger that there is."""

    @property
    def id(self) -> int: ...

    @property
    def from_sequence(self) -> int: ...

    @property
    def start(self) -> int: ...

    @property
    def epoch(self) -> int: ...

    @property
    def functions(self) -> Collection[str]: ...

    @property
    def runs(self) -> bool: ...


class Counts(msgspec.Struct, array_like=True):
    """Of a trigger in a partition, since it was made: people it ran for, emissions, people for whom it failed."""

    people: int = 0
    emissions: int = 0
    errors: int = 0


@dataclass(slots=True)
class _Subscription:
    hold_ms: int
    acked_up_to: int
    acked: set[int]


@dataclass(slots=True)
class _Letters:
    """The dead letters of a subscription by number, oldest first. fallen: how many older ones fell out."""

    fallen: int = 0
    held: dict[int, Letter] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Due:
    """A schedule whose time has come."""

    due_ms: int
    trigger_id: int
    function: str
    ordinal: int


class _Body(msgspec.Struct, array_like=True):
    """What a sidecar file holds. Files of before lack the last three."""

    version: int
    evaluated: int
    next_number: int
    once: list[tuple[int, int, bytes]]
    schedules: list[tuple[int, str, list[tuple[int, int, Person]]]]
    messages: list[Message]
    inserts: list[Message]
    subscriptions: list[tuple[int, str, Cursor]]
    counts: list[tuple[int, Counts]]
    turns: int = 0
    started: list[tuple[int, int, int]] = []
    letters: list[tuple[int, str, int, list[Letter]]] = []


_DECODER = msgspec.msgpack.Decoder(_Body)


class TriggerState:
    """The state of one partition. Not thread-safe."""

    def __init__(self) -> None:
        self.evaluated = 0
        self.next_number = 1
        # How many turns there have been, and from which record on triggers run: (start, sequence) by trigger.
        self.turns = 0
        self._started: dict[int, tuple[int, int]] = {}
        self.counts: dict[int, Counts] = {}
        # Emissions that are to become events and have not been confirmed, by number.
        self.inserts: dict[int, Message] = {}
        self._once: dict[tuple[int, int], BitMap] = {}  # by trigger and epoch
        self._schedules: dict[tuple[int, str], dict[int, tuple[int, Person]]] = {}  # by trigger and function
        # Triggers that are disabled: their schedules wait, and are not in the heap.
        self._waiting: set[int] = set()
        # May hold what was replaced or cancelled since; `_schedules` says what is true.
        self._heap: list[tuple[int, int, str, int]] = []
        self._messages: dict[int, list[Message]] = {}  # by trigger, ascending numbers
        self._subscriptions: dict[tuple[int, str], _Subscription] = {}  # by trigger and name
        self._letters: dict[tuple[int, str], _Letters] = {}  # so too

    # --- changing --------------------------------------------------------------------------------------------------

    def apply(self, changes: Iterable[Change], known: Mapping[int, Known], sequence: int = 0) -> set[int]:
        """Takes changes in; returns the triggers that have new messages, or whose subscriptions have changed.

        sequence: of their record. known: the triggers there are. What is about another one (deleted since, or before a
        restart) or, for once marks, about another epoch is left out, but for the number of its message.
        """
        told: set[int] = set()
        for change in changes:
            if isinstance(change, Turn):
                if change.number != self.turns + 1:
                    break
                self.turns = change.number
                continue
            trigger_id = getattr(change, "trigger_id", None)
            if trigger_id is not None and trigger_id not in known:
                self.next_number += isinstance(change, Emitted)
                continue
            if isinstance(change, OnceMarked | OnceUnmarked) and change.epoch != known[change.trigger_id].epoch:
                continue
            if isinstance(change, Started):
                self._start(change, sequence)
                continue
            _APPLY[type(change)](self, change)
            if isinstance(change, Emitted | Acknowledged | Subscribed | Unsubscribed):
                told.add(change.trigger_id)
        return told

    def _start(self, change: Started, sequence: int) -> None:
        before = self._started.get(change.trigger_id)
        if before is None or before[0] < change.start:
            self._started[change.trigger_id] = (change.start, sequence)

    def retain(self, known: Mapping[int, Known]) -> None:
        """Forgets everything of triggers that are gone, marks of other epochs, schedules of functions that are gone.

        Schedules of triggers that do not run wait until they do.
        """
        self._once = {key: one for key, one in self._once.items() if key[0] in known and known[key[0]].epoch == key[1]}
        self._schedules = {
            key: held for key, held in self._schedules.items() if key[0] in known and key[1] in known[key[0]].functions
        }
        self._messages = {trigger_id: held for trigger_id, held in self._messages.items() if trigger_id in known}
        self._subscriptions = {key: one for key, one in self._subscriptions.items() if key[0] in known}
        self._letters = {key: one for key, one in self._letters.items() if key[0] in known}
        self._started = {trigger_id: one for trigger_id, one in self._started.items() if trigger_id in known}
        self.counts = {trigger_id: counts for trigger_id, counts in self.counts.items() if trigger_id in known}
        self.inserts = {number: one for number, one in self.inserts.items() if one.trigger_id in known}
        self._waiting = {trigger_id for trigger_id, trigger in known.items() if not trigger.runs}
        self._make_heap()

    def _make_heap(self) -> None:
        self._heap = [
            (due_ms, trigger_id, function, ordinal)
            for (trigger_id, function), held in self._schedules.items()
            if trigger_id not in self._waiting
            for ordinal, (due_ms, _) in held.items()
        ]
        heapq.heapify(self._heap)

    def _evaluated(self, change: Evaluated) -> None:
        self.evaluated = max(self.evaluated, change.sequence)

    def _emitted(self, change: Emitted) -> None:
        message = Message(
            self.next_number, change.stamp_ms, change.ordinal, change.person,
            change.trigger_id, change.trigger, change.name, change.value,
        )  # fmt: skip
        self.next_number += 1
        self._messages.setdefault(change.trigger_id, []).append(message)
        if change.insert:
            self.inserts[message.number] = message

    def _once_marked(self, change: OnceMarked) -> None:
        key = (change.trigger_id, change.epoch)
        self._once.setdefault(key, BitMap()).update(change.ordinals)

    def _once_unmarked(self, change: OnceUnmarked) -> None:
        marked = self._once.get((change.trigger_id, change.epoch))
        if marked is not None:
            marked -= BitMap(change.ordinals)

    def _scheduled(self, change: Scheduled) -> None:
        found = self._schedules.setdefault((change.trigger_id, change.function), {})
        for ordinal, due_ms, person in change.entries:
            found[ordinal] = (due_ms, person)
            heapq.heappush(self._heap, (due_ms, change.trigger_id, change.function, ordinal))
        if len(self._heap) > _HEAP_SLACK + 2 * sum(map(len, self._schedules.values())):
            self._make_heap()  # where another node runs them nobody takes anything from it

    def _unscheduled(self, change: Unscheduled) -> None:
        key = (change.trigger_id, change.function)
        found = self._schedules.get(key, {})
        for ordinal in change.ordinals:
            found.pop(ordinal, None)
        if not found:
            self._schedules.pop(key, None)

    def _counted(self, change: Counted) -> None:
        counts = self.counts.setdefault(change.trigger_id, Counts())
        counts.people += change.people
        counts.emissions += change.emissions
        counts.errors += change.errors

    def _inserted(self, change: Inserted) -> None:
        for number in change.numbers:
            self.inserts.pop(number, None)

    def _subscribed(self, change: Subscribed) -> None:
        found = self._subscriptions.get((change.trigger_id, change.name))
        if found is None:
            self._subscriptions[change.trigger_id, change.name] = _Subscription(change.hold_ms, 0, set())
        else:
            found.hold_ms = change.hold_ms

    def _unsubscribed(self, change: Unsubscribed) -> None:
        self._subscriptions.pop((change.trigger_id, change.name), None)
        self._letters.pop((change.trigger_id, change.name), None)

    def _acknowledged(self, change: Acknowledged) -> None:
        found = self._subscriptions.get((change.trigger_id, change.name))
        if found is None:
            return  # deleted since
        found.acked.update(number for number in change.numbers if found.acked_up_to < number < self.next_number)
        messages = self._messages.get(change.trigger_id, [])
        at = bisect_right(messages, found.acked_up_to, key=_number)
        while at < len(messages) and messages[at].number in found.acked:
            found.acked_up_to = messages[at].number
            at += 1
        found.acked = {number for number in found.acked if number > found.acked_up_to}

    def _buried(self, change: Buried) -> None:
        key = (change.trigger_id, change.name)
        if key not in self._subscriptions:
            return  # deleted since
        letters = self._letters.setdefault(key, _Letters())
        for letter in change.letters:
            if letters.held.pop(letter.number, None) is not None or not change.again:
                letters.held[letter.number] = letter
        while len(letters.held) > LETTERS_KEPT:
            del letters.held[next(iter(letters.held))]
            letters.fallen += 1

    def _retried(self, change: Retried) -> None:
        letters = self._letters.get((change.trigger_id, change.name), _Letters())
        for number, letter in letters.held.items():
            letters.held[number] = msgspec.structs.replace(letter, again=True)

    def _unburied(self, change: Unburied) -> None:
        key = (change.trigger_id, change.name)
        letters = self._letters.get(key, _Letters())
        for number in list(letters.held) if change.numbers is None else change.numbers:
            letters.held.pop(number, None)
        if change.numbers is None:
            self._letters.pop(key, None)

    def erase(self, person: Person) -> None:
        """Forgets somebody's schedules, messages and dead letters.

        That an ordinal has emitted stays: it is nobody's any more.
        """
        for held in self._schedules.values():
            for ordinal in [ordinal for ordinal, (_, whose) in held.items() if _is_same(whose, person)]:
                del held[ordinal]
        self._schedules = {key: held for key, held in self._schedules.items() if held}
        for trigger_id, messages in self._messages.items():
            self._messages[trigger_id] = [message for message in messages if not _is_same(message.person, person)]
        self.inserts = {number: one for number, one in self.inserts.items() if not _is_same(one.person, person)}
        for letters in self._letters.values():
            letters.held = {
                number: one for number, one in letters.held.items() if not _is_same(one.message.get("person"), person)
            }  # fmt: skip

    def prune(self, now_ms: int, default_hold_ms: int) -> None:
        """Forgets messages that every subscription has acknowledged, and those beyond the longest hold."""
        for trigger_id, messages in self._messages.items():
            subscriptions = [one for key, one in self._subscriptions.items() if key[0] == trigger_id]
            hold_ms = max((one.hold_ms for one in subscriptions), default=default_hold_ms)
            done = min((one.acked_up_to for one in subscriptions), default=0)
            first = bisect_right(messages, done, key=_number)
            while first < len(messages) and messages[first].stamp_ms + hold_ms <= now_ms:
                first += 1
            if first:
                self._messages[trigger_id] = messages[first:]
                last = messages[first - 1].number
                for one in subscriptions:
                    one.acked_up_to = max(one.acked_up_to, last)
                    one.acked = {number for number in one.acked if number > last}

    # --- looking up ------------------------------------------------------------------------------------------------

    def once(self, trigger_id: int, epoch: int) -> BitMap:
        """Who has emitted in this epoch. Shared: do not change it."""
        return self._once.get((trigger_id, epoch), BitMap())

    def begin(self, trigger: Known) -> int | None:
        """The record after which a trigger runs for inserts; None when that is not known yet."""
        if not trigger.start:
            return trigger.from_sequence
        start, sequence = self._started.get(trigger.id, (0, 0))
        return sequence if start == trigger.start else None

    def schedules(self, trigger_id: int) -> int:
        """How many schedules a trigger has."""
        return sum(len(held) for key, held in self._schedules.items() if key[0] == trigger_id)

    def emitted_people(self, trigger_id: int, epoch: int) -> int:
        """How many people have emitted from on_insert in this epoch."""
        return len(self.once(trigger_id, epoch))

    def next_due(self) -> int | None:
        """When the next schedule is due, ms; None when there is none."""
        while self._heap and not self._is_true(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, until_ms: int, limit: int) -> list[Due]:
        """The schedules due up to a moment, earliest first, at most `limit`.

        They stay what they are until a change takes them away; to have them taken again, give them back.
        """
        taken: list[Due] = []
        while len(taken) < limit and (due_ms := self.next_due()) is not None and due_ms <= until_ms:
            entry = heapq.heappop(self._heap)
            # The same may be in the heap twice, when it was scheduled twice for one moment.
            while self._heap and self._heap[0] == entry:
                heapq.heappop(self._heap)
            taken.append(Due(*entry))
        return taken

    def give_back(self, taken: Iterable[Due]) -> None:
        """What was taken and did not run."""
        for due in taken:
            heapq.heappush(self._heap, (due.due_ms, due.trigger_id, due.function, due.ordinal))

    def _is_true(self, entry: tuple[int, int, str, int]) -> bool:
        due_ms, trigger_id, function, ordinal = entry
        found = self._schedules.get((trigger_id, function), {}).get(ordinal)
        return found is not None and found[0] == due_ms and trigger_id not in self._waiting

    def after(self, trigger_id: int, number: int, limit: int) -> list[Message]:
        """The oldest messages of a trigger above a number, at most `limit`."""
        messages = self._messages.get(trigger_id, [])
        first = bisect_right(messages, number, key=_number)
        return messages[first : first + limit]

    def subscriptions(self, trigger_id: int) -> dict[str, int]:
        """Name and hold (ms) of the subscriptions of a trigger."""
        return {key[1]: one.hold_ms for key, one in self._subscriptions.items() if key[0] == trigger_id}

    def cursor(self, trigger_id: int, name: str) -> Cursor | None:
        """How far a subscription is, None when there is none of this name."""
        found = self._subscriptions.get((trigger_id, name))
        return None if found is None else Cursor(found.acked_up_to, sorted(found.acked), found.hold_ms)

    def replace_letters(self, letters: Mapping[tuple[int, str], tuple[int, Sequence[Letter]]]) -> bool:
        """Has these dead letters and no others; whether that changed anything.

        By trigger and subscription, how many older ones fell out, and those there are, oldest first.
        """
        before = self._letters
        self._letters = {
            key: _Letters(fallen, {one.number: one for one in held})
            for key, (fallen, held) in letters.items()
            if key in self._subscriptions
        }
        return self._letters != before

    def letters(self, trigger_id: int, name: str) -> tuple[list[Letter], int]:
        """The dead letters of a subscription, oldest first, and how many older ones fell out."""
        found = self._letters.get((trigger_id, name), _Letters())
        return list(found.held.values()), found.fallen

    def summary(self) -> dict[str, int]:
        """How much there is of everything."""
        return {
            "evaluated": self.evaluated,
            "emitted_people": sum(len(bitmap) for bitmap in self._once.values()),
            "schedules": sum(len(held) for held in self._schedules.values()),
            "next_message": self.next_number,
            "messages": sum(len(messages) for messages in self._messages.values()),
            "subscriptions": len(self._subscriptions),
        }

    # --- the sidecar -----------------------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """The body of a sidecar file."""
        body = _Body(
            BODY_VERSION,
            self.evaluated,
            self.next_number,
            [(*key, serialized(bitmap)) for key, bitmap in sorted(self._once.items())],
            [
                (*key, [(ordinal, due_ms, person) for ordinal, (due_ms, person) in held.items()])
                for key, held in sorted(self._schedules.items())
            ],
            sorted(self._all_messages(), key=_number),
            sorted(self.inserts.values(), key=_number),
            [
                (*key, Cursor(one.acked_up_to, sorted(one.acked), one.hold_ms))
                for key, one in sorted(self._subscriptions.items())
            ],
            sorted(self.counts.items()),
            self.turns,
            [(trigger_id, *one) for trigger_id, one in sorted(self._started.items())],
            [(*key, one.fallen, list(one.held.values())) for key, one in sorted(self._letters.items())],
        )
        return msgspec.msgpack.encode(body)

    @classmethod
    def decode(cls, data: bytes) -> TriggerState:
        """The state of a sidecar file, before it was told which triggers there are (`retain`). Raises FormatError."""
        try:
            body = _DECODER.decode(data)
            once = {(trigger, epoch): BitMap.deserialize(bitmap) for trigger, epoch, bitmap in body.once}
        except (msgspec.DecodeError, ValueError) as error:
            raise FormatError(f"the state of triggers cannot be read: {error}") from error
        if body.version != BODY_VERSION:
            raise FormatError(f"a state of triggers of version {body.version}; this program reads {BODY_VERSION}")
        state = cls()
        state.evaluated, state.next_number = body.evaluated, body.next_number
        state._once = once
        for trigger_id, function, entries in body.schedules:
            state._schedules[trigger_id, function] = {ordinal: (due, person) for ordinal, due, person in entries}
        for message in body.messages:
            state._messages.setdefault(message.trigger_id, []).append(message)
        state.inserts = {message.number: message for message in body.inserts}
        for trigger_id, name, cursor in body.subscriptions:
            state._subscriptions[trigger_id, name] = _Subscription(
                cursor.hold_ms, cursor.acked_up_to, set(cursor.acked)
            )  # fmt: skip
        state.counts = dict(body.counts)
        state.turns = body.turns
        for trigger_id, name, fallen, letters in body.letters:
            state._letters[trigger_id, name] = _Letters(fallen, {one.number: one for one in letters})
        state._started = {trigger_id: (start, sequence) for trigger_id, start, sequence in body.started}
        return state

    def _all_messages(self) -> Iterator[Message]:
        for messages in self._messages.values():
            yield from messages


def _is_same(one: Person | None, other: Person) -> bool:
    return one == other and type(one) is type(other)


_APPLY: Mapping[type, Callable[[TriggerState, Any], None]] = cast(
    "Mapping[type, Callable[[TriggerState, Any], None]]",
    {
        Evaluated: TriggerState._evaluated,
        Emitted: TriggerState._emitted,
        OnceMarked: TriggerState._once_marked,
        OnceUnmarked: TriggerState._once_unmarked,
        Scheduled: TriggerState._scheduled,
        Unscheduled: TriggerState._unscheduled,
        Counted: TriggerState._counted,
        Inserted: TriggerState._inserted,
        Subscribed: TriggerState._subscribed,
        Unsubscribed: TriggerState._unsubscribed,
        Acknowledged: TriggerState._acknowledged,
        Buried: TriggerState._buried,
        Retried: TriggerState._retried,
        Unburied: TriggerState._unburied,
    },
)
