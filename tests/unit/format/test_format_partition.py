"""The partition file: written, mapped, looked into with h5py, replaced, refused."""

from __future__ import annotations

import json
import pickle
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from support.format_models import PEOPLE, SCHEMA, FailingFiles, column_of, content_of, model_of

from openset_format.block import Column, PersonIds, TextDictionary
from openset_format.dictionary import ExtendedDictionary, PackedTexts
from openset_format.errors import DamageError, UnsupportedFormatError, WriteError
from openset_format.hashing import checksum
from openset_format.persons import ExtendedPersonIds
from openset_format.reader import PartitionFile
from openset_format.seal import SEAL_BYTES, USERBLOCK_BYTES, DatasetPlace, Manifest, read_seal
from openset_format.verify import verify_partition
from openset_format.writer import write_partition


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "p0007.h5"


def test_what_was_written_is_read_back(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    file = PartitionFile.open(path)
    assert model_of(file) == PEOPLE
    assert (file.table_id, file.partition, file.generation, file.applied_sequence) == (3, 7, 1, 41)
    assert file.journal_id == "0123456789abcdef" * 2
    assert file.schema == SCHEMA
    assert file.z_order == ["view", "purchase"]
    assert verify_partition(path) == []


def test_a_large_file_opens_as_fast_as_a_small_one(path: Path) -> None:
    """Ten gigabytes, of which only seal, manifest and one value are looked at. The file has holes instead of them."""
    write_partition(path, content_of(PEOPLE))
    small, file_bytes, rows = PartitionFile.open(path), 10 << 30, (10 << 30) - (1 << 20)
    large = path.with_name("p0008.h5")
    places = {"/columns/3/values": DatasetPlace(USERBLOCK_BYTES, "|u1", rows, 0)}
    manifest = Manifest(1, rows, {3: "int"}, [], places, USERBLOCK_BYTES + rows, 1, 0).encode()
    offset = file_bytes - len(manifest)
    seal = replace(
        small.seal, file_bytes=file_bytes, manifest_offset=offset, manifest_bytes=len(manifest),
        manifest_hash=checksum(manifest),
    )  # fmt: skip
    with large.open("wb") as file:
        file.write(seal.encode())
        file.seek(USERBLOCK_BYTES + rows - 1)
        file.write(b"\7")
        file.seek(offset)
        file.write(manifest)
    assert large.stat().st_size == file_bytes
    best_s = []
    for one in (path, large):
        took_s = []
        for _ in range(20):
            started = time.perf_counter()
            PartitionFile.open(one)
            took_s.append(time.perf_counter() - started)
        best_s.append(min(took_s))
    assert best_s[1] < 0.005 and best_s[1] < 3 * best_s[0] + 0.001, best_s
    values = PartitionFile.open(large).columns[3].values
    assert len(values) == rows and (values[-1], values[rows // 2]) == (7, 0)


def test_text_and_integer_ids_are_different_people(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    persons = PartitionFile.open(path).persons
    assert [persons.index(person_id) for person_id in ("7", 7, "nobody", -(2**63))] == [0, 1, 2, 3]
    assert persons.index("8") is None
    assert persons.index(8) is None
    assert persons.index("") is None
    assert persons.index("\ud800") is None


def test_arrays_are_read_only_views_of_the_map(path: Path) -> None:
    write_partition(path, content_of(PEOPLE, event_start=None))
    file = PartitionFile.open(path)
    for values in (file.stamp, file.row_start, file.columns[2].values, file.action.values):
        assert not values.flags.writeable
        assert not values.flags.owndata or values.nbytes < 512


def test_an_empty_partition(path: Path) -> None:
    write_partition(path, content_of([]))
    file = PartitionFile.open(path)
    assert model_of(file) == []
    assert (file.people, file.rows, len(file.columns)) == (0, 0, 0)
    assert file.row_start.tolist() == [0]
    assert len(file.stamp) == 0
    assert len(file.action.values) == 0
    assert file.event_start is None
    assert file.persons.index("anybody") is None
    assert verify_partition(path) == []


@pytest.mark.parametrize("ids", [["a", "b"], [1, 2], ["a", 2]])
def test_people_without_rows(path: Path, ids: list[str | int]) -> None:
    write_partition(path, content_of([(person_id, []) for person_id in ids]))
    file = PartitionFile.open(path)
    assert list(file.persons) == ids
    assert [file.persons.index(person_id) for person_id in ids] == [0, 1]
    assert file.row_start.tolist() == [0, 0, 0]
    assert verify_partition(path) == []


def test_columns_without_a_value_are_left_out(path: Path) -> None:
    write_partition(path, content_of([("a", [(1, "view", [{2: 5}, {}])])]))
    file = PartitionFile.open(path)
    assert list(file.columns) == [2]
    assert 1 not in file.columns
    with pytest.raises(KeyError):
        file.columns[1]


def test_masks_and_event_starts_only_when_needed(path: Path) -> None:
    write_partition(path, content_of([("a", [(1, "view", [{2: 5}]), (2, "view", [{2: 6, 4: True}])])]))
    file = PartitionFile.open(path)
    assert file.event_start is None
    assert file.columns[2].valid is None
    assert file.columns[4].valid is not None
    assert file.columns[4].valid.tolist() == [False, True]


@pytest.mark.parametrize(("entries", "width"), [(256, 1), (257, 2), (65_536, 2), (65_537, 4)])
def test_codes_take_the_narrowest_type(path: Path, entries: int, width: int) -> None:
    dictionary = TextDictionary([f"text {code}" for code in range(entries)])
    column = Column("text", np.array([entries - 1], np.uint32), None, dictionary)
    people = [("a", [(1, "view", [{}])])]
    write_partition(path, content_of(people, {1: "text"}, columns={1: column}))
    read = PartitionFile.open(path).columns[1]
    assert read.values.dtype.itemsize == width
    assert read.value(0) == f"text {entries - 1}"


def test_a_text_is_found_without_decoding_the_dictionary(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    dictionary = PartitionFile.open(path).columns[1].dictionary
    assert isinstance(dictionary, PackedTexts)
    assert [dictionary.code(text) for text in ("rug", "péniche ⛵", "", "sofa", "\ud800")] == [0, 1, 2, None, None]
    assert dictionary._decoded is None
    assert dictionary.texts() == ["rug", "péniche ⛵", ""]
    with pytest.raises(IndexError):
        dictionary.encoded(3)


def test_the_next_generation_keeps_ordinals_and_codes(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    old = PartitionFile.open(path)
    old_texts = old.columns[1].dictionary
    assert old_texts is not None
    persons = ExtendedPersonIds(old.persons, ["new", 8])
    texts = ExtendedDictionary(old_texts, ["sofa", "ラグ"])
    assert [texts.code(text) for text in ("rug", "", "sofa", "ラグ", "none")] == [0, 2, 3, 4, None]
    assert [texts.text(code) for code in range(5)] == texts.texts()
    assert persons.index("7") == 0 and persons.index("new") == 4 and persons.index(8) == 5
    column = Column("text", np.array([4, 0], np.uint8), None, texts)
    content = content_of(
        [],
        {1: "text"},
        generation=2,
        persons=persons,
        row_start=np.array([0, 0, 0, 0, 0, 1, 2]),
        stamp=np.array([5, 6]),
        event_start=None,
        action=column_of("text", ["view", "view"]),
        columns={1: column},
    )
    write_partition(path, content)
    new = PartitionFile.open(path)
    assert list(new.persons) == ["7", 7, "nobody", -(2**63), "new", 8]
    assert [new.persons.index(person_id) for person_id in new.persons] == list(range(6))
    assert [new.columns[1].value(row) for row in (0, 1)] == ["ラグ", "rug"]
    assert verify_partition(path) == []
    assert model_of(old) == PEOPLE, "a reader keeps the generation it has mapped"


def test_a_dictionary_outlives_its_rows(path: Path) -> None:
    column = Column("text", np.zeros(1, np.uint8), np.zeros(1, np.bool_), TextDictionary(["once", "used"]))
    write_partition(path, content_of([("a", [(1, "view", [{}])])], {1: "text"}, columns={1: column}))
    read = PartitionFile.open(path).columns[1]
    assert read.dictionary is not None
    assert read.dictionary.texts() == ["once", "used"]
    assert read.value(0) is None
    assert verify_partition(path) == []


def test_equal_contents_give_equal_bytes(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    first = path.read_bytes()
    write_partition(path, content_of(PEOPLE))
    assert path.read_bytes() == first


def test_plain_h5py_reads_it(path: Path) -> None:
    write_partition(path, content_of(PEOPLE, names={1: "product_name"}))
    with h5py.File(path, "r") as handle:
        assert handle.userblock_size == 8192
        assert handle.attrs["format_version"] == "1.3"
        assert handle.attrs["table_id"] == 3
        assert json.loads(handle.attrs["schema"])[0] == {"id": 1, "type": "text"}
        assert handle["columns/1"].attrs["name"] == "product_name"
        assert handle["persons/row_start"][:].tolist() == [0, 4, 5, 5, 7]
        assert handle["events/stamp"][:].tolist() == [1000, 2000, 2000, 2000, 1500, 1, 1]
        assert handle["events/event_start"][:].tolist() == [1, 1, 0, 0, 1, 1, 1]
        codes = handle["columns/1/values"][:]
        valid = handle["columns/1/valid"][:]
        offsets = handle["columns/1/dictionary/offsets"][:]
        data = handle["columns/1/dictionary/bytes"][:].tobytes()
        found = [
            data[offsets[code] : offsets[code + 1]].decode() if ok else None
            for code, ok in zip(codes, valid, strict=True)
        ]
        assert found == ["rug", "rug", "péniche ⛵", None, None, "", "rug"]
        prices = handle["columns/3/values"]
        assert (prices.dtype, prices.attrs["scale"]) == (np.uint16, 100)
        assert (prices[:] / 100).tolist() == [1.5, 9.25, 0, 0, 0, 0, 0]


def test_published_read_only_and_without_leftovers(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    assert path.stat().st_mode & 0o777 == 0o444
    assert list(path.parent.iterdir()) == [path]


def test_an_unknown_required_feature_is_refused(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.write(replace(read_seal(path), required_features=1 << 5).encode())
    with pytest.raises(UnsupportedFormatError, match=r"p0007\.h5: needs format feature 5, .* newer OpenSet"):
        PartitionFile.open(path)


def test_a_newer_minor_version_is_read(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.write(replace(read_seal(path), minor=9).encode())
    assert model_of(PartitionFile.open(path)) == PEOPLE


def test_foreign_and_empty_files_are_refused(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(DamageError, match="too short"):
        PartitionFile.open(path)
    path.write_bytes(b"x" * 10_000)
    with pytest.raises(DamageError, match="not a partition file"):
        PartitionFile.open(path)
    with pytest.raises(FileNotFoundError):
        PartitionFile.open(path.with_name("none.h5"))


def test_truncation_is_caught_at_open(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    whole = path.read_bytes()
    path.chmod(0o644)
    for size in [*range(0, len(whole), 509), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DamageError):
            PartitionFile.open(path)
        assert verify_partition(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamageError, match="bytes long, sealed with"):
        PartitionFile.open(path)


def test_every_bit_flip_is_caught(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    whole = bytearray(path.read_bytes())
    path.chmod(0o644)
    random = np.random.default_rng(20)
    places = [*range(SEAL_BYTES), *random.integers(SEAL_BYTES, len(whole), 250).tolist()]
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(0, 8))
        path.write_bytes(flipped)
        problems = verify_partition(path)
        assert problems, f"a flip at byte {place} went unnoticed"
        assert all(problem.file == str(path) for problem in problems)


def test_verify_names_dataset_and_offset(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    place = PartitionFile.open(path).manifest.datasets["/columns/2/values"]
    path.chmod(0o644)
    with path.open("r+b") as handle:
        handle.seek(place.offset + 3)
        handle.write(b"\xff")
    (problem,) = verify_partition(path)
    assert (problem.dataset, problem.offset) == ("/columns/2/values", place.offset)
    assert str(problem).startswith(f"{path}, dataset /columns/2/values, offset {place.offset}: ")


def _text(codes: list[int], valid: list[bool] | None = None) -> Column:
    mask = None if valid is None else np.array(valid)
    return Column("text", np.array(codes, np.uint8), mask, TextDictionary(["view", "buy"]))


TWO_EVENTS = [("a", [(1, "view", [{}]), (2, "view", [{}])])]
MISTAKES = {
    "descends within a person": {"stamp": np.array([2, 1])},
    "stamp or action changes inside an event": {"event_start": np.array([True, False])},
    "a person's first row starts no event": {"event_start": np.array([False, True])},
    "two events of a person with the same stamp and action": {"stamp": np.array([2, 2])},
    "a value where there should be none": {"columns": {1: _text([1, 1], [True, False])}},
    "'view' is there twice": {"columns": {1: Column("text", np.zeros(2, "u1"), None, TextDictionary(["view"] * 2))}},
    "'a' is there twice": {"persons": PersonIds.of(["a", "a"]), "row_start": np.array([0, 1, 2])},
    "an integer for a person with a text id": {
        "persons": PersonIds(np.array([0, 1], "u1"), np.array([5, 5]), TextDictionary(["a", ""])),
        "row_start": np.array([0, 1, 2]),
    },
    "neither 0 nor 1": {"columns": {4: Column("bool", np.array([0, 2], "u1"))}},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_verify_finds_a_writers_mistakes(path: Path, message: str) -> None:
    write_partition(path, content_of(TWO_EVENTS, **MISTAKES[message]))
    problems = verify_partition(path)
    assert any(message in problem.message for problem in problems), problems


def test_the_writer_asserts_its_contract(path: Path) -> None:
    with pytest.raises(AssertionError):
        write_partition(path, content_of(TWO_EVENTS, row_start=np.array([0, 1])))
    with pytest.raises(AssertionError):
        write_partition(path, content_of(TWO_EVENTS, columns={1: _text([2, 0])}))
    with pytest.raises(AssertionError, match="lone surrogate"):
        write_partition(path, content_of([("\ud800", [])]))
    assert list(path.parent.iterdir()) == []


def test_any_failing_step_leaves_the_old_file_or_the_new(path: Path) -> None:
    write_partition(path, content_of(PEOPLE))
    fail_at = 0
    while True:
        files = FailingFiles(fail_at, ("create", "write", "truncate", "sync", "rename", "sync_directory"))
        try:
            write_partition(path, content_of(PEOPLE, generation=2), files)
            break
        except WriteError as error:
            assert "injected" in str(error)
        assert verify_partition(path) == []
        expected = 2 if files.taken[-1] == "sync_directory" else 1
        assert PartitionFile.open(path).generation == expected
        assert list(path.parent.iterdir()) == [path], "the temporary file is removed"
        if expected == 2:
            write_partition(path, content_of(PEOPLE))
        fail_at += 1
    assert fail_at > 10
    assert files.taken[-3:] == ["sync", "rename", "sync_directory"]


def test_errors_cross_processes() -> None:
    error = pickle.loads(pickle.dumps(DamageError("torn", "a/b.h5", 12, "/events/stamp")))
    assert str(error) == "a/b.h5, dataset /events/stamp, offset 12: torn"
    assert (error.file, error.offset, error.dataset, error.reason) == ("a/b.h5", 12, "/events/stamp", "torn")
