"""Triggers of a member: which there are is the coordinator's, what they do are records of the partitions' logs.

A change of which triggers there are is worked out on what the coordinator has and swapped in, as changes of tables are.
From where on a trigger runs in a partition is told by a record of its log. Whoever saves the trigger writes it; where
that node is gone before it has, the owner does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from openset.cluster.member import Membership
from openset.cluster.replication import Replication
from openset.cluster.routing import Routing, insert_items
from openset.cluster.view import KeptTriggers
from openset.cluster.wire import WriteItem
from openset.errors import ConflictError, QueryError, UnreachableError
from openset.store.ingest import Insert
from openset.store.records import EMITTED_RECORD, REVENT_RECORD
from openset.store.store import Store
from openset.store.trigger_catalog import CatalogContents, Trigger, with_trigger, without_trigger
from openset.store.trigger_changes import Change, Started, encode_changes

_ATTEMPTS = 30
_LONGEST_PAUSE_SECONDS = 0.05
# For this member to apply a change.
_APPLIED_MS = 5_000

_CatalogChange = Callable[[CatalogContents], CatalogContents]


class Plane(Protocol):
    """What keeps a member's data. All raise UnreachableError while the node starts."""

    @property
    def membership(self) -> Membership: ...

    @property
    def replication(self) -> Replication: ...

    @property
    def routing(self) -> Routing: ...


class MemberTriggers:
    """A `revent.changes.TriggerChanges`."""

    is_shared = True

    def __init__(self, store: Store, plane: Plane):
        self._store = store
        self._plane = plane

    async def append(self, table_id: int, changes: Mapping[int, Sequence[Change]]) -> None:
        """Returns when all of it is agreed. What is sent twice has to change nothing the second time.

        This node may have no copy of a partition; where it owns it, the states here have the changes then.
        """
        await self._plane.routing.write(
            [
                WriteItem(partition, REVENT_RECORD, table_id, encode_changes({partition: own}))
                for partition, own in changes.items()
            ]
        )

    async def put(self, table_id: int, trigger: Trigger, replaces: Trigger | None) -> Trigger:
        saved = trigger

        def change(contents: CatalogContents) -> CatalogContents:
            nonlocal saved
            changed, saved = with_trigger(contents, trigger, replaces, _started_anew)
            return changed

        await self._change(table_id, change)
        if saved.runs and (replaces is None or not replaces.runs):
            await self.begin(table_id, [saved], range(self._store.partitions or 0))
        return saved

    async def remove(self, table_id: int, trigger_id: int) -> None:
        await self._change(table_id, lambda contents: without_trigger(contents, trigger_id))

    async def _change(self, table_id: int, change: _CatalogChange) -> None:
        """Raises QueryError, ConfigError, ReadOnlyError, UnreachableError, ConflictError."""
        self._store.health.check()
        membership = self._plane.membership
        tried: CatalogContents | None = None
        for _ in range(_ATTEMPTS):
            view = await membership.coordinator.read()
            if view.schema is None or table_id not in (table.id for table in view.schema.tables):
                raise QueryError("the table was dropped meanwhile")
            kept = view.triggers.get(table_id, KeptTriggers(0, CatalogContents()))
            if kept.contents == tried:
                revision = kept.revision  # a refusal may be that of a second attempt
            else:
                tried = change(kept.contents)
                try:
                    revision = await membership.coordinator.change_triggers(table_id, tried, kept.revision)
                except ConflictError:
                    await asyncio.sleep(random.uniform(0.0, _LONGEST_PAUSE_SECONDS))
                    continue
            await membership.caught_up(revision, _APPLIED_MS)
            await membership.tell_others("map_change")
            return
        raise ConflictError("others change triggers of the table all the time: try again")

    async def insert_emitted(self, table: str, insert: Insert) -> None:
        if self._store.table(table).id != insert.table_id:
            raise QueryError(f"table {table!r} was dropped while emissions became events")
        await self._plane.routing.write(insert_items(insert, EMITTED_RECORD))

    async def begin(self, table_id: int, triggers: Sequence[Trigger], partitions: Sequence[int]) -> None:
        started: list[Change] = [Started(one.id, one.start) for one in triggers if one.start]
        if started:
            await self.append(table_id, dict.fromkeys(partitions, started))

    def may_run(self, partition: int) -> bool:
        try:
            return self._plane.replication.may_answer(partition)
        except UnreachableError:
            return False

    def owns(self, partition: int) -> bool:
        try:
            membership = self._plane.membership
        except UnreachableError:
            return False
        placed = membership.view.placements.get(partition)
        return placed is not None and placed.placement.owner == membership.node


def _started_anew(trigger: Trigger) -> Trigger:
    return msgspec.structs.replace(trigger, start=trigger.start + 1)
