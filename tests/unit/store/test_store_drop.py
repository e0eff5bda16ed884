"""A table that is dropped while something else is going on with it, and what is left of it on the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import store_model as model

from openset.errors import InternalError, QueryError
from openset.store.compaction import compact
from openset.store.store import Store
from openset.store.views import ViewCache

STAMP = 10**12


def events(count: int, colour: str) -> list[dict[str, Any]]:
    return [{"person": number, "stamp": STAMP, "action": "view", "attr": {"colour": colour}} for number in range(count)]


def people(store: Store) -> int:
    return len(model.read_snapshots(ViewCache(store.data_dir), store.snapshot("t")))


def directories(store: Store) -> list[str]:
    return sorted(path.name for path in (store.data_dir / "tables").glob("*"))


def mentions(data_dir: Path, text: str) -> list[str]:
    return [path.name for path in data_dir.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_what_was_pinned_can_be_read_to_its_end(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 2)
    model.insert(store, events(10, "scarlet"))
    store.compact_all()
    model.insert(store, events(20, "crimson"))
    with store.pinned_table("t") as (schema, snapshots):
        store.drop_table("t")
        with pytest.raises(QueryError, match="no table"):
            store.table("t")
        assert schema.column("colour") is not None
        assert len(model.read_snapshots(ViewCache(tmp_path), snapshots)) == 20
        assert store.compactions.next(forced=True) is None
        assert directories(store) == ["1"]
    store.compactions.wake.wait(1)
    assert store.compactions.next() is None
    assert directories(store) == []
    store.close()


def test_records_go_with_it_when_no_other_table_needs_theirs(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    store.create_table("other", [("colour", "text")])
    store.submit("other", store.prepare_insert("other", json.dumps(events(3, "teal")).encode())).result()
    model.insert(store, events(10, "scarlet"))
    store.drop_table("t")
    assert mentions(tmp_path, "scarlet"), "beside a record that is needed"
    store.compact_all()
    assert not mentions(tmp_path, "scarlet")
    store.close()
    assert Store.open(tmp_path).compact_all() == 0


def test_an_insert_that_was_checked_before_does_not_reach_the_next_table(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    insert = store.prepare_insert("t", json.dumps(events(3, "scarlet")).encode())
    store.drop_table("t")
    with pytest.raises(QueryError, match="no table"):
        store.submit("t", insert)
    store.create_table("t", [("colour", "int")])
    with pytest.raises(QueryError, match="was dropped"):
        store.submit("t", insert)
    assert people(store) == 0
    store.close()


def test_a_compaction_under_way_ends_for_nothing(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(3, "scarlet"))
    task = store.compactions.next(forced=True)
    assert task is not None
    result = compact(task)
    store.drop_table("t")
    assert directories(store) == ["1"]
    store.compactions.publish(task, result)
    assert store.compactions.next(forced=True) is None
    assert directories(store) == []
    store.close()


def test_the_next_table_of_the_name_is_another(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 2)
    store.create_table("keeps", [])
    store.submit("keeps", store.prepare_insert("keeps", b'[{"person": 1, "action": "x"}]')).result()
    model.insert(store, events(10, "scarlet"))
    before = store.table("t")
    store.drop_table("t")
    after = store.create_table("t", [("colour", "int")])
    assert after.id > before.id
    assert people(store) == 0
    store.close()
    store = Store.open(tmp_path)
    assert people(store) == 0
    assert store.is_dropped(before.id) and not store.is_dropped(after.id)
    store.close()


def test_what_a_crash_left_is_removed_at_the_start(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(3, "scarlet"))
    store.compact_all()
    with store.pinned_table("t"):
        store.drop_table("t")
        store.close()
    (tmp_path / "tables" / "1.dropped").mkdir()
    (tmp_path / "tables" / "notes").mkdir()
    store = Store.open(tmp_path)
    assert directories(store) == ["notes"]
    store.close()


def test_a_record_of_a_table_that_never_was_is_damage(tmp_path: Path) -> None:
    store = model.new_store(tmp_path, 1)
    model.insert(store, events(3, "scarlet"))
    store.close()
    (tmp_path / "catalog.json").unlink()
    with pytest.raises(InternalError, match="the catalog lacks"):
        Store.open(tmp_path)
