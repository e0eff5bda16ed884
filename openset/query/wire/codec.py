"""From results to bytes and back: the interface, and decoding of what another node sent.

The bytes are msgpack. Whatever cannot be what an honest node of this version sends is an InternalError; nothing is
allocated that the bytes do not pay for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from openset.errors import WireError
from openset_format.decoding import msgpack_decoder

Result = TypeVar("Result")


class Codec(Protocol[Result]):
    """How the results of one kind of work are merged and sent. Made for one query: it knows what must come back."""

    def merged(self, results: Sequence[Result]) -> Result:
        """Results over disjoint people as one; may change and return the first."""
        ...

    def encode(self, result: Result) -> bytes: ...

    def decode(self, data: bytes) -> Result:
        """Raises WireError."""
        ...


def encoded(value: Any) -> bytes:
    """Structs, dataclasses and plain values as msgpack."""
    return msgspec.msgpack.encode(value)


def decoded(data: bytes | msgspec.Raw, kind: Any) -> Any:
    """A value of this type. Raises WireError."""
    try:
        return msgpack_decoder(kind).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise WireError(f"another node's answer cannot be read: {error}") from error


def checked(condition: bool, what: str) -> None:
    """Raises WireError where something does not fit."""
    if not condition:
        raise WireError(f"another node's answer cannot be read: {what}")


@dataclass(frozen=True, slots=True)
class Lists(Generic[Result]):
    """The codec of results that are lists: joined by putting them behind each other. item: what is in them."""

    item: type[Result]

    def merged(self, results: Sequence[list[Result]]) -> list[Result]:
        return [one for result in results for one in result]

    def encode(self, result: list[Result]) -> bytes:
        return encoded(result)

    def decode(self, data: bytes) -> list[Result]:
        found: list[Result] = decoded(data, list[self.item])  # type: ignore[name-defined]
        return found
