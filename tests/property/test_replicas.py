"""Two copies of a table's partitions hold what their shown records say, whatever is kept, cut, shown, compacted,
started again, sent over or given up in whatever order; and with the same records shown they are the same copy."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import store_model as model

from openset.store.copies import Received, make_member
from openset.store.ingest import prepare_insert
from openset.store.records import ERASURE_RECORD, INSERT_RECORD, REVENT_RECORD, encode_erasure
from openset.store.replicas import StoredEntry
from openset.store.store import Store
from openset.store.trigger_catalog import CatalogContents, Trigger
from openset.store.trigger_changes import Change, Emitted, Evaluated, Scheduled, Turn, encode_changes
from openset.store.trigger_state import TriggerState
from openset.store.views import ViewCache
from openset_format.batch import encode_batch
from openset_format.files import FILES
from openset_format.hashing import partition_of

PARTITIONS = 2
JOURNAL_ID = "ab" * 16
TRIGGER = Trigger(1, "t", 1, "", True, False, False, None, 0, (), 0, ("later",))

nodes = st.sampled_from(["a", "b"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), model.events()),
        st.tuples(st.just("insert"), model.events()),
        st.tuples(st.just("erase"), model.persons),
        st.tuples(st.just("turn"), st.tuples(st.integers(0, PARTITIONS - 1), model.persons, st.booleans())),
        st.tuples(st.just("hidden"), model.events()),
        st.tuples(st.sampled_from(["compact", "reopen", "rotate", "catch up", "sidecars"]), nodes),
        st.just(("transfer", "")),
        st.just(("discard", "")),
        st.just(("look", "")),
    ),
    min_size=1,
    max_size=16,
)


@dataclass
class Record:
    """What the log of a partition has under an index."""

    entry: StoredEntry
    events: list[dict[str, Any]]
    erased: Any = None
    changes: list[Change] | None = None
    counts: bool = True


@dataclass
class Member:
    """A node with its store, and up to where each partition's records are shown there; None where it is not."""

    directory: Path
    store: Store
    cache: ViewCache
    shown: dict[int, int | None] = field(default_factory=lambda: dict.fromkeys(range(PARTITIONS)))

    def reopen(self) -> None:
        self.store.close()
        self.store = Store.open(self.directory)
        self.cache = ViewCache(self.directory)
        assert self.store.replicas is not None
        for number, shown in self.shown.items():
            if shown is not None:
                self.store.replicas.show(number, shown)

    def keep(self, partition: int, first: int, records: list[Record]) -> None:
        assert self.store.replicas is not None
        told: list[int] = []
        self.store.replicas.keep(partition, first, [record.entry for record in records], told.append)
        self.store.replicas.perform(lambda: None).result(10)
        assert told == [first + len(records) - 1]


def member(directory: Path) -> Member:
    store = Store.open(directory)
    store.initialise(PARTITIONS)
    store.create_table("t", model.COLUMNS, model.Z_ORDER)
    store.close()
    make_member(directory, store._catalog, FILES, JOURNAL_ID)
    store = Store.open(directory)
    store.triggers.adopt(1, CatalogContents(1, 2, [TRIGGER]))
    return Member(directory, store, ViewCache(directory))


class Pair:
    """The log as it is agreed (all of it is shown on `a`), and both nodes."""

    def __init__(self, directory: Path):
        self.members = {name: member(directory / name) for name in "ab"}
        self.log: dict[int, list[Record]] = {number: [] for number in range(PARTITIONS)}
        self.term = 1

    def close(self) -> None:
        for one in self.members.values():
            one.store.close()

    def split(self, events: list[dict[str, Any]]) -> Iterator[tuple[int, Record]]:
        schema = self.members["a"].store.table("t")
        insert = prepare_insert(json.dumps(events).encode(), schema, PARTITIONS, 0)
        assert insert.batch is not None
        for place in insert.batch.partitions:
            payload = encode_batch(insert.batch.part(place.partition))
            own = [event for event in events if partition_of(event["person"], PARTITIONS) == place.partition]
            yield place.partition, Record(StoredEntry(self.term, INSERT_RECORD, 1, payload), own)

    def agree(self, partition: int, record: Record) -> None:
        """On both nodes, where they are level; b may lag behind."""
        index = len(self.log[partition]) + 1
        self.log[partition].append(record)
        for one in self.members.values():
            level = one.shown[partition] == index - 1 or (one.shown[partition] is None and index == 1)
            if level or one is self.members["a"]:
                one.keep(partition, index, [record])
                assert one.store.replicas is not None
                one.store.replicas.show(partition, index)
                one.shown[partition] = index

    def step(self, kind: str, argument: Any) -> None:
        match kind:
            case "insert":
                for partition, record in self.split(argument):
                    self.agree(partition, record)
            case "erase":
                partition = partition_of(argument, PARTITIONS)
                payload = encode_erasure(argument, PARTITIONS)
                self.agree(partition, Record(StoredEntry(self.term, ERASURE_RECORD, 1, payload), [], argument))
            case "turn":
                self.turn(*argument)
            case "sidecars":
                self.members[argument].store.compactions.write_sidecars(forced=True)
            case "hidden":
                self.hide_and_cut(argument)
            case "compact":
                self.members[argument].store.compact_all()
            case "reopen":
                self.members[argument].reopen()
            case "rotate":
                self.members[argument].store._journals.rotate()
            case "catch up":
                self.catch_up()
            case "transfer":
                for partition in range(PARTITIONS):
                    self.transfer(partition)
            case "discard":
                self.discard()
            case "look":  # what is read is kept, and must not be taken for what comes later
                for one in self.members.values():
                    model.read_snapshots(one.cache, one.store.snapshot("t"))

    def turn(self, partition: int, person: Any, is_next: bool) -> None:
        """A turn of the trigger, or one that comes too late."""
        turns = sum(isinstance(one.changes[0], Turn) and one.counts for one in self.log[partition] if one.changes)
        changes: list[Change] = [
            Turn(turns + (1 if is_next else 0)),
            Evaluated(len(self.log[partition])),
            Emitted(turns, 0, person, 1, "t", "said", is_next),
            Scheduled(1, "later", [(turns % 3, turns, person)]),
        ]
        entry = StoredEntry(self.term, REVENT_RECORD, 1, encode_changes({partition: changes}))
        self.agree(partition, Record(entry, [], changes=changes, counts=is_next))

    def hide_and_cut(self, events: list[dict[str, Any]]) -> None:
        """Records of a term that ended before they were agreed; the next term has others in their place."""
        for partition, record in self.split(events):
            for one in self.members.values():
                shown = one.shown[partition]
                if shown is None:
                    continue
                one.keep(partition, shown + 1, [record, record])
                assert one.store.replicas is not None
                one.store.replicas.cut(partition, shown).result(10)
        self.term += 1

    def catch_up(self) -> None:
        """b gets what a's journal still has."""
        source, target = self.members["a"].store.replicas, self.members["b"]
        assert source is not None and target.store.replicas is not None
        for partition, log in self.log.items():
            shown = target.shown[partition]
            if shown is None or shown == len(log) or source.journals.base(partition).index > shown:
                continue
            found = source.read(partition, shown + 1, len(log))
            assert [one._replace(payload=bytes(one.payload)) for one in found] == [one.entry for one in log[shown:]]
            target.keep(partition, shown + 1, log[shown:])
            target.store.replicas.show(partition, len(log))
            target.shown[partition] = len(log)

    def transfer(self, partition: int) -> None:
        """Everything of a partition from a to b, in place of what b has."""
        source, target = self.members["a"].store, self.members["b"]
        assert source.copies is not None and source.replicas is not None
        if not source.replicas.journals.has(partition):
            return
        replicas, copies = target.store.replicas, target.store.copies
        assert replicas is not None and copies is not None
        outgoing = source.copies.outgoing(partition)
        if (target.shown[partition] or 0) > outgoing.index:  # it has more: nobody would send it
            for one in outgoing.files:
                one.file.close()
            return
        staged = {}
        for one in outgoing.files:
            path = copies.staging_path(one.name, partition)
            one.file.seek(0)
            (target.directory / path).write_bytes(one.file.read())
            one.file.close()
            staged[one.name] = path
        received = Received(outgoing.term, outgoing.index, outgoing.covers, staged)
        replicas.replace(partition, lambda: copies.install(partition, received, replicas)).result(10)
        replicas.show(partition, outgoing.index)
        target.shown[partition] = outgoing.index
        rest = self.log[partition][outgoing.index :]
        if rest:
            target.keep(partition, outgoing.index + 1, rest)
            assert target.store.replicas is not None
            target.store.replicas.show(partition, len(self.log[partition]))
            target.shown[partition] = len(self.log[partition])

    def discard(self) -> None:
        target = self.members["b"]
        replicas, copies = target.store.replicas, target.store.copies
        assert replicas is not None and copies is not None
        for partition in range(PARTITIONS):
            replicas.replace(partition, partial(copies.discard, partition, replicas)).result(10)
            target.shown[partition] = None
            assert not list(target.directory.glob(f"**/p{partition:04d}*")), "its files are gone"

    def check(self) -> None:
        people = {}
        for name, one in self.members.items():
            expected = model.Model()
            for partition, log in self.log.items():
                for record in log[: one.shown[partition] or 0]:
                    expected.insert(record.events)
                    if record.erased is not None:
                        expected.erase(record.erased)
            self.check_triggers(one)
            snapshots = one.store.snapshot("t")
            assert model.read_snapshots(one.cache, snapshots) == expected.contents(), name
            for snapshot in snapshots:
                ids = one.cache.view(snapshot).persons
                people[name, snapshot.partition] = [ids[number] for number in range(len(ids))]
        for partition in range(PARTITIONS):
            if self.members["a"].shown[partition] == self.members["b"].shown[partition]:
                assert people.get(("a", partition)) == people.get(("b", partition)), "ordinals are those of the log"

    def check_triggers(self, one: Member) -> None:
        """What triggers have done is what the shown records say, and the inserts behind it wait."""
        for partition, log in self.log.items():
            expected, waiting = TriggerState(), []
            expected.retain({1: TRIGGER})
            for sequence, record in enumerate(log[: one.shown[partition] or 0], 1):
                if record.changes is not None:
                    expected.apply(record.changes, {1: TRIGGER}, sequence)
                elif record.erased is not None:
                    expected.erase(record.erased)
                else:
                    waiting.append(sequence)
            with one.store.triggers.state(1, partition) as state:
                assert state.encode() == expected.encode()
            pending = [each.sequence for each in one.store.triggers.pending(1, partition, 1_000)]
            assert pending == [sequence for sequence in waiting if sequence > expected.evaluated]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Memory where there is some: these tests sync a lot."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as path:
        yield Path(path)


@settings(max_examples=60, deadline=None)
@given(steps=steps)
def test_copies_equal_their_logs(steps: list[Any], directory: Path) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as data_dir:
        pair = Pair(Path(data_dir))
        try:
            for kind, argument in steps:
                pair.step(kind, argument)
                pair.check()
        finally:
            pair.close()


def test_a_partition_without_any_file_is_given_up(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    try:
        pair.step("insert", [{"person": f"p{number}", "stamp": number, "action": "view"} for number in range(20)])
        pair.discard()
        assert pair.members["b"].store.health.condition.state == "ok"
    finally:
        pair.close()
