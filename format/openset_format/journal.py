"""The journal of a node: records appended to segment files, made durable many at a time.

`append` writes, `sync` makes everything appended before it durable; both may be called from different threads, and
appends go on while a sync runs. The order of things on disk is such that only the end of the last segment can be torn:
a segment is synced before the next one is created. Recovery rules: spec/journal.md.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import DamageError, JournalFailedError, WriteError
from .files import FILES, TEMPORARY_SUFFIX, FileLayer, WritableFile, temporary_path
from .hashing import checksum
from .segment import (
    SEGMENT_HEADER_BYTES,
    SEGMENT_SUFFIX,
    Entry,
    RecordHeader,
    RecordRef,
    SegmentHeader,
    SegmentScan,
    padding_after,
    read_record,
    scan_segment,
    segment_name,
)

SEGMENT_BYTES = 64 * 1024 * 1024
MARK_NAME = "synced"
_MARK = struct.Struct("<QQQ")
_MARK_HASHED_BYTES = 16
_CLOSED = "it is closed"
_PAGE_BYTES = 4096
_REWRITE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class TornTail:
    """What recovery cut off. acknowledged: records that a sync had covered and that are lost, normally 0."""

    segment: str
    offset: int
    size_bytes: int
    reason: str
    acknowledged: int


@dataclass(slots=True)
class _Segment:
    """A segment in use. terms: of the entries. end: where the next record goes."""

    name: str
    header: SegmentHeader
    entries: list[Entry]
    terms: list[int]
    end: int


class Journal:
    """An append-only sequence of records, numbered from 1 without gaps. Open one Journal per directory."""

    id: str
    torn_tail: TornTail | None

    def __init__(self, directory: Path, files: FileLayer, segment_bytes: int, prefix: str):
        self.directory = directory
        self.torn_tail = None
        self._prefix = prefix
        self._files = files
        self._segment_bytes = segment_bytes
        self._segments: list[_Segment] = []
        self._retired: list[WritableFile] = []
        self._synced = 0
        self._failure: str | None = None
        # _lock guards all fields and is held for single writes; _sync_lock is held during a sync, taken first.
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._file: WritableFile
        self._mark: WritableFile

    @classmethod
    def open(
        cls,
        directory: Path | str,
        files: FileLayer = FILES,
        segment_bytes: int = SEGMENT_BYTES,
        *,
        prefix: str = "",
        journal_id: str | None = None,
        first_sequence: int = 1,
    ) -> Journal:
        """Open or create a journal, recovering it after a crash: a torn tail is cut (see `torn_tail`).

        prefix: put before the names of segments in references, where those are relative to another directory.
        journal_id, first_sequence: of a journal that is created: its id (by default a random one) and where it begins.

        Raises DamageError when sound records follow a damaged one or records are missing, UnsupportedFormatError for
        files of a newer version, WriteError when the directory cannot be written.
        """
        journal = cls(Path(directory), files, segment_bytes, prefix)
        try:
            journal._recover(journal_id or os.urandom(16).hex(), first_sequence)
        except OSError as error:
            journal.close()
            raise WriteError(f"{directory}: the journal cannot be opened: {error}") from error
        except BaseException:
            journal.close()
            raise
        return journal

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record appended; 0 in a new journal."""
        segment = self._segments[-1]
        return segment.header.first_sequence + len(segment.entries) - 1

    @property
    def first_sequence(self) -> int:
        """The sequence of the oldest record still here (or, without records, of the next one)."""
        return self._segments[0].header.first_sequence

    @property
    def synced_sequence(self) -> int:
        """Everything up to this sequence is durable."""
        return self._synced

    @property
    def size_bytes(self) -> int:
        """What all segments take together."""
        return sum(segment.end for segment in self._segments)

    @property
    def failure(self) -> str | None:
        """Why this object cannot be used any more, None while it can (or was closed)."""
        return None if self._failure == _CLOSED else self._failure

    def append(self, kind: int, table_id: int, payload: bytes | memoryview, term: int = 0) -> RecordRef:
        """Write a record behind the last one. It is durable after the next `sync`.

        Raises WriteError when the record could not be written (the journal is as before), JournalFailedError when the
        journal cannot be used any more.
        """
        with self._lock:
            self._raise_failure()
            padding = bytes(padding_after(len(payload)))
            size_bytes = len(payload)
            if self._needs_rotation(size_bytes):
                self._rotate()
            segment = self._segments[-1]
            salt = segment.header.salt
            padded_hash = checksum(payload, salt) if not padding else checksum(bytes(payload) + padding, salt)
            header = RecordHeader(kind, self.last_sequence + 1, self._synced, term, table_id, size_bytes, padded_hash)
            self._write(segment, [header.encode(salt), payload, padding])
            ref = RecordRef(header.sequence, self._prefix + segment.name, segment.end, header.total_bytes)
            segment.entries.append((ref, kind, table_id))
            segment.terms.append(term)
            segment.end += header.total_bytes
            return ref

    def sync(self) -> None:
        """Make every record appended so far durable. Raises JournalFailedError: now, and from then on always."""
        with self._sync_lock:
            with self._lock:
                self._raise_failure()
                target, end, file = self.last_sequence, self._segments[-1].end, self._file
                retired, self._retired = self._retired, []
            for old in retired:  # synced when it was retired, kept open for a sync that was under way
                old.close()
            if target == self._synced:
                return
            self._durably(file.sync_data)
            with self._lock:
                self._synced = max(self._synced, target)
            self._write_mark(target, end)

    def records(self, after: int = 0) -> Iterator[Entry]:
        """Reference, kind and table id of the records behind sequence `after`, as they are now, in order."""
        with self._lock:
            found = []
            for segment in self._segments:
                skip = max(after + 1 - segment.header.first_sequence, 0)
                found.append(segment.entries[skip:])
        return (entry for entries in found for entry in entries)

    def slice(self, first: int, last: int) -> list[tuple[RecordRef, int, int, int]]:
        """Reference, kind, table id and term of the records first … last, those of them that are here."""
        with self._lock:
            found: list[tuple[RecordRef, int, int, int]] = []
            for segment in self._segments:
                low = max(first - segment.header.first_sequence, 0)
                high = last + 1 - segment.header.first_sequence
                if high > low:
                    pairs = zip(segment.entries[low:high], segment.terms[low:high], strict=True)
                    found += [(*entry, term) for entry, term in pairs]
            return found

    def terms(self) -> list[int]:
        """The term of every record that is here, in order."""
        with self._lock:
            return [term for segment in self._segments for term in segment.terms]

    def read(self, ref: RecordRef) -> memoryview:
        """The payload of a record. Raises DamageError, MissingSegmentError."""
        return read_record(self._base_directory, ref)[2]

    @property
    def _base_directory(self) -> Path:
        """What references are relative to."""
        return self.directory.parent if self._prefix else self.directory

    def cut(self, after_sequence: int) -> None:
        """Forget the records behind a sequence, durably: they count as never written. Nobody reads meanwhile.

        The order of steps leaves, whenever it is broken off, a beginning of what there was. Raises WriteError (some of
        the records may be gone then), JournalFailedError.
        """
        with self._sync_lock, self._lock:
            self._raise_failure()
            if after_sequence >= self.last_sequence:
                return
            assert after_sequence >= self.first_sequence - 1, "what was dropped cannot be cut"
            self._durably(self._file.sync_data)
            try:
                while len(self._segments) > 1 and self._segments[-1].header.first_sequence > after_sequence:
                    self._remove_last_segment()
                segment = self._segments[-1]
                kept = after_sequence + 1 - segment.header.first_sequence
                if kept < len(segment.entries):
                    end = segment.entries[kept][0].offset
                    # The note goes first: it must not promise what is to be cut.
                    self._lower_mark(after_sequence, end)
                    self._file.truncate(end)
                    del segment.entries[kept:], segment.terms[kept:]
                    segment.end = end
            except OSError as error:
                self._failure = f"records could not be cut: {error}"
                raise JournalFailedError(f"{self.directory}: {self._failure}") from error
            self._durably(self._file.sync)
            self._synced = after_sequence
            self._write_mark(after_sequence, self._segments[-1].end)

    def _lower_mark(self, sequence: int, end: int) -> None:
        """Notes, durably, that less has been synced. Raises OSError."""
        self._synced = sequence
        self._write_mark(sequence, end)
        self._mark.sync_data()

    def _remove_last_segment(self) -> None:
        """The one in use, durably; the one before it is in use then. Raises OSError."""
        before = self._segments[-2]
        self._lower_mark(before.header.first_sequence + len(before.entries) - 1, before.end)
        file = self._files.open(self.directory / before.name)
        self._file.close()
        self._file = file
        self._files.unlink(self.directory / self._segments[-1].name)
        del self._segments[-1]
        self._files.sync_directory(self.directory)

    def drop_segments(self, up_to_sequence: int) -> int:
        """Remove the segments whose records all have a sequence up to this one, the one in use excepted.

        Returns how many were removed. Raises WriteError.
        """
        with self._lock:
            self._raise_failure()
            removed = 0
            try:
                while len(self._segments) > 1 and self._segments[1].header.first_sequence <= up_to_sequence + 1:
                    self._files.unlink(self.directory / self._segments[0].name)
                    del self._segments[0]
                    removed += 1
                    # One by one: a crash must not bring an older segment back without the ones behind it.
                    self._files.sync_directory(self.directory)
            except OSError as error:
                raise WriteError(f"{self.directory}: segments cannot be removed: {error}") from error
            return removed

    def droppable(self, up_to_sequence: int) -> int:
        """The last record that `drop_segments` would remove; the one before the first when it would remove none."""
        with self._lock:
            goes = self.first_sequence - 1
            for segment in self._segments[1:]:
                if segment.header.first_sequence <= up_to_sequence + 1:
                    goes = segment.header.first_sequence - 1
            return goes

    def term_of(self, sequence: int) -> int:
        """The term of a record that is here."""
        with self._lock:
            for segment in self._segments:
                place = sequence - segment.header.first_sequence
                if 0 <= place < len(segment.terms):
                    return segment.terms[place]
        raise AssertionError(f"record {sequence} is not in the journal")

    def rotate(self) -> None:
        """Start a new segment, so that `drop_segments` can remove the one in use so far. Nothing when it is empty."""
        with self._lock:
            self._raise_failure()
            if self._segments[-1].entries:
                self._rotate()

    def close(self) -> None:
        """Release the files without syncing: what was not synced was not promised."""
        with self._sync_lock, self._lock:
            self._failure = self._failure or _CLOSED
            for name in ("_file", "_mark"):
                if hasattr(self, name):
                    getattr(self, name).close()
            for old in self._retired:
                old.close()
            self._retired = []

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise JournalFailedError(f"{self.directory}: the journal cannot be used any more: {self._failure}")

    def _durably(self, step: Callable[[], None]) -> None:
        """Run a sync. After a failed one nobody knows what is on disk, and trying again would hide the loss."""
        try:
            step()
        except OSError as error:
            self._failure = f"a sync failed: {error}"
            raise JournalFailedError(f"{self.directory}: {self._failure}") from error

    def _write(self, segment: _Segment, buffers: list[bytes | memoryview]) -> None:
        try:
            self._file.write_at(buffers, segment.end)
        except OSError as error:
            try:
                self._file.truncate(segment.end)
            except OSError as second:
                self._failure = f"half a record could not be removed: {second}"
            raise WriteError(f"{self.directory / segment.name}: a record cannot be written: {error}") from error

    def _needs_rotation(self, payload_bytes: int) -> bool:
        segment = self._segments[-1]
        return bool(segment.entries) and segment.end + payload_bytes > self._segment_bytes

    def _rotate(self) -> None:
        """The old segment is durable before the new one exists, so only the last can be torn."""
        self._durably(self._file.sync_data)
        self._synced = self.last_sequence
        header = SegmentHeader(self.id, int.from_bytes(os.urandom(8), "little"), self.last_sequence + 1)
        self._retired.append(self._file)
        try:
            self._file = self._create_segment(header)
        except OSError as error:
            self._file = self._retired.pop()
            raise WriteError(f"{self.directory}: a segment cannot be created: {error}") from error
        self._durably(lambda: self._files.sync_directory(self.directory))

    def _create_segment(self, header: SegmentHeader) -> WritableFile:
        """A segment appears with its header complete. Its name is durable after the directory was synced."""
        path = self.directory / segment_name(header.first_sequence)
        temporary = temporary_path(path)
        file = self._files.create(temporary)
        try:
            file.write_at([header.encode()], 0)
            file.sync()
            self._files.rename(temporary, path)
            file.path = path  # what errors name from now on
        except OSError:
            file.close()
            with suppress(OSError):  # the first error is the one to report; open removes leftovers
                self._files.unlink(temporary)
            raise
        self._segments.append(_Segment(path.name, header, [], [], SEGMENT_HEADER_BYTES))
        return file

    def _write_mark(self, sequence: int, end: int) -> None:
        """Note what has been synced, and where it ends in its segment.

        The note only sharpens recovery's judgement, so a failure to write it costs nothing.
        """
        entry = struct.pack("<QQ", sequence, end)
        with suppress(OSError):
            self._mark.write_at([entry, struct.pack("<Q", checksum(entry, _mark_seed(self.id)))], 0)

    def _read_mark(self) -> tuple[int, int]:
        """The sequence last noted as synced and where it ends; zeros when there is no sound note."""
        data = bytearray(_MARK.size)
        return decode_mark(bytes(data[: self._mark.read_into(memoryview(data), 0)]), self.id)

    def _recover(self, new_id: str, first_sequence: int) -> None:
        files = self._files
        files.make_directory(self.directory)
        for leftover in self.directory.glob(f"*{TEMPORARY_SUFFIX}"):
            files.unlink(leftover)
        paths = sorted(self.directory.glob(f"*{SEGMENT_SUFFIX}"))
        if not paths:
            self.id = new_id
            salt = int.from_bytes(os.urandom(8), "little")
            self._file = self._create_segment(SegmentHeader(self.id, salt, first_sequence))
            self._open_mark()
            self._synced = first_sequence - 1
            self._write_mark(self._synced, SEGMENT_HEADER_BYTES)
            self._durably(lambda: files.sync_directory(self.directory))
            return
        scans = [scan_segment(path) for path in paths]
        self.id = scans[0].header.journal_id
        self._check_chain(scans)
        self._open_mark()
        self._segments = [
            _Segment(scan.name, scan.header, self._prefixed(scan.entries), scan.terms, scan.end) for scan in scans
        ]
        self._file = files.open(paths[-1])
        self._cut(scans[-1])
        # What was read back is promised from now on; after a crash it, and the name of its segment, may have been in
        # the page cache only.
        self._write_again(self._segments[-1])
        self._durably(self._file.sync)
        self._durably(lambda: files.sync_directory(self.directory))
        self._synced = self.last_sequence
        self._write_mark(self._synced, self._segments[-1].end)

    def _prefixed(self, entries: list[Entry]) -> list[Entry]:
        if not self._prefix:
            return entries
        return [(replace(ref, segment=self._prefix + ref.segment), kind, table) for ref, kind, table in entries]

    def _write_again(self, segment: _Segment) -> None:
        """Writes the bytes behind the last noted sync once more, so that the sync to come is about them.

        After a sync that failed, the system may take what it could not write for written: it is read back, but is not
        on the disk, and a sync alone would not bring it there.
        """
        noted, noted_end = self._read_mark()
        start = noted_end if segment.header.first_sequence <= noted else 0
        buffer = memoryview(bytearray(_REWRITE_BYTES))
        for offset in range(start - start % _PAGE_BYTES, segment.end, _REWRITE_BYTES):
            piece = buffer[: min(_REWRITE_BYTES, segment.end - offset)]
            got = self._file.read_into(piece, offset)
            self._file.write_at([piece[:got]], offset)

    def _open_mark(self) -> None:
        path = self.directory / MARK_NAME
        self._mark = self._files.open(path) if path.exists() else self._files.create(path)

    def _check_chain(self, scans: list[SegmentScan]) -> None:
        """Segments follow each other without a gap, and only the last may have a torn tail."""
        for position, scan in enumerate(scans):
            path = self.directory / scan.name
            if scan.header.journal_id != self.id:
                raise DamageError("a segment of another journal", path)
            if position and scan.header.first_sequence != scans[position - 1].next_sequence:
                raise DamageError(
                    f"records {scans[position - 1].next_sequence} to {scan.header.first_sequence - 1} before this "
                    "segment are missing",
                    path,
                )
            if scan.damage is not None and position < len(scans) - 1:
                raise DamageError(f"{scan.damage}, in a segment that others follow", path, scan.end)

    def _cut(self, scan: SegmentScan) -> None:
        """Cut the torn tail of the last segment, or report damage.

        Records of one group may reach the disk in any order, so after a power failure a sound record can stand behind
        a torn one that nobody was promised. It is damage as soon as something proves that the torn one had been
        synced: a record written after that sync, or the note of it while the file is as long as it was then. A file
        that ends too early is cut even so, and `torn_tail` tells how many promised records went with the end.
        """
        noted, noted_end = self._read_mark()
        lost = scan.next_sequence
        path = self.directory / scan.name
        behind = scan.behind
        proven = behind is not None and (behind.synced_sequence >= lost or noted >= lost)
        if proven or (scan.damage is not None and noted >= lost and scan.size_bytes >= noted_end):
            where = "" if behind is None else f", with sound records behind it (from offset {scan.behind_offset})"
            raise DamageError(f"{scan.damage} although it had been synced{where}", path, scan.end)
        if scan.damage is not None:
            self._file.truncate(scan.end)
        acknowledged = max(noted - lost + 1, 0)
        if scan.damage is not None or acknowledged:
            reason = scan.damage or "records are missing at the end"
            self.torn_tail = TornTail(scan.name, scan.end, scan.size_bytes - scan.end, reason, acknowledged)


def decode_mark(data: bytes, journal_id: str) -> tuple[int, int]:
    """The sequence that the note of the last sync names and where it ends; zeros when the note is not sound."""
    if len(data) != _MARK.size:
        return 0, 0
    sequence, end, stored = _MARK.unpack(data)
    sound = stored == checksum(data[:_MARK_HASHED_BYTES], _mark_seed(journal_id))
    return (sequence, end) if sound else (0, 0)


def _mark_seed(journal_id: str) -> int:
    return int(journal_id[:16], 16)
