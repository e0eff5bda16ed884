"""Background compaction: takes due partitions from the store one after the other and merges them in another process.

The process is started when something is due and ended when nothing is; it runs at low priority, so that queries and
inserts go first. A compaction that fails is logged and tried again after a pause; nothing is lost by it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openset.errors import InternalError, NoRoomError, OpenSetError, UnreachableError
from openset.log import get_logger
from openset.query.executor import Executor
from openset.query.process_executor import ProcessExecutor
from openset.query.work import WorkerState
from openset.store.compaction import CompactionResult, CompactionTask, compact
from openset.store.journals import Mark
from openset.store.scrub import look_at
from openset.store.store import Store

log = get_logger("openset.compaction")

NICENESS = 10
# How often the store is asked whether it wants one, how often for partitions that are due by age.
WAKE_SECONDS = 0.25
_POLL_SECONDS = 0.02
AGE_CHECK_SECONDS = 30.0
FIRST_AFTER_SECONDS = 5.0
LEFTOVERS_CHECK_SECONDS = 600.0
# How long whoever asked for a compaction waits for queries that hold on to replaced files and old journal segments.
FORGET_SECONDS = 60.0
PAUSE_AFTER_FAILURE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class CompactionWork:
    """One compaction, in the process made for it."""

    task: CompactionTask

    def run(self, state: WorkerState) -> CompactionResult:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        return compact(self.task)


class Compactor:
    """The daemon's background task. Made on the event loop, runs until `close`."""

    def __init__(self, store: Store):
        self._store = store
        self._failure: tuple[float, Exception] | None = None
        self._stops = False
        self._looked = time.monotonic()
        # What is due since before the start can wait until the first queries are answered.
        store.compactions.wake.clear()
        asyncio.get_running_loop().call_later(FIRST_AFTER_SECONDS, store.compactions.wake.set)
        self._task = asyncio.create_task(self._run())

    async def compact(self, table: str, agreed: Mapping[int, int] | None = None) -> int:
        """Brings a table's files up to date and returns how many were written.

        agreed: on a member of a cluster, records of the partitions that are to be in the files.

        Afterwards nothing that was erased or dropped, or had expired, is in the data directory any more. Raises
        QueryError, ConfigError, ReadOnlyError, NoRoomError, InternalError when a compaction failed, a damaged file
        holds on to the journal or queries hold on to old files for too long.
        """
        started = time.monotonic()
        store = self._store
        store.compactions.check_readable(store.table(table))
        store.health.check()
        await self._wait_for_records(agreed or {})
        below = await asyncio.to_thread(store.compactions.begin_forgetting)
        await self._wait_for_records({number: first - 1 for number, first in below.items()})
        await self._wait_for_triggers(below)
        await self._wait_for_erasures(below)
        wanted = await asyncio.to_thread(store.compactions.want, store.table(table))
        while store.compactions.still_wanted(wanted):
            self._raise_failure(started)
            await self._pause()
        await asyncio.to_thread(store.compactions.write_sidecars, True)
        waited = time.monotonic()
        while not await asyncio.to_thread(store.compactions.is_forgotten, below, wanted):
            damage = await asyncio.to_thread(store.compactions.held_by_damage, below)
            if damage is not None:
                raise InternalError(
                    "the files are compacted, but the journal keeps what was erased, with the events of a partition "
                    f"whose file cannot be read: {damage}"
                )
            if time.monotonic() - waited > FORGET_SECONDS:
                raise InternalError("the files are compacted, but queries still hold on to old ones; try again")
            await self._pause()
        return len(wanted)

    def _raise_failure(self, since: float) -> None:
        """Raises the failure of a compaction since a moment, if there was one: InternalError, NoRoomError."""
        if self._failure is not None and self._failure[0] >= since:
            error = self._failure[1]
            kind = NoRoomError if isinstance(error, NoRoomError) else InternalError
            raise kind(f"the compaction failed and will be tried again: {error}")

    async def _wait_for_records(self, up_to: Mapping[int, int]) -> None:
        """Until they are visible: those of a member's copies are on its disk before they are agreed."""
        replicas, waited = self._store.replicas, time.monotonic()
        while replicas is not None and not replicas.shows(up_to):
            if time.monotonic() - waited > FORGET_SECONDS:
                raise InternalError("records of this node's copies are not agreed on yet; try again")
            await self._pause()

    def end_waiting(self) -> None:
        """Whoever has asked for a compaction is answered, because the daemon stops."""
        self._stops = True

    async def _pause(self) -> None:
        if self._stops:
            raise UnreachableError("the daemon is shutting down; what is not compacted will be after the next start")
        await asyncio.sleep(_POLL_SECONDS)

    async def _wait_for_triggers(self, below: Mark) -> None:
        """Until they have run for all inserts before a mark, which stay in the journal so long."""
        waited = time.monotonic()
        while self._store.triggers.waits_for(below):
            if time.monotonic() - waited > FORGET_SECONDS:
                raise InternalError("triggers have not run yet for everything that was inserted; try again")
            await self._pause()

    async def _wait_for_erasures(self, below: Mark) -> None:
        """Until all before a mark are finished. Raises InternalError, ReadOnlyError when one cannot be."""
        waited = time.monotonic()
        await asyncio.to_thread(self._store.erasures.finish_left)
        while self._store.erasures.waits_for(below):
            if time.monotonic() - waited > FORGET_SECONDS:
                raise InternalError("an erasure is not finished yet; try again")
            await self._pause()
            await asyncio.to_thread(self._store.erasures.finish_left)

    async def _finish_erasures(self) -> None:
        """As far as that is possible now; what is not finished holds up nothing but its own partition."""
        if self._store.health.is_read_only:
            return
        try:
            await asyncio.to_thread(self._store.erasures.finish_left)
        except OpenSetError as error:
            log.warning("an erasure is not finished", reason=error.message)

    async def close(self) -> None:
        """Ends the task; a compaction that runs is given up."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            checked = time.monotonic()
            while not self._store.compactions.wake.is_set() and time.monotonic() < checked + AGE_CHECK_SECONDS:
                await asyncio.sleep(WAKE_SECONDS)
            self._store.compactions.wake.clear()
            if self._store.health.condition.state == "failed":
                continue  # nothing can be published
            try:
                await self._compact_all()
                await self._look_for_leftovers()
            except Exception as error:
                self._failure = (time.monotonic(), error)
                log.error("compaction failed", reason=str(error), exc_info=not isinstance(error, OpenSetError))
                await self._pause_after_failure()
                self._store.compactions.wake.set()

    async def _pause_after_failure(self) -> None:
        """Until the time is over, or somebody wants a compaction now."""
        self._store.compactions.wake.clear()
        until = time.monotonic() + PAUSE_AFTER_FAILURE_SECONDS
        while not self._store.compactions.wake.is_set() and time.monotonic() < until:
            await asyncio.sleep(WAKE_SECONDS)

    async def _look_for_leftovers(self) -> None:
        if time.monotonic() > self._looked + LEFTOVERS_CHECK_SECONDS:
            self._looked = time.monotonic()
            await asyncio.to_thread(self._store.compactions.look_for_leftovers)

    async def _compact_all(self) -> None:
        """Compacts until nothing is due."""
        await self._finish_erasures()
        executor: Executor | None = None
        try:
            while (task := await asyncio.to_thread(self._store.compactions.next)) is not None:
                executor = executor or ProcessExecutor(self._store.data_dir, 1)
                await self._compact(executor, task)
            await asyncio.to_thread(self._store.compactions.write_sidecars)
        finally:
            if executor is not None:
                await asyncio.shield(executor.close())

    async def _compact(self, executor: Executor, task: CompactionTask) -> None:
        started = time.monotonic()
        try:
            result: Any = await executor.run(0, CompactionWork(task))
        except BaseException as error:
            self._store.compactions.give_up(task)
            if isinstance(error, InternalError):
                await asyncio.to_thread(look_at, self._store.data_dir / task.snapshot.file, self._store.damage)
            if isinstance(error, OpenSetError) and not self._store.compactions.is_current(task):
                return  # it went, with its table or its copy, while it was compacted
            raise
        await _to_its_end(asyncio.create_task(asyncio.to_thread(self._store.compactions.publish, task, result)))
        snapshot = task.snapshot
        log.info(
            "compacted",
            table=snapshot.schema.name,
            partition=snapshot.partition,
            generation=result.generation,
            rows=result.rows,
            ms=round(1000 * (time.monotonic() - started), 1),
        )


async def _to_its_end(step: asyncio.Task[None]) -> None:
    """Waits for a step that must not be left half done, also when the waiting is cancelled."""
    try:
        await asyncio.shield(step)
    except asyncio.CancelledError:
        await step
        raise
