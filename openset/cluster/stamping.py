"""Stamps for events that come without one, from the owners of their partitions, before the events are written.

An event is known by person, stamp and action. Only the owner sees the events of a person that come through all nodes,
so only it can say which milliseconds are free. They are asked for first and written with the events, so that events
that are sent again stay the same. The next owner gives none from before it was first asked, whatever the one before
gave until then. Shortcut: what that gave beyond its time, because events of one person and action came faster than one
a millisecond, the next one does not know, and may give again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np

from openset.cluster.map import NodeName
from openset.cluster.replication import Fellow, Replication
from openset.errors import InternodeError, QueryError, UnreachableError
from openset.store.ingest import Insert
from openset.store.now import NOW
from openset.store.ranges import count_within
from openset.store.stamps import LAST_STAMP
from openset_format.batch import EventBatch, encode_batch
from openset_format.decoding import msgpack_decoder

STAMPS_ROUTE = "stamps"
_ASK_MS = 5_000
_PAUSE_SECONDS = 0.1
_PATIENCE_SECONDS = 20.0

_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
_Stamp = Annotated[int, msgspec.Meta(ge=0, le=LAST_STAMP)]


class Wanted(msgspec.Struct, frozen=True, array_like=True):
    """Stamps for some events of a person and action."""

    partition: _Number
    person: int | str
    action: str
    count: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]


class Ask(msgspec.Struct, frozen=True, array_like=True):
    """now_ms: of the node that was asked by the client."""

    table_id: _Number
    now_ms: _Stamp
    wanted: list[Wanted]


class Stamping:
    """A member's way of getting stamps."""

    def __init__(self, membership: Fellow, replication: Replication):
        self._membership = membership
        self._replication = replication
        # By partition: a term in which this node owns it, and when it was first asked in it, ms.
        self._first_asked: dict[int, tuple[int, int]] = {}

    async def stamped(self, insert: Insert) -> Insert:
        """The request with a stamp for every event: now at the earliest. Raises OpenSetError where no owner answers."""
        batch = insert.batch
        if batch is None or not (batch.stamp == NOW).any():
            return insert
        now_ms = time.time_ns() // 1_000_000
        wanted, codes = await asyncio.to_thread(_wanted, batch)
        first = await self._first(Ask(insert.table_id, now_ms, wanted))
        return await asyncio.to_thread(_filled, insert, batch, np.array(first, np.int64), codes)

    async def _first(self, ask: Ask) -> list[int]:
        """The first stamp of each that is wanted."""
        until = time.monotonic() + _PATIENCE_SECONDS
        found: dict[int, int] = {}
        reason = ""
        while len(found) < len(ask.wanted):
            groups: dict[NodeName, list[int]] = {}
            for place, one in enumerate(ask.wanted):
                placed = self._membership.view.placements.get(one.partition)
                if place not in found and placed is not None:
                    groups.setdefault(placed.placement.owner, []).append(place)
            asks = [_asking_for(ask, [ask.wanted[place] for place in places]) for places in groups.values()]
            answers = await asyncio.gather(
                *(self._at(owner, one) for owner, one in zip(groups, asks, strict=True)), return_exceptions=True
            )
            for (owner, places), answer in zip(groups.items(), answers, strict=True):
                if isinstance(answer, InternodeError):
                    reason = answer.message
                elif isinstance(answer, BaseException):
                    raise answer
                else:
                    given = {place: stamp for place, stamp in zip(places, answer, strict=True) if stamp is not None}
                    found.update(given)
                    if len(given) < len(places):
                        reason = f"{owner} is not sure to own it"
            if len(found) < len(ask.wanted):
                if time.monotonic() >= until:
                    lost = sorted({one.partition for place, one in enumerate(ask.wanted) if place not in found})
                    named = ", ".join(map(str, lost[:10])) + (", …" if len(lost) > 10 else "")
                    raise UnreachableError(
                        f"nothing was written, the owners of some partitions do not answer: partition {named}: "
                        f"{reason or 'nobody owns it'}; it may be sent again"
                    )
                await self._membership.changed(_PAUSE_SECONDS)
        return [found[place] for place in range(len(ask.wanted))]

    async def _at(self, owner: NodeName, ask: Ask) -> list[int | None]:
        """None where the node that is asked is not sure to be the owner. Raises OpenSetError."""
        if owner == self._membership.node:
            return self._given(ask)
        data = await self._membership.peers.call(owner, STAMPS_ROUTE, msgspec.msgpack.encode(ask), timeout_ms=_ASK_MS)
        try:
            found = msgpack_decoder(list[_Stamp | None]).decode(data)
        except msgspec.DecodeError as error:
            raise InternodeError(f"{owner} answers with something else than stamps: {error}") from error
        if len(found) != len(ask.wanted):
            raise InternodeError(f"{owner} answers with {len(found)} stamps for {len(ask.wanted)}")
        return found

    def answer(self, ask: Ask) -> bytes:
        """What another node asks for, None where this node is not sure to be the owner. Raises QueryError."""
        return msgspec.msgpack.encode(self._given(ask))

    def _given(self, ask: Ask) -> list[int | None]:
        store = self._replication.store
        if not store.has_table(ask.table_id):
            raise QueryError("the table was dropped meanwhile")
        owned = {one.partition for one in ask.wanted if self._replication.may_answer(one.partition)}
        wanted = [one for one in ask.wanted if one.partition in owned]
        names = [(one.person, one.action) for one in wanted]
        least_ms = [max(ask.now_ms, self._asked_ms(one.partition)) for one in wanted]
        given = iter(store.now_stamps(ask.table_id).reserve(names, [one.count for one in wanted], least_ms))
        return [next(given) if one.partition in owned else None for one in ask.wanted]

    def _asked_ms(self, partition: int) -> int:
        """When this owner was first asked in its term. Events may have waited for it for long."""
        term = self._replication.owned_term(partition) or 0
        known = self._first_asked.get(partition)
        if known is None or known[0] != term:
            known = self._first_asked[partition] = (term, time.time_ns() // 1_000_000)
        return known[1]


def _asking_for(ask: Ask, wanted: Sequence[Wanted]) -> Ask:
    return Ask(ask.table_id, ask.now_ms, list(wanted))


def _wanted(batch: EventBatch) -> tuple[list[Wanted], np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """What the events without a stamp want, each person and action once; and which of it each of them is, in order."""
    missing = np.flatnonzero(batch.stamp == NOW)
    firsts = np.array([one.first_event for one in batch.partitions])
    slices = np.searchsorted(firsts, missing, side="right") - 1
    names = batch.person[missing].astype(np.int64) << 32 | batch.action[missing].astype(np.int64)
    distinct, where, codes, counts = np.unique(names, return_index=True, return_inverse=True, return_counts=True)
    return [
        Wanted(
            batch.partitions[place].partition, batch.persons[name >> 32], batch.actions[name & 0xFFFFFFFF], count
        )
        for name, place, count in zip(distinct.tolist(), slices[where].tolist(), counts.tolist(), strict=True)
    ], codes.astype(np.int64)  # fmt: skip


def _filled(
    insert: Insert,
    batch: EventBatch,
    first: np.ndarray[tuple[int], np.dtype[np.int64]],
    codes: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> Insert:
    stamp = batch.stamp.copy()
    stamp[stamp == NOW] = first[codes] + count_within(codes)
    if stamp.max() > LAST_STAMP:
        raise InternodeError("the clock of a node is beyond the year 9999")
    filled = replace(batch, stamp=stamp)
    return replace(insert, batch=filled, payload=encode_batch(filled))
