"""The seal and the manifest of a partition file: what the reader trusts, without asking HDF5.

The seal is the first 256 bytes of the userblock, the manifest a JSON text that the seal points to. Together they say
where every array is and vouch for each other; `verify` compares them with what HDF5 says. spec/partition-file.md has
the layout.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .block import ColumnType
from .errors import DamageError, UnsupportedFormatError
from .hashing import checksum

MAGIC = b"OPENSET\n"
MAJOR = 1
MINOR = 3
SEAL_BYTES = 256
USERBLOCK_BYTES = 8192
CHECKSUM_BLOCK_BYTES = 1024 * 1024
# Required-reader flags this program knows. People who were erased: ordinals without an id. Narrow numbers: ints of
# fewer than eight bytes, doubles as ints with a scale.
ERASED_PEOPLE = 1 << 0
NARROW_NUMBERS = 1 << 1
KNOWN_FEATURES = ERASED_PEOPLE | NARROW_NUMBERS

_SEAL = struct.Struct("<8sHHIQQQQQ32sQQQQQ")
_HASH = struct.Struct("<Q")
DATASET_TYPES = frozenset({"|u1", "<u2", "<u4", "<u8", "|i1", "<i2", "<i4", "<i8", "<f8"})
COLUMN_TYPES: frozenset[ColumnType] = frozenset({"text", "int", "double", "bool"})


@dataclass(frozen=True, slots=True)
class Seal:
    """journal_id: the journal applied_sequence counts in, up to 32 ASCII characters.

    rest_hash: xxh3_64 of all bytes behind the seal that belong to no dataset, in order.
    """

    table_id: int
    partition: int
    generation: int
    journal_id: str
    applied_sequence: int
    file_bytes: int
    manifest_offset: int
    manifest_bytes: int
    manifest_hash: int
    rest_hash: int
    required_features: int = 0
    minor: int = MINOR

    def encode(self) -> bytes:
        journal_id = self.journal_id.encode("ascii")
        assert len(journal_id) <= 32
        start = _SEAL.pack(
            MAGIC, MAJOR, self.minor, SEAL_BYTES, self.required_features, self.table_id, self.partition,
            self.generation, self.applied_sequence, journal_id, self.file_bytes, self.manifest_offset,
            self.manifest_bytes, self.manifest_hash, self.rest_hash,
        )  # fmt: skip
        start = start.ljust(SEAL_BYTES - _HASH.size, b"\0")
        return start + _HASH.pack(checksum(start))


def decode_seal(data: bytes, path: Path) -> Seal:
    """From the first SEAL_BYTES of a file.

    Raises DamageError, or UnsupportedFormatError for a newer major version or an unknown required feature.
    """
    if len(data) < SEAL_BYTES:
        raise DamageError("too short for a partition file", path, len(data))
    if data[: len(MAGIC)] != MAGIC:
        raise DamageError("not a partition file: wrong magic bytes", path, 0)
    if _HASH.unpack_from(data, SEAL_BYTES - _HASH.size)[0] != checksum(data[: SEAL_BYTES - _HASH.size]):
        raise DamageError("the seal does not match its hash", path, 0)
    (
        _, major, minor, _, features, table_id, partition, generation, applied_sequence, journal_id,
        file_bytes, manifest_offset, manifest_bytes, manifest_hash, rest_hash,
    ) = _SEAL.unpack_from(data)  # fmt: skip
    if major > MAJOR:
        raise UnsupportedFormatError(
            f"{path}: format version {major}.{minor}; this program reads up to version {MAJOR}. Use a newer OpenSet."
        )
    if not journal_id.isascii():
        raise DamageError("the id of the journal is no text", path, 56)
    unknown = features & ~KNOWN_FEATURES
    if unknown:
        bits = ", ".join(str(bit) for bit in range(64) if unknown >> bit & 1)
        raise UnsupportedFormatError(
            f"{path}: needs format feature {bits}, which this program does not know. Use a newer OpenSet."
        )
    return Seal(
        table_id=table_id,
        partition=partition,
        generation=generation,
        journal_id=journal_id.rstrip(b"\0").decode("ascii"),
        applied_sequence=applied_sequence,
        file_bytes=file_bytes,
        manifest_offset=manifest_offset,
        manifest_bytes=manifest_bytes,
        manifest_hash=manifest_hash,
        rest_hash=rest_hash,
        required_features=features,
        minor=minor,
    )


def read_seal(path: Path | str) -> Seal:
    """Only the seal of a file: what it is and how far it has come. Raises as `decode_seal`, and DamageError when the
    file has not the size it was sealed with."""
    path = Path(path)
    with path.open("rb") as file:
        seal = decode_seal(file.read(SEAL_BYTES), path)
        check_size(seal, file.seek(0, 2), path)
    return seal


def check_size(seal: Seal, size_bytes: int, path: Path) -> None:
    if size_bytes != seal.file_bytes:
        raise DamageError(
            f"{size_bytes} bytes long, sealed with {seal.file_bytes}", path, min(size_bytes, seal.file_bytes)
        )


@dataclass(frozen=True, slots=True)
class DatasetPlace:
    """Where a dataset's bytes are. first_checksum: index of its first entry in the checksums."""

    offset: int
    dtype: str
    count: int
    first_checksum: int

    @property
    def size_bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * self.count

    @property
    def checksum_count(self) -> int:
        return -(-self.size_bytes // CHECKSUM_BLOCK_BYTES)


@dataclass(frozen=True, slots=True)
class Manifest:
    """schema: type by column id. datasets: place by HDF5 path. checksums: xxh3_64 per MiB of each dataset.

    scales: by HDF5 path of the values, what doubles that are stored as ints are to be divided by.
    """

    people: int
    rows: int
    schema: Mapping[int, ColumnType]
    z_order: list[str]
    datasets: Mapping[str, DatasetPlace]
    checksums_offset: int
    checksums_count: int
    checksums_hash: int
    scales: Mapping[str, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        document: dict[str, Any] = {
            "people": self.people,
            "rows": self.rows,
            "schema": [{"id": column_id, "type": name} for column_id, name in self.schema.items()],
            "z_order": self.z_order,
            "datasets": {
                name: [place.offset, place.dtype, place.count, place.first_checksum]
                for name, place in self.datasets.items()
            },
            "checksums": {
                "offset": self.checksums_offset,
                "count": self.checksums_count,
                "xxh3_64": f"{self.checksums_hash:016x}",
            },
        }
        if self.scales:
            document["scales"] = dict(self.scales)
        return json.dumps(document, ensure_ascii=True, separators=(",", ":")).encode()


def decode_manifest(data: bytes, seal: Seal, path: Path) -> Manifest:
    """Raises DamageError for bytes that do not match the seal, or places that are not in the file."""
    if len(data) != seal.manifest_bytes or checksum(data) != seal.manifest_hash:
        raise DamageError("the manifest does not match its hash", path, seal.manifest_offset, "/manifest")
    try:
        manifest = _manifest_of(json.loads(data))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DamageError(f"the manifest cannot be read: {error!r}", path, seal.manifest_offset, "/manifest") from error
    # Every person, row and checksum takes some bytes.
    for count in (manifest.people, manifest.rows, manifest.checksums_count, manifest.checksums_offset):
        if not 0 <= count <= seal.file_bytes:
            raise DamageError("the manifest has more than fits the file", path, seal.manifest_offset, "/manifest")
    if manifest.checksums_offset + 8 * manifest.checksums_count > seal.file_bytes:
        raise DamageError("the manifest places it outside the file", path, manifest.checksums_offset, "/checksums")
    for name, place in manifest.datasets.items():
        end = place.offset + place.size_bytes
        if place.offset < USERBLOCK_BYTES or end > seal.file_bytes or place.count <= 0:
            raise DamageError("the manifest places it outside the file", path, place.offset, name)
    return manifest


def _place_of(numbers: list[Any]) -> DatasetPlace:
    offset, dtype, count, first_checksum = numbers
    if dtype not in DATASET_TYPES:
        raise ValueError(f"unknown number type {dtype}")
    if not all(type(number) is int for number in (offset, count, first_checksum)):
        raise ValueError(f"{numbers} is no place of a dataset")
    return DatasetPlace(offset, dtype, count, first_checksum)


def gaps_between(extents: Sequence[tuple[int, int]], file_bytes: int) -> Iterator[tuple[int, int]]:
    """(offset, size) of everything behind the seal that no dataset covers, in order."""
    position = SEAL_BYTES
    for offset, size in sorted(extents):
        if offset > position:
            yield position, offset - position
        position = max(position, offset + size)
    if position < file_bytes:
        yield position, file_bytes - position


def _manifest_of(document: dict[str, Any]) -> Manifest:
    schema: dict[int, ColumnType] = {int(column["id"]): column["type"] for column in document["schema"]}
    unknown = set(schema.values()) - COLUMN_TYPES
    if unknown:
        raise ValueError(f"unknown column types {sorted(unknown)}")
    checksums = document["checksums"]
    return Manifest(
        people=int(document["people"]),
        rows=int(document["rows"]),
        schema=schema,
        z_order=[str(action) for action in document["z_order"]],
        datasets={name: _place_of(place) for name, place in document["datasets"].items()},
        checksums_offset=int(checksums["offset"]),
        checksums_count=int(checksums["count"]),
        checksums_hash=int(checksums["xxh3_64"], 16),
        scales={str(name): int(scale) for name, scale in document.get("scales", {}).items()},
    )
