"""The journals of a data directory: one for all partitions, or, where the node is a member of a cluster, one for each.

What the store asks of them is the same: what holds records of a partition back, what may go, whether something failed.
In a member the sequence of a record is its index in the partition's log, and all copies of a partition have the same
records under the same sequences (spec/journal.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from openset.errors import InternalError
from openset.store.sealed_json import encode_sealed, read_sealed
from openset.store.snapshot import JOURNAL_DIRECTORY
from openset_format.errors import FormatError, JournalFailedError
from openset_format.files import TEMPORARY_SUFFIX, FileLayer, replace_file
from openset_format.journal import SEGMENT_BYTES, Journal
from openset_format.segment import SEGMENT_SUFFIX, Entry, RecordRef, read_record

MEMBER_NAME = "member.json"
_MEMBER = "member"
_LOG = "log"
# Journals are synced side by side; the disk puts syncs that wait at the same time together.
_SYNCS_AT_ONCE = 8

# By partition, the first record that is to stay; in a journal for all partitions they stand under its own number.
Mark = Mapping[int, int]
_ALL = -1


def first_of(mark: Mark, partition: int) -> int:
    """The first record of a partition that a mark keeps."""
    return mark.get(partition, mark.get(_ALL, 0))


class Journals(Protocol):
    """What the store needs of its journals. Methods raise FormatError."""

    @property
    def id(self) -> str: ...

    @property
    def failure(self) -> str | None:
        """Why nothing can be written any more, None while it can."""
        ...

    @property
    def size_bytes(self) -> int: ...

    def rotate(self) -> Mark:
        """Begins new segments, so that the ones in use so far can go; returns where the new ones begin."""
        ...

    def is_past(self, mark: Mark) -> bool:
        """Whether no record before a mark is there any more."""
        ...

    def drop(self, needed: Iterable[tuple[int, int]], visible_sequence: int) -> None:
        """Removes segments that nobody needs. needed: partitions with the oldest record that somebody does.

        visible_sequence: records above it may be on their way to the partitions.
        """
        ...

    def close(self) -> None: ...


class NodeJournal:
    """One journal for all partitions: of a node that stands alone."""

    def __init__(self, journal: Journal):
        self.journal = journal

    @property
    def id(self) -> str:
        return self.journal.id

    @property
    def failure(self) -> str | None:
        return self.journal.failure

    @property
    def size_bytes(self) -> int:
        return self.journal.size_bytes

    def rotate(self) -> Mark:
        self.journal.rotate()
        return {_ALL: self.journal.last_sequence + 1}

    def is_past(self, mark: Mark) -> bool:
        return self.journal.first_sequence >= mark[_ALL]

    def drop(self, needed: Iterable[tuple[int, int]], visible_sequence: int) -> None:
        oldest = min((sequence for _, sequence in needed), default=visible_sequence + 1)
        self.journal.drop_segments(oldest - 1)

    def close(self) -> None:
        self.journal.close()


class MemberContents(msgspec.Struct, frozen=True):
    """That this directory is of a member. journal_id: of all journals of the cluster."""

    journal_id: str


class LogBase(msgspec.Struct, frozen=True):
    """Where the journal of a partition begins. incarnation: which of its directories counts.

    term, index: of the record before the first one that can be asked for; that one and those before it are in the
    files of the tables.  covers: up to this record a file that came from another node may hold more than the journal.
    """

    incarnation: int
    term: int
    index: int
    covers: int = 0


@dataclass(slots=True)
class _Log:
    """base: as it is on the disk. shown: records up to it are visible."""

    base: LogBase
    journal: Journal
    shown: int = 0


def member_path() -> Path:
    """Says that a directory is a member's; relative to the data directory."""
    return Path(JOURNAL_DIRECTORY) / MEMBER_NAME


def base_path(partition: int) -> Path:
    """The LogBase of a partition, relative to the data directory. Where it is missing, the partition is not here."""
    return Path(JOURNAL_DIRECTORY) / f"p{partition:04d}.json"


def log_directory(partition: int, incarnation: int) -> Path:
    """The journal of a partition, relative to the data directory."""
    return Path(JOURNAL_DIRECTORY) / f"p{partition:04d}-{incarnation}"


def encode_member(journal_id: str) -> bytes:
    return encode_sealed(_MEMBER, MemberContents(journal_id))


def encode_base(base: LogBase) -> bytes:
    return encode_sealed(_LOG, base)


def read_member(data_dir: Path) -> MemberContents | None:
    """None where the node stands alone. Raises InternalError when the file is damaged."""
    return read_sealed(data_dir / member_path(), _MEMBER, MemberContents)


def read_base(data_dir: Path, partition: int) -> LogBase | None:
    """None where a member does not have the partition. Raises InternalError when the file is damaged."""
    return read_sealed(data_dir / base_path(partition), _LOG, LogBase)


class PartitionJournals:
    """A journal for each partition that a member has. Its methods are called from one thread at a time."""

    def __init__(self, data_dir: Path, partitions: int, files: FileLayer, segment_bytes: int = SEGMENT_BYTES):
        """Opens them all, removing what was left of earlier ones. Raises InternalError, FormatError, OSError."""
        contents = read_member(data_dir)
        assert contents is not None, "only a member has a journal per partition"
        self.id = contents.journal_id
        self._data_dir = data_dir
        self._files = files
        self._segment_bytes = segment_bytes
        self._logs: dict[int, _Log] = {}
        # Those that do not count yet.
        self._begun: dict[int, _Log] = {}
        # The last one that was given to a journal of each partition.
        self._incarnations: dict[int, int] = {}
        self._failure: str | None = None
        # Is told when records are not in a journal any more, in whatever thread.
        self.dropped: Callable[[int, LogBase], None] = lambda number, base: None
        self._pool = ThreadPoolExecutor(_SYNCS_AT_ONCE, thread_name_prefix="journal-sync")
        try:
            self._remove_leftovers(partitions)
            for number in range(partitions):
                base = read_base(data_dir, number)
                if base is not None:
                    self._incarnations[number] = base.incarnation
                    self._logs[number] = self._open(number, base)
        except BaseException:
            self.close()
            raise

    def _remove_leftovers(self, partitions: int) -> None:
        """Journals of which no LogBase speaks, and segments from before the node became a member."""
        directory = self._data_dir / JOURNAL_DIRECTORY
        bases = {number: read_base(self._data_dir, number) for number in range(partitions)}
        kept = {log_directory(number, base.incarnation).name for number, base in bases.items() if base is not None}
        for path in directory.iterdir():
            if path.is_dir() and path.name not in kept:
                self._files.remove_tree(path)
            elif path.suffix in (SEGMENT_SUFFIX, TEMPORARY_SUFFIX):
                self._files.unlink(path)

    def _open(self, number: int, base: LogBase) -> _Log:
        directory = self._data_dir / log_directory(number, base.incarnation)
        if not any(directory.glob(f"*{SEGMENT_SUFFIX}")):
            raise InternalError(f"{directory}: the journal of partition {number} is missing")
        journal = Journal.open(directory, self._files, self._segment_bytes, prefix=f"{directory.name}/")
        if journal.id != self.id:
            raise InternalError(f"{directory} belongs to another journal ({journal.id}) than the one here ({self.id})")
        if not journal.first_sequence - 1 <= base.index <= journal.last_sequence:
            raise InternalError(
                f"{directory} has records {journal.first_sequence} to {journal.last_sequence}, "
                f"and those up to {base.index} are in the files"
            )
        return _Log(base, journal, base.index)

    # --- what the store asks ---------------------------------------------------------------------------------------

    @property
    def failure(self) -> str | None:
        if self._failure is not None:
            return self._failure
        failures = (log.journal.failure for log in list(self._logs.values()))
        return next((failure for failure in failures if failure is not None), None)

    def fail(self, reason: str) -> None:
        """Nothing can be written any more, until the next start."""
        self._failure = self._failure or reason

    @property
    def size_bytes(self) -> int:
        return sum(log.journal.size_bytes for log in list(self._logs.values()))

    def rotate(self) -> Mark:
        mark = {}
        for number, log in list(self._logs.items()):
            try:
                log.journal.rotate()
            except JournalFailedError:
                if self._logs.get(number) is log:
                    raise
                continue  # given up or replaced meanwhile, and closed with all that was in it
            mark[number] = log.journal.last_sequence + 1
        return mark

    def is_past(self, mark: Mark) -> bool:
        return all(
            number not in self._logs or self._logs[number].journal.first_sequence >= first
            for number, first in mark.items()
        )

    def drop(self, needed: Iterable[tuple[int, int]], visible_sequence: int) -> None:
        """What is not visible yet stays, whatever the store needs."""
        oldest = {number: log.shown + 1 for number, log in list(self._logs.items())}
        for number, sequence in needed:
            if number in oldest:
                oldest[number] = min(oldest[number], sequence)
        for number, sequence in oldest.items():
            self._drop(number, sequence - 1)

    def _drop(self, number: int, up_to: int) -> None:
        log = self._logs.get(number)
        if log is None:
            return  # given up meanwhile
        goes = log.journal.droppable(up_to)
        if goes > log.base.index:
            # First it is noted where the journal begins: a record that is gone has no term any more.
            base = msgspec.structs.replace(log.base, term=log.journal.term_of(goes), index=goes)
            try:
                replace_file(self._data_dir / base_path(number), encode_base(base), self._files)
            except OSError as error:
                raise JournalFailedError(f"{self._data_dir / base_path(number)}: {error}") from error
            log.base = base
            self.dropped(number, base)
        log.journal.drop_segments(up_to)

    def close(self) -> None:
        self._pool.shutdown()
        for log in (*self._logs.values(), *self._begun.values()):
            log.journal.close()

    # --- the logs --------------------------------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        """The partitions that are here, ascending."""
        return sorted(self._logs)

    def has(self, partition: int) -> bool:
        return partition in self._logs

    def of(self, partition: int) -> Journal:
        """The journal of a partition that is here."""
        return self._logs[partition].journal

    def base(self, partition: int) -> LogBase:
        return self._logs[partition].base

    def terms(self, partition: int) -> Sequence[int]:
        """The terms of the records behind the base, all of them durable."""
        log = self._logs[partition]
        return log.journal.terms()[log.base.index + 1 - log.journal.first_sequence :]

    def shown(self, partition: int) -> int:
        """Records up to this one are visible."""
        return self._logs[partition].shown

    def show(self, partition: int, up_to: int) -> int:
        """Records up to one are visible, as far as they are written; up to which they are then."""
        log = self._logs[partition]
        log.shown = max(log.shown, min(up_to, log.journal.synced_sequence))
        return log.shown

    def entries(self, partition: int) -> Iterator[Entry]:
        """The records of a partition that are in its journal, in order."""
        return self._logs[partition].journal.records()

    def read(self, ref: RecordRef) -> memoryview:
        """The payload of a record. Raises DamageError, MissingSegmentError."""
        return read_record(self._data_dir / JOURNAL_DIRECTORY, ref)[2]

    def sync(self, partitions: Collection[int]) -> None:
        """Makes everything appended to some journals durable. Raises JournalFailedError."""
        journals = [self._logs[number].journal for number in partitions]
        if len(journals) == 1:
            journals[0].sync()
            return
        failures = [one.exception() for one in [self._pool.submit(journal.sync) for journal in journals]]
        failed = next((error for error in failures if error is not None), None)
        if failed is not None:
            raise failed

    def begin(self, partition: int, base: LogBase) -> None:
        """A journal that continues behind `base`, durable and open; `take_over` makes it count.

        Raises InternalError, FormatError, OSError.
        """
        if partition in self._begun:
            self._remove(partition, self._begun.pop(partition))
        begin_journal(self._data_dir / log_directory(partition, base.incarnation), self.id, base, self._files)
        self._begun[partition] = self._open(partition, base)

    def next_incarnation(self, partition: int) -> int:
        """A number that no journal of the partition has had since this process began, nor while a file of it is there.

        Whoever keeps something of a copy in memory, a view or a compaction that runs, is not to take the next for it.
        """
        known = [self._incarnations.get(partition, 0)]
        for path in (self._data_dir / JOURNAL_DIRECTORY).glob(f"p{partition:04d}-*"):
            known.append(int(path.name.rpartition("-")[2]))
        self._incarnations[partition] = max(known) + 1
        return self._incarnations[partition]

    def take_over(self, partition: int) -> None:
        """The journal of `begin` counts from now on, for its LogBase has been put in place; the one before it goes."""
        before = self._logs.get(partition)
        self._logs[partition] = self._begun.pop(partition)
        if before is not None:
            self._remove(partition, before)

    def forget(self, partition: int) -> None:
        """The partition is not here any more; its LogBase is gone already."""
        before = self._logs.pop(partition, None)
        if before is not None:
            self._remove(partition, before)

    def _remove(self, partition: int, log: _Log) -> None:
        """One that does not count. What cannot be removed is removed at the next start."""
        log.journal.close()
        with suppress(OSError):
            self._files.remove_tree(self._data_dir / log_directory(partition, log.base.incarnation))


def begin_journal(directory: Path, journal_id: str, base: LogBase, files: FileLayer) -> None:
    """An empty journal whose first record comes behind `base`, durable but for its own name. Raises InternalError."""
    try:
        journal = Journal.open(directory, files, journal_id=journal_id, first_sequence=base.index + 1)
        journal.close()
        files.sync_directory(directory.parent)
    except (FormatError, OSError) as error:
        raise InternalError(f"{directory} cannot be made: {error}") from error
