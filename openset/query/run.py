"""The one place that says how a compiled script is run over blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from openset.pyql import tree
from openset.pyql.interpreter import interpret
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset_format.block import Block


@dataclass(frozen=True)
class Plan:
    """A compiled script."""

    script: tree.Script

    def describe(self) -> str:
        """The plan as text, for debug=true."""
        return "interpreter: the whole script, one person at a time\n"


def compile_script(script: tree.Script) -> Plan:
    """The plan of a checked script."""
    return Plan(script)


def run_script(plan: Plan, blocks: Sequence[Block], settings: RunSettings, want_log: bool) -> Partial:
    """Runs the plan over the blocks of one partition. want_log: whether lines of log() are collected."""
    partial = Partial(plan.script.aggregators)
    for block in blocks:
        settings.check_deadline()
        interpret(plan.script, block, settings, partial)
    return partial
