"""Partitions of a member as wholes: made empty, sent to another node, received from one, given up.

What counts is decided by one file, the LogBase of the partition: it names the journal that belongs to the files. A copy
that was received is put in place together with it, so after a crash all of it is there or nothing.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from openset.errors import InternalError, OpenSetError
from openset.store.catalog import Catalog
from openset.store.damage import Damage
from openset.store.journals import (
    LogBase,
    PartitionJournals,
    base_path,
    begin_journal,
    encode_base,
    encode_member,
    log_directory,
    member_path,
)
from openset.store.lock import DirectoryLock
from openset.store.partition import Partition
from openset.store.pins import Pins
from openset.store.placing import is_placing, place
from openset.store.recovery import Partitions
from openset.store.replicas import Replicas
from openset.store.scrub import Throttle, look_at
from openset.store.snapshot import JOURNAL_DIRECTORY, TABLES_DIRECTORY, partition_path
from openset.store.trigger_store import Triggers, revent_path
from openset_format.errors import FormatError, JournalFailedError
from openset_format.files import TEMPORARY_SUFFIX, FileLayer, replace_file
from openset_format.journal import Journal
from openset_format.problem import Problem
from openset_format.reader import PartitionFile

_STAGED = f".received{TEMPORARY_SUFFIX}"


class FileName(NamedTuple):
    """A file of a partition: that of a table's events, or of the state of its triggers."""

    table_id: int
    is_sidecar: bool

    def path(self, partition: int) -> Path:
        """Relative to the data directory."""
        return revent_path(self.table_id, partition) if self.is_sidecar else partition_path(self.table_id, partition)


@dataclass(frozen=True, slots=True, eq=False)
class OutgoingFile:
    """A file that was opened: it stays what it is whatever replaces it. The receiver of it closes it."""

    name: FileName
    size_bytes: int
    file: BinaryIO


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """A partition at one moment. term, index: of the last record that is, with all before it, in the files.

    covers: the last record that is in any of the files.
    """

    term: int
    index: int
    covers: int
    files: tuple[OutgoingFile, ...]


@dataclass(frozen=True, slots=True)
class Received:
    """A copy that arrived and was verified. staged: its files, durable; paths are relative to the data directory."""

    term: int
    index: int
    covers: int
    staged: Mapping[FileName, Path]


class Copies:
    """Part of a member's store. What changes something runs in the thread of `Replicas`."""

    def __init__(
        self,
        data_dir: Path,
        catalog: Catalog,
        catalog_lock: threading.Lock,
        partitions: Partitions,
        pins: Pins,
        triggers: Triggers,
        damage: Damage,
        journals: PartitionJournals,
        lock: threading.Lock,
        files: FileLayer,
    ):
        self._triggers = triggers
        self._damage = damage
        damage.holds = journals.has
        self._data_dir = data_dir
        self._catalog = catalog
        self._catalog_lock = catalog_lock
        self._partitions = partitions
        self._pins = pins
        self._journals = journals
        self._lock = lock
        self._files = files
        self._staged_numbers = itertools.count(1)

    def create(self, partition: int) -> None:
        """A partition without any record. Raises InternalError, FormatError, OSError."""
        base = LogBase(self._journals.next_incarnation(partition), 0, 0)
        self._journals.begin(partition, base)
        replace_file(self._data_dir / base_path(partition), encode_base(base), self._files)
        with self._lock:
            self._journals.take_over(partition)

    def table_name(self, table_id: int) -> str:
        """Empty for a table that is not there any more."""
        return next((schema.name for schema in self._catalog.tables() if schema.id == table_id), "")

    def outgoing(self, partition: int) -> Outgoing:
        """The files of a partition as they are now. Raises InternalError for a damaged one, OSError.

        Writes the state of its triggers, so that few records have to come behind the files.
        """
        self._triggers.save(partition)
        with self._lock:
            own = [one for key, one in self._partitions.items() if key[1] == partition]
            damaged = next((one.damage for one in own if one.damage), "")
            if damaged or partition in self._damage.partitions():
                raise InternalError(damaged or f"files of partition {partition} are damaged")
            shown = self._journals.shown(partition)
            unsaved = [first for number, first in self._triggers.needed_from() if number == partition]
            unfiled = [one.oldest_sequence for one in own if one.delta_events]
            index = min((first - 1 for first in (*unfiled, *unsaved)), default=shown)
            base = self._journals.base(partition)
            term = base.term if index == base.index else self._journals.of(partition).term_of(index)
            covers = max((one.applied_sequence for one in own), default=0)
            names = [FileName(one.table_id, False) for one in own if one.generation]
            sidecars = [FileName(schema.id, True) for schema in self._catalog.tables()]
            sidecars = [name for name in sidecars if (self._data_dir / name.path(partition)).exists()]
            opened: list[OutgoingFile] = []
            for name in (*names, *sidecars):
                file = (self._data_dir / name.path(partition)).open("rb")
                opened.append(OutgoingFile(name, file.seek(0, 2), file))
        # A state of triggers may have been written a moment ago: it has nothing that is not visible.
        return Outgoing(term, index, max(covers, index, shown if sidecars else 0), tuple(opened))

    def damaged(self) -> tuple[int, ...]:
        """The partitions of which something here is damaged, ascending."""
        known = self._damage.partitions()
        with self._lock:
            known |= {number for (_, number), one in self._partitions.items() if one.damage}
            return tuple(number for number in self._journals.numbers() if number in known)

    def look_for_damage(self, partition: int, throttle: Throttle) -> None:
        """Verifies the files of a partition and notes what is damaged. Takes as long as reading them.

        The state of triggers is in memory, too: files of it that are damaged are written again. Returns early when the
        throttle is stopped. Raises InternalError.
        """
        with self._lock:
            if partition in self._damage.partitions():
                return
            paths = [
                self._data_dir / partition_path(*key)
                for key, one in self._partitions.items()
                if key[1] == partition and one.generation
            ]
            for path in paths:
                if not path.exists():  # files are put in place under the lock
                    self._damage.note(path, [Problem(str(path), None, None, "is missing")])
        for path in paths:
            if path.exists():
                look_at(path, self._damage, throttle)
        if not throttle.stopped:
            self._triggers.mend(partition)

    def staging_path(self, name: FileName, partition: int) -> Path:
        """Where a file of a copy that arrives is written to, relative to the data directory. Makes the directory.

        Another path each time: a transfer may begin while what came before is still to be put in place.
        """
        path = name.path(partition)
        if not (self._data_dir / path.parent).is_dir():
            self._files.make_directory(self._data_dir / path.parent)
            self._files.sync_directory(self._data_dir / TABLES_DIRECTORY)
            self._files.sync_directory(self._data_dir)
        return path.with_name(f"{path.name}.{next(self._staged_numbers)}{_STAGED}")

    def begin_staged(self, path: Path) -> None:
        """An empty file in the place of what was there. Raises OSError."""
        self._files.discard(self._data_dir / path)
        self._files.create(self._data_dir / path).close()

    def write_staged(self, path: Path, offset: int, parts: Sequence[bytes]) -> None:
        """Writes parts of a file that arrives, one behind the other. Raises OSError."""
        file = self._files.open(self._data_dir / path)
        try:
            file.write_at(parts, offset)
        finally:
            file.close()

    def sync_staged(self, path: Path) -> None:
        """Makes a file that has arrived durable, and its name. Raises OSError."""
        file = self._files.open(self._data_dir / path)
        try:
            file.sync()
        finally:
            file.close()
        self._files.sync_directory((self._data_dir / path).parent)

    def discard_staged(self, path: Path) -> None:
        """Removes a file that is not wanted. Raises OSError."""
        self._files.discard(self._data_dir / path)

    @property
    def journal_id(self) -> str:
        """That of all files of the cluster."""
        return self._journals.id

    def install(self, partition: int, received: Received, replicas: Replicas) -> None:
        """Puts a copy in place of everything that is here of a partition, durably.

        Files of other tables stay: what they hold is agreed, and the owner sends what comes behind `index` again.
        Raises InternalError, FormatError, OSError. What arrived is gone then, unless the next start puts it in place.
        """
        try:
            self._install(partition, received, replicas)
        except (InternalError, FormatError, OSError):
            if not is_placing(self._data_dir):
                for path in received.staged.values():
                    with suppress(OSError):
                        self._files.discard(self._data_dir / path)
            raise

    def _install(self, partition: int, received: Received, replicas: Replicas) -> None:
        covers = max(received.covers, self._held_beside(partition, received))
        base = LogBase(self._journals.next_incarnation(partition), received.term, received.index, covers)
        self._journals.begin(partition, base)
        staged_base = self._staged(base_path(partition), encode_base(base))
        staged = {name: path for name, path in received.staged.items() if not self._catalog.is_dropped(name.table_id)}
        found = {
            name.table_id: PartitionFile.open(self._data_dir / path)
            for name, path in staged.items()
            if not name.is_sidecar
        }
        for table_id, file in found.items():
            assert (file.table_id, file.partition) == (table_id, partition) and file.journal_id == self._journals.id
        renames = {path: name.path(partition) for name, path in staged.items()}
        with self._triggers.still(), self._lock:
            for table_id in found:
                self._keep_pinned((table_id, partition), self._data_dir / partition_path(table_id, partition))
            self._place({**renames, staged_base: base_path(partition)})
            with _no_way_back(f"partition {partition} is in place and cannot be used before the next start"):
                self._count(partition, base, found)
                replicas.reset(partition)
        with self._catalog_lock:
            self._catalog.note_files([(table_id, partition) for table_id in found])

    def _count(self, partition: int, base: LogBase, found: Mapping[int, PartitionFile]) -> None:
        """What has been put in place counts. The locks are held."""
        self._journals.take_over(partition)
        for (_, number), one in self._partitions.items():
            if number == partition:
                one.restart(base.incarnation)
        for table_id, file in found.items():
            self._partitions[table_id, partition] = Partition(
                table_id, partition, file.generation, file.applied_sequence, file.rows, lineage=base.incarnation
            )
        kept = [table_id for table_id, number in self._partitions if number == partition and table_id not in found]
        self._damage.forget(partition, [self._data_dir / partition_path(table_id, partition) for table_id in kept])
        self._triggers.reload(partition)

    def _held_beside(self, partition: int, received: Received) -> int:
        """The last record in a file that stays. It may be from a copy before, sent when more had been compacted."""
        replaced = {name.table_id for name in received.staged if not name.is_sidecar}
        with self._lock:
            own = [one for (_, number), one in self._partitions.items() if number == partition]
            return max((one.applied_sequence for one in own if one.table_id not in replaced), default=0)

    def _place(self, renames: Mapping[Path, Path]) -> None:
        """Raises InternalError when nothing has changed, JournalFailedError when the next start will change it."""
        try:
            place(self._data_dir, renames, self._files)
        except InternalError as error:
            # Also when only the list could not be removed for sure.
            if is_placing(self._data_dir) or not all((self._data_dir / source).exists() for source in renames):
                raise JournalFailedError(error.message) from error
            raise

    def _keep_pinned(self, key: tuple[int, int], path: Path) -> None:
        """Queries that run go on with the file that is replaced. The lock is held."""
        before = self._partitions.get(key)
        if before is not None and before.generation:
            with suppress(FileExistsError):  # of a lineage before; who needs this one takes a new snapshot
                self._pins.keep_file(key, before.generation, path)

    def _staged(self, path: Path, data: bytes) -> Path:
        staged = path.with_name(path.name + _STAGED)
        replace_file(self._data_dir / staged, data, self._files)
        return staged

    def discard(self, partition: int, replicas: Replicas) -> None:
        """Gives a partition up, with its files. Raises InternalError, OSError."""
        if not self._journals.has(partition):
            with self._lock:
                replicas.reset(partition)
            return
        with self._catalog_lock:
            self._catalog.forget_files(partition)
        self._files.unlink(self._data_dir / base_path(partition))
        with _no_way_back(f"partition {partition} is given up and cannot come back before the next start"):
            self._files.sync_directory(self._data_dir / JOURNAL_DIRECTORY)
            with self._triggers.still():
                self._forget(partition, replicas)

    def _forget(self, partition: int, replicas: Replicas) -> None:
        """Of a partition whose LogBase is gone."""
        with self._lock:
            gone = [key for key in self._partitions if key[1] == partition]
            for key in gone:
                del self._partitions[key]
            self._journals.forget(partition)
            self._triggers.forget(partition)
            replicas.reset(partition)
        self._damage.forget(partition)
        for table_id in {schema.id for schema in self._catalog.tables()} | {key[0] for key in gone}:
            self._remove_files(table_id, partition)

    def _remove_files(self, table_id: int, partition: int) -> None:
        """Durably, before the partition may come back: its new journal must not meet a file of before."""
        directory = (self._data_dir / partition_path(table_id, partition)).parent
        if directory.is_dir():
            for is_sidecar in (False, True):
                self._files.discard(self._data_dir / FileName(table_id, is_sidecar).path(partition))
            self._files.sync_directory(directory)


@contextmanager
def _no_way_back(what: str) -> Iterator[None]:
    """What fails here leaves the memory behind the disk; the next start finds the disk as it is to be.

    Raises JournalFailedError: nothing more is kept until then.
    """
    try:
        yield
    except (OpenSetError, FormatError, OSError) as error:
        raise JournalFailedError(f"{what}: {error}") from error


def make_member_locked(data_dir: Path, catalog: Catalog, files: FileLayer, journal_id: str | None) -> None:
    """`make_member` for a directory that is used by nobody, which is seen to. Raises ConfigError, InternalError."""
    try:
        lock = DirectoryLock(data_dir, files)
        try:
            make_member(data_dir, catalog, files, journal_id)
        finally:
            lock.release()
    except OSError as error:
        raise InternalError(f"{data_dir} cannot become a member's: {error}") from error


def make_member(data_dir: Path, catalog: Catalog, files: FileLayer, journal_id: str | None = None) -> None:
    """Makes a directory that is not in use a member's, durably and at once. Raises InternalError, OSError.

    Everything must be in the files of the partitions. journal_id: of the cluster it joins, whose data it does not have
    yet; None where its own data are the cluster's.
    """
    renames: dict[Path, Path] = {}

    def stage(path: Path, data: bytes) -> None:
        staged = path.with_name(path.name + _STAGED)
        replace_file(data_dir / staged, data, files)
        renames[staged] = path

    try:
        journal = Journal.open(data_dir / JOURNAL_DIRECTORY, files)
        own_id, last = journal.id, journal.last_sequence
        journal.close()
    except FormatError as error:
        raise InternalError(str(error)) from error
    if not last and _has_files(data_dir, catalog):
        # As after an import: no record is in them. At position 0 a copy without them would be held for the same.
        last = 1
    assert journal_id is None or not last, "only a node without data joins a cluster"
    for number in range(catalog.partitions or 0) if last else ():
        base = LogBase(1, 0, last, last)
        directory = data_dir / log_directory(number, base.incarnation)
        if directory.exists():
            files.remove_tree(directory)  # of an attempt that was broken off
        begin_journal(directory, own_id, base, files)
        stage(base_path(number), encode_base(base))
    stage(member_path(), encode_member(journal_id or own_id))
    place(data_dir, renames, files)


def _has_files(data_dir: Path, catalog: Catalog) -> bool:
    """Whether there is a file of any partition of a table."""
    names = [FileName(schema.id, is_sidecar) for schema in catalog.tables() for is_sidecar in (False, True)]
    return any((data_dir / name.path(number)).exists() for name in names for number in range(catalog.partitions or 0))
