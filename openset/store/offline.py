"""A data directory without its lock: read-only, for tools and notebooks, also beside a running daemon.

Everything is read again when a compaction or a change of the catalog came between, so that what is found is one moment:
while no file is replaced, the journal keeps all records that the files lack. Damage is collected in `problems`; what it
does not touch can be read.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

from openset.errors import ConfigError, InternalError, OpenSetError
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.compaction import STAGING_SUFFIX
from openset.store.dropped import DROPPED_SUFFIX
from openset.store.journals import read_member
from openset.store.lock import LOCK_NAME
from openset.store.member_reading import MemberReading, read_member_journals
from openset.store.partition import Partition
from openset.store.placing import is_placing
from openset.store.recovery import Partitions, known_partitions
from openset.store.schema import TableSchema
from openset.store.segment import SEGMENTS_DIRECTORY
from openset.store.snapshot import (
    CLUSTER_DIRECTORY,
    JOURNAL_DIRECTORY,
    SUPERSEDED_SUFFIX,
    PartitionSnapshot,
    StaleSnapshotError,
)
from openset.store.unfinished import UNFINISHED_NAME, unfinished_names
from openset.store.views import PartitionView, ViewCache
from openset_format.block import PersonId
from openset_format.errors import FormatError, MissingSegmentError
from openset_format.files import TEMPORARY_SUFFIX
from openset_format.hashing import partition_of
from openset_format.journal_reading import JournalReading, read_journal
from openset_format.reader import PartitionFile
from openset_format.seal import SEAL_BYTES
from openset_format.verify import unreadable

_ATTEMPTS = 40
_PAUSE_SECONDS = 0.05
# Damage is believed when it is found so often: a segment may be removed just when it is read.
_DAMAGED_ATTEMPTS = 3
_UNCHANGED_ATTEMPTS = 5
_PASSING = (TEMPORARY_SUFFIX, STAGING_SUFFIX, SUPERSEDED_SUFFIX, DROPPED_SUFFIX)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class OfflineStore:
    """What a data directory held at one moment. problems: of the files and records that are left out."""

    data_dir: Path
    catalog: Catalog
    journal: JournalReading | MemberReading
    partitions: Partitions
    problems: list[str]

    @property
    def here(self) -> frozenset[int]:
        """The partitions that are here: those of a member are some of its cluster's."""
        if isinstance(self.journal, MemberReading):
            return frozenset(self.journal.logs)
        return frozenset(range(self.catalog.partitions or 0))

    @property
    def lacks(self) -> str:
        """A sentence about the partitions that are not here; empty where all are."""
        partitions = self.catalog.partitions or 0
        if len(self.here) == partitions:
            return ""
        numbers = ", ".join(map(str, sorted(self.here))) or "none"
        has = f"has {len(self.here)} of its {partitions} partitions: {numbers}"
        return f"{self.data_dir} is of a member of a cluster and {has}"

    def snapshots(self, table: str) -> list[PartitionSnapshot]:
        """The partitions of a table that have any events, ascending. Raises QueryError when there is no such table."""
        schema = self.catalog.table(table)
        return [
            partition.snapshot(schema, self.journal.id)
            for (table_id, _), partition in sorted(self.partitions.items())
            if table_id == schema.id
        ]

    def person_snapshot(self, table: str, person: PersonId) -> PartitionSnapshot:
        """The partition that a person belongs to. Raises QueryError when there is no such table, ConfigError."""
        schema = self.catalog.table(table)
        number = self.partition_of(person)
        found = self.partitions.get((schema.id, number), Partition(schema.id, number))
        return found.snapshot(schema, self.journal.id)

    def partition_of(self, person: PersonId) -> int:
        """The number of the partition that a person belongs to. Raises ConfigError when it is not here."""
        number = partition_of(person, self.catalog.partitions or 1)
        if self.lacks and number not in self.here:
            raise ConfigError(f"person {person!r} belongs to partition {number}, which is not here: {self.lacks}")
        return number


def read_data_dir(data_dir: Path | str, table_id: int | None = None) -> OfflineStore:
    """Catalog, files and journal of a data directory.

    table_id: of the only table whose files are there; None: all are.

    Raises ConfigError for what is no data directory or changes all the time, InternalError for a damaged catalog.
    """
    data_dir = Path(data_dir)
    if not (data_dir / CATALOG_NAME).is_file() or not (data_dir / JOURNAL_DIRECTORY).is_dir():
        raise ConfigError(f"{data_dir} is not a data directory: it has no {CATALOG_NAME} or no {JOURNAL_DIRECTORY}")
    stale = "it changes faster than it can be read"
    unchanged, last = 0, None
    for attempt in range(_ATTEMPTS):
        before = fingerprint(data_dir)
        # A segment of the journal goes after a file was replaced; what is missing while none is stays missing.
        unchanged = unchanged + 1 if before == last else 0
        last = before
        if unchanged >= _UNCHANGED_ATTEMPTS and not is_placing(data_dir):
            break
        if is_placing(data_dir):
            stale = "an import puts its files in place; when it was interrupted, starting the daemon finishes that"
            time.sleep(_PAUSE_SECONDS)
            continue
        try:
            found = _read(data_dir, table_id)
        except (MissingSegmentError, FileNotFoundError) as error:
            stale = str(error)
        except FormatError as error:
            raise InternalError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"{data_dir} cannot be read: {error}") from error
        else:
            settled = not found.problems or attempt + 1 >= _DAMAGED_ATTEMPTS
            if settled and fingerprint(data_dir) == before:
                return found
        time.sleep(_PAUSE_SECONDS)
    raise ConfigError(f"{data_dir} cannot be read: {stale}")


def allow_open_files() -> None:
    """Lets this process open as many files as the system grants it: a moment is kept by keeping all its files open."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class OpenTable:
    """A table at one moment, opened: nothing that happens to the directory changes it. A context manager.

    store: what the directory held at that moment. problems: what is wrong with it; partitions that cannot be read are
    left out of `views`, which has the others by number.
    """

    def __init__(self, data_dir: Path | str, table: str, partitions: Collection[int] | None = None):
        """partitions: only these; all when None. Raises ConfigError, QueryError, InternalError."""
        allow_open_files()
        self._wanted = partitions
        self.problems: list[str] = []
        self.views: dict[int, PartitionView] = {}
        self._files: dict[int, BinaryIO] = {}
        self.store = at_one_moment(data_dir, lambda store: self._open(store, table))
        self.schema: TableSchema = self.store.catalog.table(table)

    def _open(self, store: OfflineStore, table: str) -> OfflineStore:
        self.close()
        cache = ViewCache(store.data_dir)
        self.problems, self.views = list(store.problems), {}
        for snapshot in store.snapshots(table):
            if self._wanted is not None and snapshot.partition not in self._wanted:
                continue
            try:
                self.views[snapshot.partition] = view = _opened_view(cache, snapshot, store.data_dir / snapshot.file)
                if view.file is not None:
                    self._files[snapshot.partition] = _same_file(view.file)
            except StaleSnapshotError:
                raise
            except InternalError as error:
                self.problems.append(error.message)
                self.views.pop(snapshot.partition, None)
        return store

    def sound_views(self) -> Iterator[tuple[int, PartitionView]]:
        """The partitions, ascending, each verified just before: checksums, and what it takes to be read.

        What is damaged is left out and added to `problems`. A partition is forgotten when the next one is asked for,
        so this can be used once.
        """
        for number in sorted(self.views):
            view = self.views.pop(number)
            file, damage = self._files.pop(number, None), None
            if file is not None and view.file is not None:
                with file:
                    damage = next(unreadable(view.file, file), None)
            if damage is None:
                yield number, view
            else:
                self.problems.append(str(damage))

    def close(self) -> None:
        """Gives the files up that `sound_views` has not come to. The views stay what they are."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> OpenTable:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _opened_view(cache: ViewCache, snapshot: PartitionSnapshot, path: Path) -> PartitionView:
    """A view, merged with the journal. Raises StaleSnapshotError, InternalError for what is damaged."""
    try:
        view = cache.view(snapshot)
        _ = view.rows  # what it merges for that is merged now
    except OpenSetError:
        raise
    except Exception as error:
        # What is not what was written makes anything fail: nothing of the file but its headers was verified.
        damage = _damage(path)
        if damage is None:
            raise
        raise InternalError(damage) from error
    return view


def _damage(path: Path) -> str | None:
    """What is wrong with a partition file, None where nothing is."""
    try:
        file = PartitionFile.open(path)
        with path.open("rb") as handle:
            return next((str(problem) for problem in unreadable(file, handle)), None)
    except FormatError as error:
        return str(error)
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"


def _same_file(mapped: PartitionFile) -> BinaryIO:
    """A partition file that is mapped, opened to be read. Raises StaleSnapshotError when it has been replaced."""
    try:
        file = mapped.path.open("rb")
    except FileNotFoundError as error:
        raise StaleSnapshotError(f"{mapped.path} is gone") from error
    except OSError as error:
        raise InternalError(f"{mapped.path} cannot be read: {error.strerror}") from error
    try:
        if file.read(SEAL_BYTES) != mapped.seal_bytes:
            raise StaleSnapshotError(f"{mapped.path} was replaced")
    except OSError as error:
        file.close()
        raise InternalError(f"{mapped.path} cannot be read: {error.strerror}") from error
    except StaleSnapshotError:
        file.close()
        raise
    return file


def at_one_moment(data_dir: Path | str, work: Callable[[OfflineStore], Result]) -> Result:
    """Work on a data directory, done again when it was compacted meanwhile. Raises ConfigError."""
    for _ in range(_ATTEMPTS):
        try:
            return work(read_data_dir(data_dir))
        except StaleSnapshotError:
            time.sleep(_PAUSE_SECONDS)
    raise ConfigError(f"{data_dir} cannot be read: it changes faster than it can be read")


def table_named(store: OfflineStore, name: str | None) -> TableSchema:
    """The table of this name, or without one the only table there is. Raises QueryError, ConfigError."""
    if name is not None:
        return store.catalog.table(name)
    tables = store.catalog.tables()
    if len(tables) != 1:
        names = ", ".join(table.name for table in tables) or "none"
        raise ConfigError(f"{store.data_dir} has {len(tables)} tables ({names}): name one")
    return tables[0]


def _read(data_dir: Path, table_id: int | None = None) -> OfflineStore:
    """Everything once. The caller sees to it that no file is replaced meanwhile, so order does not matter."""
    problems: list[str] = []
    catalog = Catalog(data_dir)
    member = read_member(data_dir)
    if member is not None:
        journals = read_member_journals(data_dir, member, catalog.partitions or 0, problems.append)
        partitions = known_partitions(
            data_dir, catalog, journals, problems.append, only_table=table_id, last_of=journals.last_of
        )  # fmt: skip
        return OfflineStore(data_dir, catalog, journals, partitions, problems)
    journal = read_journal(data_dir / JOURNAL_DIRECTORY)
    if journal.damage is not None:
        problems.append(str(journal.damage))
    partitions = known_partitions(data_dir, catalog, journal, problems.append, only_table=table_id)
    return OfflineStore(data_dir, catalog, journal, partitions, problems)


def fingerprint(data_dir: Path) -> tuple[object, ...]:
    """Changes whenever a file is replaced, comes or goes that has to fit what the journal holds.

    That is every file of a backup but the journal itself and stored segments: a segment only knows records before it.
    What a member notes of its journals is among them.
    """
    stats = []
    for relative in lasting_files(data_dir):
        noted = relative.parts[0] == JOURNAL_DIRECTORY and relative.suffix == ".json"
        if (relative.parts[0] == JOURNAL_DIRECTORY and not noted) or SEGMENTS_DIRECTORY in relative.parts:
            continue
        try:
            status = (data_dir / relative).stat()
        except FileNotFoundError:
            stats.append((relative, 0, 0, 0))
            continue
        stats.append((relative, status.st_ino, status.st_mtime_ns, status.st_size))
    return tuple(stats)


def lasting_files(data_dir: Path) -> list[Path]:
    """All files that last, relative to the data directory: no lock, no leftovers, nothing about a cluster."""
    found = []
    for parent, _, names in os.walk(data_dir):
        relative = Path(parent).relative_to(data_dir)
        left_out: Collection[str] = ()
        if UNFINISHED_NAME in names:
            left_out = {UNFINISHED_NAME, *unfinished_names(Path(parent))}
        found += [relative / name for name in names if name not in left_out and _lasts(relative / name)]
    return sorted(found)


def _lasts(relative: Path) -> bool:
    return relative.parts[0] not in (LOCK_NAME, CLUSTER_DIRECTORY) and not any(
        part.endswith(_PASSING) for part in relative.parts
    )
