"""Hashes of texts and person ids, and the look-up tables made of them.

A table holds the hashes in ascending order with the position each came from: a look-up is one binary search on mapped
memory and a comparison of the candidates, so nothing has to be decoded or built when a file is opened. Hashes of what
a file already holds are carried over to its next generation; only new entries are hashed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from .block import ERASED_PERSON, INTEGER_PERSON, TEXT_PERSON, PersonId

TEXT_TAG = bytes([TEXT_PERSON])
INTEGER_TAG = bytes([INTEGER_PERSON])


def checksum(data: object, seed: int = 0) -> int:
    """xxh3_64 of the bytes of a buffer."""
    return int(xxh3_64_intdigest(data, seed))  # type: ignore[arg-type]


# What stands in the look-up table for somebody who was erased; no id has it but by a chance of 1 in 2^64.
ERASED_HASH = checksum(bytes([ERASED_PERSON]))


def hashes_of(entries: Iterable[bytes], count: int) -> NDArray[np.uint64]:
    """uint64[count]: xxh3_64 of each entry."""
    return np.fromiter(map(xxh3_64_intdigest, entries), np.uint64, count)


def person_bytes(person_id: PersonId) -> bytes:
    """The bytes that stand for a person: a type tag, then UTF-8 text or the integer in eight bytes, little-endian.

    The tag keeps text "7" and integer 7 apart.
    """
    assert not isinstance(person_id, bool), "a bool is not a person id"
    if isinstance(person_id, int):
        return INTEGER_TAG + person_id.to_bytes(8, "little", signed=True)
    assert person_id, "a person id is not empty"
    return TEXT_TAG + encode_text(person_id)


def person_hash(person_id: PersonId) -> int:
    """The hash of a person: decides the partition and is the key of the look-up table in a partition file."""
    return checksum(person_bytes(person_id))


def partition_of(person_id: PersonId, partitions: int) -> int:
    """The partition (0…partitions-1) a person belongs to."""
    return person_hash(person_id) % partitions


def partitions_of(person_ids: Iterable[PersonId], count: int, partitions: int) -> NDArray[np.uint32]:
    """uint32[count]: the partition of each of `count` persons."""
    hashes = hashes_of(map(person_bytes, person_ids), count)
    return (hashes % np.uint64(partitions)).astype(np.uint32)


def encode_text(text: str) -> bytes:
    """UTF-8. A lone surrogate is no text: whoever accepts text from outside has to refuse it before."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise AssertionError(f"text with a lone surrogate: {text!r}") from error


def look_up_bytes(text: str) -> bytes | None:
    """UTF-8 of a text to search for, or None for one that no file can hold because of a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


@dataclass(frozen=True, slots=True, eq=False)
class HashIndex:
    """Positions by hash. hashes: uint64[n], ascending. order: uint32[n], the position each hash belongs to."""

    hashes: NDArray[np.uint64]
    order: NDArray[np.uint32]

    @classmethod
    def of(cls, hashes: NDArray[np.uint64]) -> HashIndex:
        """From the hashes in order of position."""
        order = np.argsort(hashes, kind="stable").astype(np.uint32)
        return cls(hashes[order], order)

    def candidates(self, key: int) -> list[int]:
        """The positions whose hash is `key`; nearly always none or one."""
        first = int(np.searchsorted(self.hashes, np.uint64(key)))
        found = []
        while first < len(self.hashes) and int(self.hashes[first]) == key:
            found.append(int(self.order[first]))
            first += 1
        return found

    def by_position(self) -> NDArray[np.uint64]:
        """uint64[n]: the hashes in order of position."""
        hashes = np.empty(len(self.hashes), np.uint64)
        hashes[self.order] = self.hashes
        return hashes
