"""A data directory without its lock: read-only, for tools and notebooks, also beside a running daemon.

Everything is read again when a compaction or a change of the catalog came between, so that what is found is one moment:
while no file is replaced, the journal keeps all records that the files lack. Damage is collected in `problems`; what it
does not touch can be read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from openset.errors import ConfigError, InternalError
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.partition import Partition
from openset.store.placing import is_placing
from openset.store.recovery import Partitions, known_partitions
from openset.store.schema import TableSchema
from openset.store.snapshot import JOURNAL_DIRECTORY, TABLES_DIRECTORY, PartitionSnapshot, StaleSnapshotError
from openset.store.trigger_catalog import CATALOG_NAME as TRIGGERS_NAME
from openset.store.views import PartitionView, ViewCache
from openset_format.block import PersonId
from openset_format.errors import FormatError, MissingSegmentError
from openset_format.hashing import partition_of
from openset_format.journal_reading import JournalReading, read_journal
from openset_format.revent_file import REVENT_SUFFIX

_ATTEMPTS = 40
_PAUSE_SECONDS = 0.05
# Damage is believed when it is found so often: a segment may be removed just when it is read.
_DAMAGED_ATTEMPTS = 3

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, eq=False)
class OfflineStore:
    """What a data directory held at one moment. problems: of the files and records that are left out."""

    data_dir: Path
    catalog: Catalog
    journal: JournalReading
    partitions: Partitions
    problems: list[str]

    def snapshots(self, table: str) -> list[PartitionSnapshot]:
        """The partitions of a table that have any events, ascending. Raises QueryError when there is no such table."""
        schema = self.catalog.table(table)
        return [
            partition.snapshot(schema, self.journal.id)
            for (table_id, _), partition in sorted(self.partitions.items())
            if table_id == schema.id
        ]

    def person_snapshot(self, table: str, person: PersonId) -> PartitionSnapshot:
        """The partition that a person belongs to. Raises QueryError when there is no such table."""
        schema = self.catalog.table(table)
        number = partition_of(person, self.catalog.partitions or 1)
        found = self.partitions.get((schema.id, number), Partition(schema.id, number))
        return found.snapshot(schema, self.journal.id)


def read_data_dir(data_dir: Path | str) -> OfflineStore:
    """Catalog, files and journal of a data directory.

    Raises ConfigError for what is no data directory or changes all the time, InternalError for a damaged catalog.
    """
    data_dir = Path(data_dir)
    if not (data_dir / CATALOG_NAME).is_file() or not (data_dir / JOURNAL_DIRECTORY).is_dir():
        raise ConfigError(f"{data_dir} is not a data directory: it has no {CATALOG_NAME} or no {JOURNAL_DIRECTORY}")
    stale = "it changes faster than it can be read"
    for attempt in range(_ATTEMPTS):
        before = fingerprint(data_dir)
        if is_placing(data_dir):
            stale = "an import puts its files in place; when it was interrupted, starting the daemon finishes that"
            time.sleep(_PAUSE_SECONDS)
            continue
        try:
            found = _read(data_dir)
        except (MissingSegmentError, FileNotFoundError) as error:
            stale = str(error)
        except FormatError as error:
            raise InternalError(str(error)) from error
        else:
            settled = not found.problems or attempt + 1 >= _DAMAGED_ATTEMPTS
            if settled and fingerprint(data_dir) == before:
                return found
        time.sleep(_PAUSE_SECONDS)
    raise ConfigError(f"{data_dir} cannot be read: {stale}")


def open_views(data_dir: Path | str, table: str) -> tuple[OfflineStore, dict[int, PartitionView], list[str]]:
    """The partitions of a table, all at one moment and opened: nothing that happens to the directory changes them.

    Returns the store, the views by partition, and what is wrong with the data directory; partitions that cannot be read
    are left out. Raises ConfigError, QueryError, InternalError.
    """

    def opened(store: OfflineStore) -> tuple[OfflineStore, dict[int, PartitionView], list[str]]:
        cache = ViewCache(store.data_dir)
        problems = list(store.problems)
        views: dict[int, PartitionView] = {}
        for snapshot in store.snapshots(table):
            try:
                views[snapshot.partition] = cache.view(snapshot)
            except StaleSnapshotError:
                raise
            except InternalError as error:
                problems.append(error.message)
        return store, views, problems

    return at_one_moment(data_dir, opened)


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


def _read(data_dir: Path) -> OfflineStore:
    """Everything once. The caller sees to it that no file is replaced meanwhile, so order does not matter."""
    problems: list[str] = []
    catalog = Catalog(data_dir)
    journal = read_journal(data_dir / JOURNAL_DIRECTORY)
    if journal.damage is not None:
        problems.append(str(journal.damage))
    partitions = known_partitions(data_dir, catalog, journal, problems.append)
    return OfflineStore(data_dir, catalog, journal, partitions, problems)


def fingerprint(data_dir: Path) -> tuple[object, ...]:
    """Changes whenever the catalog, a file of a partition or the list of a table's triggers is replaced."""
    names = ("p*.h5", f"p*{REVENT_SUFFIX}", TRIGGERS_NAME)
    tables = data_dir / TABLES_DIRECTORY
    paths = [data_dir / CATALOG_NAME, *(path for name in names for path in sorted(tables.glob(f"*/{name}")))]
    stats = []
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:
            stats.append((str(path), 0, 0, 0))
            continue
        stats.append((str(path), stat.st_ino, stat.st_mtime_ns, stat.st_size))
    return tuple(stats)
