"""The sidecar file of a partition: the state of its triggers at one record of the journal. Layout: spec/revent-file.md.

A file is one immutable generation, written under a temporary name and renamed into place. Inside is msgpack that only
the store understands; the head tells everything that recovery and `openset verify` need.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from openset_format.decoding import json_decoder

from .errors import DamageError, UnsupportedFormatError, WriteError
from .files import FILES, FileLayer, temporary_path
from .hashing import checksum

MAGIC = b"OSREVENT"
FORMAT_VERSION = 1
REVENT_SUFFIX = ".revent"
# Magic, format version, size of the head in bytes, xxh3 of the head; size of the body in bytes, xxh3 of the body.
_PREFIX = struct.Struct("<8sIIQQQ")


class ReventHead(msgspec.Struct, frozen=True):
    """What a sidecar is. applied_sequence: the last record of the journal that is in it."""

    table_id: int
    partition: int
    journal_id: str
    applied_sequence: int


@dataclass(frozen=True, slots=True, eq=False)
class ReventFile:
    """A sidecar that has been read whole and verified."""

    head: ReventHead
    body: bytes


def read_revent_file(path: Path) -> ReventFile:
    """Raises DamageError, UnsupportedFormatError, OSError."""
    data = path.read_bytes()
    if len(data) < _PREFIX.size or not data.startswith(MAGIC):
        raise DamageError("it is not a file of triggers", path, 0)
    _, version, head_bytes, head_checksum, body_bytes, body_checksum = _PREFIX.unpack_from(data)
    if version != FORMAT_VERSION:
        raise UnsupportedFormatError(f"{path} has format version {version}; this program knows {FORMAT_VERSION}")
    start = _PREFIX.size + head_bytes
    if len(data) != start + body_bytes:
        raise DamageError(f"it is {len(data)} bytes long, not {start + body_bytes}", path, len(data))
    head, body = data[_PREFIX.size : start], data[start:]
    if checksum(head) != head_checksum:
        raise DamageError("the head does not match its checksum", path, _PREFIX.size)
    if checksum(body) != body_checksum:
        raise DamageError("the body does not match its checksum", path, start)
    try:
        return ReventFile(json_decoder(ReventHead).decode(head), body)
    except msgspec.DecodeError as error:
        raise DamageError(f"the head cannot be read: {error}", path, _PREFIX.size) from error


def write_revent_file(path: Path, head: ReventHead, body: bytes, files: FileLayer = FILES) -> None:
    """Puts a sidecar in the place of the one before, durably. Raises WriteError; the one before stays then."""
    encoded = msgspec.json.encode(head)
    prefix = _PREFIX.pack(MAGIC, FORMAT_VERSION, len(encoded), checksum(encoded), len(body), checksum(body))
    temporary = temporary_path(path)
    try:
        with files.create(temporary) as file:
            file.write_at([prefix, encoded, body], 0)
            file.sync()
        files.rename(temporary, path)
        files.sync_directory(path.parent)
    except OSError as error:
        with suppress(OSError):  # the first error is the one to report; leftovers are removed at the next start
            files.unlink(temporary)
        raise WriteError(f"{path}: the state of triggers cannot be written: {error}") from error
