"""What every query over all partitions has in common: preparing, one pass, explaining instead of running, facts.

A query prepares itself (compiles, checks its parameters) into a `Prepared`: the work of the workers, what an
explanation says of it, and how the results become an answer. The event loop only looks things up and waits; compiling,
merging and rendering run in threads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from openset.query.answer import QueryAnswer
from openset.query.compare import compared_segments
from openset.query.executor import Executor
from openset.query.explain import ExplainWork, explanation
from openset.query.fan_out import PartitionedWork, fan_out
from openset.query.index_only import Candidates
from openset.query.work import PlanCache
from openset.store.schema import TableSchema
from openset.store.store import Store

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 3_600_000


@dataclass(frozen=True, slots=True, eq=False)
class Tools:
    """What queries run with: the store, the workers, the compiled scripts of the daemon."""

    store: Store
    executor: Executor
    plans: PlanCache


@dataclass(frozen=True, slots=True)
class Common:
    """The parameters all queries have. info: facts are wanted besides the answer. explain: instead of it."""

    timeout_ms: int = DEFAULT_TIMEOUT_MS
    info: bool = False
    explain: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """When a query began. now_ms: its `now`, and the moment of its snapshot. started: time.monotonic() seconds."""

    now_ms: int = field(default_factory=lambda: time.time_ns() // 1_000_000)
    started: float = field(default_factory=time.monotonic)
    partitions: int = 0

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
    columns: what it reads.  plan: how, as readable text.
    render: makes an answer of the results of the work; called in a thread, may raise OpenSetError.
    candidates: what indexes say about whom it does anything for, None when they say nothing.
    held: what has to stay until the work is done; whoever runs the query closes it.
    """

    work: PartitionedWork
    columns: frozenset[str]
    plan: str
    render: Callable[[Sequence[Any], Facts], QueryAnswer]
    candidates: Candidates | None = None
    held: ExitStack = field(default_factory=ExitStack)


class Query(Protocol):
    """A query as it was asked. `table` names the table, `common` is what all queries have.

    segments: the names that are compared, None for everyone and no comparison.
    """

    @property
    def table(self) -> str: ...

    @property
    def segments(self) -> Sequence[str] | None: ...

    @property
    def common(self) -> Common: ...

    async def prepare(self, tools: Tools, schema: TableSchema, facts: Facts) -> Prepared | QueryAnswer:
        """The query ready to run, or an answer that needs no run (debug). Raises ParseError, QueryError."""
        ...


async def run_query(tools: Tools, query: Query) -> QueryAnswer:
    """The answer of a query. Raises ParseError, QueryError, RunTimeError."""
    facts = Facts()
    with ExitStack() as held:
        # A script is compiled with the columns of its snapshot, whatever is added or dropped meanwhile.
        schema, snapshots = held.enter_context(tools.store.pinned_table(query.table, facts.now_ms))
        prepared = await query.prepare(tools, schema, facts)
        if not isinstance(prepared, QueryAnswer):
            held.enter_context(prepared.held)
        compared = held.enter_context(
            compared_segments(tools.store.segments, schema.id, query.segments, facts.now_ms)
        )  # fmt: skip
        if isinstance(prepared, QueryAnswer):
            return prepared
        facts = replace(facts, partitions=len(snapshots))
        if query.common.explain:
            settings = prepared.work.settings
            looking = ExplainWork(prepared.columns, snapshots, settings, compared, prepared.candidates)
            return QueryAnswer(explanation(prepared.plan, await fan_out(tools.executor, looking), len(snapshots)))
        work: Any = prepared.work
        results = await fan_out(tools.executor, replace(work, snapshots=snapshots, compared=compared))
    return await asyncio.to_thread(prepared.render, results, facts)
