"""A hash table over columns: many lanes look up or add one key each, in a few numpy passes.

Keys are (owner, kind, payload) triples; each gets a dense entry number in the order of addition, never reused. Open
addressing with linear probing; a pass settles all lanes whose slot is free or theirs, the rest go on to the next slot.
Probing several lanes at once is the usual way of vectorised hash joins; nothing here depends on the order of lanes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Kinds = NDArray[np.uint8]

_FIRST_SLOTS = 1 << 10
# Odd multipliers that spread consecutive owners and payloads (from the golden ratio and pi).
_OWNER_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_PAYLOAD_FACTOR = np.uint64(0x243F6A8885A308D3)
_KIND_FACTOR = np.uint64(0x13198A2E03707345)


class LaneMap:
    """owner, kind, payload: int64/uint8 per entry, the first `count` of them in use."""

    def __init__(self) -> None:
        self.count = 0
        self.owner: Ints = np.zeros(256, np.int64)
        self.kind: Kinds = np.zeros(256, np.uint8)
        self.payload: Ints = np.zeros(256, np.int64)
        self._slots: Ints = np.full(_FIRST_SLOTS, -1, np.int64)

    def find(self, owner: Ints, kind: Kinds, payload: Ints) -> Ints:
        """int64[n]: the entry of each key, -1 where there is none."""
        found = np.full(len(owner), -1, np.int64)
        mask = len(self._slots) - 1
        slot = _hashed(owner, kind, payload) & mask
        lanes = np.arange(len(owner))
        while len(lanes):
            entry = self._slots[slot]
            used = entry >= 0
            same = used & self._equal(entry, owner[lanes], kind[lanes], payload[lanes])
            found[lanes[same]] = entry[same]
            going_on = used & ~same
            lanes, slot = lanes[going_on], (slot[going_on] + 1) & mask
        return found

    def add(self, owner: Ints, kind: Kinds, payload: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """The entry of each key, made where missing, and which were made. Keys must be distinct within a call."""
        entry = self.find(owner, kind, payload)
        new = entry < 0
        missing = np.flatnonzero(new)
        if len(missing):
            entry[missing] = self._append(owner[missing], kind[missing], payload[missing])
        return entry, new

    def _append(self, owner: Ints, kind: Kinds, payload: Ints) -> Ints:
        first, last = self.count, self.count + len(owner)
        if last > len(self.owner):
            size = max(last, 2 * len(self.owner))
            self.owner = _grown(self.owner, size)
            self.payload = _grown(self.payload, size)
            kinds = np.zeros(size, np.uint8)
            kinds[: len(self.kind)] = self.kind
            self.kind = kinds
        self.owner[first:last] = owner
        self.kind[first:last] = kind
        self.payload[first:last] = payload
        self.count = last
        entries = np.arange(first, last, dtype=np.int64)
        if 2 * last > len(self._slots):
            self._rebuild()
        else:
            self._place(entries)
        return entries

    def _rebuild(self) -> None:
        size = len(self._slots)
        while 4 * self.count > size:
            size *= 2
        self._slots = np.full(2 * size, -1, np.int64)
        self._place(np.arange(self.count, dtype=np.int64))

    def _place(self, entries: Ints) -> None:
        """Puts entries whose keys are not in the table into free slots."""
        mask = len(self._slots) - 1
        slot = _hashed(self.owner[entries], self.kind[entries], self.payload[entries]) & mask
        while len(entries):
            free = self._slots[slot] < 0
            self._slots[slot[free]] = entries[free]  # of several that want a slot one wins
            lost = self._slots[slot] != entries
            entries, slot = entries[lost], (slot[lost] + 1) & mask

    def _equal(self, entry: Ints, owner: Ints, kind: Kinds, payload: Ints) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = (
            (self.owner[entry] == owner) & (self.payload[entry] == payload) & (self.kind[entry] == kind)
        )
        return same


def _hashed(owner: Ints, kind: Kinds, payload: Ints) -> Ints:
    mixed = owner.view(np.uint64) * _OWNER_FACTOR + payload.view(np.uint64) * _PAYLOAD_FACTOR
    mixed += kind.astype(np.uint64) * _KIND_FACTOR
    mixed ^= mixed >> np.uint64(29)
    mixed *= _OWNER_FACTOR
    return (mixed >> np.uint64(24)).astype(np.int64)


def _grown(array: Ints, size: int) -> Ints:
    bigger = np.zeros(size, array.dtype)
    bigger[: len(array)] = array
    return bigger
