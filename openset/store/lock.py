"""One daemon per data directory: an advisory lock on a file in it, held as long as the process lives."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from openset.errors import ConfigError

LOCK_NAME = "lock"
MOUNTS = Path("/proc/self/mountinfo")
# Renames and syncs over a network do not keep the promises that inserts and compactions rely on.
NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "9p", "fuse.sshfs"})


class DirectoryInUseError(ConfigError):
    """Another process holds the lock."""


class DirectoryLock:
    """Taken when made, until `release` or the end of the process (a killed one included)."""

    def __init__(self, directory: Path):
        """Raises DirectoryInUseError when another process holds the lock, ConfigError when it cannot be used."""
        path = directory / LOCK_NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ConfigError(f"data directory {directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            by = f" (process {holder})" if holder else ""
            raise DirectoryInUseError(f"data directory {directory} is in use by another daemon{by}") from error
        except OSError as error:
            os.close(self._descriptor)
            raise ConfigError(f"data directory {directory} cannot be locked: {error.strerror}") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Gives the lock up. May be called twice."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)


def check_file_system(directory: Path, mounts: Path = MOUNTS) -> None:
    """Raises ConfigError for a directory on a network file system. Where the system does not tell, nothing happens."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
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
