"""One segment file of the journal: its header, its records, and what a scan after a crash makes of it.

Every record carries hashes salted with a random number of its segment, so that bytes left over from another file, or
copied into a payload, never pass for a record. Layout and rules: spec/journal.md.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .errors import DamageError, MissingSegmentError, UnsupportedFormatError
from .hashing import checksum

SEGMENT_MAGIC = b"OSJRNL\r\n"
SEGMENT_SUFFIX = ".journal"
VERSION = 1
RECORD_MAGIC = b"OSRC"
ALIGNMENT = 8

_SEGMENT = struct.Struct("<8sHHI16sQQQQ")
_RECORD = struct.Struct("<4sHHQQQQQQQ")
SEGMENT_HEADER_BYTES = _SEGMENT.size
RECORD_HEADER_BYTES = _RECORD.size
_HASH = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Where a record is. size_bytes: what it takes in the segment file, header and padding included."""

    sequence: int
    segment: str
    offset: int
    size_bytes: int


# A record as the journal lists it: where it is, its kind, the table it is about.
Entry = tuple[RecordRef, int, int]


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """journal_id: 32 hexadecimal digits. first_sequence: of the segment's first record, whether it is there or not."""

    journal_id: str
    salt: int
    first_sequence: int

    def encode(self) -> bytes:
        start = _SEGMENT.pack(
            SEGMENT_MAGIC, VERSION, 0, 0, bytes.fromhex(self.journal_id), self.salt, self.first_sequence, 0, 0
        )[: -_HASH.size]
        return start + _HASH.pack(checksum(start))


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """synced_sequence: what was known to be durable when the record was written. size_bytes: of the payload."""

    kind: int
    sequence: int
    synced_sequence: int
    term: int
    table_id: int
    size_bytes: int
    payload_hash: int

    @property
    def total_bytes(self) -> int:
        """Header, payload and padding."""
        return RECORD_HEADER_BYTES + self.size_bytes + padding_after(self.size_bytes)

    def encode(self, salt: int) -> bytes:
        start = _RECORD.pack(
            RECORD_MAGIC, self.kind, 0, self.sequence, self.synced_sequence, self.term, self.table_id,
            self.size_bytes, self.payload_hash, 0,
        )[: -_HASH.size]  # fmt: skip
        return start + _HASH.pack(checksum(start, salt))


def segment_name(first_sequence: int) -> str:
    """Names sort in the order of the records."""
    return f"{first_sequence:020d}{SEGMENT_SUFFIX}"


def padding_after(size_bytes: int) -> int:
    return -size_bytes % ALIGNMENT


def decode_segment_header(data: bytes, path: Path) -> SegmentHeader:
    """Raises DamageError, or UnsupportedFormatError for a newer version or an unknown required feature."""
    if len(data) < SEGMENT_HEADER_BYTES:
        raise DamageError("the segment ends inside its header", path, len(data))
    magic, version, _, _, journal_id, salt, first_sequence, features, stored = _SEGMENT.unpack_from(data)
    if magic != SEGMENT_MAGIC:
        raise DamageError("not a journal segment: wrong magic bytes", path, 0)
    if stored != checksum(data[: SEGMENT_HEADER_BYTES - _HASH.size]):
        raise DamageError("the segment header does not match its hash", path, 0)
    if version > VERSION or features:
        raise UnsupportedFormatError(
            f"{path}: written by a newer version of OpenSet (journal version {version}, required features "
            f"{features:#x}); this program reads version {VERSION}"
        )
    return SegmentHeader(journal_id.hex(), salt, first_sequence)


def decode_record_header(data: bytes, salt: int) -> RecordHeader | None:
    """The header, or None when these bytes are no record header of this segment."""
    if len(data) < RECORD_HEADER_BYTES or data[:4] != RECORD_MAGIC:
        return None
    _, kind, _, sequence, synced_sequence, term, table_id, size_bytes, payload_hash, stored = _RECORD.unpack_from(data)
    if stored != checksum(data[: RECORD_HEADER_BYTES - _HASH.size], salt):
        return None
    return RecordHeader(kind, sequence, synced_sequence, term, table_id, size_bytes, payload_hash)


def payload_matches(header: RecordHeader, payload: bytes | memoryview, salt: int) -> bool:
    """`payload` with its padding, as it is in the file."""
    return checksum(payload, salt) == header.payload_hash


@dataclass(slots=True)
class SegmentScan:
    """What a segment holds. end: the byte after the last sound record. damage: why the scan stopped before the end."""

    name: str
    header: SegmentHeader
    entries: list[Entry] = field(default_factory=list)
    # The term of each of them.
    terms: list[int] = field(default_factory=list)
    end: int = SEGMENT_HEADER_BYTES
    size_bytes: int = 0
    damage: str | None = None
    # The first sound record behind the damage, where there is one.
    behind: RecordHeader | None = None
    behind_offset: int = 0

    @property
    def next_sequence(self) -> int:
        return self.header.first_sequence + len(self.entries)


def scan_segment(path: Path) -> SegmentScan:
    """Read a whole segment, checking every hash; stops at the first record that is not sound.

    Raises DamageError when the segment's own header is damaged or a sound record is not the next one.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        decode_segment_header(file.read(SEGMENT_HEADER_BYTES), path)
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as mapped:
            return scan_bytes(path, mapped)


def scan_bytes(path: Path, data: mmap.mmap | bytes | bytearray) -> SegmentScan:
    """`scan_segment`, of the contents of a segment that were read already. Raises as it does."""
    with memoryview(data) as view:
        header = decode_segment_header(bytes(view[:SEGMENT_HEADER_BYTES]), path)
        scan = SegmentScan(path.name, header, size_bytes=len(view))
        while scan.end < len(view):
            record, problem = _record_at(view, scan.end, header.salt)
            if record is None:
                scan.damage = problem
                _look_behind(scan, data, view)
                break
            if record.sequence != scan.next_sequence:
                raise DamageError(f"record {record.sequence} where {scan.next_sequence} belongs", path, scan.end)
            ref = RecordRef(record.sequence, path.name, scan.end, record.total_bytes)
            scan.entries.append((ref, record.kind, record.table_id))
            scan.terms.append(record.term)
            scan.end += record.total_bytes
    return scan


def _record_at(view: memoryview, offset: int, salt: int) -> tuple[RecordHeader | None, str]:
    """The sound record at an offset, or None and what is wrong."""
    header = decode_record_header(bytes(view[offset : offset + RECORD_HEADER_BYTES]), salt)
    if header is None:
        return None, "a record header that does not match its hash"
    end = offset + header.total_bytes
    if end > len(view):
        return None, "a record that goes beyond the end of the file"
    if not payload_matches(header, view[offset + RECORD_HEADER_BYTES : end], salt):
        return None, "a record payload that does not match its hash"
    return header, ""


def _look_behind(scan: SegmentScan, data: mmap.mmap | bytes | bytearray, view: memoryview) -> None:
    """Find a sound record behind the damage: it tells a torn tail from damage in the middle."""
    position = data.find(RECORD_MAGIC, scan.end + 1)
    while position >= 0:
        if position % ALIGNMENT == 0:
            header, _ = _record_at(view, position, scan.header.salt)
            if header is not None:
                scan.behind, scan.behind_offset = header, position
                return
        position = data.find(RECORD_MAGIC, position + 1)


def read_records(directory: Path, refs: Iterable[RecordRef]) -> Iterator[tuple[int, int, memoryview]]:
    """Kind, table id and payload of each record, its hashes checked; opens each segment once for neighbours.

    Raises DamageError, or MissingSegmentError when a segment was dropped.
    """
    name: str | None = None
    descriptor = -1
    salt = 0
    try:
        for ref in refs:
            path = directory / ref.segment
            if ref.segment != name:
                if descriptor >= 0:
                    os.close(descriptor)
                    descriptor = -1
                descriptor, salt = _open_segment(path)
                name = ref.segment
            yield _read_at(descriptor, path, ref, salt)
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def read_record(directory: Path, ref: RecordRef) -> tuple[int, int, memoryview]:
    """Kind, table id and payload of one record, its hashes checked. Raises as `read_records`."""
    return next(read_records(directory, (ref,)))


def _open_segment(path: Path) -> tuple[int, int]:
    """A descriptor and the segment's salt."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise MissingSegmentError(f"{path}: the journal segment is gone") from error
    try:
        return descriptor, decode_segment_header(os.pread(descriptor, SEGMENT_HEADER_BYTES, 0), path).salt
    except BaseException:
        os.close(descriptor)
        raise


def _read_at(descriptor: int, path: Path, ref: RecordRef, salt: int) -> tuple[int, int, memoryview]:
    view = memoryview(os.pread(descriptor, ref.size_bytes, ref.offset))
    header, problem = _record_at(view, 0, salt)
    if header is None or header.sequence != ref.sequence:
        raise DamageError(problem or "another record than the one asked for", path, ref.offset)
    return header.kind, header.table_id, view[RECORD_HEADER_BYTES : RECORD_HEADER_BYTES + header.size_bytes]
