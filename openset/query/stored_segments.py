"""Stored segments as users see them: the listing, removing, and what it takes to compute one again."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from openset.errors import OpenSetError, QueryError
from openset.query.compare import unknown_segment
from openset.query.definition import Definition
from openset.query.frame import Tools
from openset.query.shared_segments import publish_removal
from openset.query.work import PlanCache
from openset.store.schema import ColumnSchema, TableSchema
from openset.store.segment import StoredSegment
from openset.store.store import Store


async def list_segments(store: Store, plans: PlanCache, table: str) -> dict[str, Any]:
    """The segments of a table within their ttl, by name. Raises QueryError for an unknown table."""
    schema = store.table(table)
    now_ms = time.time_ns() // 1_000_000
    return {
        "segments": [
            await _shown(store, plans, schema, stored, now_ms) for stored in store.segments.all(schema.id, now_ms)
        ]
    }


async def remove_segment(tools: Tools, table: str, name: str) -> dict[str, Any]:
    """Removes a segment, on all nodes, and names it. Raises QueryError when there is none of this name."""
    store = tools.store
    schema = store.table(table)
    now_ms = time.time_ns() // 1_000_000
    removed = await asyncio.to_thread(store.segments.remove, schema.id, name, now_ms)
    if removed is None:
        raise unknown_segment(name, [stored.segment.name for stored in store.segments.all(schema.id, now_ms)])
    if tools.spread is not None:
        await publish_removal(store, tools.spread, removed)
    return {"deleted": removed.segment.name}


async def definition_of(plans: PlanCache, schema: TableSchema, stored: StoredSegment) -> Definition:
    """What computes a stored segment again, its names resolved as when it was stored.

    Raises QueryError when a column that its script reads was dropped, ParseError when it compiles no longer.
    """
    segment = stored.segment
    for column in segment.columns:
        now = schema.column(column.name)
        if now is None or now.id != column.id:
            raise QueryError(f"the script of segment {segment.name!r} reads column {column.name!r}, which was dropped")
    # A column that was added since may have the name of one of its variables.
    as_stored = tuple(ColumnSchema(column.id, column.name, column.type) for column in segment.columns)
    schema = replace(schema, columns=as_stored)
    script = f"@segment {segment.name}:\n{segment.script}\n"
    sections = await plans.sections.get_in_thread(script, schema)
    return Definition(
        script,
        schema,
        sections,
        segment.parameters,
        segment.session_time_ms,
        segment.time_zone,
        segment.timeout_ms,
        replaces=stored,
    )


async def _shown(
    store: Store, plans: PlanCache, schema: TableSchema, stored: StoredSegment, now_ms: int
) -> dict[str, Any]:
    segment = stored.segment
    shown: dict[str, Any] = {
        "name": segment.name,
        "people": segment.people,
        "made_at": segment.made_at_ms,
        "age": (now_ms - segment.made_at_ms) / 1_000,
        "ttl": segment.ttl_seconds,
        "refresh": segment.refresh_seconds,
        "script": segment.script,
        "parameters": segment.parameters,
    }
    error = await _why_broken(plans, schema, stored) or store.segments.failure(stored)
    if error is not None:
        shown["error"] = error
    return shown


async def _why_broken(plans: PlanCache, schema: TableSchema, stored: StoredSegment) -> str | None:
    try:
        await definition_of(plans, schema, stored)
    except OpenSetError as error:
        return error.message
    return None
