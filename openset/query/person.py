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
from openset.query.explain import Extent, column_bytes, explanation
from openset.query.frame import DEFAULT_TIMEOUT_MS, Facts, Tools
from openset.query.one_owner import OwnerRequest, ask_owner
from openset.query.result import encode
from openset.query.work import WorkerState
from openset.store.fold import fold_events
from openset.store.snapshot import PartitionSnapshot
from openset_format.block import Block, PersonId
from openset_format.hashing import partition_of

KIND = "person"
EVENTS_PER_PIECE = 2_000


@dataclass(frozen=True, slots=True)
class PersonRequest:
    """Whose events are asked for: those with from_ms <= stamp < to_ms, the first `limit` of them (None: all).

    info: facts are wanted behind the events. explain: what would be read, instead of the events.
    """

    person: PersonId
    from_ms: int | None = None
    to_ms: int | None = None
    limit: int | None = None
    info: bool = False
    explain: bool = False


@dataclass(frozen=True, slots=True)
class PersonPiece:
    """Some events as JSON, without the brackets of the list around them. more: whether others follow.

    count, rows: how many events they are, of how many rows.
    """

    events: bytes
    more: bool
    count: int
    rows: int


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
        rows = int(block.event_first_row[high] - block.event_first_row[low])
        return PersonPiece(msgspec.json.encode(events)[1:-1], high < end, high - low, rows)


@dataclass(frozen=True, slots=True, eq=False)
class PersonExplainWork:
    """What a person query would read."""

    snapshot: PartitionSnapshot
    request: PersonRequest

    def run(self, state: WorkerState) -> Extent | None:
        """None when there is no such person."""
        block = state.views.person_rows(self.snapshot, self.request.person)
        if block is None:
            return None
        start, end = _asked_events(block, self.request)
        asked = _events_of(block, start, end)
        sizes = {name: column_bytes(asked, name) for name in ("stamp", *asked.columns)}
        return Extent(1, end - start, asked.rows, 1, sizes)


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


@dataclass(frozen=True, slots=True)
class PersonAsk:
    """What the node that owns the person's partition is sent."""

    table: str
    request: PersonRequest


async def person_pieces(tools: Tools, table: str, request: PersonRequest) -> AsyncGenerator[bytes, None]:
    """A person's events as JSON, piece by piece. Raises QueryError, before the first, when there is no such person.

    What another node has comes as one piece.
    """
    spread, number = tools.spread, partition_of(request.person, tools.store.partitions or 1)
    if spread is None or (spread.owners().of.get(number) == spread.node and spread.may_answer(number)):
        async for piece in pieces_here(tools, table, request):
            yield piece
        return
    asked = OwnerRequest(KIND, PersonAsk(table, request), number, DEFAULT_TIMEOUT_MS)
    yield await ask_owner(spread, asked, Facts(), lambda: person_here(tools, table, request))


async def person_here(tools: Tools, table: str, request: PersonRequest) -> bytes:
    """The whole answer, from this node's data. Raises QueryError when there is no such person."""
    return b"".join([piece async for piece in pieces_here(tools, table, request)])


async def pieces_here(tools: Tools, table: str, request: PersonRequest) -> AsyncGenerator[bytes, None]:
    """`person_pieces` from this node's data."""
    facts, executor = Facts(partitions=1), tools.executor
    with tools.store.pinned_snapshot(table) as snapshots:
        number = partition_of(request.person, tools.store.partitions or 1)
        snapshot = next((own for own in snapshots if own.partition == number), None)
        worker = executor.worker_of(number)
        if request.explain:
            extent = None if snapshot is None else await executor.run(worker, PersonExplainWork(snapshot, request))
            if extent is None:
                raise _nobody(request, table)
            plan = f"the rows of one person, found by the hash of the id in partition {number}"
            yield encode(explanation(plan, [[extent]], 1))
            return
        first = events = rows = 0
        while True:
            piece: PersonPiece | None = None
            if snapshot is not None:
                piece = await executor.run(worker, PersonWork(snapshot, request, first))
            if piece is None:
                raise _nobody(request, table)
            events, rows = events + piece.count, rows + piece.rows
            opening = b"" if first else b'{"person":' + msgspec.json.encode(request.person) + b',"events":['
            separator = b"," if first and piece.events else b""
            closing = b""
            if not piece.more:
                info = b',"info":' + encode(facts.shown(1, events, rows)) if request.info else b""
                closing = b"]" + info + b"}"
            yield opening + separator + piece.events + closing
            if not piece.more:
                return
            first += EVENTS_PER_PIECE


def _nobody(request: PersonRequest, table: str) -> QueryError:
    return QueryError(f"there is no person {request.person!r} in table {table!r}")


async def find_person(tools: Tools, table: str, request: PersonRequest) -> bytes:
    """The whole answer at once. Raises QueryError when there is no such person."""
    return b"".join([piece async for piece in person_pieces(tools, table, request)])
