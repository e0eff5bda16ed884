"""Reading a journal without opening it for writing: for tools and notebooks, also while a daemon appends to it.

Nothing is cut or repaired. What a daemon would cut at its next start, or is writing at this moment, counts as not
there; what it would report as damage is in `damage`, and the records before it can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import DamageError, MissingSegmentError, damage_of
from .journal import MARK_NAME, decode_mark
from .segment import SEGMENT_SUFFIX, Entry, RecordRef, SegmentScan, read_record, scan_segment


@dataclass(frozen=True, slots=True, eq=False)
class JournalReading:
    """The sound records of a journal at one moment, in order.

    scans: of the segments up to the damage, if there is any. unfinished_bytes: at the end of the last segment.
    """

    directory: Path
    id: str
    scans: list[SegmentScan]
    unfinished_bytes: int
    damage: DamageError | None

    @property
    def first_sequence(self) -> int:
        """The sequence of the oldest record (or, without records, of the next one)."""
        return self.scans[0].header.first_sequence if self.scans else 1

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record; 0 in a new journal."""
        return self.scans[-1].next_sequence - 1 if self.scans else 0

    def records(self, after: int = 0) -> Iterator[Entry]:
        """Reference, kind and table id of the records behind sequence `after`, in order."""
        return (entry for scan in self.scans for entry in scan.entries if entry[0].sequence > after)

    def read(self, ref: RecordRef) -> memoryview:
        """The payload of a record. Raises DamageError, MissingSegmentError."""
        return read_record(self.directory, ref)[2]


def read_journal(directory: Path | str) -> JournalReading:
    """Scans all segments, checking every hash.

    Raises MissingSegmentError when there are no segments or one is removed meanwhile (read the partition files and then
    the journal again), UnsupportedFormatError, OSError.
    """
    directory = Path(directory)
    # Before the segments: what it promises must then be in them, whatever is appended meanwhile.
    note = _note(directory)
    paths = sorted(directory.glob(f"*{SEGMENT_SUFFIX}"))
    if not paths:
        raise MissingSegmentError(f"{directory}: there is no journal")
    scans: list[SegmentScan] = []
    damage: DamageError | None = None
    journal_id = ""
    for path in paths:
        try:
            scan = scan_segment(path)
            damage = _misplaced(scan, scans, path)
        except FileNotFoundError as error:
            raise MissingSegmentError(f"{path}: the journal segment is gone") from error
        except OSError as error:
            damage = damage_of(error, path)
        except DamageError as error:
            damage = error
        if damage is not None:
            break
        journal_id = scan.header.journal_id
        scans.append(scan)
        if scan.damage is not None and path != paths[-1]:
            damage = DamageError(f"{scan.damage}, in a segment that others follow", path, scan.end)
            break
    unfinished = 0
    if damage is None:
        last = scans[-1]
        damage = _broken_promise(last, decode_mark(note, journal_id)[0], paths[-1])
        unfinished = last.size_bytes - last.end if damage is None else 0
    return JournalReading(directory, journal_id, scans, unfinished, damage)


def _note(directory: Path) -> bytes:
    try:
        return (directory / MARK_NAME).read_bytes()
    except FileNotFoundError:
        return b""


def _misplaced(scan: SegmentScan, before: list[SegmentScan], path: Path) -> DamageError | None:
    if not before:
        return None
    if scan.header.journal_id != before[-1].header.journal_id:
        return DamageError("a segment of another journal", path)
    if scan.header.first_sequence != before[-1].next_sequence:
        missing = f"records {before[-1].next_sequence} to {scan.header.first_sequence - 1}"
        return DamageError(f"{missing} before this segment are missing", path)
    return None


def _broken_promise(scan: SegmentScan, noted: int, path: Path) -> DamageError | None:
    """Damage when something proves that the end of the last segment had been synced (spec/journal.md)."""
    if noted >= scan.next_sequence and scan.damage is None:
        return DamageError(f"records up to {noted} had been synced; the file ends before them", path, scan.end)
    if scan.damage is None:
        return None
    lost, behind = scan.next_sequence, scan.behind
    if noted >= lost or (behind is not None and behind.synced_sequence >= lost):
        return DamageError(f"{scan.damage} although it had been synced", path, scan.end)
    return None
