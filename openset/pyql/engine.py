"""The vectorised engine: a checked script over the Blocks of a partition.

`compile_plan` looks at a script once; an EngineRun executes it Block by Block, hands the people that reached something
without a vector form to the scalar interpreter, and gathers one Partial.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from openset.pyql import tree
from openset.pyql.analysis import Analysis
from openset.pyql.block_run import BlockRun
from openset.pyql.execute import Executor
from openset.pyql.explain import describe
from openset.pyql.interpreter import interpret
from openset.pyql.node_table import NodeTable
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset.pyql.tallies import TallyBook
from openset.pyql.texts import TextTable
from openset_format.block import Block

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
    """One script over the Blocks of any number of partitions; `partial` has what they gave so far.

    Nodes and texts are shared by all Blocks, so that many partitions cost one result tree.
    """

    def __init__(self, plan: Plan, settings: RunSettings, *, want_log: bool = False):
        self.plan = plan
        self.settings = settings
        self.want_log = want_log
        self.partial = Partial(plan.script.aggregators)
        self._table = TextTable(settings.max_memory_bytes)
        self._nodes = NodeTable()
        self._expanded_rows = 0

    def add(self, blocks: Iterable[Block]) -> None:
        """Runs the script for the people of some Blocks. Raises RunTimeError for type errors and used-up budgets."""
        for block in blocks:
            self.settings.check_deadline()
            state = BlockRun(block, self.settings, self._table)
            state.expanded_rows = self._expanded_rows
            self._add_block(state)
            self._expanded_rows = state.expanded_rows

    def _add_block(self, state: BlockRun) -> None:
        block, partial, script = state.block, self.partial, self.plan.script
        executor = Executor(state, script, self.plan.analysis, self._nodes, self.want_log)
        frame = executor.top()
        TallyBook(executor.evaluator, script.aggregators, self._nodes, partial).add(frame.batches)
        people = block.runnable
        left = people[state.failed[people]]
        if len(left):
            interpret(script, block, state.settings, partial, left.tolist())
        answered = people[~state.failed[people]]
        partial.people += len(answered)
        partial.rows += int(np.diff(block.row_start)[answered].sum())
        partial.events += int(state.event_counts[answered].sum())


def run(plan: Plan, blocks: Iterable[Block], settings: RunSettings, *, want_log: bool = False) -> Partial:
    """The result of a script over Blocks of disjoint people.

    want_log: whether log() lines are collected.  Raises RunTimeError for type errors and used-up budgets.
    """
    whole = EngineRun(plan, settings, want_log=want_log)
    whole.add(blocks)
    return whole.partial
