"""The errors of the file format: what a damaged, foreign or unwritable file can cause.

A small tree of its own, because this package knows nothing of openset; the store turns them into its own errors.
Programmer errors are assertions, not members of this tree.
"""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any


class FormatError(Exception):
    """Anything that keeps a file or a payload from being read or written."""

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process boundaries with everything they carry."""
        return (_rebuild, (type(self), self.__dict__))


def _rebuild(kind: type[FormatError], state: dict[str, Any]) -> FormatError:
    error = kind.__new__(kind)
    Exception.__init__(error, state["message"])
    error.__dict__.update(state)
    return error


class DamageError(FormatError):
    """Bytes on disk that are not what was written.

    file: path of the damaged file. offset: bytes from its start, or None where the file as a whole is meant.
    dataset: the HDF5 dataset concerned, where one is.
    """

    def __init__(self, reason: str, file: str | Path, offset: int | None = None, dataset: str | None = None):
        place = str(file)
        if dataset is not None:
            place += f", dataset {dataset}"
        if offset is not None:
            place += f", offset {offset}"
        super().__init__(f"{place}: {reason}")
        self.reason = reason
        self.file = str(file)
        self.offset = offset
        self.dataset = dataset


# What a process or a machine has too little of says nothing about a file.
_OF_THE_PROCESS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def damage_of(error: OSError, file: str | Path) -> DamageError:
    """A file that the system refuses to read, as damage of it. Raises the error itself where it is not the file's."""
    if error.errno in _OF_THE_PROCESS:
        raise error
    return DamageError(f"cannot be read: {error.strerror}", file)


class UnsupportedFormatError(FormatError):
    """A sound file this version cannot read: a newer major version, or a required feature it does not know."""


class WriteError(FormatError):
    """The operating system refused a write; nothing of it is visible."""


class JournalFailedError(WriteError):
    """The journal cannot promise durability any more; it stays unusable until it is opened again."""


class MissingSegmentError(FormatError):
    """A journal segment that was dropped because every partition has passed it: ask for a newer snapshot."""
