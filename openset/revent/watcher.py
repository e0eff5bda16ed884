"""Watching stored segments: begins it, compares new computations with what was told, and judges what inserts touched.

A worker's partitions are changed by one at a time (`lock`): a turn of the runner that judges people, or a comparison.
Inserts that a computation knows are not judged any more, so that nobody is told to come and go by looking back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

import msgspec
from pyroaring import BitMap

from openset.errors import InternalError, InternodeError, OpenSetError, QueryError
from openset.log import get_logger
from openset.pyql.settings import RunSettings
from openset.query.compare import unknown_segment
from openset.query.executor import Executor
from openset.query.stored_segments import definition_of
from openset.query.time_zone import zone_of
from openset.query.work import PlanCache
from openset.revent.changes import TriggerChanges
from openset.revent.evaluation import Judgement, WatchedSegment
from openset.revent.watching import Judged, Moves, PersonIdsWork, follows_inserts
from openset.store.schema import TableSchema
from openset.store.segment import StoredSegment
from openset.store.snapshot import StaleSnapshotError
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Change, OnceMarked, Turn
from openset_format.block import PersonId
from openset_format.errors import FormatError
from openset_format.membership import MembershipFile

log = get_logger("openset.revent")

POLL_SECONDS = 0.25
PAUSE_AFTER_FAILURE_SECONDS = 1.0
_ATTEMPTS = 10

Key = tuple[int, int]


class Watcher:
    """Made on the event loop, runs until `close`; all methods are called there."""

    def __init__(self, store: Store, executor: Executor, plans: PlanCache, changes: TriggerChanges):
        self._store = store
        self._changes = changes
        self._triggers = store.triggers
        self._executor = executor
        self._plans = plans
        self._locks = [asyncio.Lock() for _ in range(executor.workers)]
        self._comparing = asyncio.Lock()
        # By table and watch: the computation that was compared last, and whom inserts have judged since.
        self._compared: dict[Key, StoredSegment] = {}
        self._judged: dict[Key, Judged] = {}
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def forget(self) -> None:
        """This node owns other partitions now: what is watched is compared anew."""
        self._compared.clear()
        self._judged.clear()

    def lock(self, worker: int) -> asyncio.Lock:
        """Held while what is told about the partitions of a worker changes."""
        return self._locks[worker]

    async def watch(self, schema: TableSchema, name: str) -> Trigger:
        """What watches a segment, from its last computation on. Raises QueryError when there is no such segment."""
        async with self._comparing:
            before = self._watch_of(schema, name)
            if before is not None and before.enabled:
                return before
            with self._store.segments.pinned(schema.id, [name], _now_ms()) as found:
                if name not in found:
                    known = [stored.segment.name for stored in self._store.segments.all(schema.id, _now_ms())]
                    raise unknown_segment(name, known)
                stored = found[name]
                members = await asyncio.to_thread(self._members, stored)
            begun = before or Trigger(0, name, 0, "", False, True, False, None, _now_ms(), (), 0, watched=True)
            begun = msgspec.structs.replace(begun, epoch=begun.epoch + 1)
            begun = await self._changes.put(schema.id, begun, before)
            # Those who belong to it now have entered before anybody watched. Only then is it watched.
            marks: dict[int, list[Change]] = {
                number: [OnceMarked(begun.id, begun.epoch, list(people))]
                for number, people in members.items()
                if people
            }
            if marks:
                await self._changes.append(schema.id, marks)
            watch = await self._changes.put(schema.id, msgspec.structs.replace(begun, enabled=True), begun)
            self._compared[schema.id, watch.id] = stored
            return watch

    def _watches(self, schema: TableSchema) -> list[Trigger]:
        return [one for one in self._triggers.of_table(schema.id) if one.watched and one.enabled]

    def _watch_of(self, schema: TableSchema, name: str) -> Trigger | None:
        found = [one for one in self._triggers.of_table(schema.id) if one.watched and one.name == name]
        return found[0] if found else None

    # --- inserts ---------------------------------------------------------------------------------------------------

    async def segments(self, schema: TableSchema) -> list[WatchedSegment]:
        """The watched segments of a table that follow inserts, compared with what is stored of them."""
        watches = self._watches(schema)
        if not watches:
            return []
        await self.compare(schema)
        found = []
        for watch in watches:
            stored = self._compared.get((schema.id, watch.id))
            if stored is None:
                continue
            try:
                definition = await definition_of(self._plans, schema, stored)
            except OpenSetError:
                continue  # the listing of segments says so
            if follows_inserts(definition.sections[0]):
                settings = RunSettings(
                    now_ms=0,
                    session_time_ms=definition.session_time_ms,
                    parameters=definition.values,
                    zone=zone_of(definition.time_zone),
                )
                begins = self._begins(schema, watch, stored)
                found.append(WatchedSegment(watch.id, definition.script, definition.schema, settings, begins))
        return found

    def _begins(self, schema: TableSchema, watch: Trigger, stored: StoredSegment) -> dict[int, int]:
        """By partition, the record up to which a computation knows the inserts, or nobody watched."""
        begins = {}
        for number in range(self._store.partitions or 0):
            with self._triggers.state(schema.id, number) as state:
                begin = state.begin(watch)
            if begin is not None:
                begins[number] = max(begin, stored.segment.known_in(number))
        return begins

    async def moved(
        self, schema: TableSchema, worker: int, judgements: Mapping[int, Sequence[Judgement]],
        evaluated: Mapping[int, int], now_ms: int,
    ) -> dict[int, list[Change]]:  # fmt: skip
        """The changes that judgements (by partition) come to. evaluated: the record up to which they are."""
        changes: dict[int, list[Change]] = {}
        watches = {one.id: one for one in self._watches(schema)}
        for number, own in judgements.items():
            for watch_id in sorted({one.watch_id for one in own} & watches.keys()):
                watch = watches[watch_id]
                moves = self._moves(schema, watch, number)
                for one in own:
                    if one.watch_id == watch_id:
                        moves.judge(BitMap(one.people), BitMap(one.members))
                judged = self._judged.setdefault((schema.id, watch_id), Judged())
                judged.add(number, evaluated[number], [one.people for one in own if one.watch_id == watch_id])
                changes.setdefault(number, []).extend(await self._told(schema, watch, number, moves, worker, now_ms))
        return changes

    def _moves(self, schema: TableSchema, watch: Trigger, number: int) -> Moves:
        with self._triggers.state(schema.id, number) as state:
            return Moves(state.once(watch.id, watch.epoch).copy())

    async def _told(
        self, schema: TableSchema, watch: Trigger, number: int, moves: Moves, worker: int, now_ms: int
    ) -> list[Change]:
        if not moves.steps:
            return []
        ordinals = sorted({ordinal for ordinal, _ in moves.steps})
        ids = dict(zip(ordinals, await self._ids(schema, worker, number, ordinals), strict=True))
        return moves.changes(watch.id, watch.epoch, watch.name, ids, now_ms)

    async def _ids(self, schema: TableSchema, worker: int, number: int, ordinals: list[int]) -> list[PersonId | None]:
        for _ in range(_ATTEMPTS):
            snapshot = self._store.trigger_snapshot(schema, number, self._store.visible_in(number), _now_ms())
            if snapshot is None:
                raise QueryError("the table was dropped meanwhile")
            try:
                found: list[PersonId | None] = await self._executor.run(worker, PersonIdsWork(snapshot, ordinals))
                return found
            except StaleSnapshotError:
                continue  # compacted between
        raise InternalError("a partition is compacted faster than it can be read")

    # --- computations ----------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            try:
                for schema in self._store.tables():
                    await self.compare(schema)
            except InternodeError as error:
                log.info("watched segments wait for other nodes", reason=error.message)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)
            except Exception as error:  # the task must outlive whatever goes wrong with one segment
                log.error("segments could not be watched", reason=str(error))
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    async def compare(self, schema: TableSchema) -> None:
        """Tells who moved by computations that are new. Raises InternalError, QueryError."""
        watches = self._watches(schema)
        if not watches:
            return
        async with self._comparing:
            with self._store.segments.pinned(schema.id, [one.name for one in watches], _now_ms()) as found:
                for watch in watches:
                    stored = found.get(watch.name)
                    if stored is not None and self._compared.get((schema.id, watch.id)) is not stored:
                        await self._compare_with(schema, watch, stored)
                        self._compared[schema.id, watch.id] = stored

    async def _compare_with(self, schema: TableSchema, watch: Trigger, stored: StoredSegment) -> None:
        members = await asyncio.to_thread(self._members, stored)
        judged = self._judged.get((schema.id, watch.id), Judged())
        for worker in range(self._executor.workers):
            async with self.lock(worker):
                changes: dict[int, list[Change]] = {}
                for number in range(self._store.partitions or 0):
                    if self._executor.worker_of(number) != worker or not self._changes.may_run(number):
                        continue
                    with self._triggers.state(schema.id, number) as state:
                        turn = Turn(state.turns + 1)
                    moves = self._moves(schema, watch, number)
                    people = (moves.told | members.get(number, BitMap())) - judged.since(
                        number, stored.segment.known_in(number)
                    )
                    moves.judge(people, members.get(number, BitMap()))
                    own = await self._told(schema, watch, number, moves, worker, self._triggers.clock())
                    if own:
                        changes[number] = [turn, *own]
                if changes:
                    await self._changes.append(schema.id, changes)

    def _members(self, stored: StoredSegment) -> dict[int, BitMap]:
        """Who belongs to it, by partition. Reads files. Raises InternalError."""
        try:
            file = MembershipFile.open(self._store.data_dir / stored.ref.file)
            return {number: file.members(number) for number in file.partitions}
        except (FormatError, OSError) as error:
            raise InternalError(f"segment {stored.segment.name!r} cannot be read: {error}") from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
