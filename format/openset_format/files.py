"""The one way this package touches the disk to write: so that a test can make any single step fail.

Everything written (HDF5's bytes included, through h5py's file-object driver) goes through a FileLayer and the
WritableFile it hands out. Reading needs no such care and uses mmap and pread directly.
"""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

TEMPORARY_SUFFIX = ".tmp"

Buffer = bytes | bytearray | memoryview
# The most buffers one writev call takes on every system we know of is 1024.
_MOST_BUFFERS = 512


class WritableFile:
    """A file opened for writing, with positions given by the caller. Every method raises OSError."""

    def __init__(self, path: Path, descriptor: int):
        self.path = path
        self._descriptor = descriptor

    def write_at(self, buffers: Sequence[Buffer], offset: int) -> int:
        """Write the buffers one after the other at `offset`, all of them; returns how many bytes that was."""
        views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        start = offset
        while views:
            written = os.pwritev(self._descriptor, views[:_MOST_BUFFERS], offset)
            offset += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]
        return offset - start

    def read_into(self, buffer: memoryview, offset: int) -> int:
        """Fill `buffer` from `offset`; returns how many bytes there were."""
        return os.preadv(self._descriptor, [buffer], offset)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def sync(self) -> None:
        """Contents and metadata on stable storage (fsync)."""
        os.fsync(self._descriptor)

    def sync_data(self) -> None:
        """Contents, and the size where it changed, on stable storage (fdatasync)."""
        os.fdatasync(self._descriptor)

    def lock(self) -> None:
        """Take the advisory lock on the file until it is closed. Raises BlockingIOError when somebody else has it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def make_read_only(self) -> None:
        os.fchmod(self._descriptor, 0o444)

    def close(self) -> None:
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            os.close(descriptor)

    def __enter__(self) -> WritableFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FileLayer:
    """The real file system. Tests subclass it to fail, drop or record single steps. Every method raises OSError."""

    def create(self, path: Path) -> WritableFile:
        """A new file; FileExistsError when there is one already."""
        return WritableFile(path, os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))

    def open(self, path: Path) -> WritableFile:
        """An existing file, for writing at any place."""
        return WritableFile(path, os.open(path, os.O_RDWR | os.O_CLOEXEC))

    def rename(self, source: Path, target: Path) -> None:
        """Atomic; replaces `target`. Durable after `sync_directory`."""
        source.rename(target)

    def link(self, source: Path, target: Path) -> None:
        """A second name for a file. Durable after `sync_directory`."""
        target.hardlink_to(source)

    def unlink(self, path: Path) -> None:
        path.unlink()

    def discard(self, path: Path) -> None:
        """`unlink`, where there is such a file."""
        with suppress(FileNotFoundError):
            self.unlink(path)

    def remove_directory(self, path: Path) -> None:
        """One that is empty."""
        path.rmdir()

    def remove_tree(self, path: Path) -> None:
        """A directory with everything in it, one name after the other."""
        for directory, directories, names in os.walk(path, topdown=False):
            for name in names:
                self.unlink(Path(directory, name))
            for name in directories:
                inner = Path(directory, name)
                (self.unlink if inner.is_symlink() else self.remove_directory)(inner)
        self.remove_directory(path)

    def make_directory(self, path: Path) -> None:
        """With parents; no error when it exists."""
        path.mkdir(parents=True, exist_ok=True)

    def free_bytes(self, path: Path) -> int:
        """What may still be written to the file system of a directory."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def sync_directory(self, path: Path) -> None:
        """Names created, renamed and removed in a directory on stable storage."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


FILES = FileLayer()


class FileObject(io.RawIOBase):
    """A WritableFile with the face of a Python file, for h5py's file-object driver.

    HDF5 turns an exception of this object into a message of its own and may not survive its own closing after it. So
    the first error is kept in `error`, what follows is taken without being written, and whoever closes looks at it.
    """

    def __init__(self, file: WritableFile):
        super().__init__()
        self.file = file
        self.error: OSError | None = None
        self._position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.file.size()}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = self.file.read_into(memoryview(buffer).cast("B"), self._position)
        self._position += count
        return count

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.error is None:
            try:
                self.file.write_at([view], self._position)
            except OSError as error:
                self.error = error
        self._position += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        target = self._position if size is None else size
        if self.error is None:
            try:
                self.file.truncate(target)
            except OSError as error:
                self.error = error
        return target


def temporary_path(path: Path) -> Path:
    """Where a file is written before it is renamed to `path`: a name of its own in the same directory."""
    return path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}{TEMPORARY_SUFFIX}")


def replace_file(path: Path, data: bytes, files: FileLayer = FILES) -> None:
    """Writes a small file as a whole, durably: whatever happens, the old contents are there or the new ones.

    Raises OSError; only the sync of the directory may have failed when the new contents are there.
    """
    temporary = temporary_path(path)
    try:
        with files.create(temporary) as file:
            file.write_at([data], 0)
            file.sync()
        files.rename(temporary, path)
    except OSError:
        with suppress(OSError):  # the first error is the one to report; leftovers are removed at the next start
            files.unlink(temporary)
        raise
    files.sync_directory(path.parent)
