"""Where backups are kept: a directory, or anything fsspec has a name for (`remote`). Whole files, named by paths.

A file appears with all its bytes or not at all, or at least never with as many bytes as it will have in the end. One
backup or prune works on a place at a time; whoever reads needs no permission.
"""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from openset.errors import ConfigError
from openset.store.lock import LOCK_NAME
from openset_format.files import FILES, FileLayer

PARTIAL_SUFFIX = ".partial"
FILE_URL = "file://"


class Place(ABC):
    """Paths are relative, with `/`. Every method raises OSError, FileNotFoundError for a file that is not there."""

    @abstractmethod
    def __str__(self) -> str: ...

    @abstractmethod
    def sizes(self, directory: str) -> dict[str, int]:
        """The size (bytes) of every complete file below a directory, by path; nothing where there is no directory."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """A whole file."""

    @abstractmethod
    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        """A file to be read piece by piece."""

    @abstractmethod
    def write(self, path: str, pieces: Iterable[bytes]) -> None:
        """A file, in place of one of that path; nothing of it is there when making the pieces fails."""

    @abstractmethod
    def remove(self, path: str) -> None:
        """Removes a file; nothing happens when it is gone already."""

    @abstractmethod
    def settle(self) -> None:
        """What was written before is durable afterwards."""

    @abstractmethod
    def claimed(self, what: str) -> AbstractContextManager[Callable[[], None]]:
        """The place for oneself, to write and remove; what an interrupted run left is removed.

        Yields what raises ConfigError when somebody else has taken the place meanwhile, which is to be called before
        anything is made to count. Raises ConfigError when somebody has it.
        """

    def local(self, path: str) -> Path | None:
        """The file under the path it has in this file system, if it is in one."""
        return None


class LocalPlace(Place):
    """A directory. A lock on a file in it tells who works on it."""

    def __init__(self, directory: Path, files: FileLayer = FILES):
        self.directory = directory
        self._files = files
        self._unsettled: set[Path] = set()

    def __str__(self) -> str:
        return str(self.directory)

    def sizes(self, directory: str) -> dict[str, int]:
        found: dict[str, int] = {}
        root = self.directory / directory
        for parent, _, names in os.walk(root):
            for name in names:
                path = Path(parent) / name
                if not name.endswith(PARTIAL_SUFFIX):
                    with suppress(FileNotFoundError):
                        found[path.relative_to(self.directory).as_posix()] = path.stat().st_size
        return found

    def read(self, path: str) -> bytes:
        return (self.directory / path).read_bytes()

    def open(self, path: str) -> AbstractContextManager[BinaryIO]:
        return (self.directory / path).open("rb")

    def write(self, path: str, pieces: Iterable[bytes]) -> None:
        final = self.directory / path
        if not final.parent.is_dir():
            self._files.make_directory(final.parent)
            self._unsettled |= {final.parent.parent, self.directory}
        self._unsettled.add(final.parent)
        partial = final.with_name(f"{os.urandom(8).hex()}{PARTIAL_SUFFIX}")
        try:
            with self._files.create(partial) as file:
                position = 0
                for piece in pieces:
                    position += file.write_at([piece], position)
                file.sync()
                file.make_read_only()
            self._files.rename(partial, final)
        except BaseException:
            with suppress(OSError):  # the first error is the one to report; the next run removes it
                self._files.unlink(partial)
            raise

    def remove(self, path: str) -> None:
        self._unsettled.add((self.directory / path).parent)
        with suppress(FileNotFoundError):
            self._files.unlink(self.directory / path)

    def settle(self) -> None:
        # Contents are synced when they are written; what is left are their names.
        for directory in sorted(self._unsettled):
            self._files.sync_directory(directory)
            self._unsettled.discard(directory)

    @contextmanager
    def claimed(self, what: str) -> Iterator[Callable[[], None]]:
        if not self.directory.is_dir():
            self._files.make_directory(self.directory)
            self._unsettled.add(self.directory.absolute().parent)
        with (self.directory / LOCK_NAME).open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"another backup to {self} is running, or old ones are being removed") from None
            for leftover in self.directory.glob(f"*/**/*{PARTIAL_SUFFIX}"):
                self._files.unlink(leftover)
            yield lambda: None

    def local(self, path: str) -> Path | None:
        return (self.directory / path).absolute()


def place_of(address: str, files: FileLayer = FILES) -> Place:
    """The place of a directory or URL. Raises ConfigError for a URL that nothing here understands."""
    if "://" not in address:
        return LocalPlace(Path(address), files)
    if address.startswith(FILE_URL):
        return LocalPlace(Path(address.removeprefix(FILE_URL)), files)
    from openset_tools.backups.remote import RemotePlace

    return RemotePlace(address)
