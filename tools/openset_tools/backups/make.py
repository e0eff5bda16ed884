"""Making a backup: contents that the place lacks are copied, verified on the way; the list comes last.

So an interrupted run leaves no backup and harms none. Shortcut: a content that is there already is not read again; a
restore checks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
from xxhash import xxh3_128

from openset.errors import ConfigError, InternalError, OpenSetError
from openset.store.dead_letters import DEAD_LETTERS_NAME, read_dead_letters
from openset.store.segment import SEGMENT_SUFFIX
from openset.store.trigger_catalog import CATALOG_NAME as TRIGGERS_NAME
from openset.store.trigger_catalog import read_catalog
from openset_format.errors import DamageError, FormatError
from openset_format.membership import MembershipFile
from openset_format.revent_file import REVENT_SUFFIX, read_revent_file
from openset_format.verify import verify_partition
from openset_tools.backups.lists import (
    CONTENTS_DIRECTORY,
    Backup,
    Listed,
    StoredFile,
    content_path,
    encode_list,
    list_path,
    listed,
)
from openset_tools.backups.places import Place
from openset_tools.backups.source import Source, is_partition, open_sources

# Files that did not change are found in one of so many earlier backups.
_EARLIER_BACKUPS = 10

# Small files with a checksum of their own.
_READERS: dict[str, Callable[[Path], object]] = {TRIGGERS_NAME: read_catalog, DEAD_LETTERS_NAME: read_dead_letters}

Advance = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished backup. copied_files, copied_bytes: what the place did not have from earlier ones."""

    backup: Backup
    copied_files: int
    copied_bytes: int


def make_backup(data_dir: Path, place: Place, advance: Advance = lambda done, total: None) -> Outcome:
    """Adds a backup of a data directory to a place, which is made when missing.

    advance: is told how many bytes are done and how many there are. Raises ConfigError, InternalError when something of
    the data directory is damaged: then there is no new backup.
    """
    try:
        with ExitStack() as opened:
            # Before the place is made: what is no data directory leaves nothing behind.
            sources, head = open_sources(data_dir, opened)
            directory = place.local("")
            if directory is not None and directory.resolve().is_relative_to(data_dir.resolve()):
                raise ConfigError(f"{place} is in the data directory itself")
            with place.claimed("backup") as check:
                copied = _copy_all(sources, place, advance)
                made = msgspec.structs.replace(head, files=copied.files)
                place.settle()
                check()
                place.write(list_path(made.id), [encode_list(made)])
                place.settle()
                return Outcome(made, copied.count, copied.size_bytes)
    except OSError as error:
        raise ConfigError(f"the backup to {place} failed: {error}") from error


@dataclass(slots=True)
class _Copied:
    files: list[StoredFile]
    count: int = 0
    size_bytes: int = 0


def _copy_all(sources: list[Source], place: Place, advance: Advance) -> _Copied:
    there = place.sizes(CONTENTS_DIRECTORY)
    earlier = listed(place, _EARLIER_BACKUPS) if there else Listed()
    known = {file.identity: file for one in earlier.backups for file in one.files if file.identity is not None}
    copied = _Copied([])
    done, total = 0, sum(source.size_bytes for source in sources)
    for source in sources:
        stored = None if source.identity is None else known.get(source.identity)
        if stored is None or there.get(content_path(stored.content)) != stored.size_bytes:
            content = _content_of(source)
            path = content_path(content)
            if there.get(path) != source.size_bytes:
                place.write(path, _reported(_checked(source, content), done, total, advance))
                there[path] = source.size_bytes
                copied.count += 1
                copied.size_bytes += source.size_bytes
            stored = StoredFile(source.path, source.size_bytes, content)
        copied.files.append(StoredFile(source.path, source.size_bytes, stored.content, source.identity))
        done += source.size_bytes
        advance(done, total)
    return copied


def _content_of(source: Source) -> str:
    """The hash of a source that is sound. Raises InternalError when it is not, OSError."""
    hashed = xxh3_128()
    for piece in source.pieces():
        hashed.update(piece)
    problems = _problems(source)
    if problems:
        found = [f"{source.path}: {problem}" for problem in problems]
        raise InternalError("a damaged data directory is not backed up", detail=found)
    return str(hashed.hexdigest())


def _problems(source: Source) -> list[str]:
    """What is wrong with a file that knows its own checksums. The journal was verified when it was scanned."""
    try:
        if is_partition(source.path):
            return [problem.message for problem in verify_partition(source.open_path)]
        name = source.path.rpartition("/")[2]
        if name in _READERS:
            _READERS[name](source.open_path)
        elif source.path.endswith(REVENT_SUFFIX):
            read_revent_file(source.open_path)
        elif source.path.endswith(SEGMENT_SUFFIX):
            file = MembershipFile.open(source.open_path)
            for partition in file.partitions:
                file.members(partition)
    except DamageError as error:
        return [error.reason]
    except (FormatError, OpenSetError, ValueError) as error:
        return [str(error)]
    return []


def _checked(source: Source, content: str) -> Iterator[bytes]:
    """The pieces of a source, which must still be what was verified. Raises InternalError before the last one ends."""
    hashed = xxh3_128()
    for piece in source.pieces():
        hashed.update(piece)
        yield piece
    if hashed.hexdigest() != content:
        raise InternalError(f"{source.path} changed while it was copied")


def _reported(pieces: Iterator[bytes], done: int, total: int, advance: Advance) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        done += len(piece)
        advance(done, total)
