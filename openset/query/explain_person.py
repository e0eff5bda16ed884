"""Explaining a script by what it does for one person: the interpreter runs it and tells every step.

Takes scripts of queries, the sections of counts requests and triggers. For a trigger the rows of the person's last
event are new, as if it had just come.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from openset.errors import QueryError
from openset.pyql import tree
from openset.pyql.interpreter.interpreter import trace_person
from openset.pyql.names import IS_NEW, ON_INSERT
from openset.pyql.settings import ParameterValue, RunSettings
from openset.pyql.syntax.parse import parse_script, parse_sections, parse_trigger
from openset.query.frame import DEFAULT_TIMEOUT_MS, Facts, Tools
from openset.query.one_owner import OwnerRequest, ask_owner
from openset.query.parameters import RequestParameters
from openset.query.time_zone import zone_of
from openset.query.wire.asking import request_bytes, request_of
from openset.query.wire.codec import decoded, encoded
from openset.query.work import WorkerState
from openset.store.fold import iso_text
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot
from openset_format.block import Block, Column, PersonId
from openset_format.hashing import partition_of

KIND = "explain"

_TRIGGER = re.compile(r"^def[ \t]+on_insert\b", re.MULTILINE)
_SECTIONS = re.compile(r"^[ \t]*@segment\b", re.MULTILINE)


@dataclass(frozen=True, slots=True, eq=False)
class ExplainRequest:
    """Whom and what to explain. `parameters` still holds the script's values and what is unknown."""

    table: str
    script: str
    person: PersonId
    parameters: RequestParameters
    session_time_ms: int
    time_zone: str
    timeout_ms: int = DEFAULT_TIMEOUT_MS


@dataclass(frozen=True, slots=True)
class _Part:
    """A script to run. name: of the segment, None elsewhere. function: of a trigger."""

    name: str | None
    script: tree.Script
    function: str | None = None


def parts_of(script: str, schema: TableSchema) -> list[_Part]:
    """The scripts in a text. Raises ParseError, QueryError for set algebra, which looks at no events."""
    columns = schema.column_types
    if _SECTIONS.search(script):
        parts = []
        for section in parse_sections(script, columns):
            if section.script is None:
                raise QueryError(f"segment {section.name!a} is set algebra: there are no events to explain")
            parts.append(_Part(section.name, section.script))
        return parts
    if _TRIGGER.search(script):
        return [_Part(None, parse_trigger(script, columns), ON_INSERT)]
    return [_Part(None, parse_script(script, columns))]


@dataclass(frozen=True, slots=True, eq=False)
class ExplainPersonWork:
    """One person's run, in the partition the person belongs to."""

    snapshot: PartitionSnapshot
    person: PersonId
    script: str
    schema: TableSchema
    settings: RunSettings

    def run(self, state: WorkerState) -> dict[str, Any] | None:
        """None when there is no such person. Raises RunTimeError when the time is up."""
        block = state.views.person_rows(self.snapshot, self.person)
        if block is None:
            return None
        results = []
        for part in parts_of(self.script, self.schema):
            shown = block if part.function is None else _with_last_event_new(block)
            traced = trace_person(part.script, shown, self.settings, part.function)
            if part.name is not None:
                traced = {"segment": part.name, **traced}
            results.append(traced)
        for result in results:
            _add_times(result["steps"])
        events = len(block.event_first_row) - 1
        return {"person": self.person, "events": events, "rows": block.rows, "runs": results}


def _with_last_event_new(block: Block) -> Block:
    new = np.zeros(block.rows, np.uint8)
    new[int(block.event_first_row[-2]) :] = 1
    columns = {name: block.columns[name] for name in block.columns}
    return replace(block, columns={**columns, IS_NEW: Column("bool", new)}, _sessions={})


def _add_times(steps: Sequence[dict[str, Any]]) -> None:
    for step in steps:
        for shown in (step, *(row for failed in step.get("failed", ()) for row in failed["first"])):
            if "stamp" in shown:
                shown["stamp_iso"] = iso_text(shown["stamp"])


async def explain_person(tools: Tools, request: ExplainRequest) -> dict[str, Any]:
    """What a script does for a person. Raises ParseError, QueryError, RunTimeError."""
    facts = Facts()
    if tools.spread is None:
        return await explained_here(tools, request, facts)
    number = partition_of(request.person, tools.store.partitions or 1)
    # Once for each time it is read: who answers here takes the script's values from its parameters.
    data = request_bytes(request)

    async def answer() -> bytes:
        return encoded(await explained_here(tools, request_of(data, ExplainRequest), facts))

    asked = OwnerRequest(KIND, request, number, request.timeout_ms)
    found: dict[str, Any] = decoded(await ask_owner(tools.spread, asked, facts, answer), dict[str, Any])
    return found


async def explained_here(tools: Tools, request: ExplainRequest, facts: Facts) -> dict[str, Any]:
    """`explain_person` from this node's data."""
    store, executor = tools.store, tools.executor
    number = partition_of(request.person, store.partitions or 1)
    with store.pinned_table(request.table, facts.now_ms) as (schema, snapshots):
        placeholders: frozenset[str] = frozenset().union(
            *(part.script.parameters for part in parts_of(request.script, schema))
        )
        values: dict[str, ParameterValue] = dict(request.parameters.script_values(placeholders))
        request.parameters.finish()
        settings = RunSettings(
            now_ms=facts.now_ms,
            session_time_ms=request.session_time_ms,
            parameters=values,
            deadline=facts.started + request.timeout_ms / 1_000,
            timeout_ms=request.timeout_ms,
            zone=zone_of(request.time_zone),
        )
        snapshot = next((own for own in snapshots if own.partition == number), None)
        found: dict[str, Any] | None = None
        if snapshot is not None:
            work = ExplainPersonWork(snapshot, request.person, request.script, schema, settings)
            found = await executor.run(executor.worker_of(number), work)
    if found is None:
        raise QueryError(f"there is no person {request.person!r} in table {request.table!r}")
    return found
