"""Running triggers over what inserts touched and what is due: the work of the workers, and what they answer.

One piece of work is a few partitions and all their triggers. A trigger that uses up its budget, or whose script cannot
be compiled any more, says so in its own outcome and disturbs no other.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import OpenSetError
from openset.pyql.lanes.engine import Plan, compile_plan
from openset.pyql.lanes.triggers import trigger_actions
from openset.pyql.names import ON_INSERT
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_trigger
from openset.query.membership import members_of_block, plan_of
from openset.query.work import ScriptCache, WorkerState, budget_error
from openset.store.members import SegmentRef
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset.store.touched import Touched, TouchedPeople, Wave
from openset.store.views import people_ranges
from openset_format.block import Block
from openset_format.membership import bitmap_of


@dataclass(frozen=True, slots=True)
class TriggerScript:
    """A trigger as workers need it.

    schema: its columns as they were named when it was saved. filter: the segment its people must belong to.
    from_sequence: it runs for later inserts only. skips_emitted: not for what triggers emitted as events.
    """

    id: int
    script: str
    schema: TableSchema
    filter: SegmentRef | None
    from_sequence: int
    skips_emitted: bool


@dataclass(frozen=True, slots=True, eq=False)
class WatchedSegment:
    """A stored segment that follows inserts, as workers need it.

    id, from_sequence: of what watches it. script, schema: of the counts query that makes it. settings: without a now.
    """

    id: int
    script: str
    schema: TableSchema
    settings: RunSettings
    from_sequence: int


@dataclass(frozen=True, slots=True, eq=False)
class PartitionRun:
    """What is to be done in one partition.

    after, emitted: on_insert runs for the inserts of the snapshot above a record; which of them triggers emitted.
    due: instead of that functions run, by trigger and function, for people (ascending ordinals).
    """

    snapshot: PartitionSnapshot
    after: int
    emitted: frozenset[int] = frozenset()
    due: Mapping[tuple[int, str], NDArray[np.int64]] | None = None


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
    """Who of the people that inserts touched belongs to a watched segment. people, members: ascending ordinals."""

    watch_id: int
    people: NDArray[np.int64]
    members: NDArray[np.int64]


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
    """Some partitions of a table and the triggers of it. timeout_ms: for one run of one trigger."""

    runs: Sequence[PartitionRun]
    triggers: Sequence[TriggerScript]
    now_ms: int
    timeout_ms: int
    segments: Sequence[WatchedSegment] = ()

    def run(self, state: WorkerState) -> list[list[Outcome | Judgement]]:
        """What came of each partition, in the order in which they happened.

        Raises StaleSnapshotError, InternalError for damaged files.
        """
        tools = state.kept(TriggerTools)
        return [list(self._partition(state, tools, one)) for one in self.runs]

    def _partition(self, state: WorkerState, tools: TriggerTools, one: PartitionRun) -> Iterator[Outcome | Judgement]:
        number = one.snapshot.partition
        columns = {column.name: column for trigger in self.triggers for column in trigger.schema.columns}
        schema = replace(one.snapshot.schema, columns=tuple(columns.values()))
        if one.due is not None:
            touched = tools.people.now(one.snapshot)
            for (trigger_id, function), people in one.due.items():
                trigger = next(each for each in self.triggers if each.id == trigger_id)
                yield from self._outcomes(state, tools, trigger, function, _Blocks(touched, people, number, schema))
            return
        apart = {
            sequence: frozenset(
                [each.id for each in self.triggers if self._wants(each, sequence, one.emitted)]
                + [each.id for each in self.segments if sequence > each.from_sequence]
            )
            for sequence in one.snapshot.records.fields[:, 0].tolist()
            if sequence > one.after
        }
        for wave in tools.people.waves(one.snapshot, one.after, apart):
            blocks = _Blocks(wave.touched, wave.people, number, schema)
            for trigger in self.triggers:
                if trigger.id in apart[wave.sequences[0]]:
                    yield from self._outcomes(state, tools, trigger, ON_INSERT, blocks)
            for segment in self.segments:
                if segment.id in apart[wave.sequences[0]]:
                    found = self._judgement(state, segment, wave)
                    if found is not None:
                        yield found

    def _wants(self, trigger: TriggerScript, sequence: int, emitted: frozenset[int]) -> bool:
        return sequence > trigger.from_sequence and not (trigger.skips_emitted and sequence in emitted)

    def _judgement(self, state: WorkerState, segment: WatchedSegment, wave: Wave) -> Judgement | None:
        """None when the script fails: then the next computation tells why, and who moved."""
        block = wave.touched.block(wave.people, segment.schema)
        if block is None:
            return None
        deadline = time.monotonic() + self.timeout_ms / 1_000
        settings = replace(segment.settings, now_ms=self.now_ms, deadline=deadline, timeout_ms=self.timeout_ms)
        try:
            (section,) = state.plans.sections.get(segment.script, segment.schema)
            pieces = members_of_block(plan_of(section), block, settings)
        except (OpenSetError, MemoryError, RecursionError) as error:
            if budget_error(error).status >= 500:
                raise
            return None
        members = np.unique(np.concatenate(pieces)) if pieces else wave.people[:0]
        return Judgement(segment.id, wave.people, members)

    def _outcomes(
        self, state: WorkerState, tools: TriggerTools, trigger: TriggerScript, function: str, blocks: _Blocks
    ) -> Iterator[Outcome]:
        """What a trigger does, in parts of as many people as a run takes well."""
        try:
            block = blocks.of(state, trigger)
            plan = tools.plans.get(trigger.script, trigger.schema)
        except OpenSetError as error:
            if error.status >= 500:
                raise
            yield Outcome(trigger.id, function, blocks.people, [], [], [], error.message)
            return
        for first, last in () if block is None else people_ranges(block.row_start, plan.block_rows):
            assert block is not None
            part = block if last - first == block.people else block.part(first, last)
            yield self._outcome(trigger, plan, function, part)

    def _outcome(self, trigger: TriggerScript, plan: Plan, function: str, block: Block) -> Outcome:
        assert block.ordinals is not None
        people = block.ordinals
        deadline = time.monotonic() + self.timeout_ms / 1_000
        settings = RunSettings(now_ms=self.now_ms, deadline=deadline, timeout_ms=self.timeout_ms)
        try:
            actions = trigger_actions(plan, block, settings, function)
        except (OpenSetError, MemoryError, RecursionError) as error:
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


class _Blocks:
    """The Blocks of some people, by columns and filter: triggers that need the same share one."""

    def __init__(self, touched: Touched, people: NDArray[np.int64], partition: int, schema: TableSchema):
        """schema: with the columns of all triggers, as far as one name means one column."""
        self.people = people
        self._schema = schema
        self._touched = touched
        self._partition = partition
        self._made: dict[tuple[Any, SegmentRef | None], Block | None] = {}

    def of(self, state: WorkerState, trigger: TriggerScript) -> Block | None:
        """The people a trigger is to run for. Raises QueryError when its segment is gone."""
        known = all(column in self._schema.columns for column in trigger.schema.columns)
        schema = self._schema if known else trigger.schema
        key = (schema.columns, trigger.filter)
        if key not in self._made:
            people = self.people
            if trigger.filter is not None:
                members = state.members.bitmap(trigger.filter, self._partition)
                people = np.frombuffer((bitmap_of(people) & members).to_array(), np.uint32).astype(np.int64)
            self._made[key] = self._touched.block(people, schema) if len(people) else None
        return self._made[key]
