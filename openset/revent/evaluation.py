"""Running triggers over what inserts touched and what is due: the work of the workers, and what they answer.

One piece of work is a few partitions and all their triggers. A trigger that uses up its budget, or whose script cannot
be compiled any more, says so in its own outcome and disturbs no other (`run_time`).
"""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import BudgetError, OpenSetError
from openset.pyql.lanes.engine import Plan, compile_plan
from openset.pyql.lanes.triggers import trigger_actions
from openset.pyql.names import ON_INSERT
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_trigger
from openset.query.membership import members_of_block, plan_of
from openset.query.work import ScriptCache, WorkerState, budget_error
from openset.revent.run_time import ACCOUNT_MS, Allowance, runs, timed
from openset.store.members import SegmentRef
from openset.store.ranges import people_ranges
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset.store.touched import Touched, TouchedPeople
from openset_format.block import Block
from openset_format.membership import bitmap_of


@dataclass(frozen=True, slots=True)
class TriggerScript:
    """A trigger as workers need it.

    schema: its columns as they were named when it was saved. filter: the segment its people must belong to.
    begins: by partition, it runs for inserts after this record only, and for none in the others.
    skips_emitted: not for what triggers emitted as events.
    left_ms: what it may lose on runs that are stopped.
    """

    id: int
    script: str
    schema: TableSchema
    filter: SegmentRef | None
    begins: Mapping[int, int]
    skips_emitted: bool
    left_ms: int = ACCOUNT_MS


@dataclass(frozen=True, slots=True, eq=False)
class WatchedSegment:
    """A stored segment that follows inserts, as workers need it.

    id: of what watches it. begins: by partition, inserts after this record are judged. script, schema: of the counts
    query that makes it. settings: without a now.
    left_ms: what it may lose on runs that are stopped.
    """

    id: int
    script: str
    schema: TableSchema
    settings: RunSettings
    begins: Mapping[int, int]
    left_ms: int = ACCOUNT_MS


@dataclass(frozen=True, slots=True, eq=False)
class PartitionRun:
    """What is to be done in one partition.

    after, emitted: on_insert runs for the inserts of the snapshot above a record; which of them triggers emitted.
    due: instead of that functions run, by trigger and function, for people (ascending ordinals).
    judged: instead of that it is found out which of these people (ascending ordinals) belong to watched segments now.
    """

    snapshot: PartitionSnapshot
    after: int
    emitted: frozenset[int] = frozenset()
    due: Mapping[tuple[int, str], NDArray[np.int64]] | None = None
    judged: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What one trigger did for some people of a partition, in their order.

    people: int64[n], whom it ran for. emissions: (ordinal, person, name, value). schedulings: (ordinal, person,
    function, span in ms or None to cancel). failures: (ordinal, why). error: why it did not run for any of them.
    traceback: where that is a defect.
    """

    trigger_id: int
    function: str
    people: NDArray[np.int64]
    emissions: list[tuple[int, int | str, str, Any]]
    schedulings: list[tuple[int, int | str, str, int | None]]
    failures: list[tuple[int, str]]
    error: str | None = None
    traceback: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Judgement:
    """Who of some people belongs to a watched segment. people, members: ascending ordinals."""

    watch_id: int
    people: NDArray[np.int64]
    members: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class TriggerAnswer:
    """What came of a piece of work: of each partition, in the order in which it happened.

    lost_ms: what was lost on runs that were stopped, by trigger or watch.
    """

    found: list[list[Outcome | Judgement]]
    lost_ms: dict[int, int]


def trigger_plan(script: str, schema: TableSchema) -> Plan:
    """Parses, checks and plans a trigger's script. Raises ParseError."""
    return compile_plan(parse_trigger(script, schema.column_types))


class TriggerTools:
    """What a worker keeps for triggers."""

    def __init__(self, state: WorkerState):
        self.people = TouchedPeople(state.views.reader, state.data_dir)
        self.plans = ScriptCache(trigger_plan)


@dataclass(frozen=True, slots=True, eq=False)
class TriggerWork:
    """Some partitions of a table, the triggers of it, and its watched segments."""

    runs: Sequence[PartitionRun]
    triggers: Sequence[TriggerScript]
    now_ms: int
    segments: Sequence[WatchedSegment] = ()

    def run(self, state: WorkerState) -> TriggerAnswer:
        """Raises StaleSnapshotError, InternalError for damaged files."""
        allowances = {one.id: Allowance(one.left_ms) for one in self.triggers}
        allowances |= {one.id: Allowance(one.left_ms) for one in self.segments}
        evaluation = _Evaluation(self, state, state.kept(TriggerTools), allowances)
        found = [list(evaluation.partition(one)) for one in self.runs]
        return TriggerAnswer(found, {key: one.lost_ms for key, one in allowances.items() if one.lost_ms})


@dataclass(frozen=True, slots=True, eq=False)
class _Evaluation:
    """A piece of work while a worker does it."""

    work: TriggerWork
    state: WorkerState
    tools: TriggerTools
    allowances: Mapping[int, Allowance]

    def partition(self, one: PartitionRun) -> Iterator[Outcome | Judgement]:
        """What comes of one partition, in the order in which it happens."""
        number = one.snapshot.partition
        triggers, segments = self.work.triggers, self.work.segments
        columns = {column.name: column for trigger in triggers for column in trigger.schema.columns}
        schema = replace(one.snapshot.schema, columns=tuple(columns.values()))
        if one.due is not None:
            touched = self.tools.people.now(one.snapshot)
            for (trigger_id, function), people in one.due.items():
                trigger = next(each for each in triggers if each.id == trigger_id)
                yield from self._outcomes(trigger, function, _Blocks(touched, people, number, schema))
            return
        if one.judged is not None:
            for segment in segments:
                yield from self._judgements(segment, self.tools.people.now(one.snapshot), one.judged, number)
            return
        apart = {
            sequence: frozenset(
                [each.id for each in triggers if self._wants(each, number, sequence, one.emitted)]
                + [each.id for each in segments if _has_begun(each, number, sequence)]
            )
            for sequence in one.snapshot.records.fields[:, 0].tolist()
            if sequence > one.after
        }
        for wave in self.tools.people.waves(one.snapshot, one.after, apart):
            blocks = _Blocks(wave.touched, wave.people, number, schema)
            for trigger in triggers:
                if trigger.id in apart[wave.sequences[0]]:
                    yield from self._outcomes(trigger, ON_INSERT, blocks)
            for segment in segments:
                if segment.id in apart[wave.sequences[0]]:
                    yield from self._judgements(segment, wave.touched, wave.people, number)

    def _wants(self, trigger: TriggerScript, number: int, sequence: int, emitted: frozenset[int]) -> bool:
        return _has_begun(trigger, number, sequence) and not (trigger.skips_emitted and sequence in emitted)

    def _judgements(
        self, segment: WatchedSegment, touched: Touched, people: NDArray[np.int64], number: int
    ) -> Iterator[Judgement]:
        """Leaves out people for whom the script fails: then the next computation tells why, and who moved."""
        block = touched.block(people, segment.schema)
        present = people[:0] if block is None or block.ordinals is None else block.ordinals
        if len(present) < len(people):
            # Whose events have all expired belongs to nothing.
            yield Judgement(segment.id, np.setdiff1d(people, present), people[:0])
        if block is None:
            return

        def run(part: Block, run_ms: int) -> list[NDArray[np.int64]]:
            settings = timed(replace(segment.settings, now_ms=self.work.now_ms), run_ms)
            (section,) = self.state.plans.sections.get(segment.script, segment.schema)
            return members_of_block(plan_of(section), part, settings)

        try:
            for part, pieces in runs(block, number, self.allowances[segment.id], run):
                if isinstance(pieces, list):
                    assert part.ordinals is not None
                    members = np.unique(np.concatenate(pieces)) if pieces else part.ordinals[:0]
                    yield Judgement(segment.id, part.ordinals, members)
        except (OpenSetError, RecursionError) as error:
            if budget_error(error).status >= 500:
                raise

    def _outcomes(self, trigger: TriggerScript, function: str, blocks: _Blocks) -> Iterator[Outcome]:
        """What a trigger does, in parts of as many people as a run takes well."""
        try:
            block = blocks.of(self.state, trigger)
            plan = self.tools.plans.get(trigger.script, trigger.schema)
        except OpenSetError as error:
            if error.status >= 500:
                raise
            yield Outcome(trigger.id, function, blocks.people, [], [], [], error.message)
            return

        def run(part: Block, run_ms: int) -> Outcome:
            return self._outcome(trigger, plan, function, part, run_ms)

        allowance = self.allowances[trigger.id]
        for first, last in () if block is None else people_ranges(block.row_start, plan.block_rows):
            assert block is not None
            whole = block if last - first == block.people else block.part(first, last)
            for part, found in runs(whole, blocks.partition, allowance, run):
                yield found if isinstance(found, Outcome) else _stopped(trigger, function, part, found)

    def _outcome(self, trigger: TriggerScript, plan: Plan, function: str, block: Block, run_ms: int) -> Outcome:
        """Raises BudgetError, MemoryError."""
        assert block.ordinals is not None
        people = block.ordinals
        settings = timed(RunSettings(now_ms=self.work.now_ms), run_ms)
        try:
            actions = trigger_actions(plan, block, settings, function)
        except (BudgetError, MemoryError):
            raise
        except (OpenSetError, RecursionError) as error:
            told = budget_error(error)
            if told.status >= 500:
                raise
            return Outcome(trigger.id, function, people, [], [], [], told.message)
        except Exception as defect:
            # One trigger must not keep the others from running.
            reason = f"a defect of OpenSet: {defect!r}"
            return Outcome(trigger.id, function, people, [], [], [], reason, traceback.format_exc())
        ordinal = people.tolist()
        return Outcome(
            trigger.id,
            function,
            people,
            [(ordinal[one.person], block.person_id(one.person), one.name, one.value) for one in actions.emissions],
            [
                (ordinal[one.person], block.person_id(one.person), one.function, one.span_ms)
                for one in actions.schedulings
            ],
            [(ordinal[person], error.message) for person, error in actions.failures],
        )


def _has_begun(one: TriggerScript | WatchedSegment, number: int, sequence: int) -> bool:
    return number in one.begins and sequence > one.begins[number]


def _stopped(trigger: TriggerScript, function: str, block: Block, error: OpenSetError | MemoryError) -> Outcome:
    """People whose run was stopped, or never begun."""
    assert block.ordinals is not None
    message = budget_error(error).message
    failures = [(ordinal, message) for ordinal in block.ordinals.tolist()]
    return Outcome(trigger.id, function, block.ordinals, [], [], failures)


class _Blocks:
    """The Blocks of some people, by columns and filter: triggers that need the same share one."""

    def __init__(self, touched: Touched, people: NDArray[np.int64], partition: int, schema: TableSchema):
        """schema: with the columns of all triggers, as far as one name means one column."""
        self.people = people
        self._schema = schema
        self._touched = touched
        self.partition = partition
        self._made: dict[tuple[Any, SegmentRef | None], Block | None] = {}

    def of(self, state: WorkerState, trigger: TriggerScript) -> Block | None:
        """The people a trigger is to run for. Raises QueryError when its segment is gone."""
        known = all(column in self._schema.columns for column in trigger.schema.columns)
        schema = self._schema if known else trigger.schema
        key = (schema.columns, trigger.filter)
        if key not in self._made:
            people = self.people
            if trigger.filter is not None:
                members = state.members.bitmap(trigger.filter, self.partition)
                people = np.frombuffer((bitmap_of(people) & members).to_array(), np.uint32).astype(np.int64)
            self._made[key] = self._touched.block(people, schema) if len(people) else None
        return self._made[key]
