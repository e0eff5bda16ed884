"""The bitmap index of a partition file: what is in it, what is left out, and what verify says of a wrong one."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyroaring import BitMap
from support.format_models import NARROW_PEOPLE, PEOPLE, content_of, model_of

import openset_format.writer
from openset_format.block import Column, ColumnType, PersonIds, TextDictionary
from openset_format.encoding import StoredColumn, code_type, encode_column
from openset_format.errors import DamageError
from openset_format.person_index import StoredIndex, build_index
from openset_format.reader import PartitionFile
from openset_format.verify import verify_partition
from openset_format.writer import write_partition

FIXTURES = Path(__file__).parents[2] / "fixtures"
INT_LEAST, INT_GREATEST = -(2**63), 2**63 - 1


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p0007.h5"


def random_column(
    kind: ColumnType, rows: int, distinct: int, none_share: float, seed: int, texts: int = 0, least: int = 0
) -> Column:
    """A column as a writer gets it. texts: entries of the dictionary beyond those that occur."""
    random = np.random.default_rng(seed)
    values = random.integers(0, distinct, rows)
    valid = random.random(rows) >= none_share if none_share else None
    if valid is not None:
        values[~valid] = 0
    if kind == "text":
        dictionary = TextDictionary([f"text {code}" for code in range(distinct + texts)])
        return Column("text", values.astype(code_type(len(dictionary))), valid, dictionary)
    if kind == "int":
        shifted = values + least
        if valid is not None:
            shifted[~valid] = 0
        return Column("int", shifted, valid)
    return Column(kind, values.astype({"bool": np.uint8, "double": np.float64}[kind]), valid)


def people_of(rows: int, people: int, seed: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    return np.sort(np.random.default_rng(seed).integers(0, people, rows)).astype(np.uint32)


def bitmap(index: StoredIndex, place: int) -> BitMap | None:
    data = index.data[int(index.offsets[place]) : int(index.offsets[place + 1])].tobytes()
    return BitMap.deserialize(data) if data else None


@pytest.mark.parametrize(
    ("kind", "distinct", "least"),
    [("text", 5, 0), ("text", 300, 0), ("bool", 2, 0), ("int", 2, 0), ("int", 400, -200), ("int", 3, INT_LEAST),
     ("int", 3, INT_GREATEST - 2)],
)  # fmt: skip
@pytest.mark.parametrize("none_share", [0.0, 0.3])
def test_bitmaps_say_who_has_a_value(kind: ColumnType, distinct: int, least: int, none_share: float) -> None:
    column = random_column(kind, 20_000, distinct, none_share, distinct, texts=2, least=least)
    people = people_of(20_000, 700, 1)
    index = build_index(encode_column(column), people)
    assert index is not None
    expected: dict[int, set[int]] = {}
    for row, person in enumerate(people.tolist()):
        if column.valid is None or column.valid[row]:
            expected.setdefault(int(column.values[row]), set()).add(person)
    assert index.keys.tolist() == sorted(expected)
    assert index.keys.dtype == (np.int64 if kind == "int" else column.values.dtype)
    for place, key in enumerate(index.keys.tolist()):
        found = bitmap(index, place)
        assert found is None or set(found) == expected[key]
    assert any(bitmap(index, place) is not None for place in range(len(index.keys)))


def test_a_run_of_one_value_interrupted_by_none() -> None:
    values = np.zeros(400, np.uint8)
    valid = np.ones(400, np.bool_)
    valid[::2] = False
    index = build_index(
        StoredColumn("text", values, valid, TextDictionary(["a"])), np.repeat(np.arange(4, dtype=np.uint32), 100)
    )
    assert index is not None and bitmap(index, 0) == BitMap([0, 1, 2, 3])


def test_a_bitmap_beyond_a_tenth_of_the_column_is_left_out() -> None:
    rare, often = np.zeros(400, np.uint8), np.ones(9_600, np.uint8)
    column = StoredColumn("bool", np.concatenate([rare, often]))
    # Every second one of 20,000 people: no runs, two bytes each.
    index = build_index(column, np.arange(0, 20_000, 2, dtype=np.uint32))
    assert index is not None and index.keys.tolist() == [0, 1]
    assert column.size_bytes == 10_000
    assert bitmap(index, 0) == BitMap(range(0, 800, 2))
    assert bitmap(index, 1) is None


def test_a_whole_index_takes_about_three_bytes_per_row_at_most() -> None:
    """Everybody has a value of their own in every row, of as many values as are indexed."""
    rows = 64 * 4_000
    index = build_index(encode_column(random_column("text", rows, 4_000, 0, 3)), np.arange(rows, dtype=np.uint32))
    assert index is not None
    assert 2 * rows < index.data.nbytes + index.offsets.nbytes + index.keys.nbytes < 3.2 * rows


@pytest.mark.parametrize(
    "column",
    [
        random_column("double", 10_000, 3, 0, 1),
        random_column("int", 200_000, 65_536 * 2, 0, 1),
        random_column("text", 10_000, 5_000, 0, 1),
        random_column("text", 10_000, 5, 0, 1, texts=70_000),
        random_column("bool", 100, 2, 0, 1),
        Column("int", np.zeros(10_000, np.int64), np.zeros(10_000, np.bool_)),
    ],
    ids=["double", "wide int", "many values", "large dictionary", "few rows", "no value"],
)
def test_columns_without_an_index(column: Column) -> None:
    assert build_index(encode_column(column), people_of(len(column.values), 50, 1)) is None


def test_many_values_in_many_rows_are_indexed() -> None:
    column = random_column("text", 64 * 2_000, 2_000, 0, 1)
    index = build_index(encode_column(column), people_of(64 * 2_000, 500, 1))
    assert index is not None and len(index.keys) == 2_000


def large_content(**changes: Any) -> Any:
    """6,000 rows of 100 people (some without rows), all types."""
    rows, people = 6_000, 100
    person = np.sort(np.random.default_rng(5).integers(3, people - 2, rows))
    row_start = np.searchsorted(person, np.arange(people + 1))
    schema: dict[int, ColumnType] = {1: "text", 2: "int", 3: "double", 4: "bool"}
    columns = {
        1: random_column("text", rows, 12, 0.2, 1),
        2: random_column("int", rows, 30, 0.2, 2, least=-7),
        3: random_column("double", rows, 3, 0, 3),
        4: random_column("bool", rows, 2, 0, 4),
    }
    fields = {
        "persons": PersonIds.of(list(range(people))),
        "row_start": row_start.astype(np.int64),
        "stamp": np.arange(rows, dtype=np.int64),
        "event_start": None,
        "action": random_column("text", rows, 4, 0, 6),
        "columns": columns,
    }
    return content_of([], schema, **(fields | changes))


def test_a_file_answers_who_ever_had_a_value(path: Path) -> None:
    content = large_content()
    write_partition(path, content)
    assert verify_partition(path) == []
    file = PartitionFile.open(path)
    person = np.repeat(np.arange(100), np.diff(content.row_start))
    for index, column in (
        (file.action_index, content.action),
        (file.index(1), content.columns[1]),
        (file.index(2), content.columns[2]),
        (file.index(4), content.columns[4]),
    ):
        assert index is not None and index.complete
        valid = np.ones(6_000, np.bool_) if column.valid is None else column.valid
        for key in np.unique(column.values[valid]).tolist():
            assert index.people(key) == BitMap(np.unique(person[valid & (column.values == key)]).tolist())
            assert index.people(key) is index.people(key)
        for key in (-8, 77, 300, 2**63, -(2**70)):
            assert index.people(key) == BitMap()
    assert file.index(3) is None and file.index(99) is None


def test_equal_contents_give_equal_bytes(path: Path) -> None:
    write_partition(path, large_content())
    first = path.read_bytes()
    write_partition(path, large_content())
    assert path.read_bytes() == first


def without_offset(index: StoredIndex) -> StoredIndex:
    return StoredIndex(index.keys, index.offsets[:-1], index.data)


def wrong_person(index: StoredIndex) -> StoredIndex:
    other = BitMap.deserialize(index.data[: int(index.offsets[1])].tobytes())
    other.remove(other[0])
    data = other.serialize()
    rest = index.data[int(index.offsets[1]) :]
    offsets = index.offsets + (len(data) - int(index.offsets[1]))
    offsets[0] = 0
    return StoredIndex(index.keys, offsets, np.concatenate([np.frombuffer(data, np.uint8), rest]))


def no_bitmap(index: StoredIndex) -> StoredIndex:
    data = index.data.copy()
    data[:8] = 255
    return StoredIndex(index.keys, index.offsets, data)


def nobody_there(index: StoredIndex) -> StoredIndex:
    data = BitMap(array("I", [1_000])).serialize()
    offsets = np.full(len(index.offsets), len(data), np.int64)
    offsets[0] = 0
    return StoredIndex(index.keys, offsets, np.frombuffer(data, np.uint8))


def fewer_keys(index: StoredIndex) -> StoredIndex:
    return StoredIndex(index.keys[1:], index.offsets[1:] - index.offsets[1], index.data[int(index.offsets[1]) :])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_offset, "values of type"),
        (wrong_person, "not the people who have value 0"),
        (no_bitmap, "are no bitmap"),
        (nobody_there, "people that are not in the file"),
        (fewer_keys, "not the distinct values"),
    ],
)
def test_verify_compares_bitmaps_with_columns(
    path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, message: str
) -> None:
    def changed(column: StoredColumn, person_of_row: Any) -> StoredIndex | None:
        index = build_index(column, person_of_row)
        return None if index is None else change(index)

    monkeypatch.setattr(openset_format.writer, "build_index", changed)
    write_partition(path, large_content())
    problems = verify_partition(path)
    assert problems and any(message in str(problem) for problem in problems)


def test_a_bitmap_that_cannot_be_read_is_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def changed(column: StoredColumn, person_of_row: Any) -> StoredIndex | None:
        index = build_index(column, person_of_row)
        return None if index is None else no_bitmap(index)

    monkeypatch.setattr(openset_format.writer, "build_index", changed)
    write_partition(path, large_content())
    index = PartitionFile.open(path).action_index
    assert index is not None
    with pytest.raises(DamageError, match=r"/events/action/index/bytes.*no bitmap"):
        index.people(0)


def test_verify_refuses_bitmaps_that_are_too_large(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openset_format.writer, "build_index", everything)
    rows = 400
    write_partition(
        path,
        content_of(
            [],
            {1: "bool"},
            persons=PersonIds.of(list(range(rows))),
            row_start=np.arange(rows + 1),
            stamp=np.arange(rows),
            event_start=None,
            action=random_column("text", rows, 2, 0, 1),
            columns={1: random_column("bool", rows, 2, 0, 1)},
        ),
    )
    messages = [str(problem) for problem in verify_partition(path)]
    assert messages and all("a bitmap of more than a tenth of the column's bytes" in message for message in messages)


def everything(column: StoredColumn, people: Any) -> StoredIndex:
    valid = np.ones(len(column.values), np.bool_) if column.valid is None else column.valid
    keys = np.unique(column.values[valid])
    data = [BitMap(np.unique(people[valid & (column.values == key)]).tolist()).serialize() for key in keys]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in data])]).astype(np.int64)
    return StoredIndex(keys, offsets, np.frombuffer(b"".join(data), np.uint8))


def test_files_of_the_version_before_indexes_open() -> None:
    path = FIXTURES / "partition-1.0.h5"
    file = PartitionFile.open(path)
    assert file.seal.minor == 0
    assert model_of(file) == PEOPLE
    assert file.action_index is None
    assert all(file.index(column_id) is None for column_id in file.schema)
    assert verify_partition(path) == []


def test_a_file_of_version_1_1_opens() -> None:
    path = FIXTURES / "partition-1.1.h5"
    file = PartitionFile.open(path)
    assert (file.seal.minor, file.seal.required_features) == (1, 0)
    assert model_of(file) == PEOPLE
    assert verify_partition(path) == []


def test_a_file_of_version_1_2_opens() -> None:
    """Who was erased is in it, numbers are wide."""
    path = FIXTURES / "partition-1.2.h5"
    file = PartitionFile.open(path)
    assert (file.seal.minor, file.seal.required_features) == (2, 1)
    assert model_of(file) == [*PEOPLE, ("", [])]
    assert verify_partition(path) == []


def test_a_file_of_version_1_3_opens() -> None:
    """Narrow ints, doubles as decimals."""
    path = FIXTURES / "partition-1.3.h5"
    file = PartitionFile.open(path)
    assert (file.seal.minor, file.seal.required_features) == (3, 2)
    assert file.columns[2].values.dtype == np.int16
    assert [file.columns[column_id].scale for column_id in (2, 3)] == [None, 100]
    assert model_of(file) == NARROW_PEOPLE
    assert verify_partition(path) == []
