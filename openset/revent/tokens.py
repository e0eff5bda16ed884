"""Ack tokens: which messages a client says it is done with, as a text that only has to be handed back.

A token names the messages themselves, so that one given before a restart still counts. Their numbers are written as
runs, for messages of one trigger mostly follow each other.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from openset.errors import QueryError
from openset.revent.messages import Source
from openset_format.hashing import checksum

_HASH_BYTES = 4
MOST_NAMED = 100_000
# No partition has so many messages.
_MOST_NUMBER = 1 << 60


class _Named(msgspec.Struct, frozen=True, array_like=True):
    """runs: by partition, how far a run begins behind the number before it, how long it is, and so on."""

    table_id: int
    trigger_id: int
    subscription: str
    runs: dict[int, list[int]]


_DECODER = msgspec.msgpack.Decoder(_Named)


class Given:
    """Messages that a client was given, by (partition, number), and at any time the token of them all."""

    def __init__(self, table_id: int, trigger_id: int, subscription: str, keys: Iterable[tuple[int, int]] = ()):
        self._named = _Named(table_id, trigger_id, subscription, {})
        self._last: dict[int, int] = {}
        self.keys: list[tuple[int, int]] = []
        for partition, number in keys:
            self.add(partition, number)

    def add(self, partition: int, number: int) -> None:
        """One more message."""
        runs = self._named.runs.setdefault(partition, [])
        step = number - self._last.get(partition, 0)
        if runs and step == 1:
            runs[-1] += 1
        else:
            runs += [step, 1]
        self._last[partition] = number
        self.keys.append((partition, number))

    def token(self) -> str:
        """The token; its length is that of the runs."""
        body = msgspec.msgpack.encode(self._named)
        mark = (checksum(body) & 0xFFFF_FFFF).to_bytes(_HASH_BYTES, "little")
        return base64.urlsafe_b64encode(mark + body).decode().rstrip("=")


def encode_token(table_id: int, trigger_id: int, subscription: str, keys: Iterable[tuple[int, int]]) -> str:
    """The token of some messages, given by (partition, number)."""
    return Given(table_id, trigger_id, subscription, keys).token()


def decode_token(token: str, table_id: int, trigger_id: int, subscription: str) -> Mapping[int, list[int]]:
    """The numbers of the messages by partition. Raises QueryError for what is no token of this subscription."""
    try:
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        mark, body = raw[:_HASH_BYTES], raw[_HASH_BYTES:]
        if int.from_bytes(mark, "little") != checksum(body) & 0xFFFF_FFFF:
            raise ValueError
        named = _DECODER.decode(body)
    except (ValueError, binascii.Error, msgspec.DecodeError):
        raise _no_token(token) from None
    if (named.table_id, named.trigger_id, named.subscription) != (table_id, trigger_id, subscription):
        raise QueryError(f"the token was given to another subscription ({named.subscription!a})")
    return {partition: _numbers(runs, token) for partition, runs in named.runs.items()}


def _numbers(runs: list[int], token: str) -> list[int]:
    lengths = runs[1::2]
    if len(runs) % 2 or any(length < 1 for length in lengths) or sum(lengths) > MOST_NAMED:
        raise _no_token(token)
    numbers: list[int] = []
    for step, length in zip(runs[::2], lengths, strict=True):
        first = step + (numbers[-1] if numbers else 0)
        if not 0 < first < _MOST_NUMBER:
            raise _no_token(token)
        numbers += range(first, first + length)
    return numbers


def _no_token(token: str) -> QueryError:
    return QueryError(f"{token[:40]!r} is no token that was given with a message")


def numbers_of(source: Source, name: str, tokens: Sequence[str]) -> dict[int, list[int]]:
    """What tokens of a subscription name, by partition. Raises QueryError."""
    numbers: dict[int, list[int]] = {}
    for token in tokens:
        for partition, given in decode_token(token, source.table_id, source.trigger_id, name).items():
            numbers.setdefault(partition, []).extend(given)
    return numbers
