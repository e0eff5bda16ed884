"""What every query over all partitions has in common: preparing, one pass, explaining instead of running, facts.

On a member of a cluster the pass is over the partitions of all nodes (`openset.query.spread`): each is sent the query
as it was asked, and answers for the partitions it owns by `run_here`, as this node does for its own.

A query prepares itself (compiles, checks its parameters) into a `Prepared`: the work of the workers, what an
explanation says of it, and how the results become an answer. The event loop only looks things up and waits; compiling,
merging and rendering run in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol

from openset.errors import InternalError
from openset.query.answer import QueryAnswer
from openset.query.compare import EVERYONE, compared_segments
from openset.query.executor import Executor
from openset.query.explain import ExplainWork, Extent, explanation
from openset.query.fan_out import PartitionedWork, fan_out
from openset.query.index_only import Candidates
from openset.query.shared_segments import bring, catch_up, other_segments, publish
from openset.query.spread import (
    Asking,
    Share,
    Spread,
    gather,
    until_agreed,
)
from openset.query.wire.asking import Ask, request_bytes, request_of, schema_mark
from openset.query.wire.codec import Codec, Lists, encoded
from openset.query.work import PlanCache
from openset.store.members import Compared
from openset.store.schema import TableSchema
from openset.store.segment import Edition, StoredSegment
from openset.store.snapshot import PartitionSnapshot, StaleSnapshotError
from openset.store.store import Store

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 3_600_000


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """What queries run with: the store, the workers, the compiled scripts of the daemon.

    spread: the other nodes; None where this node has all partitions.
    """

    store: Store
    executor: Executor
    plans: PlanCache
    spread: Spread | None = None


@dataclass(frozen=True, slots=True)
class Common:
    """The parameters all queries have. info: facts are wanted besides the answer. explain: instead of it.

    partial: an answer without some partitions is better than none; it says which are missing.
    """

    timeout_ms: int = DEFAULT_TIMEOUT_MS
    info: bool = False
    explain: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """When a query began. now_ms: its `now`, and the moment of its snapshot. started: time.monotonic() seconds.

    partitions: how many with data were read.  missing: those that were not, whose nodes gave no answer.
    """

    now_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    started: float = field(default_factory=time.monotonic)
    partitions: int = 0
    missing: Sequence[int] = ()

    def deadline(self, common: Common) -> float:
        """Until when the query may run, in time.monotonic() seconds."""
        return self.started + common.timeout_ms / 1000

    def shown(self, people: int, events: int, rows: int) -> dict[str, Any]:
        """The `info` of an answer."""
        return {
            "people": people,
            "events": events,
            "rows": rows,
            "ms": round(1000 * (time.monotonic() - self.started), 3),
            "partitions": self.partitions,
            "snapshot_time": self.now_ms,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A query that is ready to run over a table.

    work: what workers do, without snapshots and without what is compared (fields `snapshots` and `compared`).
    columns: what it reads.  plan: how, as readable text.  codec: of the results.
    render: makes an answer of the results of the work; called in a thread, may raise OpenSetError.
    candidates: what indexes say about whom it does anything for, None when they say nothing.
    held: what has to stay until the work is done; whoever runs the query closes it.
    segments: names of stored segments that it may read, besides those that are compared.
    makes: names of segments that `render` stores.
    """

    work: PartitionedWork
    columns: frozenset[str]
    plan: str
    codec: Codec[Any]
    render: Callable[[Sequence[Any], Facts], QueryAnswer]
    candidates: Candidates | None = None
    held: ExitStack = field(default_factory=ExitStack)
    segments: Sequence[str] = ()
    makes: Sequence[str] = ()


class Query(Protocol):
    """A query as it was asked. `table` names the table, `common` is what all queries have.

    kind: by which other nodes know what it is.  segments: the names that are compared, None for everyone and no
    comparison.
    """

    kind: ClassVar[str]

    @property
    def table(self) -> str: ...

    @property
    def segments(self) -> Sequence[str] | None: ...

    @property
    def common(self) -> Common: ...

    async def prepare(self, tools: Tools, schema: TableSchema, facts: Facts) -> Prepared | QueryAnswer:
        """The query ready to run, or an answer that needs no run (debug). Raises ParseError, QueryError."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Runnable:
    """What is run for a query, or measured for one that is to be explained.

    work: without snapshots.  codec: of its results.  finish: makes the answer of them, in a thread.  segments: names
    of stored ones that it may read.  makes: names of those that `finish` stores.
    """

    work: PartitionedWork
    codec: Codec[Any]
    finish: Callable[[Sequence[Any], Facts], QueryAnswer]
    segments: Sequence[str] = ()
    makes: Sequence[str] = ()


def runnable(query: Query, prepared: Prepared, compared: Compared | None) -> Runnable:
    """The query itself, or its explanation. compared: what `segments` of the query are."""
    work: Any = prepared.work
    names = [*prepared.segments, *(name for name in query.segments or () if name != EVERYONE)]
    if not query.common.explain:
        return Runnable(replace(work, compared=compared), prepared.codec, prepared.render, names, prepared.makes)
    return Runnable(
        ExplainWork(prepared.columns, (), work.settings, compared, prepared.candidates),
        Lists(Extent),
        lambda portions, facts: QueryAnswer(explanation(prepared.plan, portions, facts.partitions)),
        names,
    )


async def run_query(tools: Tools, query: Query) -> QueryAnswer:
    """The answer of a query. Raises ParseError, QueryError, RunTimeError; PartitionsError where nodes do not answer."""
    facts = Facts()
    if tools.spread is not None:
        return await _run_spread(tools, tools.spread, query, facts)
    with ExitStack() as held:
        # A script is compiled with the columns of its snapshot, whatever is added or dropped meanwhile.
        schema, snapshots = held.enter_context(tools.store.pinned_table(query.table, facts.now_ms))
        ready = await made_ready(tools, query, schema, facts, held)
        if isinstance(ready, QueryAnswer):
            return ready
        facts = replace(facts, partitions=len(snapshots))
        work: Any = ready.work
        results = await _results(tools, replace(work, snapshots=snapshots))
    return with_missing(await asyncio.to_thread(ready.finish, results, facts), query.common, facts)


async def made_ready(
    tools: Tools, query: Query, schema: TableSchema, facts: Facts, held: ExitStack
) -> Runnable | QueryAnswer:
    """The query ready to run; what it refers to stays until `held` is closed. Raises ParseError, QueryError."""
    prepared = await query.prepare(tools, schema, facts)
    if not isinstance(prepared, QueryAnswer):
        held.enter_context(prepared.held)
    compared = held.enter_context(compared_segments(tools.store.segments, schema.id, query.segments, facts.now_ms))
    return prepared if isinstance(prepared, QueryAnswer) else runnable(query, prepared, compared)


def with_missing(answer: QueryAnswer, common: Common, facts: Facts) -> QueryAnswer:
    """An answer that was asked for even when it is partial says which partitions it lacks."""
    if common.partial:
        answer.body["missing_partitions"] = list(facts.missing)
    return answer


# ---------------------------------------------------------------- across nodes


async def _run_spread(tools: Tools, spread: Spread, query: Query, facts: Facts) -> QueryAnswer:
    # Whoever prepares a query takes the script's values from its parameters, so each time it is made of these bytes.
    request = request_bytes(query)
    deadline = facts.deadline(query.common)
    return await until_agreed(lambda: _spread_once(tools, spread, query, request, facts), deadline)


@dataclass(frozen=True, slots=True)
class Target:
    """What other nodes are asked for. mark: `schema_mark` of the table. segments: the computations that are read."""

    kind: str
    request: bytes
    mark: int = 0
    segments: Mapping[str, Edition | None] = field(default_factory=dict)


async def _spread_once(tools: Tools, spread: Spread, query: Query, request: bytes, facts: Facts) -> QueryAnswer:
    """Raises OutdatedError when the table or a segment was changed while nodes were asked."""
    with ExitStack() as held:
        schema = tools.store.table(query.table)
        ready = await made_ready(tools, request_of(request, type(query)), schema, facts, held)
        if isinstance(ready, QueryAnswer):
            return ready
        found = held.enter_context(tools.store.segments.pinned(schema.id, ready.segments, facts.now_ms))
        target = Target(query.kind, request, schema_mark(schema), editions(ready.segments, found))

        async def here(numbers: Sequence[int]) -> Share[Any]:
            again = request_of(request, type(query))
            return (await run_here(tools, again, facts, target, numbers, spread.may_answer))[0]

        deadline = facts.deadline(query.common)
        gathered = await gather(
            Asking(
                spread,
                ready.codec,
                here,
                lambda numbers: ask_bytes(target, facts, deadline, numbers),
                deadline,
                query.common.timeout_ms,
                query.common.partial,
                bringing(tools, spread, found),
            ),
            range(tools.store.partitions or 0),
        )
        facts = replace(facts, partitions=gathered.read, missing=gathered.missing)
        results = [] if gathered.result is None else [gathered.result]
        answer = await asyncio.to_thread(ready.finish, results, facts)
        if ready.makes and not facts.missing:
            await publish(tools.store, spread, schema.id, ready.makes)
        return with_missing(answer, query.common, facts)


def editions(names: Sequence[str], found: Mapping[str, StoredSegment]) -> dict[str, Edition | None]:
    """Which computations are meant by names, None where there is none."""
    return {name: found[name].segment.edition if name in found else None for name in names}


def bringing(
    tools: Tools, spread: Spread, found: Mapping[str, StoredSegment]
) -> Callable[[str, Sequence[str]], Awaitable[bool]]:
    """What gives other nodes the segments they lack, and takes over the later ones that they have.

    found: those that are here, held by whoever runs the query.
    """

    async def bring_lacking(node: str, names: Sequence[str]) -> bool:
        lacking = [found[name] for name in names if name in found]
        later = await bring(spread, node, tools.store.segments, lacking)
        if len(lacking) == len(names) and not later:
            return True
        await catch_up(tools.store, spread, node)
        return False

    return bring_lacking


def ask_bytes(target: Target, facts: Facts, deadline: float, numbers: Sequence[int]) -> bytes:
    """What another node is sent for partitions."""
    left_ms = max(1, round(1000 * (deadline - time.monotonic())))
    return encoded(
        Ask(
            target.kind, target.request, target.mark, facts.now_ms, left_ms, list(numbers), dict(target.segments)
        )
    )  # fmt: skip


async def run_here(
    tools: Tools,
    query: Query,
    facts: Facts,
    target: Target,
    numbers: Sequence[int],
    may_answer: Callable[[int], bool],
) -> tuple[Share[Any], Codec[Any] | None]:
    """This node's share of a query: merged results of those partitions it may answer for, as far as it still may then;
    and the codec of a result.

    target: as whoever asks has prepared the query. Raises OpenSetError.
    """
    allowed = [number for number in numbers if may_answer(number)]
    if not allowed:
        return Share(None, refused=numbers), None
    with ExitStack() as held:
        schema, snapshots = held.enter_context(tools.store.pinned_table(query.table, facts.now_ms))
        differing = differs(tools, schema, target, facts)
        if differing is not None:
            return differing, None
        ready = await made_ready(tools, query, schema, facts, held)
        assert isinstance(ready, Runnable), "what needs no run is answered where it was asked"
        differing = differs(tools, schema, target, facts)  # what was pinned is between the two
        if differing is not None:
            return differing, None
        own = pinned_of(snapshots, allowed)
        work: Any = ready.work
        results = await _results(tools, replace(work, snapshots=own))
    merged = await asyncio.to_thread(ready.codec.merged, results)
    return share_of(merged, len(own), numbers, allowed, may_answer), ready.codec


async def _results(tools: Tools, work: PartitionedWork) -> list[Any]:
    """`fan_out`; where it fails and should not have, the files that were read may be damaged: they are verified."""
    try:
        return await fan_out(tools.executor, work)
    except StaleSnapshotError:
        raise
    except InternalError:
        store = tools.store
        store.damage.suspect(store.data_dir / one.file for one in work.snapshots if one.generation)
        raise


def differs(tools: Tools, schema: TableSchema, target: Target, facts: Facts) -> Share[Any] | None:
    """What is answered when this node does not have the table, or the segments, for which a query was prepared."""
    if schema_mark(schema) != target.mark:
        return Share(None, other_schema=True)
    others = other_segments(tools.store, schema.id, target.segments, facts.now_ms)
    return Share(None, other_segments=others) if others else None


def pinned_of(snapshots: Sequence[PartitionSnapshot], numbers: Collection[int]) -> list[PartitionSnapshot]:
    """The snapshots of some partitions."""
    wanted = frozenset(numbers)
    return [snapshot for snapshot in snapshots if snapshot.partition in wanted]


def share_of(
    result: Any, read: int, numbers: Sequence[int], allowed: Collection[int], may_answer: Callable[[int], bool]
) -> Share[Any]:
    """The share of a run that took in the allowed partitions; nothing where one of them was lost meanwhile."""
    if not all(may_answer(number) for number in allowed):
        return Share(None, refused=numbers)
    return Share(result, read, [number for number in numbers if number not in allowed])
