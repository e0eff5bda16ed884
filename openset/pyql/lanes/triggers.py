"""A function of a trigger script over a Block: what it emits and schedules, for everyone at once.

Who fails on lanes is answered by the interpreter, person by person; an error there is that of one person.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from openset.errors import BudgetError, RunTimeError
from openset.pyql.actions import Actions, Emission, Scheduling, checked_value
from openset.pyql.interpreter.interpreter import trigger_people
from openset.pyql.lanes.action_batches import CANCELLED, ScheduleBatch, in_order
from openset.pyql.lanes.block_run import BlockRun, TooMuchAtOnce
from openset.pyql.lanes.engine import Plan
from openset.pyql.lanes.evaluate import Evaluator
from openset.pyql.lanes.execute import Executor
from openset.pyql.lanes.frames import Frame
from openset.pyql.lanes.node_table import NodeTable
from openset.pyql.lanes.python_values import python_values
from openset.pyql.lanes.texts import TextTable
from openset.pyql.names import ON_INSERT
from openset.pyql.settings import RunSettings
from openset.recursion import deep_recursion
from openset_format.block import Block


@dataclass(slots=True)
class BlockActions:
    """What happened to the people of a Block.

    emissions, failures, log: as of Actions. schedules: by person (its lanes), in the order of each person's script, the
    last one per function; functions are numbered as they stand in the script.
    """

    emissions: list[Emission] = field(default_factory=list)
    schedules: ScheduleBatch = field(default_factory=lambda: _schedules([], [], []))
    failures: list[tuple[int, RunTimeError]] = field(default_factory=list)
    log: list[str] = field(default_factory=list)


def trigger_actions(plan: Plan, block: Block, settings: RunSettings, function: str = ON_INSERT) -> Actions:
    """What a function of a trigger does for the people of a Block.

    Rows are new where the Block's bool column `is_new` says so; without one none is. Raises BudgetError, a
    RunTimeError, when a budget of the whole run is used up.
    """
    found = block_actions(plan, block, settings, function)
    names = list(plan.script.functions)
    lanes, functions, spans = (
        each.tolist() for each in (found.schedules.lane, found.schedules.function, found.schedules.span_ms)
    )
    schedulings = [
        Scheduling(person, names[place], None if span_ms == CANCELLED else span_ms)
        for person, place, span_ms in zip(lanes, functions, spans, strict=True)
    ]
    return Actions(found.emissions, schedulings, found.failures, found.log)


def block_actions(plan: Plan, block: Block, settings: RunSettings, function: str) -> BlockActions:
    """`trigger_actions`, with the schedules in columns: there may be very many. Raises as it does."""
    parts: list[BlockActions] = []
    waiting = [(block, 0)]
    expanded_rows = 0
    while waiting:
        settings.check_deadline()
        part, first = waiting.pop()
        state = BlockRun(part, settings, TextTable(settings.max_memory_bytes))
        state.expanded_rows = expanded_rows
        try:
            parts.append(_shifted(_part_actions(plan, state, function), first))
        except TooMuchAtOnce:
            middle = part.people // 2
            waiting.append((part.part(middle, part.people), first + middle))
            waiting.append((part.part(0, middle), first))
        else:
            expanded_rows = state.expanded_rows
    if len(parts) == 1:
        return parts[0]
    return BlockActions(
        [one for part_actions in parts for one in part_actions.emissions],
        _joined([part_actions.schedules for part_actions in parts]),
        [one for part_actions in parts for one in part_actions.failures],
        [line for part_actions in parts for line in part_actions.log],
    )


def _part_actions(plan: Plan, state: BlockRun, function: str) -> BlockActions:
    script, block = plan.script, state.block
    found = BlockActions()
    try:
        with Executor(state, script, plan.analysis, NodeTable()) as executor:
            with deep_recursion():
                frame = executor.top(script.functions[function].body)
            _add_emissions(executor.evaluator, frame, found)
        if frame.schedules:
            batch = in_order(frame.schedules, None, len(script.functions))
            batch.lane = frame.person[batch.lane].astype(np.int64)
            found.schedules = batch.keep(np.flatnonzero(~state.failed[batch.lane]))
    except BudgetError:
        raise
    except RunTimeError:
        # A text that grew too long, say: for whom, the interpreter finds out.
        found = BlockActions()
        state.failed[:] = True
    left = block.runnable[state.failed[block.runnable]]
    if len(left):
        answered = trigger_people(script, function, block, state.settings, left.tolist())
        found.emissions = sorted(found.emissions + answered.emissions, key=lambda each: each.person)
        found.schedules = _joined([found.schedules, _as_batch(answered.schedulings, list(script.functions))])
        found.failures, found.log = answered.failures, answered.log
    return found


def _add_emissions(evaluator: Evaluator, frame: Frame, found: BlockActions) -> None:
    """The emissions of a frame; who emits what is too large is left to the interpreter."""
    failed = evaluator.run.failed
    for held in frame.emits:
        batch = held.keep(~failed[frame.person[held.lane]])
        names, values = (
            python_values(value, len(batch.lane), evaluator.run.store, evaluator.table)
            for value in (batch.name, batch.value)
        )
        for person, name, value in zip(frame.person[batch.lane].tolist(), names, values, strict=True):
            try:
                found.emissions.append(Emission(person, name, checked_value(value)))
            except RunTimeError:
                failed[person] = True
    found.emissions.sort(key=lambda each: each.person)


def _shifted(found: BlockActions, first: int) -> BlockActions:
    """The actions of a part whose first person has this position."""
    if first:
        found.emissions = [replace(one, person=first + one.person) for one in found.emissions]
        found.schedules.lane = found.schedules.lane + first
        found.failures = [(first + person, error) for person, error in found.failures]
    return found


def _as_batch(schedulings: list[Scheduling], functions: list[str]) -> ScheduleBatch:
    places = {name: place for place, name in enumerate(functions)}
    return _schedules(
        [one.person for one in schedulings],
        [places[one.function] for one in schedulings],
        [CANCELLED if one.span_ms is None else one.span_ms for one in schedulings],
    )


def _schedules(person: list[int], function: list[int], span_ms: list[int]) -> ScheduleBatch:
    return ScheduleBatch(np.array(person, np.int64), np.array(function, np.int32), np.array(span_ms, np.int64))


def _joined(batches: list[ScheduleBatch]) -> ScheduleBatch:
    """Batches of different people as one, by person."""
    lane: NDArray[np.int64] = np.concatenate([batch.lane for batch in batches])
    order = np.argsort(lane, kind="stable")
    return ScheduleBatch(
        lane[order],
        np.concatenate([batch.function for batch in batches])[order],
        np.concatenate([batch.span_ms for batch in batches])[order],
    )
