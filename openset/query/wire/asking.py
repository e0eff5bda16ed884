"""What a node that coordinates a query sends to owners of partitions, and the frame of what they answer.

A request is sent as it was asked, its fields by name; who answers prepares it against its own store. Results are bytes
of the codec that the prepared request has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from openset.errors import WireError
from openset.query.parameters import RequestParameters
from openset.query.wire.codec import encoded
from openset.store.schema import TableSchema
from openset.store.segment import Edition
from openset_format.decoding import msgpack_decoder
from openset_format.hashing import checksum

Asked = TypeVar("Asked")


class Ask(msgspec.Struct, frozen=True, tag="query"):
    """A query for some partitions.

    kind: which query; request: its fields. schema: `schema_mark` of the table for which it was prepared. now_ms: the
    query's now. left_ms: how long it may still run. segments: by name the computations it reads, None where whoever
    asks has none of that name.
    """

    kind: str
    request: bytes
    schema: int
    now_ms: int
    left_ms: int
    partitions: list[int]
    segments: dict[str, Edition | None] = {}


class Answered(msgspec.Struct, frozen=True):
    """The fields of `spread.Share`, the result as bytes."""

    result: bytes | None
    read: int
    refused: Sequence[int]
    other_schema: bool = False
    other_segments: Sequence[str] = ()


class _Parameters(msgspec.Struct, frozen=True, array_like=True):
    """Those that nobody has read yet, and the names of those that somebody has asked for."""

    unread: list[tuple[str, str]]
    known: list[str]


def request_bytes(request: Any) -> bytes:
    """A request, a dataclass. Of its parameters those are sent that nobody has read yet, and the known names."""
    return msgspec.msgpack.encode(request, enc_hook=_sent)


def request_of(data: bytes, kind: type[Asked]) -> Asked:
    """The request of a kind. Raises WireError for what is none, QueryError for values that nobody may ask for."""
    try:
        return msgpack_decoder(kind, _received).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise WireError(f"another node's request cannot be read: {error}") from error


def schema_mark(schema: TableSchema) -> int:
    """Equal for tables against which scripts mean the same: one table with the same columns."""
    return checksum(encoded((schema.id, schema.columns)))


def _sent(value: Any) -> Any:
    if isinstance(value, RequestParameters):
        return _Parameters(value.unread(), value.known())
    raise AssertionError(type(value))


def _received(kind: type, value: Any) -> Any:
    if kind is RequestParameters:
        sent = msgspec.convert(value, _Parameters)
        return RequestParameters(sent.unread, known=sent.known)
    raise AssertionError(kind)
