"""One query over all workers: shares by partition, turn by turn, under one deadline.

Every kind of query that reads partitions goes through here. A worker answers for its partitions in turns of limited
time, so that a light query does not wait for the end of a heavy one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from openset.errors import RunTimeError
from openset.pyql.settings import RunSettings
from openset.query.executor import Executor
from openset.query.work import WorkerState
from openset.store.snapshot import PartitionSnapshot

Result = TypeVar("Result")
Given = TypeVar("Given")

# The engine ends a run at its deadline; a worker that does not is killed this much later.
KILL_GRACE_SECONDS = 0.5
# After one worker's error the others may finish for this long before their processes are ended.
ERROR_GRACE_SECONDS = 2.0
# After so long a query lets others have the worker before it goes on with its next partition.
TURN_SECONDS = 0.25


@dataclass(frozen=True, slots=True, eq=False)
class Portion(Generic[Result]):
    """What a worker did in one turn: the result for the first `done` partitions it was given."""

    result: Result
    done: int


class PartitionedWork(Protocol):
    """Work over partitions, a dataclass: each worker gets a copy with `snapshots` replaced by its share.

    `run` answers for the first snapshots, as many as fit into a turn (`turn` counts them), and for one at least.
    `settings` must have a deadline.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def snapshots(self) -> Sequence[PartitionSnapshot]: ...

    @property
    def settings(self) -> RunSettings: ...

    def run(self, state: WorkerState) -> Portion[Any]: ...


def turn(given: Sequence[Given]) -> Iterator[Given]:
    """What is given, one after the other, until the time of a turn is over; the first in any case."""
    started = time.monotonic()
    for position, one in enumerate(given):
        if position and time.monotonic() - started > TURN_SECONDS:
            return
        yield one


async def fan_out(executor: Executor, work: PartitionedWork) -> list[Any]:
    """The results of all turns of all workers that serve one of the work's partitions, in no particular order.

    Cancelling it ends what runs. Raises the first worker's error, RunTimeError when the deadline is over.
    """
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


async def _share(executor: Executor, worker: int, work: PartitionedWork) -> list[Any]:
    """One worker's share, turn by turn."""
    results: list[Any] = []
    while work.snapshots:
        portion: Portion[Any] = await executor.run(worker, work)
        results.append(portion.result)
        work = replace(work, snapshots=work.snapshots[portion.done :])
    return results


def _outcome(tasks: Sequence[asyncio.Task[list[Any]]], settings: RunSettings) -> list[Any]:
    """What the workers answered. Raises the first worker's error, or that time is up."""
    errors = [task.exception() for task in tasks if task.done()]
    for error in errors:
        if error is not None:
            raise error
    if not all(task.done() for task in tasks):
        raise RunTimeError(f"the query ran longer than its time budget of {settings.timeout_ms} ms (timeout=)")
    return [result for task in tasks for result in task.result()]
