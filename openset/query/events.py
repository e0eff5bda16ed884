"""The events query: compile, fan out to the workers, merge their partials, render.

The event loop only looks up the compiled script and waits; parsing, merging and rendering run in threads, the script
itself in the executor's workers. A worker answers for its partitions in turns of limited time, so that a light query
does not wait for the end of a heavy one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from openset.errors import RunTimeError
from openset.pyql.engine import EngineRun, Plan
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset.query.executor import Executor
from openset.query.parameters import RequestParameters
from openset.query.result import Order, encode, result_tree, sort_index
from openset.query.work import PlanCache, WorkerState, plan_of
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset.store.store import Store

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 3_600_000
# The engine ends a run at its deadline; a worker that does not is killed this much later.
KILL_GRACE_SECONDS = 0.5
# After one worker's error the others may finish for this long before their processes are ended.
ERROR_GRACE_SECONDS = 2.0
# After so long a query lets others have the worker before it goes on with its next partition.
TURN_SECONDS = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class EventsRequest:
    """An events query as it was asked. `parameters` still holds the script's values and what is unknown."""

    table: str
    script: str
    parameters: RequestParameters
    sort: str | None
    ascending: bool
    trim: int | None
    session_time_ms: int
    timeout_ms: int
    debug: bool
    info: bool


@dataclass(frozen=True, slots=True, eq=False)
class Portion:
    """What a worker did in one turn: the merged Partial of the first `done` partitions it was given."""

    partial: Partial
    done: int


@dataclass(frozen=True, slots=True, eq=False)
class EventsWork:
    """One turn of a query on a worker: the script over as many of these partitions as fit into the turn."""

    script: str
    schema: TableSchema
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings
    want_log: bool

    def run(self, state: WorkerState) -> Portion:
        """Raises RunTimeError."""
        started = time.monotonic()
        plan = state.plans.plan(self.script, self.schema)
        script_run = EngineRun(plan, self.settings, want_log=self.want_log)
        views = [state.views.view(snapshot) for snapshot in self.snapshots]
        for done, view in enumerate(views):
            if done and time.monotonic() - started > TURN_SECONDS:
                return Portion(script_run.partial, done)
            script_run.add(view.blocks(plan.block_rows))
        return Portion(script_run.partial, len(views))


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
    if request.debug:
        return encode({"debug": plan.describe()})
    settings = RunSettings(
        now_ms=now_ms,
        session_time_ms=request.session_time_ms,
        parameters=values,
        deadline=started + request.timeout_ms / 1000,
        timeout_ms=request.timeout_ms,
    )
    with store.pinned_snapshot(request.table) as snapshots:
        work = EventsWork(request.script, schema, snapshots, settings, request.info)
        partials = await _fan_out(executor, work)
    facts = {"partitions": len(snapshots), "snapshot_time": now_ms}
    return await asyncio.to_thread(_rendered, plan, partials, order, facts if request.info else None, started)


async def _compiled(plans: PlanCache, script: str, schema: TableSchema) -> Plan:
    plan = plans.lookup(script, schema)
    if plan is None:
        plan = await asyncio.to_thread(plan_of, script, schema)
        plans.keep(script, schema, plan)
    return plan


async def _fan_out(executor: Executor, work: EventsWork) -> list[Partial]:
    """Runs the work on every worker that serves one of its partitions. Cancelling it ends what runs."""
    settings = work.settings
    assert settings.deadline is not None
    shares: dict[int, list[PartitionSnapshot]] = {}
    for snapshot in work.snapshots:
        shares.setdefault(executor.worker_of(snapshot.partition), []).append(snapshot)
    if not shares:
        return []
    tasks = [
        asyncio.create_task(_share(executor, worker, replace(work, snapshots=shares[worker])))
        for worker in sorted(shares)
    ]
    try:
        wait_seconds = settings.deadline + KILL_GRACE_SECONDS - time.monotonic()
        finished, running = await asyncio.wait(tasks, timeout=wait_seconds, return_when=asyncio.FIRST_EXCEPTION)
        if running and any(task.exception() for task in finished):
            await asyncio.wait(running, timeout=ERROR_GRACE_SECONDS)
        return _outcome(tasks, settings)
    finally:
        for task in tasks:
            task.cancel()


async def _share(executor: Executor, worker: int, work: EventsWork) -> list[Partial]:
    """One worker's share, turn by turn."""
    partials: list[Partial] = []
    while work.snapshots:
        portion: Portion = await executor.run(worker, work)
        partials.append(portion.partial)
        work = replace(work, snapshots=work.snapshots[portion.done :])
    return partials


def _outcome(tasks: Sequence[asyncio.Task[list[Partial]]], settings: RunSettings) -> list[Partial]:
    """What the workers answered. Raises the first worker's error, or that time is up."""
    errors = [task.exception() for task in tasks if task.done()]
    for error in errors:
        if error is not None:
            raise error
    if not all(task.done() for task in tasks):
        raise RunTimeError(f"the query ran longer than its time budget of {settings.timeout_ms} ms (timeout=)")
    return [partial for task in tasks for partial in task.result()]


def _rendered(
    plan: Plan, partials: Sequence[Partial], order: Order, facts: dict[str, Any] | None, started: float
) -> bytes:
    merged = partials[0] if partials else Partial(plan.script.aggregators)
    for partial in partials[1:]:
        merged.merge(partial)
    answer = result_tree(merged, order)
    if facts is not None:
        elapsed_ms = round(1000 * (time.monotonic() - started), 3)
        answer["info"] = {
            "people": merged.people,
            "events": merged.events,
            "rows": merged.rows,
            "ms": elapsed_ms,
            **facts,
        }
        answer["log"] = merged.log
    return encode(answer)
