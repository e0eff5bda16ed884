"""Erasing one person: from every answer at once, from the files with the next compaction.

The record of the erasure decides what is before and after it. Segments and dead letters are looked after next: what has
the person is written anew without. When it cannot be written now, that is made up for (`store/erasures`), and the
erasure counts all the same.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from openset.errors import OpenSetError, QueryError
from openset.log import get_logger
from openset.query.executor import Executor
from openset.query.work import WorkerState
from openset.store.snapshot import PartitionSnapshot
from openset.store.store import Store
from openset_format.block import PersonId
from openset_format.hashing import partition_of

log = get_logger("openset.store")


@dataclass(frozen=True, slots=True, eq=False)
class KnownWork:
    """The ordinal of a person, also one all of whose events have expired; None when the partition knows no such."""

    snapshot: PartitionSnapshot
    person: PersonId

    def run(self, state: WorkerState) -> int | None:
        return state.views.view(self.snapshot).persons.index(self.person)


@dataclass(frozen=True, slots=True, eq=False)
class ErasedWork:
    """The ordinals that records beyond a partition's file have made nobody's."""

    snapshot: PartitionSnapshot

    def run(self, state: WorkerState) -> tuple[int, ...]:
        return state.views.view(self.snapshot).erased


async def erase_person(store: Store, executor: Executor, table: str, person: PersonId) -> None:
    """Erases a person, durably. Raises QueryError when there is no such person, ConfigError, InternalError."""
    number = partition_of(person, store.partitions or 1)
    worker = executor.worker_of(number)
    with store.pinned_snapshot(table) as snapshots:
        snapshot = next((own for own in snapshots if own.partition == number), None)
        known = None if snapshot is None else await executor.run(worker, KnownWork(snapshot, person))
    if known is None:
        raise QueryError(f"there is no person {person!r} in table {table!r}")
    sequence = await asyncio.wrap_future(store.submit_erasure(table, person))
    try:
        with store.pinned_snapshot(table) as snapshots:
            snapshot = next(own for own in snapshots if own.partition == number)
            ordinals: tuple[int, ...] = await executor.run(worker, ErasedWork(snapshot))
        await asyncio.to_thread(store.erasures.finish, sequence, {known, *ordinals})
    except OpenSetError as error:
        # The person is gone from every answer and stays so; what is stored besides follows.
        log.warning("an erasure is not finished", reason=error.message)
    finally:
        store.erasures.leave(sequence)
