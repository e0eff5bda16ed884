"""Restoring one table of a backup, to a data directory that lacks it or to a new one."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from openset.cluster.identity import refuse_member
from openset.errors import ConfigError, InternalError
from openset.store.adopting import adopt_table
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.lock import DirectoryInUseError, DirectoryLock
from openset.store.offline import read_data_dir
from openset.store.snapshot import JOURNAL_DIRECTORY, TABLES_DIRECTORY
from openset.store.store import Store
from openset_format.files import FILES, TEMPORARY_SUFFIX, FileLayer
from openset_tools.backups.lists import Backup, chosen
from openset_tools.backups.make import Advance
from openset_tools.backups.places import Place
from openset_tools.backups.restore import Wanted, new_directory, opened_backup
from openset_tools.triggers import read_offline


def restore_table(
    place: Place,
    data_dir: Path,
    table: str,
    new_name: str | None = None,
    backup_id: str | None = None,
    advance: Advance = lambda done, total: None,
    files: FileLayer = FILES,
) -> Backup:
    """Puts a table of a backup, the newest if none is named, into a data directory; a new one is made if there is none.

    new_name: what it is called there. advance: is told of bytes. Raises ConfigError where a daemon runs, a table has
    the name or the numbers of partitions differ, QueryError for a table that the backup lacks, InternalError for a
    content that is not what was backed up. The directory has all of the table then, or nothing of it.
    """
    try:
        backup = chosen(place, backup_id)
        if data_dir.is_dir() and any(data_dir.iterdir()):
            _into(place, backup, data_dir, table, new_name or table, advance, files)
            return backup
        with new_directory(data_dir, backup.size_bytes, files) as unfinished:
            _initialise(place, backup, unfinished, files)
            _take_over(place, backup, unfinished, table, new_name or table, advance, files)
        return backup
    except OSError as error:
        raise ConfigError(f"the table could not be restored from {place}: {error}") from error


def _into(
    place: Place, backup: Backup, data_dir: Path, table: str, name: str, advance: Advance, files: FileLayer
) -> None:
    if not (data_dir / CATALOG_NAME).is_file():
        raise ConfigError(f"{data_dir} is neither a data directory nor empty")
    free, wanted = shutil.disk_usage(data_dir).free, backup.size_bytes
    if free < wanted:
        raise ConfigError(f"up to {wanted:,} bytes are needed in {data_dir}, and {free:,} are free")
    refuse_member(data_dir)
    try:
        # What a start of the daemon makes good after a crash.
        Store.open(data_dir, files=files).close()
        lock = DirectoryLock(data_dir)
    except DirectoryInUseError as error:
        raise ConfigError(f"{error.message}; a restore needs the directory for itself: stop the daemon") from error
    try:
        _take_over(place, backup, data_dir, table, name, advance, files)
    finally:
        lock.release()


def _initialise(place: Place, backup: Backup, directory: Path, files: FileLayer) -> None:
    """A data directory with as many partitions as the one that was backed up, and its node's name, without tables."""
    with _as_data_dir(place, backup, directory, lambda path: path == CATALOG_NAME) as source:
        known = Catalog(source)
        if known.partitions is None:
            raise ConfigError(f"backup {backup.id} is of a node that was not initialised")
        Catalog(directory, files).initialise(known.partitions, known.server_name or "")


def _take_over(
    place: Place, backup: Backup, data_dir: Path, table: str, name: str, advance: Advance, files: FileLayer
) -> None:
    with _as_data_dir(place, backup, data_dir, lambda path: path == CATALOG_NAME) as source:
        table_id = Catalog(source).table(table).id
    needed = (f"{JOURNAL_DIRECTORY}/", f"{TABLES_DIRECTORY}/{table_id}/", CATALOG_NAME)
    with _as_data_dir(place, backup, data_dir, lambda path: path.startswith(needed)) as source:
        store = read_data_dir(source, table_id)
        if store.problems:
            raise InternalError("the backup is damaged", detail=store.problems)
        adopt_table(store, read_offline(store), table, data_dir, name, advance, files)


@contextmanager
def _as_data_dir(place: Place, backup: Backup, beside: Path, wanted: Wanted) -> Iterator[Path]:
    """Some files of a backup as a data directory, in a temporary one that the next start would remove."""
    directory = Path(tempfile.mkdtemp(TEMPORARY_SUFFIX, "restore-", beside))
    try:
        with opened_backup(place, backup, directory, wanted) as source:
            yield source
    finally:
        shutil.rmtree(directory, ignore_errors=True)
