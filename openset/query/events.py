"""The events query: compile, fan out to the workers, merge their partials, render.

The event loop only looks up the compiled script and waits; parsing, merging and rendering run in threads, the script
itself in the executor's workers. Each worker gets its partitions in portions, one after the other, so that queries
take turns on a worker.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openset.errors import RunTimeError
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset.query.executor import Executor
from openset.query.parameters import RequestParameters
from openset.query.result import Order, encode, result_tree, sort_index
from openset.query.run import Plan, run_script
from openset.query.work import PlanCache, WorkerState, plan_of
from openset.store.snapshot import PartitionSnapshot
from openset.store.schema import TableSchema
from openset.store.store import Store

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 3_600_000
# The engine ends a run at its deadline; a worker that does not is killed this much later.
KILL_GRACE_SECONDS = 0.5
# After one worker's error the others may finish for this long before their processes are ended.
ERROR_GRACE_SECONDS = 2.0
ROWS_PER_PORTION = 4_000_000
MAX_ROWS_PER_BLOCK = 1 << 18


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
class EventsWork:
    """A portion of a query: the script over some partitions of one worker."""

    script: str
    schema: TableSchema
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings

    def run(self, state: WorkerState) -> Partial:
        plan = state.plans.plan(self.script, self.schema)
        merged = Partial(plan.script.aggregators)
        for snapshot in self.snapshots:
            self.settings.check_deadline()
            blocks = state.views.blocks(snapshot, MAX_ROWS_PER_BLOCK)
            merged.merge(run_script(plan, blocks, self.settings))
        return merged


async def run_events(store: Store, executor: Executor, plans: PlanCache, request: EventsRequest) -> bytes:
    """The answer as JSON. Raises ParseError, QueryError, RunTimeError."""
    started = time.monotonic()
    now_ms = time.time_ns() // 1_000_000
    schema = store.table(request.table).schema
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
    snapshots = store.snapshot(request.table)
    partials = await _fan_out(executor, request.script, schema, snapshots, settings)
    facts = {"partitions": len(snapshots), "snapshot_time": now_ms}
    return await asyncio.to_thread(_rendered, plan, partials, order, facts if request.info else None, started)


async def _compiled(plans: PlanCache, script: str, schema: TableSchema) -> Plan:
    plan = plans.lookup(script, schema)
    if plan is None:
        plan = await asyncio.to_thread(plan_of, script, schema)
        plans.keep(script, schema, plan)
    return plan


async def _fan_out(
    executor: Executor,
    script: str,
    schema: TableSchema,
    snapshots: Sequence[PartitionSnapshot],
    settings: RunSettings,
) -> list[Partial]:
    """Runs the script on every worker that serves one of the partitions. Cancelling it ends what runs."""
    assert settings.deadline is not None
    shares: dict[int, list[PartitionSnapshot]] = {}
    for snapshot in snapshots:
        shares.setdefault(executor.worker_of(snapshot.partition), []).append(snapshot)

    async def share(worker: int) -> list[Partial]:
        portions = _portions(shares[worker])
        return [await executor.run(worker, EventsWork(script, schema, part, settings)) for part in portions]

    tasks = [asyncio.create_task(share(worker)) for worker in sorted(shares)]
    try:
        wait_seconds = settings.deadline + KILL_GRACE_SECONDS - time.monotonic()
        finished, running = await asyncio.wait(tasks, timeout=wait_seconds, return_when=asyncio.FIRST_EXCEPTION)
        if running and any(task.exception() for task in finished):
            await asyncio.wait(running, timeout=ERROR_GRACE_SECONDS)
        return _outcome(tasks, settings)
    finally:
        for task in tasks:
            task.cancel()


def _outcome(tasks: Sequence[asyncio.Task[list[Partial]]], settings: RunSettings) -> list[Partial]:
    """What the workers answered. Raises the first worker's error, or that time is up."""
    errors = [task.exception() for task in tasks if task.done()]
    for error in errors:
        if error is not None:
            raise error
    if not all(task.done() for task in tasks):
        raise RunTimeError(f"the query ran longer than its time budget of {settings.timeout_ms} ms (timeout=)")
    return [partial for task in tasks for partial in task.result()]


def _portions(snapshots: Sequence[PartitionSnapshot]) -> list[list[PartitionSnapshot]]:
    """The partitions of a worker in portions of about ROWS_PER_PORTION rows, at least one partition each."""
    portions: list[list[PartitionSnapshot]] = []
    rows = 0
    for snapshot in snapshots:
        if not portions or rows + snapshot.rows > ROWS_PER_PORTION:
            portions.append([])
            rows = 0
        portions[-1].append(snapshot)
        rows += snapshot.rows
    return portions


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
