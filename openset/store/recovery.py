"""Opening a data directory: what the files hold, and which journal records they lack.

Leftovers of unfinished writes are removed. Everything else that does not fit together is reported, never repaired.
"""

from __future__ import annotations

from pathlib import Path

from openset.errors import ConfigError, InternalError
from openset.store.catalog import Catalog
from openset.store.commit import INSERT_RECORD
from openset.store.compaction import STAGING_SUFFIX
from openset.store.partition import Partition
from openset.store.snapshot import SUPERSEDED_SUFFIX, TABLES_DIRECTORY, partition_path
from openset_format.batch import decode_batch
from openset_format.errors import FormatError
from openset_format.files import TEMPORARY_SUFFIX
from openset_format.journal import Journal
from openset_format.reader import PartitionFile

Partitions = dict[tuple[int, int], Partition]


def recover(data_dir: Path, catalog: Catalog, journal: Journal) -> Partitions:
    """The partitions by (table id, partition). Raises InternalError, ConfigError."""
    _remove_leftovers(data_dir)
    partitions: Partitions = {}
    try:
        for schema in catalog.tables():
            for number in range(catalog.partitions or 0):
                path = data_dir / partition_path(schema.id, number)
                if path.exists():
                    partitions[schema.id, number] = _known(path, schema.id, number, journal)
        _add_records(partitions, catalog, journal)
    except FormatError as error:
        raise InternalError(str(error)) from error
    return partitions


def _remove_leftovers(data_dir: Path) -> None:
    for directory in (data_dir, *(data_dir / TABLES_DIRECTORY).glob("*")):
        for suffix in (TEMPORARY_SUFFIX, STAGING_SUFFIX, SUPERSEDED_SUFFIX):
            for leftover in directory.glob(f"*{suffix}"):
                leftover.unlink()


def _known(path: Path, table_id: int, number: int, journal: Journal) -> Partition:
    file = PartitionFile.open(path)
    if (file.table_id, file.partition) != (table_id, number):
        raise InternalError(f"{path} holds partition {file.partition} of table {file.table_id}")
    if file.journal_id != journal.id:
        raise ConfigError(f"{path} belongs to another journal ({file.journal_id}) than the one here ({journal.id})")
    if file.applied_sequence > journal.last_sequence:
        raise InternalError(f"{path} holds record {file.applied_sequence}, the journal ends at {journal.last_sequence}")
    return Partition(table_id, number, file.generation, file.applied_sequence, file.rows)


def _add_records(partitions: Partitions, catalog: Catalog, journal: Journal) -> None:
    """Adds each record to the partitions whose file lacks it."""
    tables = {schema.id for schema in catalog.tables()}
    for ref, kind, table_id in journal.records():
        if kind != INSERT_RECORD:
            raise InternalError(f"journal record {ref.sequence} is of kind {kind}, which this program does not know")
        if table_id not in tables:
            raise InternalError(f"journal record {ref.sequence} is for table {table_id}, which the catalog lacks")
        for slice_ in decode_batch(journal.read(ref)).partitions:
            key = (table_id, slice_.partition)
            if key not in partitions:
                partitions[key] = Partition(table_id, slice_.partition)
            if ref.sequence > partitions[key].applied_sequence:
                partitions[key].add(ref, slice_)
