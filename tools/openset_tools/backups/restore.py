"""Restoring a backup to a new data directory, which appears when it is complete and verified."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xxhash import xxh3_128

from openset.errors import ConfigError, InternalError
from openset.store.lock import DirectoryInUseError, DirectoryLock
from openset.store.offline import read_data_dir
from openset.store.snapshot import TABLES_DIRECTORY
from openset_format.files import FILES, FileLayer
from openset_tools.backups.lists import Backup, StoredFile, chosen, content_path
from openset_tools.backups.make import Advance
from openset_tools.backups.places import Place
from openset_tools.backups.source import PIECE_BYTES, is_partition
from openset_tools.triggers import verify_together

UNFINISHED_SUFFIX = ".restoring"


def restore(
    place: Place,
    data_dir: Path,
    backup_id: str | None = None,
    advance: Advance = lambda done, total: None,
    files: FileLayer = FILES,
) -> Backup:
    """Makes a data directory of a backup, the newest if none is named.

    Raises ConfigError when the directory is there and not empty or the backup is not, InternalError for a content that
    is not what was backed up.
    """
    try:
        backup = chosen(place, backup_id)
        with new_directory(data_dir, backup.size_bytes, files) as unfinished:
            done = 0
            for stored in backup.files:
                restore_file(place, unfinished, stored, files)
                done += stored.size_bytes
                advance(done, backup.size_bytes)
            for directory in (unfinished, *(path for path in unfinished.rglob("*") if path.is_dir())):
                files.sync_directory(directory)
            store = read_data_dir(unfinished)
            problems = [*store.problems, *(problem.message for problem in verify_together(unfinished))]
            if problems:
                raise InternalError("the restored files do not fit together", detail=problems)
    except OSError as error:
        raise ConfigError(f"no backup could be restored from {place}: {error}") from error
    return backup


@contextmanager
def new_directory(data_dir: Path, size_bytes: int, files: FileLayer = FILES) -> Iterator[Path]:
    """A directory that gets its name, which nothing or an empty directory has, when the context is left without error.

    size_bytes: how much will be written. Raises ConfigError, OSError.
    """
    data_dir = data_dir.absolute()
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise ConfigError(f"{data_dir} is not empty: a backup is restored to a new directory")
    unfinished = data_dir.with_name(f"{data_dir.name}{UNFINISHED_SUFFIX}")
    files.make_directory(unfinished)
    free = shutil.disk_usage(unfinished).free
    if free < size_bytes:
        raise ConfigError(f"{size_bytes:,} bytes are needed in {data_dir.parent}, and {free:,} are free")
    try:
        lock = DirectoryLock(unfinished)
    except DirectoryInUseError as error:
        raise ConfigError(f"another restore to {data_dir} is running") from error
    try:
        # What an interrupted one left; its lock file is held now.
        for left in unfinished.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != "lock":
                left.unlink()
        yield unfinished
        files.rename(unfinished, data_dir)
        files.sync_directory(data_dir.parent)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    finally:
        lock.release()


def restore_file(place: Place, data_dir: Path, stored: StoredFile, files: FileLayer = FILES) -> None:
    """One file of a backup, synced. Raises InternalError when its content is damaged or missing, OSError."""
    path = data_dir / stored.path
    if not path.parent.is_dir():
        files.make_directory(path.parent)
    with files.create(path) as file:
        position = 0
        for piece in _pieces(place, stored):
            position += file.write_at([piece], position)
        file.sync()
        if stored.path.startswith(f"{TABLES_DIRECTORY}/"):
            file.make_read_only()


def _pieces(place: Place, stored: StoredFile) -> Iterator[bytes]:
    hashed = xxh3_128()
    try:
        with place.open(content_path(stored.content)) as content:
            while piece := content.read(PIECE_BYTES):
                hashed.update(piece)
                yield piece
    except FileNotFoundError as error:
        raise InternalError(f"{stored.path}: its content in the backup is missing", detail=[stored.content]) from error
    if hashed.hexdigest() != stored.content:
        raise InternalError(f"{stored.path}: its content in the backup is damaged", detail=[stored.content])


Wanted = Callable[[str], bool]


@contextmanager
def opened_backup(place: Place, backup: Backup, directory: Path, wanted: Wanted = lambda path: True) -> Iterator[Path]:
    """A backup as a data directory that can be read while the context is open; made in a directory that is empty.

    Where the place is in this file system, nothing is copied. Contents are verified, but for partition files, which
    whoever reads them can verify. wanted: which files. Raises InternalError, OSError.
    """
    for stored in backup.files:
        if not wanted(stored.path):
            continue
        local = place.local(content_path(stored.content))
        if local is None:
            restore_file(place, directory, stored)
            continue
        if not is_partition(stored.path):
            for _ in _pieces(place, stored):
                pass
        path = directory / stored.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(local)
    yield directory
