"""Event files as a stream of events: JSON arrays and newline-delimited JSON, gzipped or not.

Responsible for cutting a file into the JSON texts of its events without holding the file in memory; the daemon judges
what is in them. Shortcut: the lines of an NDJSON file are passed on as they are, not parsed here.
"""

from __future__ import annotations

import gzip
import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from openset.errors import InsertError

_CHUNK_CHARACTERS = 1 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_BLANK = " \t\r\n"
_ONE_LINE = bytes.maketrans(b"\r\n", b"  ")
STANDARD_INPUT = "-"


class CountingReader(io.RawIOBase):
    """Passes bytes through and counts them, so that progress can be shown for compressed files too."""

    def __init__(self, source: BinaryIO):
        self._source = source
        self.size_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer))
        data = self._source.read(len(view))
        view[: len(data)] = data
        self.size_bytes += len(data)
        return len(data)


def shown_name(file: str) -> str:
    """A file as messages call it."""
    return "standard input" if file == STANDARD_INPUT else file


@contextmanager
def open_source(name: str) -> Iterator[CountingReader]:
    """The bytes of a file, or of standard input for "-". Raises InsertError when it cannot be read."""
    if name == STANDARD_INPUT:
        yield CountingReader(sys.stdin.buffer)
        return
    try:
        file = Path(name).open("rb")  # noqa: SIM115 - the error belongs to opening alone
    except OSError as error:
        raise InsertError(f"cannot read {name}: {error.strerror}") from None
    with file:
        yield CountingReader(file)


def read_events(source: CountingReader, file: str) -> Iterator[bytes]:
    """Yields the JSON text of every event of a file, on one line. Raises InsertError where an array is not JSON."""
    name = shown_name(file)
    buffered = io.BufferedReader(source, 1 << 20)
    stream: BinaryIO = buffered
    if buffered.peek(2)[:2] == _GZIP_MAGIC:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=buffered))
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="\n")
    try:
        head = _skip_blank(text)
        if head == "[":
            yield from _array_elements(text, name)
        elif head:
            yield from _lines(text, head)
    except (EOFError, gzip.BadGzipFile) as error:
        raise InsertError(f"{name} is a damaged gzip file: {error}") from None
    except UnicodeDecodeError:
        raise InsertError(f"{name} is not UTF-8 text") from None
    finally:
        text.detach()


def _skip_blank(text: io.TextIOWrapper) -> str:
    while (character := text.read(1)) and character in _BLANK:
        pass
    return character


def _lines(text: io.TextIOWrapper, head: str) -> Iterator[bytes]:
    for line in text:
        event = (head + line).strip(_BLANK)
        head = ""
        if event:
            yield event.encode()


def _array_elements(text: io.TextIOWrapper, name: str) -> Iterator[bytes]:
    """The elements of the array whose opening bracket has been read."""
    decode = json.JSONDecoder().raw_decode
    buffer, position, ended = "", 0, False
    element = 0
    while True:
        while position < len(buffer) and buffer[position] in _BLANK + ",":
            position += 1
        if position < len(buffer) and buffer[position] == "]":
            return
        try:
            if position < len(buffer) and buffer[position] != "{":
                raise InsertError(f"{name}: element {element + 1} of the array is not an event (an object)")
            _, stop = decode(buffer, position)
        except json.JSONDecodeError as error:
            if ended:
                reason = f"{error.msg}" if position < len(buffer) else "the array has no end"
                raise InsertError(f"{name}: element {element + 1} of the array is not JSON: {reason}") from None
            # Reading as much again as is held keeps the cost of a long element in proportion to its length.
            rest = buffer[position:]
            more = text.read(max(_CHUNK_CHARACTERS, len(rest)))
            ended = not more
            buffer, position = rest + more, 0
            continue
        element += 1
        # Between the tokens a line break means as much as a blank, and texts have none.
        yield buffer[position:stop].encode().translate(_ONE_LINE)
        position = stop
