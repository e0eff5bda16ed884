"""One daemon per data directory: an advisory lock on a file in it, held as long as the process lives."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from openset.errors import ConfigError
from openset_format.files import FILES, FileLayer, WritableFile

LOCK_NAME = "lock"
MOUNTS = Path("/proc/self/mountinfo")
# Renames and syncs over a network do not keep the promises that inserts and compactions rely on.
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs"})


class DirectoryInUseError(ConfigError):
    """Another process holds the lock."""


class DirectoryLock:
    """Taken when made, until `release` or the end of the process (a killed one included)."""

    def __init__(self, directory: Path, files: FileLayer = FILES):
        """Raises DirectoryInUseError when another process holds the lock, ConfigError when it cannot be used."""
        path = directory / LOCK_NAME
        try:
            self._file = _opened(path, files)
        except OSError as error:
            raise ConfigError(f"data directory {directory} cannot be used: {error.strerror}") from error
        try:
            self._file.lock()
        except BlockingIOError as error:
            text = bytearray(32)
            holder = bytes(text[: self._file.read_into(memoryview(text), 0)]).decode("ascii", "replace").strip("\0 \n")
            self._file.close()
            by = f" (process {holder})" if holder else ""
            raise DirectoryInUseError(f"data directory {directory} is in use by another daemon{by}") from error
        except OSError as error:
            self._file.close()
            raise ConfigError(f"data directory {directory} cannot be locked: {error.strerror}") from error
        with suppress(OSError):  # who holds it is only for the message above; the disk may be full
            self._file.truncate(0)
            self._file.write_at([f"{os.getpid()}\n".encode()], 0)

    def release(self) -> None:
        """Gives the lock up. May be called twice."""
        self._file.close()


def _opened(path: Path, files: FileLayer) -> WritableFile:
    """The file, made when it is missing. Raises OSError."""
    try:
        return files.open(path)
    except FileNotFoundError:
        with suppress(FileExistsError):  # made by somebody else just now
            return files.create(path)
        return files.open(path)


def check_file_system(directory: Path, mounts: Path | None = None) -> None:
    """Raises ConfigError for a directory on a network file system. Where the system does not tell, nothing happens.

    mounts: what is mounted where, by default what the kernel says.
    """
    try:
        lines = (mounts or MOUNTS).read_text(errors="replace").splitlines()
    except OSError:
        return
    place = directory.resolve()
    kind, depth = "", -1
    for line in lines:
        mounted, _, source = line.partition(" - ")
        point = Path(mounted.split()[4].replace("\\040", " "))
        if place.is_relative_to(point) and len(point.parts) >= depth:
            kind, depth = source.split()[0], len(point.parts)
    if kind in NETWORK_FILE_SYSTEMS:
        raise ConfigError(f"data directory {directory} is on a network file system ({kind}); it must be on a local one")
