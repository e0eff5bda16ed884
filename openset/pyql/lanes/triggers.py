"""A function of a trigger script over a Block: what it emits and schedules, for everyone at once.

Lanes that fail, or emit a container, are answered by the interpreter; an error there is that of one person.
"""

from __future__ import annotations

from collections import ChainMap

import numpy as np

from openset.pyql import tree
from openset.pyql.actions import Actions, Emission, Scheduling
from openset.pyql.interpreter.interpreter import deep_recursion, trigger_people
from openset.pyql.lanes.block_run import BlockRun, TooMuchAtOnce
from openset.pyql.lanes.deeds import DeedTable
from openset.pyql.lanes.engine import Plan
from openset.pyql.lanes.execute import Executor
from openset.pyql.lanes.node_table import NodeTable
from openset.pyql.lanes.tallies import merged
from openset.pyql.lanes.texts import TextTable
from openset.pyql.names import IS_NEW, ON_INSERT
from openset.pyql.settings import RunSettings
from openset_format.block import Block, Column


def trigger_actions(plan: Plan, block: Block, settings: RunSettings, function: str = ON_INSERT) -> Actions:
    """What a function of a trigger does for the people of a Block.

    Rows are new where the Block's bool column `is_new` says so; without one none is. Raises RunTimeError when a budget
    of the whole run is used up.
    """
    block = _with_is_new(block)
    actions = Actions()
    waiting = [(block, 0)]
    while waiting:
        settings.check_deadline()
        part, first = waiting.pop()
        try:
            found = _part_actions(plan, part, settings, function)
        except TooMuchAtOnce:
            middle = part.people // 2
            waiting.append((part.part(middle, part.people), first + middle))
            waiting.append((part.part(0, middle), first))
            continue
        actions.emissions += [Emission(first + each.person, each.name, each.value) for each in found.emissions]
        actions.schedulings += [
            Scheduling(first + each.person, each.function, each.span_ms) for each in found.schedulings
        ]
        actions.failures += [(first + person, error) for person, error in found.failures]
        actions.log += found.log
    return actions


def _with_is_new(block: Block) -> Block:
    if IS_NEW in block.columns:
        return block
    columns = ChainMap({IS_NEW: Column("bool", np.zeros(block.rows, np.uint8))}, block.columns)  # type: ignore[arg-type]
    return Block(
        ids=block.ids,
        row_start=block.row_start,
        stamp=block.stamp,
        event_start=block.event_start,
        columns=columns,
        include=block.include,
        first_person=block.first_person,
        ordinals=block.ordinals,
    )


def _part_actions(plan: Plan, block: Block, settings: RunSettings, function: str) -> Actions:
    state = BlockRun(block, settings, TextTable(settings.max_memory_bytes))
    deeds = DeedTable()
    script = plan.script
    call = tree.Evaluate(tree.UserCall(function, (), at=script.at), at=script.at)
    actions = Actions()
    with Executor(state, script, plan.analysis, NodeTable(), deeds=deeds) as executor:
        with deep_recursion():
            frame = executor.top((call,))
        batches = [batch.keep(~state.failed[block.person_of_row[batch.row]]) for batch in frame.batches]
        batches = [batch for batch in batches if len(batch.row)]
        if batches:
            whole = merged(batches, executor.evaluator)
            people = block.person_of_row[whole.row].tolist()
            for person, number in zip(people, whole.nodes[0].tolist(), strict=True):
                emits, name, value = deeds.deeds[number]
                if emits:
                    actions.emissions.append(Emission(person, name, value))
                else:
                    actions.schedulings.append(Scheduling(person, name, value))
    left = np.flatnonzero(state.failed[block.runnable])
    if len(left):
        answered = trigger_people(script, function, block, settings, block.runnable[left].tolist())
        actions.emissions = sorted(actions.emissions + answered.emissions, key=lambda each: each.person)
        actions.schedulings = sorted(actions.schedulings + answered.schedulings, key=lambda each: each.person)
        actions.failures, actions.log = answered.failures, answered.log
    return actions
