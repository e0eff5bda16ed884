"""The events query: compile, fan out to the workers, merge their partials, render.

The event loop only looks up the compiled script and waits; parsing, merging and rendering run in threads, the script
itself in the executor's workers. With compared segments there is a Partial for each of them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openset.pyql.engine import EngineRun, Plan
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset.query.compare import compared_blocks, compared_segments, scanned
from openset.query.executor import Executor
from openset.query.fan_out import Portion, fan_out, turn
from openset.query.parameters import RequestParameters
from openset.query.result import Order, compared_tree, encode, sort_index
from openset.query.work import PlanCache, WorkerState, plan_of
from openset.store.members import Compared
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset.store.store import Store

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 3_600_000


@dataclass(frozen=True, slots=True, eq=False)
class EventsRequest:
    """An events query as it was asked. `parameters` still holds the script's values and what is unknown.

    segments: the names that are compared, None for everyone and no comparison.
    """

    table: str
    script: str
    parameters: RequestParameters
    segments: Sequence[str] | None
    sort: str | None
    ascending: bool
    trim: int | None
    session_time_ms: int
    timeout_ms: int
    debug: bool
    info: bool


@dataclass(slots=True, eq=False)
class EventsAnswer:
    """What was found so far. partials: one for each compared segment, else one.

    people, events, rows: how many the script visited, whichever segments they belong to.
    """

    partials: list[Partial]
    people: int = 0
    events: int = 0
    rows: int = 0

    def merge(self, other: EventsAnswer) -> None:
        """Adds what was found among other people."""
        for mine, theirs in zip(self.partials, other.partials, strict=True):
            mine.merge(theirs)
        self.people += other.people
        self.events += other.events
        self.rows += other.rows


@dataclass(frozen=True, slots=True, eq=False)
class EventsWork:
    """One turn of a query on a worker: the script over as many of these partitions as fit into the turn."""

    script: str
    schema: TableSchema
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    want_log: bool
    compared: Compared | None

    def run(self, state: WorkerState) -> Portion[EventsAnswer]:
        """Raises RunTimeError."""
        plan = state.plans.plan(self.script, self.schema)
        segments = 1 if self.compared is None else len(self.compared)
        script_run = EngineRun(plan, self.settings, want_log=self.want_log, segments=segments)
        answer = EventsAnswer(script_run.partials)
        done = 0
        for snapshot in turn(self.snapshots):
            blocks = state.views.view(snapshot).blocks(plan.block_rows)
            if self.compared is None:
                script_run.add(blocks)
            else:
                blocks, masks = compared_blocks(state.members, self.compared, snapshot.partition, blocks)
                script_run.add(blocks, masks)
                if self.want_log:
                    people, events, rows = scanned(blocks, masks)
                    answer.people += people
                    answer.events += events
                    answer.rows += rows
            done += 1
        if self.compared is None:
            whole = script_run.partial
            answer.people, answer.events, answer.rows = whole.people, whole.events, whole.rows
        return Portion(answer, done)


async def run_events(store: Store, executor: Executor, plans: PlanCache, request: EventsRequest) -> bytes:
    """The answer as JSON. Raises ParseError, QueryError, RunTimeError."""
    started = time.monotonic()
    now_ms = time.time_ns() // 1_000_000
    schema = store.table(request.table)
    plan = await _compiled(plans, request.script, schema)
    values = request.parameters.script_values(plan.script.parameters)
    request.parameters.finish()
    sort = request.sort if request.sort is not None else plan.script.sort
    order = Order(sort_index(plan.script.aggregators, sort), request.ascending, request.trim)
    settings = RunSettings(
        now_ms=now_ms,
        session_time_ms=request.session_time_ms,
        parameters=values,
        deadline=started + request.timeout_ms / 1000,
        timeout_ms=request.timeout_ms,
    )
    with (
        compared_segments(store.segments, schema.id, request.segments, now_ms) as compared,
        store.pinned_snapshot(request.table) as snapshots,
    ):
        if request.debug:
            return encode({"debug": plan.describe()})
        work = EventsWork(request.script, schema, snapshots, settings, request.info, compared)
        answers: list[EventsAnswer] = await fan_out(executor, work)
    nothing = EventsAnswer([Partial(plan.script.aggregators) for _ in compared or (None,)])
    facts = {"partitions": len(snapshots), "snapshot_time": now_ms}
    return await asyncio.to_thread(_rendered, answers or [nothing], order, facts if request.info else None, started)


async def _compiled(plans: PlanCache, script: str, schema: TableSchema) -> Plan:
    plan = plans.lookup(script, schema)
    if plan is None:
        plan = await asyncio.to_thread(plan_of, script, schema)
        plans.keep(script, schema, plan)
    return plan


def _rendered(answers: Sequence[EventsAnswer], order: Order, facts: dict[str, Any] | None, started: float) -> bytes:
    merged = answers[0]
    for answer in answers[1:]:
        merged.merge(answer)
    shown = compared_tree(merged.partials, order)
    if facts is not None:
        elapsed_ms = round(1000 * (time.monotonic() - started), 3)
        shown["info"] = {
            "people": merged.people,
            "events": merged.events,
            "rows": merged.rows,
            "ms": elapsed_ms,
            **facts,
        }
        shown["log"] = [line for partial in merged.partials for line in partial.log]
    return encode(shown)
