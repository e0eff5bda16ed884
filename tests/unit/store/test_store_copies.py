"""Copies of several tables that are put in place in the stead of others."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from support import store_model as model

from openset.store.compaction import compact as compacted
from openset.store.copies import Received, make_member
from openset.store.ingest import prepare_insert
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


def send(source: Store, target: Store) -> int:
    """Returns up to which record the target has everything then."""
    assert source.copies is not None and target.copies is not None and target.replicas is not None
    outgoing = source.copies.outgoing(0)
    staged = {}
    for one in outgoing.files:
        staged[one.name] = target.copies.staging_path(one.name, 0)
        one.file.seek(0)
        (target.data_dir / staged[one.name]).write_bytes(one.file.read())
        one.file.close()
    received = Received(outgoing.term, outgoing.index, outgoing.covers, staged)
    target.replicas.replace(0, partial(target.copies.install, 0, received, target.replicas)).result(10)
    target.replicas.show(0, outgoing.index)
    return outgoing.index


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
