"""What a worker is given to do, and what it keeps between two pieces of work.

Work is a small picklable object that carries everything it needs (script, settings, snapshots) and runs against the
worker's state: the cache of partition views and the cache of compiled scripts. A worker does one piece at a time, so
nothing here is locked.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from openset.errors import OpenSetError, RunTimeError
from openset.pyql import tree
from openset.pyql.lanes.engine import Plan, compile_plan
from openset.pyql.syntax.parse import parse_script, parse_sections
from openset.query.index_only import Candidates, EverHas, candidates, membership
from openset.store.members import MemberCache
from openset.store.schema import TableSchema
from openset.store.views import ViewCache

PLANS_KEPT = 256

Made = TypeVar("Made")
Kept = TypeVar("Kept")


class ScriptCache(Generic[Made]):
    """What was made of scripts, for those most recently used, by text and table as it was."""

    def __init__(self, make: Callable[[str, TableSchema], Made], limit: int = PLANS_KEPT):
        self._make = make
        self._limit = limit
        self._made: OrderedDict[tuple[str, TableSchema], Made] = OrderedDict()

    def lookup(self, script: str, schema: TableSchema) -> Made | None:
        """What was made of the script when it is kept."""
        key = (script, schema)
        if key in self._made:
            self._made.move_to_end(key)
        return self._made.get(key)

    def keep(self, script: str, schema: TableSchema, made: Made) -> None:
        """Keeps it, in place of the one that was not used for longest."""
        self._made[(script, schema)] = made
        if len(self._made) > self._limit:
            self._made.popitem(last=False)

    def get(self, script: str, schema: TableSchema) -> Made:
        """It, kept or made now. Raises ParseError."""
        made = self.lookup(script, schema)
        if made is None:
            made = self._make(script, schema)
            self.keep(script, schema, made)
        return made

    async def get_in_thread(self, script: str, schema: TableSchema) -> Made:
        """`get`, for the event loop. Raises ParseError."""
        made = self.lookup(script, schema)
        if made is None:
            made = await asyncio.to_thread(self._make, script, schema)
            self.keep(script, schema, made)
        return made


class PlanCache(ScriptCache[Plan]):
    """Compiled scripts, and beside them the compiled sections of counts requests."""

    def __init__(self, limit: int = PLANS_KEPT):
        super().__init__(plan_of, limit)
        self.sections: ScriptCache[CompiledSections] = ScriptCache(sections_of, limit)

    def plan(self, script: str, schema: TableSchema) -> Plan:
        """The plan of a script for a table as it is, kept or made now. Raises ParseError."""
        return self.get(script, schema)


def plan_of(script: str, schema: TableSchema) -> Plan:
    """Parses, checks and plans a script. Raises ParseError."""
    return compile_plan(parse_script(script, schema.column_types))


@dataclass(frozen=True, slots=True, eq=False)
class CompiledSection:
    """A section of a counts request.

    plan: None where it is set algebra. fact: what decides alone who belongs to it, for the index; None where it takes
    more. candidates: what the indexes may then say about whom it can take in.
    """

    section: tree.Section
    plan: Plan | None
    fact: EverHas | None
    candidates: Candidates | None


CompiledSections = tuple[CompiledSection, ...]


def sections_of(script: str, schema: TableSchema) -> CompiledSections:
    """Parses, checks and plans the sections of a counts request. Raises ParseError."""
    return tuple(
        CompiledSection(section, None, None, None)
        if section.script is None
        else CompiledSection(
            section, compile_plan(section.script), membership(section.script), candidates(section.script)
        )
        for section in parse_sections(script, schema.column_types)
    )


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
        self._kept: dict[type, Any] = {}

    def kept(self, kind: Callable[[WorkerState], Kept]) -> Kept:
        """What work of another layer keeps here: made of this state when it is first asked for."""
        assert isinstance(kind, type)
        if kind not in self._kept:
            self._kept[kind] = kind(self)
        found: Kept = self._kept[kind]
        return found


class Work(Protocol):
    """A picklable piece of work. Operating errors are OpenSetErrors; anything else is reported as a defect."""

    def run(self, state: WorkerState) -> Any:
        """Does the work and returns a picklable result."""
        ...
