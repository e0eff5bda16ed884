"""One daemon per data directory: an advisory lock on a file in it, held as long as the process lives."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from openset.errors import ConfigError

LOCK_NAME = "lock"


class DirectoryLock:
    """Taken when made, until `release` or the end of the process (a killed one included)."""

    def __init__(self, directory: Path):
        """Raises ConfigError when another process holds the lock or the directory cannot be used."""
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
            raise ConfigError(f"data directory {directory} is in use by another daemon{by}") from error
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
