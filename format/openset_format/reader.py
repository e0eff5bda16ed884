"""Reading a partition file: one map, the seal, the manifest, and views on the map. HDF5 is not involved.

Opening checks the seal, the size and the manifest, and nothing else: the data's checksums are for `verify`. All arrays
are read-only views that keep the map alive; the file may be replaced or removed meanwhile. It must never be truncated.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .block import Column, ColumnType, PersonIds
from .dictionary import PackedTexts
from .encoding import INT_TYPES, SCALES, StoredColumn
from .errors import DamageError
from .hashing import HashIndex
from .person_index import PersonIndex, StoredIndex
from .persons import MappedPersonIds
from .seal import SEAL_BYTES, Manifest, Seal, check_size, decode_manifest, decode_seal

_VALUE_TYPES: dict[str, tuple[str, ...]] = {
    "text": ("|u1", "<u2", "<u4"),
    "int": tuple(one.str for one in reversed(INT_TYPES)),
    "double": ("<f8",),
    "bool": ("|u1",),
}
_DECIMAL_TYPES = tuple(one.str for one in INT_TYPES if one.itemsize < 8)
ACTION_GROUP = "/events/action"


class PartitionFile:
    """One generation of a partition, mapped. Arrays and dictionaries are made when asked for and kept."""

    def __init__(self, path: Path, mapped: mmap.mmap, seal: Seal, manifest: Manifest):
        self.path = path
        self.seal = seal
        self.manifest = manifest
        self._map = mapped
        self.columns: Mapping[int, StoredColumn] = _Columns(self)
        self._indexes: dict[str, PersonIndex | None] = {}

    @classmethod
    def open(cls, path: Path | str) -> PartitionFile:
        """Map a file and check its seal, size and manifest.

        Raises DamageError, UnsupportedFormatError for a newer major version or an unknown required feature, and
        OSError (FileNotFoundError) when it cannot be opened.
        """
        path = Path(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            size = os.fstat(descriptor).st_size
            seal = decode_seal(os.pread(descriptor, SEAL_BYTES, 0), path)
            check_size(seal, size, path)
            mapped = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        manifest_end = seal.manifest_offset + seal.manifest_bytes
        manifest = decode_manifest(mapped[seal.manifest_offset : manifest_end], seal, path)
        return cls(path, mapped, seal, manifest)

    def forget_pages(self) -> None:
        """Gives up what this process has read of the map; the same arrays read it again from the page cache."""
        self._map.madvise(mmap.MADV_DONTNEED)

    @property
    def table_id(self) -> int:
        return self.seal.table_id

    @property
    def partition(self) -> int:
        return self.seal.partition

    @property
    def generation(self) -> int:
        return self.seal.generation

    @property
    def journal_id(self) -> str:
        """The journal that `applied_sequence` counts in."""
        return self.seal.journal_id

    @property
    def applied_sequence(self) -> int:
        """Records of the journal up to this sequence are in the file."""
        return self.seal.applied_sequence

    @property
    def seal_bytes(self) -> bytes:
        """The seal as it is in the file. Another generation has another one, and so has a file of other contents."""
        return self._map[:SEAL_BYTES]

    @property
    def schema(self) -> Mapping[int, ColumnType]:
        """Type by column id, of all columns the table had when the file was written."""
        return self.manifest.schema

    @property
    def z_order(self) -> list[str]:
        return self.manifest.z_order

    @property
    def people(self) -> int:
        return self.manifest.people

    @property
    def rows(self) -> int:
        return self.manifest.rows

    @property
    def size_bytes(self) -> int:
        return self.seal.file_bytes

    @cached_property
    def persons(self) -> PersonIds:
        """All people by ordinal; `index` looks an id up by its hash."""
        people = self.people
        kinds = self._sized("/persons/kinds", "|u1", people)
        if "/persons/integers" in self.manifest.datasets:
            integers = self._sized("/persons/integers", "<i8", people)
        else:
            integers = np.broadcast_to(np.int64(0), people)
        texts = PackedTexts(np.broadcast_to(np.int64(0), people + 1), np.empty(0, np.uint8))
        if "/persons/texts/offsets" in self.manifest.datasets:
            texts = PackedTexts(self._sized("/persons/texts/offsets", "<i8", people + 1), self._bytes("/persons/texts"))
        return MappedPersonIds(kinds, integers, texts, self._lookup("/persons", people))

    @cached_property
    def row_start(self) -> NDArray[np.int64]:
        """int64[people+1]"""
        return self._sized("/persons/row_start", "<i8", self.people + 1)

    @cached_property
    def stamp(self) -> NDArray[np.int64]:
        """int64[rows]"""
        return self._sized("/events/stamp", "<i8", self.rows)

    @cached_property
    def event_start(self) -> NDArray[np.bool_] | None:
        """bool[rows], or None when every event is one row."""
        if "/events/event_start" not in self.manifest.datasets:
            return None
        return self._sized("/events/event_start", "|u1", self.rows).view(np.bool_)

    @cached_property
    def action(self) -> Column:
        """Text column over the rows, never None."""
        return self.column(ACTION_GROUP, "text")[:]

    @property
    def action_index(self) -> PersonIndex | None:
        """Who ever did an action, by its code; None when the file does not say. Raises DamageError."""
        return self._index(ACTION_GROUP)

    def index(self, column_id: int) -> PersonIndex | None:
        """Who ever has a value of a column; None when the file does not say. Raises DamageError."""
        return self._index(f"/columns/{column_id}")

    def column(self, group: str, column_type: ColumnType) -> StoredColumn:
        """The column stored in an HDF5 group. Raises DamageError when its datasets do not fit together."""
        rows, datasets = self.rows, self.manifest.datasets
        name = f"{group}/values"
        scale = self.manifest.scales.get(name)
        if scale is not None and (column_type != "double" or scale not in SCALES):
            raise self._misfit(name, f"a column of type {column_type} with a scale of {scale}")
        types = _VALUE_TYPES[column_type] if scale is None else _DECIMAL_TYPES
        if name in datasets:
            if datasets[name].dtype not in types:
                raise self._misfit(name, f"a column of type {column_type} cannot be {datasets[name].dtype}")
            values = self._sized(name, datasets[name].dtype, rows)
        else:
            values = np.broadcast_to(np.zeros((), types[0]), rows)
        valid = None
        if f"{group}/valid" in datasets:
            valid = self._sized(f"{group}/valid", "|u1", rows).view(np.bool_)
        elif name not in datasets and rows:
            valid = np.broadcast_to(np.False_, rows)
        dictionary = self.dictionary(f"{group}/dictionary") if column_type == "text" else None
        return StoredColumn(column_type, values, valid, dictionary, scale)

    def stored_index(self, group: str) -> StoredIndex | None:
        """The index stored with the column of an HDF5 group. Raises DamageError when it does not fit the column."""
        keys, values = self.manifest.datasets.get(f"{group}/index/keys"), self.manifest.datasets.get(f"{group}/values")
        if keys is None:
            return None
        is_code = values is not None and keys.dtype == values.dtype
        if values is None or not (is_code or keys.dtype == "<i8"):
            raise self._misfit(f"{group}/index/keys", "neither of the type of the column's values nor i8")
        offsets = self._sized(f"{group}/index/offsets", "<i8", keys.count + 1)
        data = self._bytes(f"{group}/index")
        if offsets[0] != 0 or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
            raise self._misfit(f"{group}/index/offsets", f"does not ascend from 0 to {len(data)}")
        return StoredIndex(self._sized(f"{group}/index/keys", keys.dtype, keys.count), offsets, data)

    def _index(self, group: str) -> PersonIndex | None:
        if group not in self._indexes:
            stored = self.stored_index(group)

            def damage(reason: str) -> DamageError:
                return self._misfit(f"{group}/index/bytes", reason)

            self._indexes[group] = None if stored is None else PersonIndex(stored, self.people, damage)
        return self._indexes[group]

    def dictionary(self, group: str) -> PackedTexts:
        """The dictionary stored in an HDF5 group, empty when there is none."""
        place = self.manifest.datasets.get(f"{group}/offsets")
        if place is None:
            return PackedTexts(np.zeros(1, np.int64), np.empty(0, np.uint8))
        offsets = self._sized(f"{group}/offsets", "<i8", place.count)
        return PackedTexts(offsets, self._bytes(group), self._lookup(group, place.count - 1))

    def array(self, name: str) -> NDArray[Any]:
        """A dataset of the manifest as a read-only view. Raises KeyError for one that is not there."""
        place = self.manifest.datasets[name]
        values = np.frombuffer(self._map, np.dtype(place.dtype), place.count, place.offset)
        if not values.flags.aligned:  # HDF5 aligns from 512 bytes on; what is smaller may as well be copied
            values = values.copy()
            values.flags.writeable = False
        return values

    def _sized(self, name: str, dtype: str, count: int) -> NDArray[Any]:
        """A dataset that must have this type and length; one of length 0 is not stored."""
        place = self.manifest.datasets.get(name)
        if place is None:
            if count:
                raise self._misfit(name, "the dataset is missing")
            return np.empty(0, dtype)
        if place.dtype != dtype or place.count != count:
            raise self._misfit(name, f"{place.count} values of type {place.dtype} instead of {count} of {dtype}")
        return self.array(name)

    def _bytes(self, group: str) -> NDArray[np.uint8]:
        """The bytes of packed texts or bitmaps, none when all are empty."""
        name = f"{group}/bytes"
        return self.array(name) if name in self.manifest.datasets else np.empty(0, np.uint8)

    def _lookup(self, group: str, count: int) -> HashIndex:
        hashes = self._sized(f"{group}/hashes", "<u8", count)
        return HashIndex(hashes, self._sized(f"{group}/hash_order", "<u4", count))

    def _misfit(self, name: str, reason: str) -> DamageError:
        place = self.manifest.datasets.get(name)
        return DamageError(reason, self.path, None if place is None else place.offset, name)


class _Columns(Mapping[int, StoredColumn]):
    """The columns a file has anything of, made when asked for. A column without any value is not in it."""

    def __init__(self, file: PartitionFile):
        self._file = file
        self._made: dict[int, StoredColumn] = {}
        stored = {name.split("/")[2] for name in file.manifest.datasets if name.startswith("/columns/")}
        self._ids = [column_id for column_id in file.schema if str(column_id) in stored]

    def __getitem__(self, column_id: int) -> StoredColumn:
        if column_id not in self._made:
            if column_id not in self._ids:
                raise KeyError(column_id)
            self._made[column_id] = self._file.column(f"/columns/{column_id}", self._file.schema[column_id])
        return self._made[column_id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)
