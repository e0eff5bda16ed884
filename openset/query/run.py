"""The one place that says how a compiled script is run over blocks: by the vectorised engine."""

from __future__ import annotations

from collections.abc import Sequence

from openset.pyql import engine, tree
from openset.pyql.engine import Plan
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset_format.block import Block

__all__ = ["Plan", "compile_script", "run_script"]


def compile_script(script: tree.Script) -> Plan:
    """The plan of a checked script."""
    return engine.compile_plan(script)


def run_script(plan: Plan, blocks: Sequence[Block], settings: RunSettings, want_log: bool) -> Partial:
    """Runs the plan over the blocks of one partition. want_log: whether lines of log() are collected."""
    return engine.run(plan, blocks, settings, want_log=want_log)
