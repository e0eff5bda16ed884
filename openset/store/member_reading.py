"""The journals of a member's directory, only read: for tools, also while the member runs.

What is agreed is not known without the cluster, so every sound record counts, as every one of them may be agreed. What
a running member cuts meanwhile, because it was not, may have been read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from openset.errors import OpenSetError
from openset.store.journals import LogBase, MemberContents, base_path, log_directory, read_base
from openset.store.snapshot import JOURNAL_DIRECTORY
from openset_format.journal_reading import JournalReading, read_journal
from openset_format.segment import Entry, RecordRef, read_record


@dataclass(frozen=True, slots=True, eq=False)
class LogReading:
    """The journal of one partition. directory: its name below that of the journals."""

    base: LogBase
    directory: str
    journal: JournalReading

    @property
    def terms(self) -> list[int]:
        """Of the records that are in the journal."""
        return [term for scan in self.journal.scans for term in scan.terms]


@dataclass(frozen=True, slots=True, eq=False)
class MemberReading:
    """The sound records of all partitions that are here, one partition after the other."""

    directory: Path
    id: str
    logs: dict[int, LogReading]

    @property
    def last_sequence(self) -> int:
        """No record of any partition is above it."""
        return max((log.journal.last_sequence for log in self.logs.values()), default=0)

    def last_of(self, partition: int) -> int | None:
        """Up to where a file of the partition may have records; None where the partition is not here."""
        log = self.logs.get(partition)
        return None if log is None else max(log.journal.last_sequence, log.base.covers)

    def records(self, after: int = 0) -> Iterator[Entry]:
        """Reference, kind and table id of the records behind a sequence, of each partition in order."""
        for log in self.logs.values():
            for ref, kind, table_id in log.journal.records(after):
                yield replace(ref, segment=f"{log.directory}/{ref.segment}"), kind, table_id

    def read(self, ref: RecordRef) -> memoryview:
        """The payload of a record. Raises DamageError, MissingSegmentError."""
        return read_record(self.directory, ref)[2]


def read_member_journals(
    data_dir: Path, member: MemberContents, partitions: int, on_damage: Callable[[str], None]
) -> MemberReading:
    """Scans the journals of all partitions that are here. on_damage: is told what cannot be used, and is left out.

    Raises MissingSegmentError when one is replaced or loses a segment meanwhile, UnsupportedFormatError, OSError.
    """
    logs: dict[int, LogReading] = {}
    for number in range(partitions):
        try:
            base = read_base(data_dir, number)
        except OpenSetError as error:
            on_damage(error.message)
            continue
        if base is None:
            continue
        directory = log_directory(number, base.incarnation)
        journal = read_journal(data_dir / directory)
        logs[number] = LogReading(base, directory.name, journal)
        for problem in log_problems(data_dir, number, member, logs[number]):
            on_damage(problem)
    return MemberReading(data_dir / JOURNAL_DIRECTORY, member.journal_id, logs)


def log_problems(data_dir: Path, number: int, member: MemberContents, log: LogReading) -> Iterator[str]:
    """What does not fit together of the journal of a partition."""
    journal, base = log.journal, log.base
    directory = data_dir / JOURNAL_DIRECTORY / log.directory
    if journal.damage is not None:
        yield str(journal.damage)
        return
    if journal.id != member.journal_id:
        yield f"{directory} belongs to another journal ({journal.id}) than the one here ({member.journal_id})"
    if not journal.first_sequence - 1 <= base.index <= journal.last_sequence:
        yield (
            f"{data_dir / base_path(number)} says that the records up to {base.index} are in the files, "
            f"and the journal has records {journal.first_sequence} to {journal.last_sequence}"
        )
    terms = [base.term, *log.terms[max(base.index + 1 - journal.first_sequence, 0) :]]
    if sorted(terms) != terms:
        yield f"{directory}: the terms of its records go back"
