"""Opening a data directory: what the files hold, and which journal records they lack.

Leftovers of unfinished writes are removed. Everything else that does not fit together is reported, never repaired.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Protocol

from openset.errors import ConfigError, InternalError, OpenSetError
from openset.store.catalog import Catalog
from openset.store.compaction import STAGING_SUFFIX
from openset.store.dropped import remove_dropped_tables
from openset.store.journals import PartitionJournals
from openset.store.partition import Partition
from openset.store.records import shares_of
from openset.store.segment import SEGMENTS_DIRECTORY
from openset.store.snapshot import SUPERSEDED_SUFFIX, TABLES_DIRECTORY, partition_path
from openset_format.errors import DamageError, FormatError, MissingSegmentError, damage_of
from openset_format.files import FILES, TEMPORARY_SUFFIX, FileLayer
from openset_format.reader import PartitionFile
from openset_format.revent_file import REVENT_SUFFIX
from openset_format.segment import Entry, RecordRef

Partitions = dict[tuple[int, int], Partition]


class Records(Protocol):
    """The records of a journal, opened for writing (`Journal`) or only read (`JournalReading`)."""

    @property
    def id(self) -> str: ...

    @property
    def last_sequence(self) -> int: ...

    def records(self, after: int = 0) -> Iterator[Entry]: ...

    def read(self, ref: RecordRef) -> memoryview: ...


class NoRecords:
    """A journal without records, for what a member's partitions do not have yet."""

    last_sequence = 1 << 62

    def __init__(self, journal_id: str):
        self.id = journal_id

    def records(self, after: int = 0) -> Iterator[Entry]:
        return iter(())

    def read(self, ref: RecordRef) -> memoryview:
        raise AssertionError("there are no records")


def recover(
    data_dir: Path,
    catalog: Catalog,
    journal: Records,
    files: FileLayer = FILES,
    on_damaged_file: Callable[[Path, DamageError], None] | None = None,
) -> Partitions:
    """The partitions by (table id, partition). Raises InternalError, ConfigError, OSError.

    on_damaged_file: is told of partition files whose headers are damaged; without it they are errors. Such a partition
    cannot be read, the records for it are kept.
    """
    remove_dropped_tables(data_dir, catalog, files)
    remove_leftovers(data_dir, files)
    _sync_names(data_dir, files)
    damaged: dict[Path, DamageError] = {}
    partitions = known_partitions(data_dir, catalog, journal, damaged=None if on_damaged_file is None else damaged)
    if on_damaged_file is not None:
        for path, error in damaged.items():
            on_damaged_file(path, error)
    return partitions


def known_partitions(
    data_dir: Path,
    catalog: Catalog,
    journal: Records,
    on_damage: Callable[[str], None] | None = None,
    damaged: dict[Path, DamageError] | None = None,
    only_table: int | None = None,
    last_of: Callable[[int], int | None] | None = None,
) -> Partitions:
    """The partitions by (table id, partition), without changing anything. Raises InternalError, ConfigError.

    on_damage: is told of files that cannot be used, which are then left out with all their people, and of such records.
    With it, MissingSegmentError is raised when the journal loses a segment meanwhile. damaged: takes files with damaged
    headers; their partitions are there, but cannot be read. only_table: whose files are looked for, None: of all.
    last_of: in a member, the last record of a partition; None where it is not here, and its files do not count.
    """
    partitions: Partitions = {}
    unusable: set[tuple[int, int]] = set()
    try:
        for schema in (one for one in catalog.tables() if only_table in (None, one.id)):
            for number in range(catalog.partitions or 0):
                path = data_dir / partition_path(schema.id, number)
                last = journal.last_sequence if last_of is None else last_of(number)
                if last is None or (not path.exists() and not catalog.has_file(schema.id, number)):
                    continue
                try:
                    partitions[schema.id, number] = _known(path, schema.id, number, journal.id)
                except (FormatError, OpenSetError) as error:
                    if damaged is not None and isinstance(error, DamageError):
                        damaged[path] = error
                        partitions[schema.id, number] = Partition(schema.id, number, generation=1, damage=str(error))
                        continue
                    if on_damage is None:
                        raise
                    on_damage(str(error))
                    unusable.add((schema.id, number))
                    continue
                applied = partitions[schema.id, number].applied_sequence
                if applied > last:
                    reason = f"{path} holds record {applied}, the journal ends at {last}"
                    if on_damage is None:
                        raise InternalError(reason)
                    on_damage(reason)
        for ref, kind, table_id in journal.records():
            try:
                _add_record(partitions, catalog, journal, unusable, (ref, kind, table_id))
            except (FormatError, OpenSetError) as error:
                if on_damage is None or isinstance(error, MissingSegmentError):
                    raise
                on_damage(f"journal record {ref.sequence} is left out: {error}")
    except FormatError as error:
        if isinstance(error, MissingSegmentError) and on_damage is not None:
            raise
        raise InternalError(str(error)) from error
    return partitions


def recover_member(
    data_dir: Path,
    catalog: Catalog,
    journals: PartitionJournals,
    files: FileLayer,
    on_damaged_file: Callable[[Path, DamageError], None],
) -> Partitions:
    """What the files of a member hold; which records come on top is known when they are shown. Raises as `recover`.

    Files of partitions that are not here any more are removed.
    """
    remove_dropped_tables(data_dir, catalog, files)
    remove_leftovers(data_dir, files)
    partitions: Partitions = {}
    for schema in catalog.tables():
        for number in range(catalog.partitions or 0):
            path = data_dir / partition_path(schema.id, number)
            if not journals.has(number):
                files.discard(path)
                files.discard(path.with_suffix(REVENT_SUFFIX))
                continue
            if not path.exists() and not catalog.has_file(schema.id, number):
                continue
            try:
                partition = _known(path, schema.id, number, journals.id)
            except DamageError as error:
                on_damaged_file(path, error)
                partition = Partition(schema.id, number, generation=1, damage=str(error))
            except FormatError as error:
                raise InternalError(str(error)) from error
            last = max(journals.of(number).last_sequence, journals.base(number).covers)
            if partition.applied_sequence > last:
                raise InternalError(f"{path} holds record {partition.applied_sequence}, the journal ends at {last}")
            partition.lineage = journals.base(number).incarnation
            partitions[schema.id, number] = partition
    _sync_names(data_dir, files)
    return partitions


def _sync_names(data_dir: Path, files: FileLayer) -> None:
    """What is read from here on is promised: a killed process may have renamed a file without syncing the name.

    Without this, journal records that such a file holds could be removed, and a power failure bring the old file back.
    """
    tables = data_dir / TABLES_DIRECTORY
    if tables.is_dir():
        for directory in (*tables.iterdir(), *tables.glob(f"*/{SEGMENTS_DIRECTORY}"), tables):
            if directory.is_dir():
                files.sync_directory(directory)
    files.sync_directory(data_dir)


def remove_leftovers(data_dir: Path, files: FileLayer = FILES) -> None:
    """Removes what a crash left of unfinished writes. Raises OSError."""
    for directory in (data_dir, *(data_dir / TABLES_DIRECTORY).glob("*")):
        for suffix in (TEMPORARY_SUFFIX, STAGING_SUFFIX, SUPERSEDED_SUFFIX):
            for leftover in directory.glob(f"*{suffix}"):
                if leftover.is_dir():
                    files.remove_tree(leftover)
                else:
                    files.unlink(leftover)


def _known(path: Path, table_id: int, number: int, journal_id: str) -> Partition:
    try:
        file = PartitionFile.open(path)
    except FileNotFoundError:
        raise DamageError("the file is missing", path) from None
    except OSError as error:
        raise damage_of(error, path) from error
    if (file.table_id, file.partition) != (table_id, number):
        raise InternalError(f"{path} holds partition {file.partition} of table {file.table_id}")
    if file.journal_id != journal_id:
        raise ConfigError(f"{path} belongs to another journal ({file.journal_id}) than the one here ({journal_id})")
    return Partition(table_id, number, file.generation, file.applied_sequence, file.rows)


def _add_record(
    partitions: Partitions, catalog: Catalog, journal: Records, unusable: Collection[tuple[int, int]], entry: Entry
) -> None:
    """Adds a record to the partitions whose file lacks it. Raises FormatError, InternalError."""
    ref, kind, table_id = entry
    if catalog.is_dropped(table_id):
        return
    if not catalog.has(table_id):
        raise InternalError(f"journal record {ref.sequence} is for table {table_id}, which the catalog lacks")
    for share in shares_of(kind, journal.read(ref), ref.sequence):
        key = (table_id, share.partition)
        if key in unusable:
            continue
        if key not in partitions:
            partitions[key] = Partition(table_id, share.partition)
        if ref.sequence > partitions[key].applied_sequence:
            partitions[key].add(ref, kind, share)
