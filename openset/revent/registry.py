"""Triggers as users see them: saving, describing, listing, resetting and deleting them.

A change is checked as a whole, written as a whole and durable before it is answered; inserts that were acknowledged
before it and have not been evaluated are evaluated with the new script.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from openset.errors import QueryError
from openset.query.compare import unknown_segment
from openset.revent.changes import TriggerChanges
from openset.revent.names import check_name
from openset.revent.runner import Runner
from openset.revent.scripts import checked_script
from openset.revent.wire import OwnCounts, OwnFacts
from openset.store.schema import TableSchema
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.suggestion import suggestion

TRIGGERS_PER_TABLE = 256


OwnFactsOf = Callable[[int], OwnFacts]
FactsOf = Callable[[TableSchema, OwnFactsOf], Awaitable[OwnFacts]]


@dataclass(frozen=True, slots=True)
class Options:
    """What a request says about a trigger besides its script; None leaves it as it is. filter: "" takes it away."""

    enabled: bool | None = None
    once: bool | None = None
    emit_as_event: bool | None = None
    filter: str | None = None


class Registry:
    """The triggers of a node. All methods are called on the event loop."""

    def __init__(self, store: Store, runner: Runner, changes: TriggerChanges, facts: FactsOf | None = None):
        """facts: of a table from all nodes of a cluster; None on a node that stands alone."""
        self._store = store
        self._facts = facts
        self._changes = changes
        self._runner = runner

    async def describe(self, table: str, name: str) -> dict[str, Any]:
        """Raises QueryError."""
        schema = self._store.table(table)
        return await self._described(schema, self._found(schema, name))

    async def all(self, table: str) -> dict[str, Any]:
        """The triggers of a table, by name. Raises QueryError for an unknown table."""
        schema = self._store.table(table)
        triggers = sorted(self._of(schema), key=lambda one: one.name)
        facts = await self._gathered(schema) if triggers else OwnFacts()
        return {"triggers": [_shown(one, facts) for one in triggers]}

    async def _described(self, schema: TableSchema, trigger: Trigger) -> dict[str, Any]:
        return _shown(trigger, await self._gathered(schema))

    async def _gathered(self, schema: TableSchema) -> OwnFacts:
        return self.own_facts(schema.id) if self._facts is None else await self._facts(schema, self.own_facts)

    async def save(self, table: str, name: str, script: str, options: Options) -> dict[str, Any]:
        """Makes a trigger or changes it; an empty script leaves the one there is. Raises ParseError, QueryError.

        Another script begins a new epoch: who has emitted is forgotten, schedules of functions that it has stay.
        """
        schema = self._store.table(table)
        check_name(name, "trigger")
        self._check_filter(schema, options.filter)
        before = self._find(schema, name)
        if before is None:
            if not script.strip():
                raise QueryError(f"there is no trigger {name!r} to change; send a script to make one")
            if name in self._segments(schema):
                raise QueryError(f"{name!r} is the name of a stored segment, and subscriptions are to either by name")
            if len(self._of(schema)) >= TRIGGERS_PER_TABLE:
                raise QueryError(f"a table has at most {TRIGGERS_PER_TABLE} triggers; delete some")
            before_or_new = Trigger(0, name, 0, "", True, True, False, None, self._now_ms(), (), 0)
        else:
            before_or_new = before
        changed = _with_options(before_or_new, options)
        is_another = bool(script.strip()) and script != changed.script
        # A column that was dropped and added again is another one: the script as it is has to be looked at anew.
        if is_another or ((script.strip() or options.enabled) and _lost_columns(changed, schema)):
            script = script if is_another else changed.script
            checked = await asyncio.to_thread(checked_script, script, schema)
            changed = msgspec.structs.replace(
                changed,
                script=script,
                epoch=changed.epoch + 1,
                columns=checked.columns,
                functions=checked.functions,
                disabled=None,
            )
        if changed != before:
            changed = await self._put(schema, changed, before)
        return await self._described(schema, changed)

    async def reset(self, table: str, name: str) -> dict[str, Any]:
        """Forgets who has emitted. Raises QueryError."""
        schema = self._store.table(table)
        before = self._found(schema, name)
        changed = await self._put(schema, msgspec.structs.replace(before, epoch=before.epoch + 1), before)
        return await self._described(schema, changed)

    async def remove(self, table: str, name: str) -> dict[str, Any]:
        """Removes a trigger with its schedules, marks and messages. Raises QueryError."""
        schema = self._store.table(table)
        trigger = self._found(schema, name)
        await self._changes.remove(schema.id, trigger.id)
        self._runner.forget_errors(schema.id, trigger.id)
        return {"deleted": name}

    async def _put(self, schema: TableSchema, changed: Trigger, before: Trigger | None) -> Trigger:
        stored = await self._changes.put(schema.id, changed, before)
        self._runner.forget_errors(schema.id, stored.id)
        return stored

    def _now_ms(self) -> int:
        return self._store.triggers.clock()

    def _of(self, schema: TableSchema) -> list[Trigger]:
        return [one for one in self._store.triggers.of_table(schema.id) if not one.watched]

    def _find(self, schema: TableSchema, name: str) -> Trigger | None:
        return next((one for one in self._of(schema) if one.name == name), None)

    def _found(self, schema: TableSchema, name: str) -> Trigger:
        found = self._find(schema, name)
        if found is None:
            hint = suggestion(name, [one.name for one in self._of(schema)])
            raise QueryError(f"table {schema.name!r} has no trigger {name!r}{hint}")
        return found

    def _check_filter(self, schema: TableSchema, name: str | None) -> None:
        if name:
            known = self._segments(schema)
            if name not in known:
                raise unknown_segment(name, known)

    def _segments(self, schema: TableSchema) -> list[str]:
        return [stored.segment.name for stored in self._store.segments.all(schema.id, time.time() * 1_000)]

    def own_facts(self, table_id: int) -> OwnFacts:
        """What this node knows of the triggers of a table, in the partitions that it owns."""
        triggers, found = self._store.triggers, dict[int, OwnCounts]()
        with triggers.states(table_id) as states:
            own = [state for number, state in states.items() if self._changes.owns(number)]
            for trigger in triggers.of_table(table_id):
                counts = [state.counts[trigger.id] for state in own if trigger.id in state.counts]
                found[trigger.id] = OwnCounts(
                    sum(one.people for one in counts),
                    sum(one.emissions for one in counts),
                    sum(one.errors for one in counts),
                    sum(state.emitted_people(trigger.id, trigger.epoch) for state in own),
                    sum(state.schedules(trigger.id) for state in own),
                )
        for trigger_id, known in found.items():
            error = self._runner.last_error(table_id, trigger_id)
            if error is not None:
                failed = OwnCounts(error=error.message, error_at_ms=error.at_ms, errors_in_a_row=error.in_a_row)
                found[trigger_id] = known.plus(failed)
        return OwnFacts(found, *triggers.backlog(table_id, self._changes.owns))


def _shown(trigger: Trigger, facts: OwnFacts) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "name": trigger.name,
        "script": trigger.script,
        "enabled": trigger.enabled,
        "once": trigger.once,
        "emit_as_event": trigger.emit_as_event,
        "filter": trigger.filter,
        "made_at": trigger.made_at_ms,
        "state": "running" if trigger.runs else "disabled",
    }
    if not trigger.runs:
        shown["reason"] = trigger.disabled or "enabled=false"
    counts = facts.counts.get(trigger.id, OwnCounts())
    names = ("people", "emissions", "errors", "emitted_people", "schedules")
    shown["counts"] = {name: getattr(counts, name) for name in names}
    shown["backlog"] = {"records": facts.backlog_records, "age": facts.backlog_age_ms / 1_000}
    if counts.error_at_ms:
        shown["last_error"] = {
            "message": counts.error, "at": counts.error_at_ms, "in_a_row": counts.errors_in_a_row
        }  # fmt: skip
    return shown


def _lost_columns(trigger: Trigger, schema: TableSchema) -> bool:
    known = {column.id for column in schema.columns}
    return any(column.id not in known for column in trigger.columns)


def _with_options(trigger: Trigger, options: Options) -> Trigger:
    """Switching a trigger on also takes back that it was disabled for its errors."""
    given = {
        field: value for field in ("enabled", "once", "emit_as_event") if (value := getattr(options, field)) is not None
    }
    if options.filter is not None:
        given["filter"] = options.filter or None
    if options.enabled:
        given["disabled"] = None
    return msgspec.structs.replace(trigger, **given)
