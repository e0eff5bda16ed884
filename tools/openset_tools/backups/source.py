"""The files of a data directory at one moment, open: what a backup copies.

What belongs together is opened first: the files, then the journal, and all of it again when something was replaced in
between. Open files stay what they are, so copying may take its time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from xxhash import xxh3_128

from openset.errors import ConfigError, InternalError
from openset.store.journals import read_member
from openset.store.offline import allow_open_files, fingerprint, lasting_files, read_data_dir
from openset.store.segment import SEGMENTS_DIRECTORY
from openset.store.snapshot import JOURNAL_DIRECTORY, TABLES_DIRECTORY
from openset_format.journal_reading import JournalReading
from openset_format.seal import SEAL_BYTES
from openset_format.segment import SEGMENT_HEADER_BYTES
from openset_tools.backups.lists import Backup, new_id
from openset_tools.triggers import verify_together

PIECE_BYTES = 4 * 1024 * 1024
_ATTEMPTS = 40
_PAUSE_SECONDS = 0.05
# Without a pause: what is opened in between is a few files.
_NAMES_ATTEMPTS = 50


@dataclass(slots=True)
class Source:
    """An open file. size_bytes: how much of it belongs to the backup. identity: as in `StoredFile`."""

    path: str
    file: BinaryIO
    size_bytes: int
    identity: str | None = None

    def pieces(self) -> Iterator[bytes]:
        """What belongs to the backup. Raises InternalError when the file is shorter, OSError."""
        position = 0
        while position < self.size_bytes:
            wanted = min(PIECE_BYTES, self.size_bytes - position)
            piece = os.pread(self.file.fileno(), wanted, position)
            if not piece:
                raise InternalError(f"{self.path} ends at {position} instead of {self.size_bytes}")
            position += len(piece)
            yield piece

    @property
    def open_path(self) -> Path:
        """A path of the open file, whatever has become of the one it was opened by."""
        return Path(f"/proc/self/fd/{self.file.fileno()}")


def open_sources(data_dir: Path, opened: ExitStack) -> tuple[list[Source], Backup]:
    """All files of one moment, and the backup they will be, still without files.

    Raises ConfigError, InternalError for damage, OSError.
    """
    if read_member(data_dir) is not None:
        raise ConfigError(
            f"{data_dir} is of a member of a cluster, which has a part of the data, and is not backed up by itself: "
            "export the tables of all members and import them into one directory"
        )
    allow_open_files()
    reason = "it changes faster than it can be read"
    for _ in range(_ATTEMPTS):
        with ExitStack() as attempt:
            try:
                before = fingerprint(data_dir)
                sources = [
                    *_open_all(data_dir, attempt, lambda path: SEGMENTS_DIRECTORY in path.parts),
                    *_open_all(data_dir, attempt, lambda path: SEGMENTS_DIRECTORY not in path.parts),
                ]
                store = read_data_dir(data_dir)
                if store.problems:
                    raise InternalError("a damaged data directory is not backed up", detail=store.problems)
                assert isinstance(store.journal, JournalReading), "it is not of a member"
                for scan in store.journal.scans:
                    source = _open(data_dir, Path(JOURNAL_DIRECTORY) / scan.name, attempt)
                    source.size_bytes = scan.end
                    source.identity = _identity(source.file, SEGMENT_HEADER_BYTES, scan.end)
                    sources.append(source)
                problems = verify_together(data_dir)
                if fingerprint(data_dir) == before:
                    if problems:
                        raise InternalError("a damaged data directory is not backed up", detail=[problems[0].message])
                    opened.push(attempt.pop_all())
                    backup_id, made_at = new_id()
                    return sources, Backup(
                        id=backup_id,
                        made_at=made_at,
                        server_name=store.catalog.server_name,
                        tables=[schema.name for schema in store.catalog.tables()],
                        last_sequence=store.journal.last_sequence,
                        files=[],
                        partitions=store.catalog.partitions,
                    )
            except FileNotFoundError as error:
                reason = str(error)
        time.sleep(_PAUSE_SECONDS)
    raise ConfigError(f"{data_dir} cannot be backed up: {reason}")


def _open_all(data_dir: Path, attempt: ExitStack, wanted: Callable[[Path], bool]) -> list[Source]:
    """The wanted files (relative paths) but those of the journal, all of one moment as far as their names tell.

    Stored segments change by their names alone, several at once where they belong together. Raises
    FileNotFoundError, OSError.
    """

    def paths() -> list[Path]:
        return [path for path in lasting_files(data_dir) if path.parts[0] != JOURNAL_DIRECTORY and wanted(path)]

    for _ in range(_NAMES_ATTEMPTS):
        found = paths()
        with ExitStack() as opened:
            try:
                sources = [_open(data_dir, path, opened) for path in found]
            except FileNotFoundError:
                continue
            if paths() == found:
                attempt.push(opened.pop_all())
                return sources
    raise FileNotFoundError("files come and go faster than they can be opened")


def _open(data_dir: Path, relative: Path, attempt: ExitStack) -> Source:
    file = attempt.enter_context((data_dir / relative).open("rb"))
    source = Source(relative.as_posix(), file, os.fstat(file.fileno()).st_size)
    if is_partition(source.path):
        source.identity = _identity(file, SEAL_BYTES, source.size_bytes)
    return source


def is_partition(path: str) -> bool:
    """Whether a file of a data directory is one of a partition."""
    parts = path.split("/")
    return parts[0] == TABLES_DIRECTORY and len(parts) == 3 and path.endswith(".h5")


def _identity(file: BinaryIO, head_bytes: int, size_bytes: int) -> str:
    """Of a file whose head holds a hash of everything behind it, or a random number with which it only grows."""
    return f"{xxh3_128(os.pread(file.fileno(), head_bytes, 0)).hexdigest()}-{size_bytes}"
