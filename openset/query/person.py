"""The person query: one person's events, folded back from rows to nested attributes.

The answer is made in pieces of so many events, each folded on the worker and sent before the next is asked for, so that
a long history costs no more memory than a short one. All pieces are read from one pinned snapshot.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import msgspec
import numpy as np

from openset.errors import QueryError
from openset.query.executor import Executor
from openset.query.work import WorkerState
from openset.store.fold import fold_events
from openset.store.snapshot import PartitionSnapshot
from openset.store.store import Store
from openset_format.block import Block, PersonId
from openset_format.hashing import partition_of

EVENTS_PER_PIECE = 2_000


@dataclass(frozen=True, slots=True)
class PersonRequest:
    """Whose events are asked for: those with from_ms <= stamp < to_ms, the first `limit` of them (None: all)."""

    person: PersonId
    from_ms: int | None = None
    to_ms: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class PersonPiece:
    """Some events as JSON, without the brackets of the list around them. more: whether others follow."""

    events: bytes
    more: bool


@dataclass(frozen=True, slots=True, eq=False)
class PersonWork:
    """The events `first` … of a request, in the partition the person belongs to."""

    snapshot: PartitionSnapshot
    request: PersonRequest
    first: int

    def run(self, state: WorkerState) -> PersonPiece | None:
        """None when there is no such person."""
        block = state.views.person_rows(self.snapshot, self.request.person)
        if block is None:
            return None
        start, end = _asked_events(block, self.request)
        low = min(start + self.first, end)
        high = min(low + EVENTS_PER_PIECE, end)
        events = fold_events(_events_of(block, low, high))
        return PersonPiece(msgspec.json.encode(events)[1:-1], high < end)


def _asked_events(block: Block, request: PersonRequest) -> tuple[int, int]:
    """The events of a person that a request asks for: from, to (excluded)."""
    stamps = block.stamp[block.event_first_row[:-1]]
    start = 0 if request.from_ms is None else int(np.searchsorted(stamps, request.from_ms))
    end = len(stamps) if request.to_ms is None else int(np.searchsorted(stamps, request.to_ms))
    if request.limit is not None:
        end = min(end, start + request.limit)
    return start, max(start, end)


def _events_of(block: Block, first: int, last: int) -> Block:
    """Some events of the one person of a Block, as a Block."""
    low, high = int(block.event_first_row[first]), int(block.event_first_row[last])
    rows = slice(low, high)
    return Block(
        ids=block.ids,
        row_start=np.array([0, high - low], np.int64),
        stamp=block.stamp[rows],
        event_start=None if block.event_start is None else block.event_start[rows],
        columns={name: column[rows] for name, column in block.columns.items()},
        first_person=block.first_person,
    )


async def person_pieces(
    store: Store, executor: Executor, table: str, request: PersonRequest
) -> AsyncGenerator[bytes, None]:
    """A person's events as JSON, piece by piece. Raises QueryError, before the first, when there is no such person."""
    with store.pinned_snapshot(table) as snapshots:
        number = partition_of(request.person, store.partitions or 1)
        snapshot = next((own for own in snapshots if own.partition == number), None)
        first = 0
        while True:
            piece: PersonPiece | None = None
            if snapshot is not None:
                piece = await executor.run(executor.worker_of(number), PersonWork(snapshot, request, first))
            if piece is None:
                raise QueryError(f"there is no person {request.person!r} in table {table!r}")
            opening = b"" if first else b'{"person":' + msgspec.json.encode(request.person) + b',"events":['
            separator = b"," if first and piece.events else b""
            yield opening + separator + piece.events + (b"" if piece.more else b"]}")
            if not piece.more:
                return
            first += EVENTS_PER_PIECE


async def find_person(store: Store, executor: Executor, table: str, request: PersonRequest) -> bytes:
    """The whole answer at once. Raises QueryError when there is no such person."""
    return b"".join([piece async for piece in person_pieces(store, executor, table, request)])
