"""Power failures and faults at every step of a member's disk: what was told to be durable is there, copies are whole.

A part of all moments is looked at, always the same; with OPENSET_CRASH_MOMENTS=all (`make crash`) every one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import store_model as model
from support.power_failure import UNSYNCED, Promises, after_failure, chosen, moments
from support.simulated_disk import Fault, SimulatedDisk

from openset.errors import InternalError, OpenSetError
from openset.store.copies import Received, make_member
from openset.store.ingest import prepare_insert
from openset.store.records import INSERT_RECORD, REVENT_RECORD
from openset.store.replicas import StoredEntry
from openset.store.store import Store
from openset.store.trigger_catalog import CatalogContents, Trigger
from openset.store.trigger_changes import Emitted, encode_changes
from openset.store.views import ViewCache
from openset_format.errors import FormatError
from openset_format.files import FILES, FileLayer
from openset_format.verify import verify_partition

EVERYTHING = os.environ.get("OPENSET_CRASH_MOMENTS") == "all"
JOURNAL_ID = "ef" * 16
FIRST = 10**12
# The stamps of the events that are there, and of what triggers emitted, those below zero.
State = frozenset[int]
TRIGGER = Trigger(1, "t", 1, "", False, False, False, None, 0, (), 0)


def member(directory: Path, files: FileLayer) -> Store:
    """A member with one partition, which it does not have yet."""
    store = Store.open(directory, files=files)
    store.initialise(1)
    store.create_table("t", [("units", "int")])
    store.close()
    make_member(directory, store._catalog, files, JOURNAL_ID)
    store = Store.open(directory, files=files)
    store.triggers.adopt(1, CatalogContents(1, 2, [TRIGGER]))
    return store


def entry(store: Store, stamp: int, term: int = 1) -> StoredEntry:
    body = json.dumps(
        [{"person": f"p{stamp}", "stamp": FIRST + stamp, "action": "view", "attr": {"units": stamp}}]
    ).encode()
    insert = prepare_insert(body, store.table("t"), 1, 0)
    return StoredEntry(term, INSERT_RECORD, insert.table_id, insert.payload)


def turn(stamp: int, term: int = 1) -> StoredEntry:
    """What a trigger emitted."""
    return StoredEntry(term, REVENT_RECORD, 1, encode_changes({0: [Emitted(stamp, 0, "p", 1, "t", "said")]}))


class Node:
    """A member, what has been promised of its disk, and what it does next."""

    def __init__(self, disk: SimulatedDisk, source: Store):
        self.disk = disk
        self.source = source
        self.store = member(disk.root / "data", disk)
        assert self.store.replicas is not None and self.store.copies is not None
        self.replicas, self.copies = self.store.replicas, self.store.copies
        self.log: list[int] = []
        # Whether a copy came to be put in place or given up.
        self.replaces = False
        self.promises: Promises[State] = Promises([frozenset()])
        self.promises.begun[0] = self.promises.acknowledged[0] = disk.position

    def will_be(self, log: list[int]) -> None:
        self.log = log
        self.promises.begin(self.disk, frozenset(log))

    def keep(self, stamp: int, term: int = 1) -> None:
        """An event of a stamp, or what a trigger emitted where it is below zero."""
        self.will_be([*self.log, stamp])
        told: list[int] = []
        record = turn(-stamp, term) if stamp < 0 else entry(self.store, stamp, term)
        self.replicas.keep(0, len(self.log), [record], told.append)
        self.replicas.perform(lambda: None).result(10)
        assert told == [len(self.log)]
        self.promises.acknowledge(self.disk)

    def show(self, up_to: int) -> None:
        self.replicas.show(0, up_to)

    def cut(self, after: int) -> None:
        self.will_be(self.log[:after])
        self.replicas.cut(0, after).result(10)
        self.promises.acknowledge(self.disk)

    def compact(self) -> None:
        """Nobody sees it; records that the file has may go from the journal."""
        self.store.compact_all()
        self.store._journals.rotate()
        self.store.compactions.drop_segments()

    def install(self, stamps: list[int]) -> None:
        self.will_be(stamps)
        assert self.source.copies is not None
        outgoing = self.source.copies.outgoing(0)
        staged = {}
        for one in outgoing.files:
            path = staged[one.name] = self.copies.staging_path(one.name, 0)
            one.file.seek(0)
            self.copies.begin_staged(path)
            self.copies.write_staged(path, 0, [one.file.read()])
            self.copies.sync_staged(path)
            one.file.close()
        received = Received(outgoing.term, outgoing.index, outgoing.covers, staged)
        self.replaces = True
        self.replicas.replace(0, partial(self.copies.install, 0, received, self.replicas)).result(10)
        self.replicas.show(0, outgoing.index)
        self.promises.acknowledge(self.disk)

    def discard(self) -> None:
        self.will_be([])
        self.replaces = True
        self.replicas.replace(0, partial(self.copies.discard, 0, self.replicas)).result(10)
        self.promises.acknowledge(self.disk)

    def run(self) -> None:
        """A bit of everything, in an order that real histories have."""
        for stamp in (1, 2, 3, 4):
            self.keep(stamp)
        self.show(2)
        self.cut(2)
        self.keep(-5, term=2)
        self.keep(5, term=2)
        self.show(4)
        self.compact()
        self.keep(-6, term=2)
        self.keep(6, term=2)
        self.show(5)
        self.install(INSTALLED)
        self.keep(-104, term=3)
        self.keep(104, term=3)
        self.show(6)
        self.compact()
        self.discard()
        self.keep(7, term=4)
        self.keep(-7, term=4)
        self.show(2)
        self.compact()


INSTALLED = [101, -101, 102, 103]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A node whose partition has four records, in its files."""
    store = member(tmp_path_factory.mktemp("source") / "data", FILES)
    assert store.replicas is not None
    for number, stamp in enumerate(INSTALLED, 1):
        record = turn(-stamp, 2) if stamp < 0 else entry(store, stamp, 2)
        store.replicas.keep(0, number, [record], lambda last: None)
    store.replicas.perform(lambda: None).result(10)
    store.replicas.show(0, len(INSTALLED))
    store.compact_all()
    yield store
    store.close()


@pytest.fixture
def disk(tmp_path: Path) -> SimulatedDisk:
    (tmp_path / "live").mkdir()
    return SimulatedDisk((tmp_path / "live").resolve())


def found_in(root: Path) -> State:
    """Everything that is durable, as if all of it were agreed; sound, and fit to go on."""
    store = Store.open(root / "data", files=UNSYNCED)
    try:
        assert store.replicas is not None
        if store.replicas.journals.has(0):
            store.replicas.show(0, store.replicas.journals.of(0).last_sequence)
        contents = model.read_snapshots(ViewCache(root / "data"), store.snapshot("t"))
        with store.triggers.state(1, 0) as state:
            emitted = [one.stamp_ms for one in state.after(1, 0, 100)]
        assert len(set(emitted)) == len(emitted)
        assert not [problem for path in root.rglob("*.h5") for problem in verify_partition(path)]
        assert not [path for path in root.rglob("*") if path.suffix in (".tmp", ".next", ".old")]
        after = store.replicas.journals.of(0).last_sequence if store.replicas.journals.has(0) else 0
        told: list[int] = []
        store.replicas.keep(0, after + 1, [entry(store, 999, 9)], told.append)
        store.replicas.perform(lambda: None).result(10)
        assert told == [after + 1]
        stamps = {stamp - FIRST for events in contents.values() for stamp, _, _ in events}
        return frozenset(stamps | {-stamp for stamp in emitted})
    finally:
        store.close()


def test_power_failure_at_every_step(disk: SimulatedDisk, source: Store) -> None:
    node = Node(disk, source)
    first = disk.position
    node.run()
    node.store.close()
    every = list(moments(disk, seeds=3, first=first))
    for position, name in every if EVERYTHING else chosen(every, 220, 1):
        with after_failure(disk, position, name) as root:
            assert found_in(root) in node.promises.allowed(position), (position, name)


@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_directory", "make_directory", "truncate"])
def test_a_step_that_fails_loses_nothing_that_was_promised(kind: str, tmp_path: Path, source: Store) -> None:
    """The node stops there, as a member does whose disk has failed, and a power failure comes on top."""
    (tmp_path / "probe").mkdir()
    probe = SimulatedDisk((tmp_path / "probe").resolve())
    node = Node(probe, source)
    before = probe.kinds.count(kind)
    node.run()
    node.store.close()
    count, failures = probe.kinds.count(kind) - before, 0
    for skip in range(count) if EVERYTHING else sorted({0, count // 3, 2 * count // 3, count - 1}):
        (tmp_path / f"{skip}").mkdir()
        disk = SimulatedDisk((tmp_path / f"{skip}").resolve())
        node = Node(disk, source)
        first = disk.position
        disk.faults = [Fault(kind, skip=skip, times=float("inf"))]
        try:
            node.run()
        except (OpenSetError, FormatError, OSError):
            failures += 1
        finally:
            disk.faults = []
            node.store.close()
        last = disk.position
        for position, name in [
            (last, "nothing"),
            (last, "everything"),
            *chosen(list(moments(disk, 1, first)), 6, skip),
        ]:
            with after_failure(disk, position, name) as root:
                assert found_in(root) in node.promises.allowed(position), (kind, skip, position, name)
    assert failures


def test_a_copy_that_cannot_be_put_in_place_leaves_the_one_before(disk: SimulatedDisk, source: Store) -> None:
    node = Node(disk, source)
    node.keep(1)
    node.show(1)
    disk.faults = [Fault("rename", suffix=".received.tmp", number=errno.EPERM)]
    with pytest.raises(InternalError):
        node.install(INSTALLED)
    disk.faults = []
    node.replicas.begin_again().result(10)
    node.log = [1]
    node.keep(2)
    node.show(2)
    contents: dict[Any, Any] = model.read_snapshots(ViewCache(disk.root / "data"), node.store.snapshot("t"))
    assert {stamp - FIRST for events in contents.values() for stamp, _, _ in events} == {1, 2}
    node.store.close()


@pytest.mark.parametrize("step", ["install", "discard"])
@pytest.mark.parametrize("kind", ["create", "write", "sync", "rename", "sync_directory", "unlink"])
def test_a_node_goes_on_after_a_full_disk(step: str, kind: str, tmp_path: Path, source: Store) -> None:
    """Any step of a replacement may fail; the node is given more records of the log that it says it has then."""
    skip, failed = 0, True
    while failed:
        (tmp_path / f"{skip}").mkdir()
        disk = SimulatedDisk((tmp_path / f"{skip}").resolve())
        node = Node(disk, source)
        node.keep(1)
        node.show(1)
        node.compact()
        disk.faults = [Fault(kind, skip=skip, times=float("inf"), number=errno.ENOSPC)]
        failed = fails(node, step)
        disk.faults = []
        journals = node.replicas.journals
        if not journals.failure:
            node.replicas.begin_again().result(10)
            node.log = []
            if journals.has(0):
                node.log = INSTALLED[:] if journals.of(0).last_sequence == len(INSTALLED) else [1]
            node.keep(2)
            node.show(len(node.log))
            contents = model.read_snapshots(ViewCache(disk.root / "data"), node.store.snapshot("t"))
            found = {stamp - FIRST for events in contents.values() for stamp, _, _ in events}
            assert found == {stamp for stamp in node.log if stamp > 0}, (kind, skip)
        node.store.close()
        allowed = [frozenset(node.log)] if not journals.failure else [frozenset([1]), frozenset(INSTALLED), frozenset()]
        assert found_in(disk.root) in allowed, (kind, skip)
        skip += 1
    assert skip > 1 or (step, kind) in {("discard", "create")}


def fails(node: Node, step: str) -> bool:
    """Records of the new log are asked for before anybody knows."""
    told: list[int] = []
    try:
        node.install(INSTALLED) if step == "install" else node.discard()
    except (OpenSetError, FormatError, OSError):
        if not node.replaces:
            return True
        first = len(INSTALLED) + 1 if step == "install" else 1
        node.replicas.keep(0, first, [entry(node.store, 105, 3)], told.append)
        with contextlib.suppress(InternalError):
            node.replicas.perform(lambda: None).result(10)
        assert not told and "defect" not in (node.replicas.journals.failure or "")
        return True
    return False
