"""Retention: events are left out by the moment, whatever holds them, and compactions remove them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import store_model as model

from openset.errors import ConfigError
from openset.store.compaction import CompactionTask, compact
from openset.store.store import Store
from openset.store.views import PartitionView, ViewCache
from openset_format.reader import PartitionFile

STAMP = 10**12
DAY_MS = 86_400_000


def living(contents: Any, before: int) -> Any:
    """What a model's table holds after everything with an earlier stamp has expired."""
    kept = {person: [event for event in events if event[0] >= before] for person, events in contents.items()}
    return {person: events for person, events in kept.items() if events}


def read(cache: ViewCache, store: Store, before: int) -> Any:
    snapshots = [replace(each, expired_before=before) for each in store.snapshot("t")]
    found = model.read_snapshots(cache, snapshots)
    alone = [cache.person_rows(each, person) for each in snapshots for person in model.PERSONS]
    assert dict(entry for block in alone if block is not None for entry in model.read_block(block).items()) == found
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    compacted=st.lists(model.events(), max_size=3),
    later=st.lists(model.events(), max_size=3),
    moments=st.lists(st.integers(STAMP, STAMP + 4), min_size=1, max_size=4),
)
def test_what_is_read_is_what_has_not_expired(
    tmp_path_factory: pytest.TempPathFactory, compacted: Any, later: Any, moments: list[int]
) -> None:
    store = model.new_store(tmp_path_factory.mktemp("store"), 2)
    table, cache = model.Model(), ViewCache(store.data_dir)
    for request in compacted:
        model.insert(store, request)
        table.insert(request)
    store.compact_all()
    for request in later:
        model.insert(store, request)
        table.insert(request)
    for before in moments:
        assert read(cache, store, before) == living(table.contents(), before)
    assert read(cache, store, 0) == table.contents()
    before = moments[0]
    while (task := store.compactions.next(forced=True)) is not None:
        expiring = CompactionTask(task.data_dir, replace(task.snapshot, expired_before=before), task.staging)
        store.compactions.publish(expiring, compact(expiring))
    assert read(cache, store, before) == living(table.contents(), before)
    store.close()


def test_people_keep_their_ordinals(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    table = [{"person": p, "stamp": STAMP + p, "action": "view", "attr": {"colour": f"c{p}"}} for p in range(4)]
    model.insert(store, table)
    store.set_retention("t", 1)
    store.compact_all()
    file = PartitionFile.open(tmp_path / "tables" / "1" / "p0000.h5")
    assert (file.people, file.rows) == (4, 0)
    model.insert(store, [{"person": 2, "stamp": "2199-01-01", "action": "view", "attr": {"colour": "new"}}])
    view = ViewCache(tmp_path).view(store.snapshot("t")[0])
    assert list(view.present) == [2]
    store.compact_all()
    view = ViewCache(tmp_path).view(store.snapshot("t")[0])
    assert list(view.present) == [2]
    assert view.persons.index(3) == file.persons.index(3)
    store.close()


def test_indexes_and_single_people_know_what_has_expired(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    attributes = [{"colour": f"c{p % 200}"} for p in range(4_000)]
    model.insert(
        store, [{"person": p, "stamp": STAMP + p, "action": "view", "attr": attributes[p]} for p in range(4_000)]
    )
    store.compact_all()
    (snapshot,) = store.snapshot("t")
    view = ViewCache(tmp_path).view(replace(snapshot, expired_before=STAMP + 1_000))
    assert list(view.present) == list(range(1_000, 4_000))
    found = view.people_with("colour", "c7")
    assert found is not None, "the index knows"
    assert list(found) == list(range(1_007, 4_000, 200))
    assert view.person_rows(999) is None
    assert view.person_rows(1_000) is not None
    assert sum(block.rows for block in view.blocks_of(view.present)) == 3_000
    store.close()


def test_a_view_serves_until_something_expires(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, [{"person": p, "stamp": STAMP + 10 * p, "action": "view"} for p in range(9)])
    store.compact_all()
    cache = ViewCache(tmp_path)
    (snapshot,) = store.snapshot("t")

    def view(before: int) -> PartitionView:
        return cache.view(replace(snapshot, expired_before=STAMP + before))

    first = view(11)
    assert view(20) is first
    assert view(21) is not first
    assert len(view(21).present) == 6
    assert len(view(5).present) == 8, "a query that began before"
    assert np.sum([block.rows for block in view(1000).blocks()]) == 0


def test_retention_is_kept_and_checked(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    assert store.table("t").retention_days is None
    assert store.table("t").expired_before(5 * DAY_MS) == 0
    assert store.set_retention("t", 1.5).expired_before(5 * DAY_MS) == 3.5 * DAY_MS
    assert store.table("t").expired_before(DAY_MS) == 0
    for bad in (0, -1, 10**7, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="retention_days"):
            store.set_retention("t", bad)
        with pytest.raises(ConfigError, match="retention_days"):
            store.create_table("u", [], retention_days=bad)
    store.close()
    store = Store.open(tmp_path)
    assert store.table("t").retention_days == 1.5
    assert store.set_retention("t", None).retention_days is None
    store.close()
