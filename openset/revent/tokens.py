"""Ack tokens: which messages a client says it is done with, as a text that only has to be handed back.

A token names the messages themselves, so that one given before a restart still counts.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping

import msgspec

from openset.errors import QueryError
from openset_format.hashing import checksum

_HASH_BYTES = 4


class _Named(msgspec.Struct, frozen=True, array_like=True):
    table_id: int
    trigger_id: int
    subscription: str
    numbers: dict[int, list[int]]


_DECODER = msgspec.msgpack.Decoder(_Named)


def encode_token(table_id: int, trigger_id: int, subscription: str, keys: Iterable[tuple[int, int]]) -> str:
    """The token of some messages, given by (partition, number)."""
    numbers: dict[int, list[int]] = {}
    for partition, number in keys:
        numbers.setdefault(partition, []).append(number)
    body = msgspec.msgpack.encode(_Named(table_id, trigger_id, subscription, numbers))
    mark = (checksum(body) & 0xFFFF_FFFF).to_bytes(_HASH_BYTES, "little")
    return base64.urlsafe_b64encode(mark + body).decode().rstrip("=")


def decode_token(token: str, table_id: int, trigger_id: int, subscription: str) -> Mapping[int, list[int]]:
    """The numbers of the messages by partition. Raises QueryError for what is no token of this subscription."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        mark, body = raw[:_HASH_BYTES], raw[_HASH_BYTES:]
        if int.from_bytes(mark, "little") != checksum(body) & 0xFFFF_FFFF:
            raise ValueError
        named = _DECODER.decode(body)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise QueryError(f"{token[:40]!r} is no token that was given with a message") from None
    if (named.table_id, named.trigger_id, named.subscription) != (table_id, trigger_id, subscription):
        raise QueryError(f"the token was given to another subscription ({named.subscription!a})")
    return named.numbers
