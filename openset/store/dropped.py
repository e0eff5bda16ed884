"""Directories of dropped tables: renamed before they are emptied, so that no name ever stands for half a table."""

from __future__ import annotations

from pathlib import Path

from openset.store.catalog import Catalog
from openset.store.snapshot import TABLES_DIRECTORY
from openset_format.files import FileLayer

DROPPED_SUFFIX = ".dropped"


def remove_table_directory(data_dir: Path, table_id: int, files: FileLayer) -> None:
    """Removes the files of a dropped table. Raises OSError; what is left then goes at the next start."""
    directory = data_dir / TABLES_DIRECTORY / str(table_id)
    renamed = directory.with_name(f"{table_id}{DROPPED_SUFFIX}")
    if directory.is_dir():
        files.rename(directory, renamed)
        files.remove_tree(renamed)


def remove_dropped_tables(data_dir: Path, catalog: Catalog, files: FileLayer) -> None:
    """Removes what is left of tables that were dropped before a crash. Raises OSError."""
    for directory in (data_dir / TABLES_DIRECTORY).glob("*"):
        number = directory.name.removesuffix(DROPPED_SUFFIX)
        if number.isdecimal() and catalog.is_dropped(int(number)):
            files.remove_tree(directory)
