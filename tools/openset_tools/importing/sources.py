"""Files to blocks: whole lines of NDJSON, whole records of CSV, row groups of Parquet, in the order of the input.

Reading, gunzipping and cutting happen in one process and look at no values. Memory: one block, or the longest line.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
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
class Source:
    """A file, and as what it is read. name: as messages call it. path: "-" for standard input."""

    name: str
    path: str
    format: Format


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of a source.

    first: the number of its first line (from 1), or row (Parquet). body: of a text format; where it can be read again
    it is empty, and `loaded` reads the bytes offset … offset+size_bytes-1. header: the columns of CSV.
    row_group: of Parquet. read_bytes: how much of the file was read when it was cut off.
    """

    source: Source
    first: int
    body: bytes = b""
    header: tuple[str, ...] = ()
    row_group: int = 0
    read_bytes: int = 0
    offset: int = 0
    size_bytes: int = 0


def loaded(block: Block) -> Block:
    """The block with its body. Raises InsertError."""
    if not block.size_bytes:
        return block
    try:
        with Path(block.source.path).open("rb", buffering=0) as file:
            body = os.pread(file.fileno(), block.size_bytes, block.offset)
    except OSError as error:
        raise InsertError(f"{block.source.name} cannot be read: {error.strerror}") from None
    if len(body) < block.size_bytes:
        raise InsertError(f"{block.source.name} became shorter while it was read")
    return replace(block, body=body)


def source_of(file: str, given: Format | None) -> Source:
    """A file; its format is told by its name where none is given. Raises ConfigError."""
    found = given or ("ndjson" if file == STANDARD_INPUT else None)
    found = found or _SUFFIXES.get(Path(file.removesuffix(".gz")).suffix.lower())
    if found is None:
        raise ConfigError(f"{file}: say what it is with --format ndjson, csv or parquet")
    if found == "parquet" and file == STANDARD_INPUT:
        raise ConfigError("Parquet cannot be read from standard input: its index is at the end")
    return Source(shown_name(file), file, found)


def blocks(sources: Sequence[Source], block_bytes: int = BLOCK_BYTES) -> Iterator[Block]:
    """All blocks of all sources. Raises InsertError for what cannot be read, ConfigError."""
    for source in sources:
        if source.format == "parquet":
            yield from _parquet_blocks(source)
        else:
            with open_source(source.path) as reader:
                yield from _text_blocks(reader, source, block_bytes)


def total_bytes(sources: Sequence[Source]) -> int:
    """The size of all files, 0 when it is not known. Raises InsertError for one that cannot be read."""
    total = 0
    for source in sources:
        path = Path(source.path)
        # Opening a pipe twice would lose what is in it.
        if source.path == STANDARD_INPUT or path.is_fifo():
            return 0
        with open_source(source.path):
            total += path.stat().st_size
    return total


def _parquet_blocks(source: Source) -> Iterator[Block]:
    from openset_tools.importing.arrow_events import open_parquet

    with open_parquet(source) as file:
        metadata = file.metadata
    first, size_bytes = 1, Path(source.path).stat().st_size
    for number in range(metadata.num_row_groups):
        read_bytes = size_bytes * (number + 1) // metadata.num_row_groups
        yield Block(source, first, row_group=number, read_bytes=read_bytes)
        first += metadata.row_group(number).num_rows


def _text_blocks(reader: CountingReader, source: Source, block_bytes: int) -> Iterator[Block]:
    buffered = io.BufferedReader(reader, 1 << 20)
    stream: BinaryIO = buffered
    if buffered.peek(2)[:2] == _GZIP_MAGIC:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=buffered))
    # Sending a place is cheaper than sending what stands there.
    is_plain = stream is buffered and source.path != STANDARD_INPUT and Path(source.path).is_file()
    line, end, header = 1, 0, tuple[str, ...]()
    for body in _whole_lines(stream, source, block_bytes):
        first = line
        line += body.count(b"\n")
        end += len(body)
        if first == 1:
            body = body.removeprefix(_BYTE_ORDER_MARK)
            if source.format == "ndjson" and body.lstrip()[:1] == b"[":
                raise InsertError(f"{source.name} is a JSON array; import takes one event per line")
            if source.format == "csv":
                header, body = _csv_header(body, source)
                first = line - body.count(b"\n")
        if body and is_plain:
            size_bytes = len(body)
            yield Block(source, first, b"", header, 0, reader.size_bytes, end - size_bytes, size_bytes)
        elif body:
            yield Block(source, first, body, header, read_bytes=reader.size_bytes)


def _whole_lines(stream: BinaryIO, source: Source, block_bytes: int) -> Iterator[bytes]:
    kept = b""
    while True:
        try:
            more = stream.read(block_bytes)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InsertError(f"{source.name} is a damaged gzip file: {error}") from None
        except OSError as error:
            raise InsertError(f"{source.name} cannot be read: {error.strerror}") from None
        if not more:
            if kept:
                yield kept
            return
        kept += more
        end = _last_end(kept) if source.format == "csv" else kept.rfind(b"\n") + 1
        if end:
            yield kept[:end]
            kept = kept[end:]
        elif len(kept) > LINE_LIMIT_BYTES:
            raise InsertError(f"{source.name} has a line of more than {LINE_LIMIT_BYTES >> 20} MiB")


def _last_end(data: bytes) -> int:
    """Behind the last line break that is not within quotes, 0 when there is none. data: from the start of a record."""
    end = data.rfind(b"\n") + 1
    if not end or data.count(b'"', 0, end) % 2 == 0:
        return end
    values = np.frombuffer(data, np.uint8)
    breaks = np.flatnonzero(values == ord("\n"))
    outside = breaks[np.searchsorted(np.flatnonzero(values == ord('"')), breaks) % 2 == 0]
    return int(outside[-1]) + 1 if len(outside) else 0


def _csv_header(body: bytes, source: Source) -> tuple[tuple[str, ...], bytes]:
    first = io.BytesIO(body)
    record = first.readline()
    while record.count(b'"') % 2 and (more := first.readline()):
        record += more
    try:
        names = tuple(next(csv.reader(io.StringIO(record.decode(), newline="")), []))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InsertError(f"{source.name}: the header cannot be read: {error}") from None
    if not any(names):
        raise InsertError(f"{source.name} has no header: the first line must name the columns")
    for column in names:
        if names.count(column) > 1:
            raise InsertError(f"{source.name}: the header names {column!a} twice")
    return names, body[len(record) :]
