"""Copies of several tables that are put in place in the stead of others."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
from support import store_model as model

from openset.errors import InternalError
from openset.store.compaction import compact as compacted
from openset.store.copies import Received, make_member
from openset.store.ingest import prepare_insert
from openset.store.journals import PartitionJournals
from openset.store.records import INSERT_RECORD
from openset.store.replicas import StoredEntry
from openset.store.store import Store
from openset.store.views import ViewCache
from openset_format.files import FILES

TABLES = ("a", "b")


def member(directory: Path) -> Store:
    store = Store.open(directory)
    store.initialise(1)
    for table in TABLES:
        store.create_table(table, [("units", "int")])
    store.close()
    make_member(directory, store._catalog, FILES, "ab" * 16)
    return Store.open(directory)


def entry(store: Store, table: str, number: int) -> StoredEntry:
    body = json.dumps([{"person": "p", "stamp": 10**12 + number, "action": "view", "attr": {"units": number}}]).encode()
    insert = prepare_insert(body, store.table(table), 1, 0)
    return StoredEntry(1, INSERT_RECORD, insert.table_id, insert.payload)


def keep(store: Store, first: int, entries: list[StoredEntry]) -> None:
    assert store.replicas is not None
    store.replicas.keep(0, first, entries, lambda last: None)
    store.replicas.perform(lambda: None).result(10)
    store.replicas.show(0, first + len(entries) - 1)


def compact(store: Store, table: str) -> None:
    """One table alone."""
    tasks = []
    while (task := store.compactions.next(forced=True)) is not None:
        tasks.append(task)
    for task in tasks:
        if task.snapshot.schema.name == table:
            store.compactions.publish(task, compacted(task))
        else:
            store.compactions.give_up(task)


def arrive(source: Store, target: Store) -> Received:
    """A copy as it lies beside the files before it is put in place."""
    assert source.copies is not None and target.copies is not None
    outgoing = source.copies.outgoing(0)
    staged = {}
    for one in outgoing.files:
        staged[one.name] = target.copies.staging_path(one.name, 0)
        target.copies.begin_staged(staged[one.name])
        one.file.seek(0)
        target.copies.write_staged(staged[one.name], 0, [one.file.read()])
        one.file.close()
    return Received(outgoing.term, outgoing.index, outgoing.covers, staged)


def install(received: Received, target: Store) -> int:
    """Returns up to which record the target has everything then."""
    assert target.copies is not None and target.replicas is not None
    target.replicas.replace(0, partial(target.copies.install, 0, received, target.replicas)).result(10)
    target.replicas.show(0, received.index)
    return received.index


def send(source: Store, target: Store) -> int:
    return install(arrive(source, target), target)


def stamps(store: Store, table: str) -> set[int]:
    found = model.read_snapshots(ViewCache(store.data_dir), store.snapshot(table))
    return {stamp - 10**12 for events in found.values() for stamp, _, _ in events}


def test_a_file_that_stays_may_hold_more_than_the_copy_that_comes(tmp_path: Path) -> None:
    """It came from an owner that had compacted that table; the next owner has compacted the other one."""
    first, second, third = (member(tmp_path / name) for name in ("first", "second", "third"))
    log = [entry(first, table, number) for number, table in enumerate(("b", "a", "b", "a"), 1)]
    for store in (first, second):
        keep(store, 1, log)
    compact(first, "a")
    compact(second, "b")
    try:
        assert send(first, third) == 0, "the first record is of the other table"
        assert send(second, third) == 1
        third.close()
        third = Store.open(tmp_path / "third")  # with nothing of what comes behind the copy
        keep(third, 2, log[1:])
        assert [stamps(third, table) for table in TABLES] == [{2, 4}, {1, 3}]
        third.close()
        third = Store.open(tmp_path / "third")
        assert third.replicas is not None
        third.replicas.show(0, 4)
        assert [stamps(third, table) for table in TABLES] == [{2, 4}, {1, 3}]
    finally:
        for store in (first, second, third):
            store.close()


def test_a_copy_that_arrives_leaves_one_alone_that_is_being_put_in_place(tmp_path: Path) -> None:
    source, target = member(tmp_path / "source"), member(tmp_path / "target")
    keep(source, 1, [entry(source, "a", 1)])
    compact(source, "a")
    try:
        received = arrive(source, target)
        keep(source, 2, [entry(source, "a", 2)])
        compact(source, "a")
        newer = arrive(source, target)
        assert install(received, target) == 1
        assert stamps(target, "a") == {1}
        assert install(newer, target) == 2
        assert stamps(target, "a") == {1, 2}
    finally:
        source.close()
        target.close()


def test_a_copy_that_cannot_be_put_in_place_leaves_nothing(tmp_path: Path) -> None:
    source, target = member(tmp_path / "source"), member(tmp_path / "target")
    keep(source, 1, [entry(source, "a", 1)])
    compact(source, "a")
    try:
        received = arrive(source, target)
        (staged,) = received.staged.values()
        (target.data_dir / staged).write_bytes(b"not a partition file")
        with pytest.raises(InternalError, match="too short"):
            install(received, target)
        assert not list((target.data_dir / "tables").rglob("*.tmp"))
    finally:
        source.close()
        target.close()


def test_a_forced_compaction_does_not_mind_a_partition_that_is_given_up_meanwhile(tmp_path: Path) -> None:
    store = member(tmp_path)
    keep(store, 1, [entry(store, "a", 1)])
    assert isinstance(store._journals, PartitionJournals) and store.copies is not None and store.replicas is not None
    journal, replicas = store._journals.of(0), store.replicas
    rotate = journal.rotate

    def given_up_first() -> None:
        replicas.replace(0, partial(store.copies.discard, 0, replicas)).result(10)
        rotate()

    journal.rotate = given_up_first  # type: ignore[method-assign]
    try:
        assert 0 not in store.compactions.begin_forgetting()
    finally:
        store.close()
