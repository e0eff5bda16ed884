"""The daemon's task that runs triggers: after inserts, and when schedules are due, on the query workers.

There is one loop per worker, so that a partition is only ever run by one. A turn of a loop takes what waits in the
partitions of one table, has it evaluated, and writes what came of it into one record; only then is it seen by anybody.
What was not written when the daemon died is evaluated again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from openset.errors import InternodeError, OpenSetError, QueryError, ReadOnlyError, RunTimeError
from openset.log import get_logger
from openset.query.executor import Executor
from openset.revent.board import call_soon
from openset.revent.changes import TriggerChanges
from openset.revent.disabling import ERRORS_UNTIL_DISABLED
from openset.revent.emitted import events_of
from openset.revent.evaluation import (
    Judgement,
    Outcome,
    PartitionRun,
    TriggerAnswer,
    TriggerScript,
    TriggerWork,
    WatchedSegment,
)
from openset.revent.messages import DEFAULT_HOLD_MS
from openset.revent.run_time import ACCOUNT_MS, GRACE_SECONDS, MOST_LOST_MS, Accounts
from openset.revent.scripts import schema_as_saved
from openset.revent.settling import Failures, Settled, people_of, settle
from openset.revent.watcher import Watcher
from openset.store.schema import TableSchema
from openset.store.snapshot import StaleSnapshotError
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Change, Evaluated, Inserted, Turn
from openset.store.trigger_state import Due

log = get_logger("openset.revent")

# Of a turn, per partition.
EVENTS_PER_TURN = 8_000
DUE_PER_TURN = 2_000
EVENTS_PER_INSERT = 1_000
PRUNE_SECONDS = 5.0
LONGEST_SLEEP_SECONDS = 1.0
PAUSE_AFTER_FAILURE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class LastError:
    """The last thing that went wrong with a trigger. at_ms: when. in_a_row: errors since it last ran without any."""

    message: str
    at_ms: int
    in_a_row: int


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """What a loop takes on at once. triggers: by id. erasures: when it was taken. due: the schedules, by partition.

    numbers: by partition, which turn of it this is.
    """

    schema: TableSchema
    triggers: Mapping[int, Trigger]
    erasures: int
    runs: list[PartitionRun]
    evaluated: dict[int, int]
    due: dict[int, list[Due]]
    numbers: dict[int, int]


class _Outdated(Exception):
    """A trigger was changed, or a person erased, while a turn was evaluated: it is done again."""


class Runner:
    """Made on the event loop, runs until `close`."""

    def __init__(
        self,
        store: Store,
        executor: Executor,
        watcher: Watcher,
        changes: TriggerChanges,
        errors_until_disabled: int = ERRORS_UNTIL_DISABLED,
    ):
        self._store = store
        self._changes = changes
        self._watcher = watcher
        self._triggers = store.triggers
        self._executor = executor
        self._limit = errors_until_disabled
        self._closing = False
        self._errors: dict[tuple[int, int], LastError] = {}  # by table and trigger
        self._accounts: Accounts[tuple[int, int]] = Accounts()  # so too
        # By table and partition, the starts (trigger, start) that are known to have a beginning there.
        self._begun: dict[tuple[int, int], tuple[tuple[int, int], ...]] = {}
        self._wake = [asyncio.Event() for _ in range(executor.workers)]
        self._emitted = asyncio.Event()
        self._emitted.set()
        loop = asyncio.get_running_loop()
        self._unlisten = self._triggers.listen(
            lambda table_id, partitions, triggers: call_soon(loop, self._told, table_id, partitions, triggers)
        )
        # As they were saved last, but for what this node does to them by itself and for webhooks.
        self._saved: dict[tuple[int, int], Trigger] = {}
        for table_id in {schema.id for schema in store.tables()}:
            self._follow(table_id)
        self._tasks = [asyncio.create_task(self._serve(worker)) for worker in range(executor.workers)]
        self._tasks += [asyncio.create_task(self._insert_emitted()), asyncio.create_task(self._prune())]

    async def close(self) -> None:
        """Ends the tasks; what runs is given up."""
        self._closing = True  # a wait that ends just when it is cancelled swallows that
        self._unlisten()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def last_error(self, table_id: int, trigger_id: int) -> LastError | None:
        """The last error of a trigger since the daemon started, or since it was changed."""
        return self._errors.get((table_id, trigger_id))

    def forget_errors(self, table_id: int, trigger_id: int) -> None:
        """A trigger was changed: it begins anew."""
        self._errors.pop((table_id, trigger_id), None)
        self._accounts.forget((table_id, trigger_id))

    def _told(self, table_id: int, partitions: Collection[int], triggers: Collection[int]) -> None:
        if not partitions:
            self._follow(table_id)
        for worker in {self._executor.worker_of(number) for number in partitions}:
            self._wake[worker].set()
        if triggers:
            self._emitted.set()

    def _follow(self, table_id: int) -> None:
        """Triggers that were changed begin anew, also when that was asked of another node."""
        found = {
            (table_id, one.id): msgspec.structs.replace(one, disabled=None, webhooks={})
            for one in self._triggers.of_table(table_id)
        }
        for key in [key for key in self._saved if key[0] == table_id and self._saved[key] != found.get(key)]:
            del self._saved[key]
            self.forget_errors(*key)
        self._saved |= found

    # --- one worker's loop -----------------------------------------------------------------------------------------

    async def _serve(self, worker: int) -> None:
        while not self._closing:
            try:
                self._wake[worker].clear()
                self._store.health.check()  # what comes of a run could not be written down
                if not await self._turns(worker):
                    await self._sleep(worker)
            except (StaleSnapshotError, _Outdated):
                continue  # compacted between, or changed: once more, as things are now
            except ReadOnlyError:
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)  # the log has said why
            except InternodeError as error:
                log.info("triggers wait for other nodes", reason=error.message)
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)
            except Exception as error:  # the task must outlive whatever goes wrong
                log.error("triggers could not run", reason=str(error), exc_info=not isinstance(error, OpenSetError))
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)

    async def _sleep(self, worker: int) -> None:
        """Until something is inserted into this worker's partitions, or due there."""
        seconds = LONGEST_SLEEP_SECONDS
        now_ms = self._triggers.clock()
        for table_id in self._triggers.tables():
            for number in self._partitions(worker, table_id):
                with self._triggers.state(table_id, number) as state:
                    due_ms = state.next_due()
                if due_ms is not None:
                    seconds = min(seconds, max((due_ms - now_ms) / 1_000, 0.001))
        try:
            await asyncio.wait_for(self._wake[worker].wait(), seconds)
        except TimeoutError:
            pass

    def _partitions(self, worker: int, table_id: int) -> list[int]:
        return [
            number
            for number in self._triggers.partitions(table_id)
            if self._executor.worker_of(number) == worker and self._changes.may_run(number)
        ]

    async def _turns(self, worker: int) -> bool:
        """One turn for each table; whether there was anything to do."""
        did = False
        schemas = {schema.id: schema for schema in self._store.tables()}
        for table_id in self._triggers.tables():
            schema = schemas.get(table_id)
            if schema is None:
                continue
            known = list(self._triggers.of_table(table_id))
            triggers = await self._runnable(schema)
            await self._begin(worker, schema)
            watched = await self._watcher.segments(schema)
            # What is told about the partitions of a worker changes in one place at a time.
            async with self._watcher.lock(worker):
                # One that was made meanwhile may have begun before what waits by now was inserted.
                if list(self._triggers.of_table(table_id)) != known:
                    raise _Outdated
                now_ms = self._triggers.clock()
                turn = self._turn(worker, schema, triggers, now_ms)
                if turn is not None:
                    did = True
                    try:
                        await self._run(worker, turn, self._watcher.begun(schema, watched), now_ms)
                    finally:
                        # What is true of it still runs again; what has run is not.
                        self._give_back(turn)
        return did

    async def _runnable(self, schema: TableSchema) -> dict[int, Trigger]:
        """The triggers that run, by id. Those whose columns were dropped are disabled."""
        found = {}
        for trigger in self._triggers.of_table(schema.id):
            if not trigger.runs or trigger.watched:
                continue
            try:
                schema_as_saved(trigger, schema)
            except QueryError as error:
                await self._disable(schema, trigger, error.message)
            else:
                found[trigger.id] = trigger
        return found

    async def _begin(self, worker: int, schema: TableSchema) -> None:
        """Has triggers begin where they have not: whoever saved them may be gone before it has."""
        running = tuple(one for one in self._triggers.of_table(schema.id) if one.runs and one.start)
        if not running:
            return
        starts = tuple((one.id, one.start) for one in running)
        for number in range(self._store.partitions or 0):
            if self._executor.worker_of(number) != worker:
                continue
            if self._begun.get((schema.id, number)) == starts or not self._changes.may_run(number):
                continue
            with self._triggers.state(schema.id, number) as state:
                missing = [one for one in running if state.begin(one) is None]
            if missing:
                await self._changes.begin(schema.id, missing, [number])
            self._begun[schema.id, number] = starts

    def _turn(self, worker: int, schema: TableSchema, triggers: Mapping[int, Trigger], now_ms: int) -> _Turn | None:
        """What waits in the partitions of a worker. In each, what happened first comes first."""
        turn = _Turn(schema, triggers, self._triggers.erasures(schema.id), [], {}, {}, {})
        for number in self._partitions(worker, schema.id):
            pending = self._triggers.pending(schema.id, number, EVENTS_PER_TURN)
            with self._triggers.state(schema.id, number) as state:
                turn.numbers[number] = state.turns + 1
                first_due = state.next_due()
                due_now = first_due is not None and first_due <= now_ms
                # What was due before an insert arrived runs first, on what there was then.
                if due_now and (not pending or _is_before(first_due, pending[0].arrived_ms)):
                    until = now_ms if not pending else min(now_ms, pending[0].arrived_ms)
                    turn.due[number] = state.take_due(until, DUE_PER_TURN)
                elif due_now:
                    pending = [one for one in pending if not _is_before(first_due, one.arrived_ms)]
            if number in turn.due:
                up_to = pending[0].sequence - 1 if pending else self._store.visible_in(number)
            elif pending:
                up_to = turn.evaluated[number] = pending[-1].sequence
            else:
                continue
            snapshot = self._store.trigger_snapshot(schema, number, up_to, now_ms)
            if snapshot is None:
                self._give_back(turn)
                return None
            due = [one for one in turn.due.get(number, ()) if self._can_run(one, triggers)]
            emitted = frozenset(one.sequence for one in pending if one.emitted)
            after = pending[0].sequence - 1 if pending else 0
            turn.runs.append(PartitionRun(snapshot, after, emitted, people_of(due) if number in turn.due else None))
        return turn if turn.runs else None

    def _can_run(self, due: Due, triggers: Mapping[int, Trigger]) -> bool:
        trigger = triggers.get(due.trigger_id)
        return trigger is not None and due.function in trigger.functions

    def _give_back(self, turn: _Turn) -> None:
        for number, due in turn.due.items():
            with self._triggers.state(turn.schema.id, number) as state:
                state.give_back(due)

    async def _run(self, worker: int, turn: _Turn, segments: Sequence[WatchedSegment], now_ms: int) -> None:
        """Evaluates a turn and writes down what came of it. Raises _Outdated."""
        schema, triggers = turn.schema, turn.triggers
        wanted = [one.filter for one in triggers.values() if one.filter is not None]
        with self._store.segments.pinned(schema.id, wanted, time.time_ns() // 1_000_000) as filters:
            scripts: list[TriggerScript] = []
            for trigger in triggers.values():
                segment = filters.get(trigger.filter) if trigger.filter is not None else None
                if trigger.filter is not None and segment is None:
                    self._note(schema, trigger, f"there is no segment {trigger.filter!r} now, so it runs for nobody", 0)
                    continue
                scripts.append(
                    TriggerScript(
                        trigger.id, trigger.script, schema_as_saved(trigger, schema),
                        None if segment is None else segment.ref, self._begins(trigger, turn), trigger.emit_as_event,
                        self._accounts.left_ms((schema.id, trigger.id)),
                    )
                )  # fmt: skip
            known = {one.id for one in scripts}
            runs = [
                one if one.due is None else replace(one, due={k: v for k, v in one.due.items() if k[0] in known})
                for one in turn.runs
            ]
            watched = [replace(one, left_ms=self._accounts.left_ms((schema.id, one.id))) for one in segments]
            outcomes = await self._evaluate(worker, schema, TriggerWork(runs, scripts, now_ms, watched))
            failures = await self._write(worker, turn, outcomes, now_ms)
        for trigger_id, failed in failures.items():
            await self._judge(schema, trigger_id, failed)

    def _begins(self, trigger: Trigger, turn: _Turn) -> dict[int, int]:
        """After which record it runs for inserts, in the partitions of a turn where that is known."""
        begins = {}
        for one in turn.runs:
            with self._triggers.state(turn.schema.id, one.snapshot.partition) as state:
                begin = state.begin(trigger)
            if begin is not None:
                begins[one.snapshot.partition] = begin
        return begins

    async def _write(
        self, worker: int, turn: _Turn, results: Sequence[Sequence[Outcome | Judgement]], now_ms: int
    ) -> dict[int, Failures]:
        schema = turn.schema
        known = {trigger.id: trigger for trigger in self._triggers.of_table(schema.id)}
        judgements = {
            one.snapshot.partition: judged
            for one, found in zip(turn.runs, results, strict=True)
            if (judged := [each for each in found if isinstance(each, Judgement)])
        }
        moved = await self._watcher.moved(schema, worker, judgements, now_ms) if judgements else {}
        changes: dict[int, list[Change]] = {}
        failures: dict[int, Failures] = {}
        for one, all_found in zip(turn.runs, results, strict=True):
            number = one.snapshot.partition
            found = [each for each in all_found if isinstance(each, Outcome)]
            with self._triggers.state(schema.id, number) as state:
                settled: Settled = settle(found, known, state.once, now_ms, turn.due.get(number, ()))
            if number in turn.evaluated:
                settled.changes.append(Evaluated(turn.evaluated[number]))
            changes[number] = [Turn(turn.numbers[number]), *settled.changes, *moved.get(number, [])]
            for trigger_id, failed in settled.failures.items():
                whole = failures.setdefault(trigger_id, Failures())
                whole.people += failed.people
                whole.errors += failed.errors
                whole.message = failed.message or whole.message
        self._check_current(turn)
        await self._changes.append(schema.id, changes)
        return failures

    def _check_current(self, turn: _Turn) -> None:
        """Raises _Outdated when results are of a script that is no more, or may be about somebody who was erased."""
        epochs = {trigger.id: trigger.epoch for trigger in self._triggers.of_table(turn.schema.id)}
        changed = any(epochs.get(one.id, one.epoch) != one.epoch for one in turn.triggers.values())
        if changed or self._triggers.erasures(turn.schema.id) != turn.erasures:
            raise _Outdated

    async def _evaluate(self, worker: int, schema: TableSchema, work: TriggerWork) -> list[list[Outcome | Judgement]]:
        """The outcomes by partition. A trigger that a worker dies of gets the blame, the others go on."""
        if not work.triggers and not work.segments:
            return [[] for _ in work.runs]
        seconds = GRACE_SECONDS + MOST_LOST_MS / 1_000 * (len(work.triggers) + len(work.segments))
        try:
            answer: TriggerAnswer = await asyncio.wait_for(self._executor.run(worker, work), seconds)
        except (RunTimeError, TimeoutError) as error:
            message = error.message if isinstance(error, RunTimeError) else "it ran longer than its time budget"
            if work.segments:
                # Whoever moved is found by the next computation.
                return await self._evaluate(worker, schema, replace(work, segments=()))
            if len(work.triggers) <= 1:
                for trigger in work.triggers:
                    self._accounts.spend((schema.id, trigger.id), ACCOUNT_MS)
                return [
                    [Outcome(trigger.id, "", _nobody(one), [], [], [], message) for trigger in work.triggers]
                    for one in work.runs
                ]
            log.warning("triggers run one by one", reason=message)
            apart = [await self._evaluate(worker, schema, self._alone(work, trigger)) for trigger in work.triggers]
            return [[outcome for found in apart for outcome in found[at]] for at in range(len(work.runs))]
        for trigger_id, lost_ms in answer.lost_ms.items():
            self._accounts.spend((schema.id, trigger_id), lost_ms)
        for outcome in (one for found in answer.found for one in found if isinstance(one, Outcome)):
            if outcome.traceback is None:
                continue
            log.error("defect in a trigger's run", trigger=outcome.trigger_id, traceback=outcome.traceback)
        return answer.found

    def _alone(self, work: TriggerWork, trigger: TriggerScript) -> TriggerWork:
        runs = [
            one if one.due is None else replace(one, due={k: v for k, v in one.due.items() if k[0] == trigger.id})
            for one in work.runs
        ]
        return replace(work, triggers=[trigger], runs=runs)

    # --- triggers that fail ----------------------------------------------------------------------------------------

    async def _judge(self, schema: TableSchema, trigger_id: int, failed: Failures) -> None:
        """Counts errors, and disables a trigger that has too many of them without a run that had none."""
        key = (schema.id, trigger_id)
        if not failed.errors:
            before = self._errors.get(key)
            if failed.people and before is not None:
                self._errors[key] = replace(before, in_a_row=0)
            return
        trigger = next((one for one in self._triggers.of_table(schema.id) if one.id == trigger_id), None)
        if trigger is None:
            return
        in_a_row = self._note(schema, trigger, failed.message or "", failed.errors)
        if in_a_row >= self._limit and trigger.runs:
            await self._disable(schema, trigger, f"{in_a_row} errors in a row, the last one: {failed.message}")

    def _note(self, schema: TableSchema, trigger: Trigger, message: str, errors: int) -> int:
        key = (schema.id, trigger.id)
        before = self._errors.get(key)
        in_a_row = errors + (0 if before is None else before.in_a_row)
        self._errors[key] = LastError(message, self._triggers.clock(), in_a_row)
        return in_a_row

    async def _disable(self, schema: TableSchema, trigger: Trigger, reason: str) -> None:
        log.error("trigger disabled", table=schema.name, trigger=trigger.name, reason=reason)
        disabled = msgspec.structs.replace(trigger, disabled=reason)
        try:
            await self._changes.put(schema.id, disabled, trigger)
        except QueryError:
            return  # deleted, or changed, meanwhile

    # --- events of emissions ---------------------------------------------------------------------------------------

    async def _insert_emitted(self) -> None:
        while not self._closing:
            with suppress(TimeoutError):  # this node may own partitions that another one emitted in
                await asyncio.wait_for(self._emitted.wait(), LONGEST_SLEEP_SECONDS)
            self._emitted.clear()
            try:
                for schema in self._store.tables():
                    await self._insert_emitted_of(schema)
            except Exception as error:
                if not isinstance(error, ReadOnlyError | InternodeError):
                    log.error("emissions could not become events", reason=str(error))
                await asyncio.sleep(PAUSE_AFTER_FAILURE_SECONDS)
                self._emitted.set()

    async def _insert_emitted_of(self, schema: TableSchema) -> None:
        with self._triggers.states(schema.id) as states:
            waiting = [
                (number, one)
                for number, state in states.items()
                if state.inserts and self._changes.may_run(number)
                for one in state.inserts.values()
            ]
        for first in range(0, len(waiting), EVENTS_PER_INSERT):
            part = waiting[first : first + EVENTS_PER_INSERT]
            body = events_of([message for _, message in part], schema)
            insert = await asyncio.to_thread(self._store.prepare_insert, schema.name, body, skip_bad=True)
            await self._changes.insert_emitted(schema.name, insert)
            if insert.rejected:
                log.warning("emissions cannot become events", table=schema.name, reasons=insert.report())
            done: dict[int, list[int]] = {}
            for number, message in part:
                done.setdefault(number, []).append(message.number)
            changes: dict[int, list[Change]] = {number: [Inserted(numbers)] for number, numbers in done.items()}
            await self._changes.append(schema.id, changes)

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(PRUNE_SECONDS)
            for schema in self._store.tables():
                with self._triggers.states(schema.id) as states:
                    for state in states.values():
                        state.prune(self._triggers.clock(), DEFAULT_HOLD_MS)


def _is_before(due_ms: int | None, arrived_ms: int) -> bool:
    """Whether a schedule was due when an insert arrived; of one from before a restart nobody knows."""
    return due_ms is not None and arrived_ms > 0 and due_ms <= arrived_ms


def _nobody(one: PartitionRun) -> Any:
    return people_of(()).get((0, ""), one.snapshot.records.fields[:0, 0])
