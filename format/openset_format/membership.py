"""The file of a stored segment: a description, and per partition a roaring bitmap of the ordinals of its people.

A file is written once under a name that is never used again, so that whoever reads it by name reads what was meant.
Layout: spec/segment-file.md. The description is JSON that only the store understands.
"""

from __future__ import annotations

import array
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from openset_format.decoding import json_decoder

from .errors import DamageError, UnsupportedFormatError, WriteError
from .files import FILES, FileLayer, temporary_path
from .hashing import checksum

MAGIC = b"OSSEGMNT"
FORMAT_VERSION = 1
# Magic, format version, size of the head in bytes, xxh3 of the head.
_PREFIX = struct.Struct("<8sIIQ")


class _Place(msgspec.Struct, array_like=True):
    """Where a bitmap is: offset from the end of the head, size in bytes, xxh3 in hexadecimal digits."""

    partition: int
    offset: int
    size_bytes: int
    checksum: str


class _Head(msgspec.Struct):
    description: msgspec.Raw
    partitions: list[_Place]


@dataclass(frozen=True, slots=True, eq=False)
class MembershipFile:
    """A segment file whose head has been verified; bitmaps are read and verified one at a time."""

    path: Path
    description: bytes
    _body_offset: int
    _places: Mapping[int, _Place]

    @classmethod
    def open(cls, path: Path) -> MembershipFile:
        """Reads the head. Raises DamageError, UnsupportedFormatError, OSError."""
        with path.open("rb") as file:
            prefix = file.read(_PREFIX.size)
            if len(prefix) < _PREFIX.size or not prefix.startswith(MAGIC):
                raise DamageError("it is not a segment file", path, 0)
            _, version, head_bytes, head_checksum = _PREFIX.unpack(prefix)
            if version > FORMAT_VERSION:
                raise UnsupportedFormatError(f"{path} has format version {version}; this program knows 1")
            head = file.read(head_bytes)
        if len(head) < head_bytes or checksum(head) != head_checksum:
            raise DamageError("the head does not match its checksum", path, _PREFIX.size)
        try:
            decoded = json_decoder(_Head).decode(head)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamageError(f"the head cannot be read: {error}", path, _PREFIX.size) from error
        body_offset = _PREFIX.size + head_bytes
        size = body_offset + sum(place.size_bytes for place in decoded.partitions)
        if path.stat().st_size != size:
            raise DamageError(f"it is {path.stat().st_size} bytes long, not {size}", path, body_offset)
        places = {place.partition: place for place in decoded.partitions}
        return cls(path, bytes(decoded.description), body_offset, places)

    def serialized(self, partition: int) -> bytes:
        """The people of a partition as a serialized bitmap, b"" where there is none. Raises DamageError, OSError."""
        place = self._places.get(partition)
        if place is None:
            return b""
        with self.path.open("rb") as file:
            file.seek(self._body_offset + place.offset)
            data = file.read(place.size_bytes)
        if f"{checksum(data):016x}" != place.checksum:
            raise DamageError(
                f"the bitmap of partition {partition} does not match its checksum",
                self.path,
                self._body_offset + place.offset,
            )
        return data

    def members(self, partition: int) -> BitMap:
        """The ordinals of the people of a partition. Raises DamageError, OSError."""
        data = self.serialized(partition)
        return BitMap.deserialize(data) if data else BitMap()

    @property
    def partitions(self) -> list[int]:
        """The partitions that have a bitmap, ascending."""
        return sorted(self._places)


def write_membership(path: Path, description: bytes, members: Mapping[int, bytes], files: FileLayer = FILES) -> None:
    """Writes a file that is not there yet.

    description: a JSON value. members: serialized bitmaps by partition. The name is durable when the caller has synced
    the directory, so that several files cost one sync. Raises WriteError; nothing is visible then.
    """
    places: list[_Place] = []
    offset = 0
    for partition, data in sorted(members.items()):
        places.append(_Place(partition, offset, len(data), f"{checksum(data):016x}"))
        offset += len(data)
    head = msgspec.json.encode(_Head(msgspec.Raw(description), places))
    prefix = _PREFIX.pack(MAGIC, FORMAT_VERSION, len(head), checksum(head))
    temporary = temporary_path(path)
    try:
        with files.create(temporary) as file:
            file.write_at([prefix, head, *(members[place.partition] for place in places)], 0)
            file.sync()
            file.make_read_only()
        files.rename(temporary, path)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to report; leftovers are removed at the next start
            files.unlink(temporary)
        raise WriteError(f"{path}: the segment cannot be written: {error}") from error


def bitmap_of(ordinals: NDArray[Any]) -> BitMap:
    """A bitmap of ordinals below 2^32. A run of them takes no time, the others go over as one buffer."""
    if not len(ordinals):
        return BitMap()
    first, last = int(ordinals[0]), int(ordinals[-1])
    if last - first + 1 == len(ordinals) and bool((np.diff(ordinals) == 1).all()):
        bitmap = BitMap()
        bitmap.add_range(first, last + 1)
        return bitmap
    return BitMap(array.array("I", ordinals.astype("<u4").tobytes()))


def serialized(bitmap: BitMap) -> bytes:
    """The bitmap as it is stored and sent, as small as it gets."""
    bitmap.run_optimize()
    data: bytes = bitmap.serialize()
    return data
