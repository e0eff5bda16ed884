"""What nodes ask the one that has the embedded coordinator, and what it answers; msgpack on the wire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec

from openset.cluster.keeper import Commit, Item, LeaseId, Revision

SHORTEST_LEASE_MS = 100
LONGEST_LEASE_MS = 3_600_000
LONGEST_WAIT_MS = 30_000


class Read(msgspec.Struct, frozen=True, tag=True):
    """Everything."""


class DoCommit(msgspec.Struct, frozen=True, tag=True):
    commit: Commit


class Grant(msgspec.Struct, frozen=True, tag=True):
    """A new lease."""

    ttl_ms: Annotated[int, msgspec.Meta(ge=SHORTEST_LEASE_MS, le=LONGEST_LEASE_MS)]


class Renew(msgspec.Struct, frozen=True, tag=True):
    """A lease goes on; and what a key has then."""

    lease: LeaseId
    key: str


class Revoke(msgspec.Struct, frozen=True, tag=True):
    lease: LeaseId


class Wait(msgspec.Struct, frozen=True, tag=True):
    """What changed behind a revision, as soon as anything did; nothing after a while."""

    after: Revision
    patience_ms: Annotated[int, msgspec.Meta(ge=0, le=LONGEST_WAIT_MS)]


Request = Read | DoCommit | Grant | Renew | Revoke | Wait


class Kept(msgspec.Struct, frozen=True, tag=True):
    """To Read: everything. To Wait: what changed, None for what is gone. To DoCommit: what was found instead."""

    revision: Revision
    items: Mapping[str, Item | None]


class Committed(msgspec.Struct, frozen=True, tag=True):
    revision: Revision


class Granted(msgspec.Struct, frozen=True, tag=True):
    """To Grant and Renew. item: of the key that was named."""

    lease: LeaseId
    ttl_ms: int
    item: Item | None = None


class Ended(msgspec.Struct, frozen=True, tag=True):
    """To Revoke."""


class Compacted(msgspec.Struct, frozen=True, tag=True):
    """To Wait: what changed so long ago is not known any more."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    kind: Literal["unreachable", "lease_lost", "bad_request"]
    message: str


Answer = Kept | Committed | Granted | Ended | Compacted | Failed

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(Request)
_answers = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    return _encoder.encode(message)


def decode_request(data: bytes) -> Request:
    """Raises ValueError for what is no request."""
    request: Request = _decoded(_requests, data)
    return request


def decode_answer(data: bytes) -> Answer:
    """Raises ValueError for what is no answer."""
    answer: Answer = _decoded(_answers, data)
    return answer


def _decoded(decoder: msgspec.msgpack.Decoder[Any], data: bytes) -> Any:
    try:
        return decoder.decode(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
