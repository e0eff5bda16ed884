"""Erasing one person: from every answer at once, from the files with the next compaction.

The record of the erasure decides what is before and after it. Segments and dead letters are looked after next: what has
the person is written anew without. When it cannot be written now, that is made up for (`store/erasures`), and the
erasure counts all the same.

In a cluster the owner of the person's partition says whether there is such a person, the record goes the way of an
insert, and all members are told whom they do not know any more. One that is not told hears of it when it is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec

from openset.errors import OpenSetError, QueryError
from openset.log import get_logger
from openset.query.executor import Executor
from openset.query.frame import DEFAULT_TIMEOUT_MS, Facts, Tools
from openset.query.one_owner import OwnerRequest, ask_owner
from openset.query.shared_segments import ForgetPerson, publish_erasure
from openset.query.wire.codec import decoded, encoded
from openset.query.work import WorkerState
from openset.store.records import encode_erasure
from openset.store.snapshot import PartitionSnapshot
from openset.store.store import Store
from openset_format.block import PersonId
from openset_format.hashing import partition_of

log = get_logger("openset.store")

KIND = "erasure"


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
        raise _nobody(person, table)
    sequence = await asyncio.wrap_future(store.submit_erasure(table, person))
    try:
        with store.pinned_snapshot(table) as snapshots:
            snapshot = next(own for own in snapshots if own.partition == number)
            ordinals: tuple[int, ...] = await executor.run(worker, ErasedWork(snapshot))
        await asyncio.to_thread(store.erasures.finish, number, sequence, {known, *ordinals})
    except OpenSetError as error:
        # The person is gone from every answer and stays so; what is stored besides follows.
        log.warning("an erasure is not finished", reason=error.message)
    finally:
        store.erasures.leave(number, sequence)


def _nobody(person: PersonId, table: str) -> QueryError:
    return QueryError(f"there is no person {person!r} in table {table!r}")


# ---------------------------------------------------------------- in a cluster


@dataclass(frozen=True, slots=True)
class ErasureAsk:
    """What the owner of the person's partition is asked for: whom an erasure would concern."""

    table: str
    person: PersonId


class Concerned(msgspec.Struct, frozen=True):
    """The person's ordinal, None where there is no such person, and those whom earlier erasures have made nobody's."""

    ordinal: int | None
    erased: list[int]


async def concerned_here(tools: Tools, ask: ErasureAsk) -> bytes:
    """A Concerned, from this node's data. Raises QueryError, ConfigError."""
    number = partition_of(ask.person, tools.store.partitions or 1)
    worker = tools.executor.worker_of(number)
    with tools.store.pinned_snapshot(ask.table) as snapshots:
        snapshot = next((own for own in snapshots if own.partition == number), None)
        if snapshot is None:
            return encoded(Concerned(None, []))
        known = await tools.executor.run(worker, KnownWork(snapshot, ask.person))
        erased = await tools.executor.run(worker, ErasedWork(snapshot))
        return encoded(Concerned(known, list(erased)))


async def erase_in_cluster(
    tools: Tools, write: Callable[[int, int, bytes], Awaitable[None]], table: str, person: PersonId
) -> None:
    """Erases a person from all copies, durably, and from the stored segments of all members that can be reached.

    write: brings an erasure to the owner of its partition (partition, table id, payload); returns when it is agreed.

    Raises QueryError when there is no such person, ConfigError, InternodeError, ReadOnlyError. After an error the
    person may be erased; it may be asked for again.
    """
    store, spread = tools.store, tools.spread
    assert spread is not None, "it is one of several nodes"
    table_id, partitions = store.table(table).id, store.partitions or 1
    ask = ErasureAsk(table, person)
    number = partition_of(person, partitions)
    owner = OwnerRequest(KIND, ask, number, DEFAULT_TIMEOUT_MS)
    found: Concerned = decoded(await ask_owner(spread, owner, Facts(), lambda: concerned_here(tools, ask)), Concerned)
    if found.ordinal is not None:
        await write(number, table_id, encode_erasure(person, partitions))
    # Also when somebody asks again because nobody answered: whoever was not told is told now.
    ordinals = [*found.erased, *([] if found.ordinal is None else [found.ordinal])]
    if ordinals:
        await publish_erasure(store, spread, ForgetPerson(table_id, number, person, ordinals))
    if found.ordinal is None:
        raise _nobody(person, table)
