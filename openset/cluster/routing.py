"""Writes from any node to the owners of their partitions, sent again while owners change.

A record that may have been agreed although nobody said so is sent again, and marked: an owner that has it waits for it.
Where it does not know any more, as after a start, it comes twice, which changes nothing but what triggers do that
look at requests.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence

import msgspec

from openset.cluster.map import NodeName
from openset.cluster.replication import Fellow, Replication
from openset.cluster.wire import (
    Outcome,
    WriteItem,
    decode_items,
    decode_outcomes,
    encode_items,
    encode_outcomes,
)
from openset.errors import ConfigError, OpenSetError, QueryError, ReadOnlyError, UnreachableError
from openset.store.ingest import Insert
from openset.store.records import INSERT_RECORD
from openset_format.batch import encode_batch

WRITE_ROUTE = "write"
PATIENCE_MS = 20_000
# For one attempt; an owner gives up a write that is not agreed before that.
_ATTEMPT_MS = 10_000
_PAUSE_SECONDS = 0.1
_LOOK_SECONDS = 1.0
# How long a node that stops still tries.
_LAST_SECONDS = 5.0


class Routing:
    """A member's way of writing."""

    def __init__(self, membership: Fellow, replication: Replication):
        self._membership = membership
        self._replication = replication
        self._last = float("inf")

    def stop(self) -> None:
        """Writes that run have a few more seconds."""
        self._last = time.monotonic() + _LAST_SECONDS

    async def write(self, items: Sequence[WriteItem], patience_ms: int = PATIENCE_MS) -> None:
        """Returns when all records are agreed and visible. Raises UnreachableError, ReadOnlyError: some may be then."""
        until = time.monotonic() + patience_ms / 1_000
        waiting = list(items)
        while waiting:
            owners = {item.partition: self._owner(item.partition) for item in waiting}
            groups: dict[NodeName | None, list[WriteItem]] = {}
            for item in waiting:
                groups.setdefault(owners[item.partition], []).append(item)
            outcomes = await asyncio.gather(*(self._write_at(owner, group) for owner, group in groups.items()))
            refused = [
                (item, outcome)
                for group, answers in zip(groups.values(), outcomes, strict=True)
                for item, outcome in zip(group, answers, strict=True)
                if outcome.reason
            ]
            if refused and time.monotonic() > min(until, self._last):
                raise _refusal([(item.partition, outcome) for item, outcome in refused])
            waiting = [msgspec.structs.replace(item, again=True) for item, _ in refused]
            # Where the next owner is known already, the next view may be long in coming.
            if any(self._owner(item.partition) == owners[item.partition] for item in waiting):
                await self._membership.changed(_PAUSE_SECONDS)

    def _owner(self, partition: int) -> NodeName | None:
        placed = self._membership.view.placements.get(partition)
        return None if placed is None else placed.placement.owner

    async def _write_at(self, owner: NodeName | None, items: Sequence[WriteItem]) -> list[Outcome]:
        if owner is None:
            return [Outcome("the map has no such partition")] * len(items)
        if owner == self._membership.node:
            return await self._replication.write(items)
        try:
            answer = await self._ask(owner, items)
            if answer is None:
                return [Outcome(f"{owner} does not own the partition any more")] * len(items)
            return decode_outcomes(answer, len(items))
        except QueryError:
            raise
        except ReadOnlyError as error:
            return [Outcome(error.message, read_only=True)] * len(items)
        except OpenSetError as error:
            return [Outcome(f"{owner}: {error.message}")] * len(items)

    async def _ask(self, owner: NodeName, items: Sequence[WriteItem]) -> bytes | None:
        """What the owner answers; None when another node owns one of the partitions by then, whoever hangs."""
        asked = asyncio.create_task(
            self._membership.peers.call(owner, WRITE_ROUTE, encode_items(items), timeout_ms=_ATTEMPT_MS)
        )
        try:
            while True:
                changed = asyncio.create_task(self._membership.changed(_LOOK_SECONDS))
                await asyncio.wait({asked, changed}, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if asked.done():
                    return asked.result()
                if time.monotonic() > self._last or any(self._owner(item.partition) != owner for item in items):
                    return None
        finally:
            asked.cancel()

    async def answer(self, body: bytes) -> bytes:
        """Writes that another node brings. Raises InternodeError, QueryError for a table that is not there."""
        items = decode_items(body)
        store = self._replication.store
        for item in items:
            if store.is_dropped(item.table_id):
                raise QueryError("the table was dropped meanwhile")
            if not store.has_table(item.table_id):
                raise ConfigError(f"there is no table {item.table_id} here")
        return encode_outcomes(await self._replication.write(items))


def insert_items(insert: Insert, kind: int = INSERT_RECORD) -> list[WriteItem]:
    """A prepared request as records, one for each partition. Takes time in proportion to it."""
    batch = insert.batch
    if batch is None:
        return []
    assert batch.stamp.min(initial=0) >= 0, "every event has its stamp by now"
    if len(batch.partitions) == 1:
        return [WriteItem(batch.partitions[0].partition, kind, insert.table_id, insert.payload)]
    return [
        WriteItem(place.partition, kind, insert.table_id, encode_batch(batch.part(place.partition)))
        for place in batch.partitions
    ]


def _refusal(refused: Iterable[tuple[int, Outcome]]) -> OpenSetError:
    refused = list(refused)
    numbers = sorted({partition for partition, _ in refused})
    named = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
    reasons = list(dict.fromkeys(outcome.reason for _, outcome in refused))
    message = f"not everything could be written: partition {named}: {'; '.join(reasons[:3])}; it may be sent again"
    if all(outcome.read_only for _, outcome in refused):
        return ReadOnlyError(message)
    return UnreachableError(message)
