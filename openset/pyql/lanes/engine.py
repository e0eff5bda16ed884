"""The vectorised engine: a checked script over the Blocks of a partition.

`compile_plan` looks at a script once; an EngineRun executes it Block by Block, hands the people that reached something
without a vector form to the scalar interpreter, and gathers one Partial.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.pyql import tree
from openset.pyql.interpreter.interpreter import evaluate_people, interpret
from openset.pyql.lanes.analysis import Analysis
from openset.pyql.lanes.block_run import BlockRun, TooMuchAtOnce
from openset.pyql.lanes.execute import Executor
from openset.pyql.lanes.explain import describe
from openset.pyql.lanes.frames import RESULT_VALUE
from openset.pyql.lanes.node_table import NodeTable, PublishedNodes
from openset.pyql.lanes.outcomes import Outcomes
from openset.pyql.lanes.tallies import TallyBook
from openset.pyql.lanes.texts import TextTable
from openset.pyql.meaning.values import is_true
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset.recursion import deep_recursion
from openset_format.block import Block

Members = NDArray[np.bool_] | None

BLOCK_ROWS = 1 << 17
LOCK_STEP_BLOCK_ROWS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A script and the facts about it that decide how it runs."""

    script: tree.Script
    analysis: Analysis

    @property
    def block_rows(self) -> int:
        """How large the Blocks should be: small ones stay in the cache, lock-step wants many lanes per round."""
        modes = [facts.mode for facts in self.analysis.matches.values()] + list(self.analysis.fors.values())
        return LOCK_STEP_BLOCK_ROWS if "step" in modes else BLOCK_ROWS

    def describe(self) -> str:
        """Readable text: what is evaluated once per Block, per lane, in lock-step, and what falls back."""
        return describe(self.script, self.analysis)


def compile_plan(script: tree.Script) -> Plan:
    """The plan of a checked script."""
    return Plan(script, Analysis(script))


class EngineRun:
    """One script over the Blocks of any number of partitions; `partials` have what they gave so far.

    There is one Partial per segment that is compared, or one for everyone. Nodes and texts are shared by all Blocks,
    so that many partitions cost one result tree.
    """

    def __init__(self, plan: Plan, settings: RunSettings, *, want_log: bool = False, segments: int = 1):
        self.plan = plan
        self.settings = settings
        self.want_log = want_log
        self.partials = [Partial(plan.script.aggregators) for _ in range(segments)]
        self._table = TextTable(settings.max_memory_bytes)
        self._nodes = NodeTable()
        self._published = [PublishedNodes(self._nodes, partial) for partial in self.partials]
        self._expanded_rows = 0

    @property
    def partial(self) -> Partial:
        """The only Partial of a run that compares no segments."""
        assert len(self.partials) == 1
        return self.partials[0]

    def add(self, blocks: Iterable[Block], members: Sequence[Sequence[Members]] | None = None) -> None:
        """Runs the script for the people of some Blocks.

        members: per Block and segment which of its people belong to it (bool[people], None: all); the script runs once
        for people of any segment.  Raises RunTimeError for type errors and used-up budgets.
        """
        everyone: Sequence[Members] = [None] * len(self.partials)
        waiting = [(block, everyone if members is None else members[i]) for i, block in enumerate(blocks)][::-1]
        while waiting:
            self.settings.check_deadline()
            block, masks = waiting.pop()
            state = self._state(block, masks)
            try:
                self._add_block(state, masks)
            except TooMuchAtOnce:
                middle = block.people // 2
                for first, last in ((middle, block.people), (0, middle)):
                    waiting.append((block.part(first, last), [None if m is None else m[first:last] for m in masks]))
            else:
                self._expanded_rows = state.expanded_rows

    def _state(self, block: Block, masks: Sequence[Members]) -> BlockRun:
        wanted = [mask for mask in masks if mask is not None]
        if len(wanted) == len(masks):
            anywhere = np.logical_or.reduce(wanted)
            block = replace(block, include=anywhere if block.include is None else anywhere & block.include)
        state = BlockRun(block, self.settings, self._table)
        state.expanded_rows = self._expanded_rows
        return state

    def _add_block(self, state: BlockRun, masks: Sequence[Members]) -> None:
        block, script = state.block, self.plan.script
        with Executor(state, script, self.plan.analysis, self._nodes, want_log=self.want_log) as executor:
            with deep_recursion():
                frame = executor.top()
            for partial, published, mask in zip(self.partials, self._published, masks, strict=True):
                book = TallyBook(executor.evaluator, script.aggregators, self._nodes, published, partial)
                book.add(frame.batches, mask)
        people = block.runnable
        for partial, mask in zip(self.partials, masks, strict=True):
            own = people if mask is None else people[mask[people]]
            left = own[state.failed[own]]
            if len(left):
                interpret(script, block, state.settings, partial, left.tolist())
            answered = own[~state.failed[own]]
            partial.people += len(answered)
            partial.rows += int(np.diff(block.row_start)[answered].sum())
            partial.events += int(state.event_counts[answered].sum())


def outcomes(plan: Plan, block: Block, settings: RunSettings, *, want_log: bool = False) -> Outcomes:
    """Runs a segment or histogram script over a Block. want_log: log() lines are collected. Raises RunTimeError."""
    state = BlockRun(block, settings, TextTable(settings.max_memory_bytes))
    people = block.runnable
    tallied = np.zeros(block.people, np.bool_)
    with Executor(state, plan.script, plan.analysis, NodeTable(), want_log=want_log, note_tallied=True) as executor:
        with deep_recursion():
            frame = executor.top()
        for batch in frame.batches:
            tallied[block.person_of_row[batch.row]] = True
        value = frame.read(RESULT_VALUE, None)
        member = tallied[people] | executor.evaluator.truth(value, len(people))
    left = np.flatnonzero(state.failed[people])
    answered: dict[int, Any] = {}
    noted = Partial(plan.script.aggregators)
    for position, (person, outcome) in zip(
        left.tolist(), evaluate_people(plan.script, block, settings, people[left].tolist(), noted), strict=True
    ):
        tallied[person] = outcome.tallied
        answered[position] = outcome.returned
        member[position] = outcome.tallied or is_true(outcome.returned)
    return Outcomes(people, tallied[people], member, value, state.table, answered, noted.log if want_log else ())


def run(plan: Plan, blocks: Iterable[Block], settings: RunSettings, *, want_log: bool = False) -> Partial:
    """The result of a script over Blocks of disjoint people.

    want_log: whether log() lines are collected.  Raises RunTimeError for type errors and used-up budgets.
    """
    whole = EngineRun(plan, settings, want_log=want_log)
    whole.add(blocks)
    return whole.partial
