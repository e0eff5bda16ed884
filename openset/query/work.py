"""What a worker is given to do, and what it keeps between two pieces of work.

Work is a small picklable object that carries everything it needs (script, settings, snapshots) and runs against the
worker's state: the cache of partition views and the cache of compiled scripts. A worker does one piece at a time, so
nothing here is locked.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

from openset.errors import OpenSetError, RunTimeError
from openset.pyql.engine import Plan, compile_plan
from openset.pyql.parse import parse_script
from openset.store.members import MemberCache
from openset.store.schema import TableSchema
from openset.store.views import ViewCache

PLANS_KEPT = 256


class PlanCache:
    """Compiled scripts, the most recently used ones, by text and schema version."""

    def __init__(self, limit: int = PLANS_KEPT):
        self._limit = limit
        self._plans: OrderedDict[tuple[str, TableSchema], Plan] = OrderedDict()

    def lookup(self, script: str, schema: TableSchema) -> Plan | None:
        """The plan when it is kept."""
        key = (script, schema)
        if key in self._plans:
            self._plans.move_to_end(key)
        return self._plans.get(key)

    def keep(self, script: str, schema: TableSchema, plan: Plan) -> None:
        """Keeps a plan, in place of the one that was not used for longest."""
        self._plans[(script, schema)] = plan
        if len(self._plans) > self._limit:
            self._plans.popitem(last=False)

    def plan(self, script: str, schema: TableSchema) -> Plan:
        """The plan of a script for a table as it is, kept or made now. Raises ParseError."""
        plan = self.lookup(script, schema)
        if plan is None:
            plan = plan_of(script, schema)
            self.keep(script, schema, plan)
        return plan


def plan_of(script: str, schema: TableSchema) -> Plan:
    """Parses, checks and plans a script. Raises ParseError."""
    return compile_plan(parse_script(script, schema.column_types))


def budget_error(error: OpenSetError | MemoryError | RecursionError) -> OpenSetError:
    """What a client is told of an error that a query may end with."""
    if isinstance(error, MemoryError):
        return RunTimeError("the query needs more memory than this machine has")
    if isinstance(error, RecursionError):
        return RunTimeError("the query is nested too deeply")
    return error


class WorkerState:
    """What a worker keeps: maps and merged deltas of the partitions it serves, compiled scripts, stored segments."""

    def __init__(self, data_dir: Path):
        self.data_dir = data_dir
        self.views = ViewCache(data_dir)
        self.plans = PlanCache()
        self.members = MemberCache(data_dir)


class Work(Protocol):
    """A picklable piece of work. Operating errors are OpenSetErrors; anything else is reported as a defect."""

    def run(self, state: WorkerState) -> Any:
        """Does the work and returns a picklable result."""
        ...
