"""Files to blocks: whole lines of NDJSON, whole records of CSV, row groups of Parquet, in the order of the input.

Reading, gunzipping and cutting happen in one process and look at no values. Memory: one block, or the longest line.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np

from openset.client.event_files import STANDARD_INPUT, CountingReader, open_source, shown_name
from openset.errors import ConfigError, InsertError

Format = Literal["ndjson", "csv", "parquet"]

BLOCK_BYTES = 8 << 20
LINE_LIMIT_BYTES = 64 << 20
_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SUFFIXES: dict[str, Format] = {
    ".ndjson": "ndjson", ".jsonl": "ndjson", ".json": "ndjson", ".csv": "csv", ".parquet": "parquet",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a source.

    first: the number of its first line (from 1), or row (Parquet). body: of a text format. header: the columns of CSV.
    row_group: of Parquet. read_bytes: how much of the file was read when it was cut off.
    """

    file: str
    format: Format
    first: int
    body: bytes = b""
    header: tuple[str, ...] = ()
    row_group: int = 0
    read_bytes: int = 0


def format_of(name: str, given: Format | None) -> Format:
    """The format of a file by its name, where none is given. Raises ConfigError."""
    if given is not None:
        return given
    if name == STANDARD_INPUT:
        return "ndjson"
    found = _SUFFIXES.get(Path(name.removesuffix(".gz")).suffix.lower())
    if found is None:
        raise ConfigError(f"{name}: say what it is with --format ndjson, csv or parquet")
    return found


def blocks(files: Sequence[str], given: Format | None, block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """All blocks of all files. Raises InsertError for what cannot be read, ConfigError."""
    for name in files:
        kind = format_of(name, given)
        if kind == "parquet":
            yield from _parquet_blocks(name)
        else:
            with open_source(name) as source:
                yield from _text_blocks(source, name, kind, block_bytes)


def total_bytes(files: Sequence[str]) -> int:
    """The size of all files, 0 when it is not known. Raises InsertError for one that cannot be read."""
    total = 0
    for name in files:
        if name == STANDARD_INPUT:
            return 0
        with open_source(name):
            path = Path(name)
            if not path.is_file():
                return 0
            total += path.stat().st_size
    return total


def _parquet_blocks(name: str) -> Iterator[Block]:
    from openset_tools.importing.arrow_events import open_parquet

    if name == STANDARD_INPUT:
        raise ConfigError("Parquet cannot be read from standard input: its index is at the end")
    metadata = open_parquet(name).metadata
    first, size_bytes = 1, Path(name).stat().st_size
    for number in range(metadata.num_row_groups):
        read_bytes = size_bytes * (number + 1) // metadata.num_row_groups
        yield Block(name, "parquet", first, row_group=number, read_bytes=read_bytes)
        first += metadata.row_group(number).num_rows


def _text_blocks(source: CountingReader, name: str, kind: Format, block_bytes: int) -> Iterator[Block]:
    buffered = io.BufferedReader(source, 1 << 20)
    stream: BinaryIO = buffered
    if buffered.peek(2)[:2] == _GZIP_MAGIC:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=buffered))
    line, header = 1, tuple[str, ...]()
    for body in _whole_lines(stream, name, kind, block_bytes):
        first = line
        line += body.count(b"\n")
        if first == 1:
            body = body.removeprefix(_BYTE_ORDER_MARK)
            if kind == "ndjson" and body.lstrip()[:1] == b"[":
                raise InsertError(f"{shown_name(name)} is a JSON array; import takes one event per line")
            if kind == "csv":
                header, body = _csv_header(body, name)
                first = line - body.count(b"\n")
        if body:
            yield Block(name, kind, first, body, header, read_bytes=source.size_bytes)


def _whole_lines(stream: BinaryIO, name: str, kind: Format, block_bytes: int) -> Iterator[bytes]:
    kept = b""
    while True:
        try:
            more = stream.read(block_bytes)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InsertError(f"{shown_name(name)} is a damaged gzip file: {error}") from None
        except OSError as error:
            raise InsertError(f"{shown_name(name)} cannot be read: {error.strerror}") from None
        if not more:
            if kept:
                yield kept
            return
        kept += more
        end = _last_end(kept) if kind == "csv" else kept.rfind(b"\n") + 1
        if end:
            yield kept[:end]
            kept = kept[end:]
        elif len(kept) > LINE_LIMIT_BYTES:
            raise InsertError(f"{shown_name(name)} has a line of more than {LINE_LIMIT_BYTES >> 20} MiB")


def _last_end(data: bytes) -> int:
    """Behind the last line break that is not within quotes, 0 when there is none. data: from the start of a record."""
    end = data.rfind(b"\n") + 1
    if not end or data.count(b'"', 0, end) % 2 == 0:
        return end
    values = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero(values == ord("\n"))
    outside = breaks[np.searchsorted(np.flatnonzero(values == ord('"')), breaks) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _csv_header(body: bytes, name: str) -> tuple[tuple[str, ...], bytes]:
    first = io.BytesIO(body)
    record = first.readline()
    while record.count(b'"') % 2 and (more := first.readline()):
        record += more
    try:
        names = tuple(next(csv.reader(io.StringIO(record.decode(), newline="")), []))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InsertError(f"{shown_name(name)}: the header cannot be read: {error}") from None
    if not any(names):
        raise InsertError(f"{shown_name(name)} has no header: the first line must name the columns")
    for column in names:
        if names.count(column) > 1:
            raise InsertError(f"{shown_name(name)}: the header names {column!a} twice")
    return names, body[len(record) :]
