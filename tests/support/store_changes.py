"""Every kind of change a store knows, one after the other, and what can be seen of it: for tests with bad disks.

The state after each change is found out on a disk that works.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pyroaring import BitMap
from support.power_failure import UNSYNCED
from support.store_model import COLUMNS, Z_ORDER, erase, insert, read_snapshots

from openset.errors import OpenSetError, QueryError
from openset.store.dead_letters import DeadLetter
from openset.store.segment import Computed, Segment, SegmentColumn
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Acknowledged, Emitted, OnceMarked, Subscribed
from openset.store.trigger_changes import Change as TriggerChange
from openset.store.views import ViewCache
from openset_format.hashing import partition_of
from openset_format.membership import MembershipFile, serialized

STAMP = 10**12
FAR_AHEAD_MS = 4 * 10**12
PARTITIONS = 2

Change = Callable[[Store], Any]


def events(first: int, count: int, **attributes: Any) -> list[dict[str, Any]]:
    return [
        {
            "person": f"p{number % 5}",
            "stamp": STAMP + number,
            "action": ("view", "cart")[number % 2],
            "attr": {"colour": ("red", "green")[number % 2], "units": number, **attributes},
        }
        for number in range(first, first + count)
    ]


def _segments(store: Store, people: dict[str, int]) -> None:
    """Stores segments together: name and one of the people of partition 0."""
    table = store.table("t")
    with store.pinned_snapshot("t") as snapshots:
        if not snapshots:
            raise QueryError("there are no events")
        journal_id = snapshots[0].journal_id
        sequence = max(max(one.applied_sequence, one.records.last_sequence) for one in snapshots)
    computed = []
    for name, person in people.items():
        described = Segment(
            name=name, script="tally", ttl_seconds=None, refresh_seconds=None, made_at_ms=FAR_AHEAD_MS, people=2,
            parameters={}, session_time_ms=1, timeout_ms=1, columns=(SegmentColumn(1, "colour", "text"),),
            journal_id=journal_id, sequence=sequence,
        )  # fmt: skip
        # Nobody who is erased later: whom a restart takes out of segments is not looked at here.
        members = {0: serialized(BitMap([person])), 1: serialized(BitMap([0]))}
        computed.append(Computed(described, members))
    store.segments.put(table.id, computed)


def _trigger(store: Store) -> None:
    trigger = Trigger(
        id=0, name="told", epoch=0, script="def on_insert():\n    emit('x')\n", enabled=False, once=True,
        emit_as_event=False, filter=None, made_at_ms=1, columns=(), from_sequence=0,
    )  # fmt: skip
    store.triggers.put(store.table("t").id, trigger, None, lambda: store.visible_sequence)


def _changes(store: Store, changes: list[TriggerChange], number: int = 1) -> None:
    """What the triggers of a partition did."""
    store.triggers.append(store.table("t").id, {number: changes}).result(timeout=30)


def _emission(person: str, value: int) -> Emitted:
    return Emitted(STAMP + value, value, person, 1, "told", "x", value)


def _dead_letter(store: Store, person: str) -> None:
    message = {"id": f"1-0-{person}", "person": person, "name": "x"}
    store.dead_letters.add(store.table("t").id, [DeadLetter(1, "mail", message, "status 503", 8, STAMP)])


def _erase_and_finish(store: Store, person: str) -> None:
    """As a request does: what follows from the record may have to wait, and then the person is gone all the same."""
    sequence = store.submit_erasure("t", person).result(timeout=30)
    with suppress(OpenSetError):
        store.erasures.finish_all()
    store.erasures.leave(partition_of(person, store.partitions or 1), sequence)


def _try_again(store: Store) -> None:
    if not store.dead_letters.try_again(store.table("t").id, 1, "mail"):
        raise QueryError("there is nothing to be tried again")


def _insert(first: int, count: int, table: str = "t", **attributes: Any) -> Change:
    return partial(insert, request=events(first, count, **attributes), table=table)


CHANGES: list[tuple[str, Change]] = [
    ("initialise", lambda store: store.initialise(PARTITIONS)),
    ("create t", lambda store: store.create_table("t", COLUMNS, Z_ORDER)),
    ("insert 1", _insert(0, 6)),
    ("insert 2", _insert(4, 6)),
    ("segment a", lambda store: _segments(store, {"a": 1})),
    ("compact 1", lambda store: store.compact_all()),
    ("add column", lambda store: store.add_column("t", "more", "int")),
    ("insert 3", _insert(10, 5, more=7)),
    ("rotate", lambda store: store.compactions.begin_forgetting()),
    ("create u", lambda store: store.create_table("u", COLUMNS)),
    ("insert 4", _insert(0, 4, "u")),
    ("compact 2", lambda store: store.compact_all()),
    ("drop column", lambda store: store.drop_column("t", "more")),
    ("erase", lambda store: erase(store, "p1")),
    ("insert 5", _insert(15, 3)),
    ("segment a again", lambda store: _segments(store, {"a": 2})),
    ("segment b", lambda store: _segments(store, {"b": 1})),
    ("trigger", _trigger),
    ("emitted", lambda store: _changes(store, [Subscribed(1, "mail", 10**9), _emission("p2", 1), _emission("p3", 2)])),
    ("dead letter", lambda store: _dead_letter(store, "p2")),
    ("compact 3", lambda store: store.compact_all()),
    ("segments together", lambda store: _segments(store, {"b": 2, "c": 1, "d": 2})),
    ("acknowledged", lambda store: _changes(store, [Acknowledged(1, "mail", [1]), OnceMarked(1, 0, [1, 2])])),
    ("another dead letter", lambda store: _dead_letter(store, "p3")),
    ("dead letters again", _try_again),
    ("erase and finish", lambda store: _erase_and_finish(store, "p3")),
    ("remove segment", lambda store: store.segments.remove(store.table("t").id, "a", FAR_AHEAD_MS)),
    ("drop u", lambda store: store.drop_table("u")),
    ("retention", lambda store: store.set_retention("t", 1_000_000)),
    ("insert 6", _insert(18, 4)),
    ("compact 4", lambda store: store.compact_all()),
]


def seen(store: Store) -> dict[str, Any]:
    """Everything a user can see of a store."""
    found: dict[str, Any] = {"partitions": store.partitions}
    cache = ViewCache(store.data_dir)
    for schema in store.tables():
        with store.pinned_snapshot(schema.name) as snapshots:
            contents = read_snapshots(cache, snapshots)
        segments = {}
        for stored in store.segments.all(schema.id, FAR_AHEAD_MS):
            file = MembershipFile.open(store.data_dir / stored.ref.file)
            segments[stored.segment.name] = [list(file.members(number)) for number in range(PARTITIONS)]
        triggers = [one.name for one in store.triggers.of_table(schema.id)]
        with store.triggers.states(schema.id) as held:
            states = {number: state.encode() for number, state in held.items()}
        letters = store.dead_letters.of(schema.id, 1, "mail")
        found[schema.name] = (schema.columns, schema.retention_days, contents, segments, triggers, states, letters)
    return found


class Expected:
    """The states that sequences of changes lead to, found out once each."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], dict[str, Any]] = {}

    def after(self, names: Sequence[str]) -> dict[str, Any]:
        """What is seen after the changes of these names, in a store of its own."""
        key = tuple(names)
        if key not in self._known:
            changes = dict(CHANGES)
            with TemporaryDirectory() as place:
                store = Store.open(Path(place) / "data", files=UNSYNCED)
                for length, name in enumerate(key, 1):
                    changes[name](store)
                    self._known.setdefault(key[:length], seen(store))
                self._known.setdefault((), {"partitions": None})
                store.close()
                shutil.rmtree(place, ignore_errors=True)
        return self._known[key]
