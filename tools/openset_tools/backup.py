"""Backups of a data directory, file by file, also while a daemon runs: `openset backup` and `openset restore`.

What belongs together is opened first: the files, then the journal, and all of it again when something was replaced in
between. Open files stay what they are, so copying may take its time. A backup directory has every content once, named
after its hash, and a list of files for each backup; the list is written last, so that an interrupted run leaves no
backup and harms none. Shortcut: a content that is there already is not read again; a restore checks it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec
from xxhash import xxh3_128

from openset.errors import ConfigError, InternalError
from openset.store.compaction import STAGING_SUFFIX
from openset.store.lock import LOCK_NAME
from openset.store.offline import fingerprint, read_data_dir
from openset.store.snapshot import JOURNAL_DIRECTORY, SUPERSEDED_SUFFIX, TABLES_DIRECTORY
from openset_format.errors import FormatError
from openset_format.files import TEMPORARY_SUFFIX
from openset_format.hashing import checksum
from openset_format.seal import SEAL_BYTES
from openset_format.segment import SEGMENT_HEADER_BYTES
from openset_format.verify import verify_partition
from openset_tools.triggers import verify_together

CONTENTS_DIRECTORY = "contents"
BACKUPS_DIRECTORY = "backups"
_LIST_SUFFIX = ".json"
_PARTIAL_SUFFIX = ".partial"
_PIECE_BYTES = 4 * 1024 * 1024
_ATTEMPTS = 40
_PAUSE_SECONDS = 0.05
_LEFT_OUT = (TEMPORARY_SUFFIX, STAGING_SUFFIX, SUPERSEDED_SUFFIX)

Advance = Callable[[int, int], None]


class StoredFile(msgspec.Struct, frozen=True):
    """A file of a backup. path: relative to the data directory. content: its hash, the name of its content.

    identity: what tells that a file has this content without reading it, where there is such a thing.
    """

    path: str
    size_bytes: int
    content: str
    identity: str | None = None


class Backup(msgspec.Struct, frozen=True):
    """One backup: what the data directory held at one moment."""

    id: str
    made_at: str
    server_name: str | None
    tables: list[str]
    last_sequence: int
    files: list[StoredFile]

    @property
    def size_bytes(self) -> int:
        """Of all files, those included that it shares with other backups."""
        return sum(file.size_bytes for file in self.files)


class _Envelope(msgspec.Struct):
    checksum: str
    backup: msgspec.Raw


@dataclass(slots=True)
class _Source:
    """An open file. size_bytes: how much of it belongs to the backup."""

    path: str
    file: BinaryIO
    size_bytes: int
    identity: str | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished backup. copied_bytes: what was not there from earlier ones."""

    backup: Backup
    copied_files: int
    copied_bytes: int


def backup(data_dir: Path, target: Path, advance: Advance = lambda done, total: None) -> Outcome:
    """Adds a backup of a data directory to a backup directory, which is made when missing.

    advance: is told how many bytes are done and how many there are. Raises ConfigError, InternalError when something of
    the data directory is damaged: then there is no new backup.
    """
    try:
        (target / CONTENTS_DIRECTORY).mkdir(parents=True, exist_ok=True)
        (target / BACKUPS_DIRECTORY).mkdir(exist_ok=True)
        with _locked(target), ExitStack() as opened:
            sources, head = _open_all(data_dir, opened)
            return _copy_all(sources, head, target, advance)
    except OSError as error:
        raise ConfigError(f"the backup failed: {error}") from error


def backups(target: Path) -> list[Backup]:
    """The backups of a directory, oldest first. Raises ConfigError, InternalError for a damaged list."""
    if not (target / BACKUPS_DIRECTORY).is_dir():
        raise ConfigError(f"{target} is not a backup directory")
    return [_read_list(path) for path in sorted((target / BACKUPS_DIRECTORY).glob(f"*{_LIST_SUFFIX}"))]


def restore(
    source: Path, data_dir: Path, backup_id: str | None = None, advance: Advance = lambda done, total: None
) -> Backup:
    """Makes a data directory of a backup, the newest if none is named. It appears when it is complete and verified.

    Raises ConfigError when the directory is there and not empty or the backup is not, InternalError for a content that
    is not what was backed up.
    """
    chosen = _chosen(source, backup_id)
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise ConfigError(f"{data_dir} is not empty: a backup is restored to a new directory")
    unfinished = data_dir.with_name(f"{data_dir.name}.restoring")
    try:
        if unfinished.exists():
            shutil.rmtree(unfinished)
        unfinished.mkdir(parents=True)
        done = 0
        for stored in chosen.files:
            _restore_file(source, unfinished, stored)
            done += stored.size_bytes
            advance(done, chosen.size_bytes)
        for directory in (unfinished, *(path for path in unfinished.rglob("*") if path.is_dir())):
            _sync_directory(directory)
        store = read_data_dir(unfinished)
        problems = [*store.problems, *(problem.message for problem in verify_together(unfinished))]
        if problems:
            raise InternalError("the restored files do not fit together", detail=problems)
        unfinished.rename(data_dir)
        _sync_directory(data_dir.parent)
    except OSError as error:
        raise ConfigError(f"the backup could not be restored: {error}") from error
    return chosen


# --- reading a data directory ------------------------------------------------------------------------------------


def _open_all(data_dir: Path, opened: ExitStack) -> tuple[list[_Source], Backup]:
    """All files of one moment, open, and the backup they will be."""
    reason = "it changes faster than it can be read"
    for _ in range(_ATTEMPTS):
        with ExitStack() as attempt:
            try:
                before = fingerprint(data_dir)
                sources = [_open(data_dir, path, attempt) for path in _files(data_dir)]
                store = read_data_dir(data_dir)
                if store.problems:
                    raise InternalError("a damaged data directory is not backed up", detail=store.problems)
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
                    moment = datetime.now(UTC)
                    backup_id = f"{moment:%Y%m%dT%H%M%S.%fZ}"
                    tables = [schema.name for schema in store.catalog.tables()]
                    sequence, name = store.journal.last_sequence, store.catalog.server_name
                    made_at = moment.isoformat(timespec="seconds")
                    return sources, Backup(backup_id, made_at, name, tables, sequence, [])
            except FileNotFoundError as error:
                reason = str(error)
        time.sleep(_PAUSE_SECONDS)
    raise ConfigError(f"{data_dir} cannot be backed up: {reason}")


def _files(data_dir: Path) -> Iterator[Path]:
    """Everything but the journal, relative to the directory; leftovers of unfinished writes are left out."""
    for path in sorted(data_dir.rglob("*")):
        relative = path.relative_to(data_dir)
        if relative.parts[0] in (JOURNAL_DIRECTORY, LOCK_NAME) or any(
            part.endswith(_LEFT_OUT) for part in relative.parts
        ):
            continue
        if path.is_file():
            yield relative


def _open(data_dir: Path, relative: Path, attempt: ExitStack) -> _Source:
    file = attempt.enter_context((data_dir / relative).open("rb"))
    size_bytes = os.fstat(file.fileno()).st_size
    identity = _identity(file, SEAL_BYTES, size_bytes) if _is_partition(relative) else None
    return _Source(relative.as_posix(), file, size_bytes, identity)


def _is_partition(relative: Path) -> bool:
    return relative.parts[0] == TABLES_DIRECTORY and len(relative.parts) == 3 and relative.suffix == ".h5"


def _identity(file: BinaryIO, head_bytes: int, size_bytes: int) -> str:
    """Of a file whose head holds a hash of everything behind it, or a random number with which it only grows."""
    return f"{xxh3_128(os.pread(file.fileno(), head_bytes, 0)).hexdigest()}-{size_bytes}"


# --- writing a backup --------------------------------------------------------------------------------------------


def _copy_all(sources: list[_Source], head: Backup, target: Path, advance: Advance) -> Outcome:
    known = {file.identity: file for one in backups(target) for file in one.files if file.identity is not None}
    files: list[StoredFile] = []
    copied_files = copied_bytes = done = 0
    total = sum(source.size_bytes for source in sources)
    for source in sources:
        stored = known.get(source.identity) if source.identity is not None else None
        if stored is None or not _is_there(target, stored):
            stored, is_new = _copy(source, target)
            copied_files += is_new
            copied_bytes += source.size_bytes * is_new
        files.append(StoredFile(source.path, stored.size_bytes, stored.content, source.identity))
        done += source.size_bytes
        advance(done, total)
    for directory in (target / CONTENTS_DIRECTORY, *(target / CONTENTS_DIRECTORY).iterdir()):
        if directory.is_dir():
            _sync_directory(directory)
    made = msgspec.structs.replace(head, files=files)
    _write_list(target, made)
    return Outcome(made, copied_files, copied_bytes)


def _copy(source: _Source, target: Path) -> tuple[StoredFile, bool]:
    """The file as a content of the backup directory, and whether it was not there. Raises InternalError for damage."""
    partial = target / CONTENTS_DIRECTORY / f"{os.urandom(8).hex()}{_PARTIAL_SUFFIX}"
    try:
        with partial.open("xb") as file:
            content = _copy_bytes(source, file)
            file.flush()
            os.fsync(file.fileno())
        if _is_partition(Path(source.path)):
            try:
                problems = verify_partition(partial)
            except FormatError as error:
                raise InternalError(f"{source.path}: {error.message}") from error
            if problems:
                found = [f"{source.path}: {problem.message}" for problem in problems]
                raise InternalError("a damaged data directory is not backed up", detail=found)
        stored = StoredFile(source.path, source.size_bytes, content, source.identity)
        if _is_there(target, stored):
            return stored, False
        place = _place(target, content)
        place.parent.mkdir(exist_ok=True)
        partial.chmod(0o444)
        partial.rename(place)
        return stored, True
    finally:
        partial.unlink(missing_ok=True)


def _copy_bytes(source: _Source, file: BinaryIO) -> str:
    """Copies what belongs to the backup and returns its hash. Raises InternalError when the file is shorter."""
    hashed, position = xxh3_128(), 0
    while position < source.size_bytes:
        piece = os.pread(source.file.fileno(), min(_PIECE_BYTES, source.size_bytes - position), position)
        if not piece:
            raise InternalError(f"{source.path} ends at {position} instead of {source.size_bytes}")
        hashed.update(piece)
        file.write(piece)
        position += len(piece)
    return str(hashed.hexdigest())


def _is_there(target: Path, stored: StoredFile) -> bool:
    place = _place(target, stored.content)
    return place.is_file() and place.stat().st_size == stored.size_bytes


def _place(target: Path, content: str) -> Path:
    return target / CONTENTS_DIRECTORY / content[:2] / content


def _write_list(target: Path, made: Backup) -> None:
    encoded = msgspec.json.encode(made)
    envelope = msgspec.json.encode(_Envelope(f"{checksum(encoded):016x}", msgspec.Raw(encoded)))
    path = target / BACKUPS_DIRECTORY / f"{made.id}{_LIST_SUFFIX}"
    partial = path.with_suffix(_PARTIAL_SUFFIX)
    with partial.open("wb") as file:
        file.write(envelope)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)
    _sync_directory(path.parent)


def _read_list(path: Path) -> Backup:
    try:
        envelope = msgspec.json.decode(path.read_bytes(), type=_Envelope)
        if envelope.checksum != f"{checksum(bytes(envelope.backup)):016x}":
            raise InternalError(f"{path} is damaged: its checksum does not match")
        return msgspec.json.decode(envelope.backup, type=Backup)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InternalError(f"{path} is damaged: {error}") from error


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """One backup at a time; what an interrupted one left is removed. Raises ConfigError."""
    with (target / LOCK_NAME).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another backup to {target} is running") from error
        for leftover in target.glob(f"*/*{_PARTIAL_SUFFIX}"):
            leftover.unlink()
        yield


# --- restoring ---------------------------------------------------------------------------------------------------


def _chosen(source: Path, backup_id: str | None) -> Backup:
    if backup_id is None:
        known = backups(source)
        if not known:
            raise ConfigError(f"{source} holds no complete backup")
        return known[-1]
    path = source / BACKUPS_DIRECTORY / f"{backup_id}{_LIST_SUFFIX}"
    if path.parent != source / BACKUPS_DIRECTORY or not path.is_file():
        raise ConfigError(f"{source} holds no backup {backup_id!a}")
    return _read_list(path)


def _restore_file(source: Path, data_dir: Path, stored: StoredFile) -> None:
    path = data_dir / stored.path
    path.parent.mkdir(parents=True, exist_ok=True)
    hashed = xxh3_128()
    with _place(source, stored.content).open("rb") as content, path.open("xb") as file:
        while piece := content.read(_PIECE_BYTES):
            hashed.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    if hashed.hexdigest() != stored.content:
        raise InternalError(f"{stored.path}: its content in the backup is damaged", detail=[stored.content])
    if stored.path.startswith(f"{TABLES_DIRECTORY}/"):
        path.chmod(0o444)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
