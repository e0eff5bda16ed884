"""Writing a partition file: HDF5 with raw, aligned, contiguous datasets, sealed and published in one rename.

A file is written under a temporary name, synced, made read-only, renamed over its predecessor, and the directory
synced: a crash at any byte leaves the old file or the new one. Nothing is ever changed in place. Layout:
spec/partition-file.md. Small shortcut: every array is in memory as a whole when it is written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from h5py import h5d, h5g, h5p, h5s, h5t
from numpy.typing import NDArray
from xxhash import xxh3_64

from .block import ERASED_PERSON, INTEGER_PERSON, TEXT_PERSON, Column, ColumnType, PersonIds, TextDictionary
from .dictionary import dictionary_hashes, packed
from .encoding import StoredColumn, encode_column
from .errors import WriteError
from .files import FILES, FileLayer, FileObject, WritableFile, temporary_path
from .hashing import HashIndex, checksum
from .person_index import build_index
from .persons import person_hashes
from .seal import (
    CHECKSUM_BLOCK_BYTES,
    ERASED_PEOPLE,
    MAJOR,
    MINOR,
    NARROW_NUMBERS,
    USERBLOCK_BYTES,
    DatasetPlace,
    Manifest,
    Seal,
    gaps_between,
)

ALIGNMENT_BYTES = 4096
ALIGNMENT_THRESHOLD_BYTES = 512


@dataclass(frozen=True, eq=False)
class PartitionContent:
    """Everything a partition file holds.

    schema:      type by column id; columns without any value need not be in `columns`.
    persons:     all people, by ordinal.
    row_start:   int64[people+1]; rows are sorted by person, stamp, z-order, arrival.
    stamp:       int64[rows], milliseconds since the epoch, UTC.
    event_start: bool[rows], True on the first row of each event; None when every event is one row.
    action:      text column over the rows, never None.
    columns:     by column id, over the rows, each text column with the dictionary of the whole partition. Each is taken
                 once, and let go before the next one is: a mapping that makes them when asked needs room for one.
    names:       column names for people who open the file with other tools; nothing here reads them.
    """

    table_id: int
    partition: int
    generation: int
    journal_id: str
    applied_sequence: int
    schema: Mapping[int, ColumnType]
    z_order: Sequence[str]
    persons: PersonIds
    row_start: NDArray[np.int64]
    stamp: NDArray[np.int64]
    event_start: NDArray[np.bool_] | None
    action: Column
    columns: Mapping[int, Column]
    names: Mapping[int, str] = field(default_factory=dict)


def write_partition(path: Path | str, content: PartitionContent, files: FileLayer = FILES) -> None:
    """Write and publish a partition file, replacing the one at `path`. The content must be consistent (asserted).

    Raises WriteError: the old file is untouched, unless it was the last step, the sync of the directory, that failed
    (then either may be found after a power failure).
    """
    _check(content)
    path = Path(path)
    temporary = temporary_path(path)
    try:
        with files.create(temporary) as file:
            places = _write_datasets(file, content)
            _write_seal(file, content, places)
            file.sync()
            file.make_read_only()
        files.rename(temporary, path)
        files.sync_directory(path.parent)
    except BaseException as error:
        with suppress(OSError):  # the first error is the one to report; leftovers are removed at the next start
            files.unlink(temporary)
        if not isinstance(error, OSError):
            raise
        raise WriteError(f"{path}: the partition cannot be written: {error}") from error


@dataclass(frozen=True, slots=True)
class _Places:
    """What the seal needs to know about the datasets. extents: (offset, size) of every dataset."""

    manifest: bytes
    manifest_offset: int
    extents: list[tuple[int, int]]
    has_narrow_numbers: bool


class _Dataset(NamedTuple):
    """is_narrow, scale: of the values of a column, see StoredColumn."""

    name: str
    values: NDArray[Any]
    is_narrow: bool = False
    scale: int | None = None


def _datasets(content: PartitionContent) -> Iterator[_Dataset]:
    """Every dataset by its HDF5 path, empty ones included."""
    persons = content.persons
    yield _Dataset("/persons/row_start", content.row_start.astype("<i8", copy=False))
    yield _Dataset("/persons/kinds", persons.kinds)
    if np.any(persons.kinds == INTEGER_PERSON):
        yield _Dataset("/persons/integers", persons.integers.astype("<i8", copy=False))
    if np.any(persons.kinds == TEXT_PERSON):
        texts = packed(persons.texts)
        yield _Dataset("/persons/texts/offsets", (texts.offsets - texts.offsets[0]).astype("<i8", copy=False))
        yield _Dataset("/persons/texts/bytes", texts.data[int(texts.offsets[0]) : int(texts.offsets[-1])])
    yield from _lookup("/persons", HashIndex.of(person_hashes(persons)))
    yield _Dataset("/events/stamp", content.stamp.astype("<i8", copy=False))
    if content.event_start is not None and not content.event_start.all():
        yield _Dataset("/events/event_start", content.event_start.view(np.uint8))
    people = np.arange(len(persons), dtype=np.uint32)
    person_of_row = np.repeat(people, np.diff(content.row_start))
    yield from _column("/events/action", content.action, person_of_row)
    for column_id in content.columns:
        yield from _column(f"/columns/{column_id}", _checked(content, column_id), person_of_row)


def _lookup(group: str, lookup: HashIndex) -> Iterator[_Dataset]:
    yield _Dataset(f"{group}/hashes", lookup.hashes.astype("<u8", copy=False))
    yield _Dataset(f"{group}/hash_order", lookup.order.astype("<u4", copy=False))


def _column(group: str, column: Column, person_of_row: NDArray[np.uint32]) -> Iterator[_Dataset]:
    stored = encode_column(column)
    del column  # the numbers of a whole partition, at full width
    has_values = stored.valid is None or bool(stored.valid.any())
    if has_values:
        yield _Dataset(f"{group}/values", stored.values, stored.is_narrow, stored.scale)
        if stored.valid is not None and not stored.valid.all():
            yield _Dataset(f"{group}/valid", stored.valid.view(np.uint8))
        yield from _index(f"{group}/index", stored, person_of_row)
    # A dictionary stays when no row uses it any more: its codes are never given away again.
    if stored.dictionary is not None and len(stored.dictionary):
        yield from _dictionary(f"{group}/dictionary", stored.dictionary)


def _index(group: str, column: StoredColumn, person_of_row: NDArray[np.uint32]) -> Iterator[_Dataset]:
    index = build_index(column, person_of_row)
    if index is not None:
        yield _Dataset(f"{group}/keys", index.keys)
        yield _Dataset(f"{group}/offsets", index.offsets)
        yield _Dataset(f"{group}/bytes", index.data)


def _dictionary(group: str, dictionary: TextDictionary) -> Iterator[_Dataset]:
    texts = packed(dictionary)
    yield _Dataset(f"{group}/offsets", (texts.offsets - texts.offsets[0]).astype("<i8", copy=False))
    yield _Dataset(f"{group}/bytes", texts.data[int(texts.offsets[0]) : int(texts.offsets[-1])])
    yield from _lookup(group, HashIndex.of(dictionary_hashes(dictionary)))


def _write_datasets(file: WritableFile, content: PartitionContent) -> _Places:
    """The HDF5 file with all datasets, the checksums and the manifest. Raises OSError."""
    target = FileObject(file)
    handle = h5py.File(
        target,
        "w",
        libver=("v108", "v108"),
        userblock_size=USERBLOCK_BYTES,
        alignment_threshold=ALIGNMENT_THRESHOLD_BYTES,
        alignment_interval=ALIGNMENT_BYTES,
    )
    with handle:
        _write_attributes(handle, content)
        writer = _Hdf5Writer(handle)
        for dataset in _datasets(content):
            writer.add(dataset)
        for column_id, name in content.names.items():
            if f"columns/{column_id}" in handle:
                handle[f"columns/{column_id}"].attrs["name"] = name
        for path, scale in writer.scales.items():
            handle[path].attrs["scale"] = np.int64(scale)
        checksums = np.array(writer.checksums, "<u8")
        checksums_offset = writer.write("/checksums", checksums)
        manifest = Manifest(
            people=len(content.persons),
            rows=len(content.stamp),
            schema=content.schema,
            z_order=list(content.z_order),
            datasets=writer.places,
            checksums_offset=checksums_offset,
            checksums_count=len(checksums),
            checksums_hash=checksum(checksums),
            scales=writer.scales,
        ).encode()
        manifest_offset = writer.write("/manifest", np.frombuffer(manifest, np.uint8))
    if target.error is not None:
        raise target.error
    return _Places(manifest, manifest_offset, writer.extents, writer.has_narrow_numbers)


def _write_attributes(handle: h5py.File, content: PartitionContent) -> None:
    """For readers without our seal. Text is JSON where it has structure."""
    handle.attrs["format_version"] = f"{MAJOR}.{MINOR}"
    handle.attrs["writer"] = "openset"
    for name in ("table_id", "partition", "generation", "applied_sequence"):
        handle.attrs[name] = np.uint64(getattr(content, name))
    handle.attrs["journal_id"] = content.journal_id
    handle.attrs["schema"] = json.dumps([{"id": key, "type": name} for key, name in content.schema.items()])
    handle.attrs["z_order"] = json.dumps(list(content.z_order))


class _Hdf5Writer:
    """Creates contiguous datasets, keeping where they are and the checksums of their bytes."""

    def __init__(self, handle: h5py.File):
        self.handle = handle
        self.places: dict[str, DatasetPlace] = {}
        self.checksums: list[int] = []
        self.extents: list[tuple[int, int]] = []
        self.scales: dict[str, int] = {}
        self.has_narrow_numbers = False
        self._groups: set[str] = {""}
        self._group_settings = h5p.create(h5p.GROUP_CREATE)
        self._group_settings.set_obj_track_times(False)
        self._settings = h5p.create(h5p.DATASET_CREATE)
        self._settings.set_layout(h5d.CONTIGUOUS)
        self._settings.set_alloc_time(h5d.ALLOC_TIME_EARLY)
        self._settings.set_fill_time(h5d.FILL_TIME_NEVER)
        self._settings.set_obj_track_times(False)

    def add(self, dataset: _Dataset) -> None:
        """A dataset of the manifest; an empty one is left out, because HDF5 gives it no place."""
        if not len(dataset.values):
            return
        name, values = dataset.name, np.ascontiguousarray(dataset.values)
        self.has_narrow_numbers |= dataset.is_narrow
        if dataset.scale is not None:
            self.scales[name] = dataset.scale
        first = len(self.checksums)
        self.checksums.extend(block_checksums(values))
        offset = self.write(name, values)
        self.places[name] = DatasetPlace(offset, values.dtype.str, len(values), first)

    def write(self, name: str, values: NDArray[Any]) -> int:
        """Returns the absolute offset of the dataset's bytes."""
        self._make_groups(name.rpartition("/")[0])
        space = h5s.create_simple(values.shape)
        dataset = h5d.create(self.handle.id, name.encode(), h5t.py_create(values.dtype), space, self._settings)
        dataset.write(h5s.ALL, h5s.ALL, values)
        assert dataset.get_space_status() == h5d.SPACE_STATUS_ALLOCATED
        offset = int(dataset.get_offset())
        self.extents.append((offset, values.nbytes))
        return offset

    def _make_groups(self, group: str) -> None:
        if group in self._groups:
            return
        self._make_groups(group.rpartition("/")[0])
        h5g.create(self.handle.id, group.encode(), None, self._group_settings)
        self._groups.add(group)


def block_checksums(values: NDArray[Any]) -> list[int]:
    """xxh3_64 of every MiB of an array's bytes, the last one shorter."""
    data = np.ascontiguousarray(values).view(np.uint8)
    starts = range(0, len(data), CHECKSUM_BLOCK_BYTES)
    return [checksum(data[start : start + CHECKSUM_BLOCK_BYTES]) for start in starts]


def _write_seal(file: WritableFile, content: PartitionContent, places: _Places) -> None:
    file_bytes = file.size()
    rest = xxh3_64()
    for offset, size in gaps_between(places.extents, file_bytes):
        buffer = bytearray(size)
        got = file.read_into(memoryview(buffer), offset)
        assert got == size
        rest.update(buffer)
    required_features = ERASED_PEOPLE if np.any(content.persons.kinds == ERASED_PERSON) else 0
    if places.has_narrow_numbers:
        required_features |= NARROW_NUMBERS
    seal = Seal(
        table_id=content.table_id,
        partition=content.partition,
        generation=content.generation,
        journal_id=content.journal_id,
        applied_sequence=content.applied_sequence,
        file_bytes=file_bytes,
        manifest_offset=places.manifest_offset,
        manifest_bytes=len(places.manifest),
        manifest_hash=checksum(places.manifest),
        rest_hash=rest.intdigest(),
        required_features=required_features,
    )
    file.write_at([seal.encode()], 0)


def _check(content: PartitionContent) -> None:
    """Assert the invariants that are cheap to test; `verify` tests all of them."""
    rows = len(content.stamp)
    assert len(content.row_start) == len(content.persons) + 1
    assert not np.diff(content.row_start)[content.persons.kinds == ERASED_PERSON].any(), "who was erased has no rows"
    assert content.row_start[0] == 0 and content.row_start[-1] == rows
    assert len(content.row_start) == 1 or np.diff(content.row_start).min() >= 0
    assert content.event_start is None or len(content.event_start) == rows
    assert content.action.type == "text" and content.action.valid is None, "every row has an action"
    _check_values(content.action, rows)


def _checked(content: PartitionContent, column_id: int) -> Column:
    """A column, taken from the content when it is written."""
    column, rows = content.columns[column_id], len(content.stamp)
    assert content.schema[column_id] == column.type
    assert column.valid is None or len(column.valid) == rows
    _check_values(column, rows)
    return column


def _check_values(column: Column, rows: int) -> None:
    assert len(column.values) == rows
    if column.type == "text":
        assert column.dictionary is not None
        assert rows == 0 or int(column.values.max()) < max(len(column.dictionary), 1)
