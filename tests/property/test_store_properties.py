"""Whatever is inserted, compacted and reopened in whatever order, a table holds what the model holds."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import store_model as model

from openset.store import tiers
from openset.store.compaction import compact
from openset.store.expand import expand
from openset.store.fold import fold, fold_events
from openset.store.ingest import prepare_insert
from openset.store.schema import ColumnSchema, TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset.store.store import Store
from openset.store.views import ViewCache
from openset_format.batch import encode_batch
from openset_format.block import PersonId
from openset_format.verify import verify_partition

SCHEMA = TableSchema(1, "t", tuple(ColumnSchema(n + 1, name, kind) for n, (name, kind) in enumerate(model.COLUMNS)))

steps = st.lists(
    st.one_of(
        model.events(),
        model.events(),
        st.sampled_from(["read", "compact one", "compact", "reopen", "older", "pin"]),
        st.tuples(st.just("erase"), model.persons),
    ),
    min_size=1,
    max_size=14,
)


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Memory where there is some: these tests sync a lot."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as path:
        yield Path(path)


@settings(max_examples=60, deadline=None)
@given(
    steps=steps,
    partitions=st.sampled_from([1, 3]),
    max_rows=st.sampled_from([1, 4, 1000]),
    settled_rows=st.sampled_from([0, 5, tiers.SETTLED_ROWS]),
    whole_above=st.sampled_from([0.0, tiers.WHOLE_ABOVE, 100.0]),
    few_rows=st.sampled_from([0, 3, tiers.FEW_ROWS]),
)
def test_store_equals_model(
    steps: list[Any],
    partitions: int,
    max_rows: int,
    settled_rows: int,
    whole_above: float,
    few_rows: int,
    directory: Path,
) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as data_dir, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiers, "SETTLED_ROWS", settled_rows)
        patch.setattr(tiers, "WHOLE_ABOVE", whole_above)
        patch.setattr(tiers, "FEW_ROWS", few_rows)
        _assert_equals_model(Path(data_dir), steps, partitions, max_rows)


def _assert_equals_model(data_dir: Path, steps: list[Any], partitions: int, max_rows: int) -> None:
    store = model.new_store(data_dir, partitions)
    table = model.Model()
    cache = ViewCache(data_dir)
    earlier: list[Any] = []
    before: dict[Any, Any] = {}
    try:
        for step in steps:
            if step == "compact":
                store.compact_all()
            elif step == "compact one":
                _compact_one(store)
            elif step == "reopen":
                store.close()
                store = Store.open(data_dir)
                earlier = []
            elif step == "older":
                earlier, before = store.snapshot("t"), table.contents()
            elif step == "pin":
                with store.pinned_snapshot("t") as pinned:
                    expected = table.contents()
                    model.insert(store, [{"person": 7, "stamp": 10**12 + 1, "action": "view"}])
                    table.insert([{"person": 7, "stamp": 10**12 + 1, "action": "view"}])
                    model.read_snapshots(cache, store.snapshot("t"))
                    store.compact_all()
                    assert model.read_snapshots(ViewCache(data_dir), pinned, max_rows) == expected
                earlier = []
            elif isinstance(step, tuple):
                model.erase(store, step[1])
                table.erase(step[1])
            elif step != "read":
                assert model.insert(store, step) == len(step)
                table.insert(step)
            if "compact" in str(step):
                earlier = []
            assert _person_by_person(cache, store.snapshot("t")) == table.contents()
            assert model.read_snapshots(cache, store.snapshot("t"), max_rows) == table.contents()
            if earlier:
                assert model.read_snapshots(cache, earlier, max_rows) == before
                assert _person_by_person(cache, earlier) == before
        assert model.read_snapshots(ViewCache(data_dir), store.snapshot("t"), max_rows) == table.contents()
        store.compact_all()
        for path in data_dir.rglob("*.h5"):
            assert not verify_partition(path)
        for person_id, events in table.contents().items():
            block = cache.person_rows(store.person_snapshot("t", person_id), person_id)
            assert block is not None and list(model.read_block(block).values()) == [events]
            folded = fold_events(block)
            assert [(e["stamp"], e["action"], model.expanded(e["attr"])) for e in folded] == events
    finally:
        store.close()


def _person_by_person(cache: ViewCache, snapshots: Sequence[PartitionSnapshot]) -> dict[PersonId, model.Events]:
    """Everybody who may be there, each asked for alone."""
    found: dict[PersonId, model.Events] = {}
    for snapshot, person_id in product(snapshots, model.PERSONS):
        block = cache.person_rows(snapshot, person_id)
        if block is not None:
            assert block.people == 1 and list(block.runnable) == [0]
            found |= model.read_block(block)
    return found


def _compact_one(store: Store) -> None:
    task = store.compactions.next(forced=True)
    if task is not None:
        store.compactions.publish(task, compact(task))


@given(attr=model.attributes())
def test_expanding_equals_model(attr: dict[str, Any]) -> None:
    rows = expand(attr, model.TYPES)
    assert [{name: value for name, value in row.items() if value is not None} for row in rows] == model.expanded(attr)


@given(attr=model.attributes())
def test_folded_rows_expand_to_the_same(attr: dict[str, Any]) -> None:
    rows = model.expanded(attr)
    folded = fold(rows)
    assert model.expanded(folded) == rows
    assert model.expanded(json.loads(json.dumps(folded))) == rows


@given(
    rows=st.lists(
        st.dictionaries(st.sampled_from("abc"), st.sampled_from([1, 2, 3]), max_size=3), min_size=1, max_size=12
    )
)
def test_any_rows_fold(rows: list[dict[str, int]]) -> None:
    assert model.expanded(fold(rows)) == rows
    assert len(expand(fold(rows), dict.fromkeys("abc", "int"))) == len(rows)


@given(request=model.events(), partitions=st.integers(1, 4))
def test_all_ways_in_are_one(request: list[dict[str, Any]], partitions: int) -> None:
    """Array, lines, and the careful decoder that a bad event calls for give the same batch."""
    body = json.dumps(request).encode()
    lines = b"\n\n".join(json.dumps(event).encode() for event in request)
    array = prepare_insert(body, SCHEMA, partitions, 0)
    by_line = prepare_insert(lines, SCHEMA, partitions, 0, newline_delimited=True)
    careful = prepare_insert(body[:-1] + b', {"person": NaN}]', SCHEMA, partitions, 0, skip_bad=True)
    assert array.batch is not None and careful.batch is not None
    assert array.payload == by_line.payload == encode_batch(array.batch)
    assert careful.accepted == len(request) and careful.rejected == 1
    # Columns are met in another order by the careful way, so batches are compared by what they say.
    assert _said(array.batch) == _said(careful.batch)


def _said(batch: Any) -> list[Any]:
    rows = np.diff(batch.row_start)
    said = []
    for event in range(batch.events):
        first = int(batch.row_start[event])
        said.append(
            (
                batch.persons[int(batch.person[event])],
                int(batch.stamp[event]),
                batch.actions[batch.action[event]],
                [
                    {column_id: column.value(row) for column_id, column in batch.columns.items()}
                    for row in range(first, first + int(rows[event]))
                ],
            )
        )
    return said
