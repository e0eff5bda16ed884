"""Whatever is imported, into whatever is there already, a table holds what inserting it would have made of it."""

from __future__ import annotations

import gzip
import json
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import store_model as model

from openset.store.store import Store
from openset.store.views import ViewCache
from openset_format.reader import PartitionFile
from openset_tools.importing import importer
from openset_tools.importing.importer import Options, import_files
from openset_tools.importing.reading import Mapping
from openset_tools.verify import verify

flat_events = st.lists(
    st.fixed_dictionaries(
        {
            "person": model.persons,
            "stamp": st.integers(10**12, 10**12 + 3),
            "action": model.actions,
            "attr": st.fixed_dictionaries(
                {}, optional={name: st.one_of(values, st.none()) for name, values in model._VALUES.items()}
            ),
        }
    ),
    min_size=1,
    max_size=30,
)


@pytest.fixture(scope="module", autouse=True)
def in_this_process() -> Iterator[None]:
    """Starting processes takes longer than all else here; the crash tests have them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importer, "worker_processes", ThreadPoolExecutor)
        yield


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as path:
        yield Path(path)


def run_import(data_dir: Path, files: Sequence[str], **options: Any) -> None:
    import_files(data_dir, "t", files, Options(workers=1, **options))


@settings(max_examples=60, deadline=None)
@given(
    before=st.lists(st.one_of(model.events(), st.just("compact")), max_size=4),
    files=st.lists(st.one_of(model.events(), flat_events), min_size=1, max_size=3),
    partitions=st.sampled_from([1, 3]),
    block_bytes=st.sampled_from([100, 600, 1 << 20]),
    again=st.booleans(),
)
def test_import_equals_model(
    before: list[Any],
    files: list[list[dict[str, Any]]],
    partitions: int,
    block_bytes: int,
    again: bool,
    directory: Path,
) -> None:
    with tempfile.TemporaryDirectory(dir=directory) as place:
        data_dir = Path(place) / "data"
        table = model.Model()
        store = model.new_store(data_dir, partitions)
        for step in before:
            if step == "compact":
                store.compact_all()
            else:
                model.insert(store, step)
                table.insert(step)
        store.close()
        earlier = known(data_dir)
        names = [write_lines(Path(place), number, events) for number, events in enumerate(files)]
        for _ in range(2 if again else 1):
            run_import(data_dir, names, block_bytes=block_bytes)
            for events in files:
                table.insert(events)
        assert verify(data_dir, deep=True) == []
        later = known(data_dir)
        for key, people_and_texts in earlier.items():
            for old, new in zip(people_and_texts, later[key], strict=True):
                assert new[: len(old)] == old, "ordinals and codes stay"
        store = Store.open(data_dir)
        assert model.read_snapshots(ViewCache(data_dir), store.snapshot("t")) == table.contents()
        # The journal goes on from there.
        more = [{"person": "ann", "stamp": 10**12 + 2, "action": "view", "attr": {"colour": "new"}}]
        model.insert(store, more)
        table.insert(more)
        store.compact_all()
        assert model.read_snapshots(ViewCache(data_dir), store.snapshot("t")) == table.contents()
        store.close()


def write_lines(place: Path, number: int, events: Sequence[dict[str, Any]]) -> str:
    data = b"".join(json.dumps(event, ensure_ascii=number == 1).encode() + b"\n" for event in events)
    path = place / (f"{number}.ndjson.gz" if number == 2 else f"{number}.ndjson")
    path.write_bytes(gzip.compress(data) if number == 2 else data)
    return str(path)


def known(data_dir: Path) -> dict[str, tuple[list[Any], list[str], list[str]]]:
    """The people and the texts of two columns of every file, by ordinal and code."""
    found = {}
    for path in data_dir.glob("tables/1/p*.h5"):
        file = PartitionFile.open(path)
        colour = file.columns.get(1)
        texts = [] if colour is None or colour.dictionary is None else colour.dictionary.texts()
        assert file.action.dictionary is not None
        found[path.name] = (list(file.persons), list(file.action.dictionary.texts()), list(texts))
    return found


@settings(max_examples=25, deadline=None)
@given(events=flat_events, integers=st.booleans(), block_bytes=st.sampled_from([80, 1 << 20]))
def test_csv_and_parquet_equal_model(
    events: list[dict[str, Any]], integers: bool, block_bytes: int, directory: Path
) -> None:
    events = [event for event in events if isinstance(event["person"], int) == integers]
    for event in events:
        # A CSV file has no empty texts.
        event["attr"] = {name: value for name, value in event["attr"].items() if value != ""}
    table = model.Model()
    table.insert(events)
    rows = [
        {"who": event["person"], "stamp": event["stamp"], "action": event["action"]}
        | {name: event["attr"].get(name) for name, _ in model.COLUMNS}
        for event in events
    ]
    types = {"text": pyarrow.string(), "int": pyarrow.int64(), "double": pyarrow.float64(), "bool": pyarrow.bool_()}
    schema = pyarrow.schema(
        [("who", types["int" if integers else "text"]), ("stamp", pyarrow.int64()), ("action", pyarrow.string())]
        + [(name, types[kind]) for name, kind in model.COLUMNS]
    )
    arrow = pyarrow.Table.from_pylist(rows, schema=schema)
    for suffix in ("csv", "parquet"):
        with tempfile.TemporaryDirectory(dir=directory) as place:
            path = Path(place) / f"events.{suffix}"
            if suffix == "csv":
                pyarrow.csv.write_csv(arrow, path)
            else:
                pyarrow.parquet.write_table(arrow, path, row_group_size=7)
            data_dir = Path(place) / "data"
            model.new_store(data_dir).close()
            mapping = Mapping("who", integer_ids=integers)
            run_import(data_dir, [str(path)], block_bytes=block_bytes, mapping=mapping)
            store = Store.open(data_dir)
            assert model.read_snapshots(ViewCache(data_dir), store.snapshot("t")) == table.contents()
            store.close()
            assert verify(data_dir, deep=True) == []
