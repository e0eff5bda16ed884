"""Watching stored segments: begins it, compares new computations with what was told, and judges what inserts touched.

A worker's partitions are changed by one at a time (`lock`): a turn of the runner that judges people, or a comparison.
Inserts that a computation knows are not judged any more, so that nobody is told to come and go by looking back. And
whom a computation sees otherwise than was told, while inserts were judged that it does not know, is judged once more as
things are now: so it does not matter who judged them, this process or another owner of the partition.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from pyroaring import BitMap

from openset.errors import InternalError, InternodeError, OpenSetError, QueryError, RunTimeError
from openset.log import get_logger
from openset.pyql.settings import RunSettings
from openset.query.compare import unknown_segment
from openset.query.executor import Executor
from openset.query.stored_segments import definition_of
from openset.query.time_zone import zone_of
from openset.query.work import PlanCache
from openset.revent.changes import TriggerChanges
from openset.revent.evaluation import Judgement, PartitionRun, TriggerAnswer, TriggerWork, WatchedSegment
from openset.revent.run_time import GRACE_SECONDS, MOST_LOST_MS, Accounts
from openset.revent.watching import Moves, PersonIdsWork, follows_inserts
from openset.store.schema import TableSchema
from openset.store.segment import StoredSegment
from openset.store.snapshot import PartitionSnapshot, StaleSnapshotError
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Change, OnceMarked, Turn
from openset_format.block import PersonId
from openset_format.errors import FormatError
from openset_format.membership import MembershipFile

log = get_logger("openset.revent")

POLL_SECONDS = 0.25
PAUSE_AFTER_FAILURE_SECONDS = 1.0
# So many people are judged at once.
PEOPLE_PER_RUN = 2_000
_ATTEMPTS = 10

Key = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class _Compared:
    """A computation of a watched segment. done: the partitions in which what it says has been told.

    known: by partition, the record up to which the last computation that was told there knew the inserts.
    """

    stored: StoredSegment
    done: set[int]
    known: dict[int, int]


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
        # By table and watch: the newest computation that was met, and what runs that were stopped have left.
        self._compared: dict[Key, _Compared] = {}
        self._accounts: Accounts[Key] = Accounts()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Ends the task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def forget(self) -> None:
        """This node owns other partitions now: what is watched is compared anew."""
        self._compared.clear()

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
            numbers = range(self._store.partitions or 0)
            knows = {number: stored.segment.known_in(number) for number in numbers}
            self._compared[schema.id, watch.id] = _Compared(stored, set(numbers), knows)
            return watch

    def _watches(self, schema: TableSchema) -> list[Trigger]:
        return [one for one in self._triggers.of_table(schema.id) if one.watched and one.enabled]

    def _watch_of(self, schema: TableSchema, name: str) -> Trigger | None:
        found = [one for one in self._triggers.of_table(schema.id) if one.watched and one.name == name]
        return found[0] if found else None

    # --- inserts ---------------------------------------------------------------------------------------------------

    async def segments(self, schema: TableSchema) -> list[WatchedSegment]:
        """The watched segments of a table that follow inserts, compared with what is stored of them."""
        await self.compare(schema)
        found = []
        for watch in self._watches(schema):
            compared = self._compared.get((schema.id, watch.id))
            if compared is None:
                continue
            try:
                segment = await self._following(schema, watch, compared.stored)
            except OpenSetError:
                continue  # the listing of segments says so
            if segment is not None:
                found.append(segment)
        return found

    async def _following(self, schema: TableSchema, watch: Trigger, stored: StoredSegment) -> WatchedSegment | None:
        """A segment for workers, None when it does not follow inserts. Raises QueryError, ParseError."""
        definition = await definition_of(self._plans, schema, stored)
        if not follows_inserts(definition.sections[0]):
            return None
        settings = RunSettings(
            now_ms=0,
            session_time_ms=definition.session_time_ms,
            parameters=definition.values,
            zone=zone_of(definition.time_zone),
        )
        return WatchedSegment(watch.id, definition.script, definition.schema, settings, {})

    def begun(self, schema: TableSchema, segments: Sequence[WatchedSegment]) -> list[WatchedSegment]:
        """The segments with what they are judged from on, for who has the lock of a worker: until it is given back
        that holds for the partitions of the worker.
        """
        watches = {one.id: one for one in self._watches(schema)}
        return [replace(one, begins=self._begins(schema, watches[one.id])) for one in segments if one.id in watches]

    def _begins(self, schema: TableSchema, watch: Trigger) -> dict[int, int]:
        """By partition, the record up to which a computation that was compared knows the inserts, or nobody watched."""
        begins = {}
        compared = self._compared.get((schema.id, watch.id))
        for number in range(self._store.partitions or 0):
            with self._triggers.state(schema.id, number) as state:
                begin = state.begin(watch)
            if begin is not None:
                begins[number] = max(begin, 0 if compared is None else compared.known.get(number, 0))
        return begins

    async def moved(
        self, schema: TableSchema, worker: int, judgements: Mapping[int, Sequence[Judgement]], now_ms: int
    ) -> dict[int, list[Change]]:
        """The changes that judgements (by partition) come to."""
        changes: dict[int, list[Change]] = {}
        watches = {one.id: one for one in self._watches(schema)}
        for number, own in judgements.items():
            for watch_id in sorted({one.watch_id for one in own} & watches.keys()):
                watch = watches[watch_id]
                moves = self._moves(schema, watch, number)
                for one in own:
                    if one.watch_id == watch_id:
                        moves.judge(BitMap(one.people), BitMap(one.members))
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
            snapshot = self._snapshot(schema, number, self._store.visible_in(number))
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
            numbers = {number for number in range(self._store.partitions or 0) if self._changes.may_run(number)}
            with self._store.segments.pinned(schema.id, [one.name for one in watches], _now_ms()) as found:
                for watch in watches:
                    stored = found.get(watch.name)
                    if stored is not None:
                        await self._compare_with(schema, watch, stored, numbers)

    async def _compare_with(
        self, schema: TableSchema, watch: Trigger, stored: StoredSegment, numbers: Collection[int]
    ) -> None:
        """Compares a computation in those of the partitions in which that was not done."""
        compared = self._compared.get((schema.id, watch.id))
        if compared is None or compared.stored is not stored:
            # Where it was not compared yet, what the one before knew still counts.
            compared = _Compared(stored, set(), {} if compared is None else dict(compared.known))
        missing = set(numbers) - compared.done
        members = await asyncio.to_thread(self._members, stored) if missing else {}
        self._compared[schema.id, watch.id] = compared
        for worker in sorted({self._executor.worker_of(number) for number in missing}):
            await self._compare_in(schema, watch, compared, worker, missing, members)

    async def _compare_in(
        self, schema: TableSchema, watch: Trigger, compared: _Compared, worker: int, numbers: Collection[int],
        members: Mapping[int, BitMap],
    ) -> None:  # fmt: skip
        """Compares in those of the partitions that belong to a worker."""
        async with self.lock(worker):
            changes: dict[int, list[Change]] = {}
            own = [one for one in numbers if self._executor.worker_of(one) == worker and self._changes.may_run(one)]
            for number in own:
                with self._triggers.state(schema.id, number) as state:
                    turn = Turn(state.turns + 1)
                moves = self._moves(schema, watch, number)
                computed = members.get(number, BitMap())
                differing = moves.told ^ computed
                segment = None
                up_to = self._told_up_to(schema, number, compared)
                if differing and up_to > compared.stored.segment.known_in(number):
                    try:
                        segment = await self._following(schema, watch, compared.stored)
                    except OpenSetError:
                        continue  # nobody can say who belongs to it now, as the listing of segments says
                if segment is None:
                    moves.judge(differing, computed)
                else:
                    for one in await self._judged_now(schema, segment, worker, number, differing, up_to):
                        moves.judge(BitMap(one.people), BitMap(one.members))
                told = await self._told(schema, watch, number, moves, worker, self._triggers.clock())
                if told:
                    changes[number] = [turn, *told]
            if changes:
                await self._changes.append(schema.id, changes)
            compared.done.update(own)
            for number in own:
                known = compared.stored.segment.known_in(number)
                compared.known[number] = max(known, compared.known.get(number, 0))

    def _told_up_to(self, schema: TableSchema, number: int, compared: _Compared) -> int:
        """The record up to which inserts are in what was told. The lock of the worker is held."""
        with self._triggers.state(schema.id, number) as state:
            return max(state.evaluated, compared.known.get(number, 0))

    async def _judged_now(
        self, schema: TableSchema, segment: WatchedSegment, worker: int, number: int, people: BitMap, told_up_to: int
    ) -> list[Judgement]:
        """Who of the people belongs to a segment by all inserts that are in what was told. The lock is held.

        Those are left out whom nobody could judge in time. Raises InternalError, QueryError.
        """
        found: list[Judgement] = []
        ordinals = np.frombuffer(people.to_array(), np.uint32).astype(np.int64)
        attempts, first = 0, 0
        while first < len(ordinals):
            part = ordinals[first : first + PEOPLE_PER_RUN]
            segment = replace(segment, left_ms=self._accounts.left_ms((schema.id, segment.id)))
            run = PartitionRun(self._evaluated(schema, number, told_up_to), 0, judged=part)
            work = TriggerWork([run], [], self._triggers.clock(), [segment])
            try:
                answer: TriggerAnswer = await asyncio.wait_for(
                    self._executor.run(worker, work), GRACE_SECONDS + MOST_LOST_MS / 1_000
                )
            except StaleSnapshotError:  # compacted between
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise InternalError("a partition is compacted faster than it can be read") from None
                continue
            except (RunTimeError, TimeoutError) as error:
                log.warning("people of a watched segment were not judged", segment=segment.id, reason=str(error))
            else:
                self._accounts.spend((schema.id, segment.id), answer.lost_ms.get(segment.id, 0))
                found += [one for one in answer.found[0] if isinstance(one, Judgement)]
            attempts, first = 0, first + len(part)
        return found

    def _evaluated(self, schema: TableSchema, number: int, at_least: int) -> PartitionSnapshot:
        """A partition without the inserts after a record that wait for triggers to run. Raises QueryError."""
        pending = self._triggers.pending(schema.id, number, 1)
        up_to = max(at_least, pending[0].sequence - 1) if pending else self._store.visible_in(number)
        return self._snapshot(schema, number, up_to)

    def _snapshot(self, schema: TableSchema, number: int, up_to: int) -> PartitionSnapshot:
        """Raises QueryError."""
        snapshot = self._store.trigger_snapshot(schema, number, up_to, _now_ms())
        if snapshot is None:
            raise QueryError("the table was dropped meanwhile")
        return snapshot

    def _members(self, stored: StoredSegment) -> dict[int, BitMap]:
        """Who belongs to it, by partition. Reads files. Raises InternalError."""
        try:
            file = MembershipFile.open(self._store.data_dir / stored.ref.file)
            return {number: file.members(number) for number in file.partitions}
        except (FormatError, OSError) as error:
            raise InternalError(f"segment {stored.segment.name!r} cannot be read: {error}") from error


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
