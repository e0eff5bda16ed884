"""Changes of tables: on a node that stands alone in its catalog, in a cluster in the coordinator's schema.

In a cluster a change is worked out on the schema as the coordinator has it and swapped in; where somebody else was
faster, it is worked out again on top of that. So of two that exclude each other one is refused, others are both made.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from openset.cluster.member import Membership
from openset.errors import ConfigError, ConflictError, OpenSetError, UnreachableError
from openset.store.catalog import Catalog
from openset.store.schema import TableSchema
from openset.store.store import Store

_ATTEMPTS = 30
_LONGEST_PAUSE_SECONDS = 0.05
# For this member to apply a change; who is slower catches up before it acts for another.
_APPLIED_MS = 2_000

Columns = Sequence[tuple[str, str]]
Reserved = Collection[str]


class SchemaChanges(Protocol):
    """All return the table as it is then, and raise ConfigError, QueryError, ReadOnlyError, InternalError.

    In a cluster InternodeError besides: UnreachableError when nobody knows whether the change was made.
    """

    async def create_table(
        self, name: str, columns: Columns, z_order: Sequence[str], reserved: Reserved, retention_days: float | None
    ) -> TableSchema: ...

    async def drop_table(self, name: str) -> TableSchema: ...

    async def add_column(self, table: str, name: str, column_type: str, reserved: Reserved) -> TableSchema: ...

    async def drop_column(self, table: str, name: str) -> TableSchema: ...

    async def set_retention(self, table: str, days: float | None) -> TableSchema: ...


class LocalSchema:
    """A node that stands alone."""

    def __init__(self, store: Store):
        self._store = store

    async def create_table(
        self, name: str, columns: Columns, z_order: Sequence[str], reserved: Reserved, retention_days: float | None
    ) -> TableSchema:
        return await asyncio.to_thread(self._store.create_table, name, columns, z_order, reserved, retention_days)

    async def drop_table(self, name: str) -> TableSchema:
        return await asyncio.to_thread(self._store.drop_table, name)

    async def add_column(self, table: str, name: str, column_type: str, reserved: Reserved) -> TableSchema:
        return await asyncio.to_thread(self._store.add_column, table, name, column_type, reserved)

    async def drop_column(self, table: str, name: str) -> TableSchema:
        return await asyncio.to_thread(self._store.drop_column, table, name)

    async def set_retention(self, table: str, days: float | None) -> TableSchema:
        return await asyncio.to_thread(self._store.set_retention, table, days)


class ClusterSchema:
    """A member. A change is answered when all living members have applied it, or some time has passed."""

    def __init__(self, membership: Membership, store: Store):
        self._membership = membership
        self._store = store

    async def create_table(
        self, name: str, columns: Columns, z_order: Sequence[str], reserved: Reserved, retention_days: float | None
    ) -> TableSchema:
        return await self._change(
            lambda catalog: catalog.create_table(name, columns, z_order, reserved, retention_days)
        )

    async def drop_table(self, name: str) -> TableSchema:
        dropped = await self._change(lambda catalog: catalog.drop_table(name))
        kept = self._membership.view.triggers.get(dropped.id)
        if kept is not None:
            with suppress(OpenSetError):  # nobody reads them any more, they only take room
                await self._membership.coordinator.change_triggers(dropped.id, None, kept.revision)
        return dropped

    async def add_column(self, table: str, name: str, column_type: str, reserved: Reserved) -> TableSchema:
        return await self._change(lambda catalog: catalog.add_column(table, name, column_type, reserved))

    async def drop_column(self, table: str, name: str) -> TableSchema:
        return await self._change(lambda catalog: catalog.drop_column(table, name))

    async def set_retention(self, table: str, days: float | None) -> TableSchema:
        return await self._change(lambda catalog: catalog.set_retention(table, days))

    async def _change(self, change: Callable[[Catalog], TableSchema]) -> TableSchema:
        self._store.health.check()
        for _ in range(_ATTEMPTS):
            view = await self._membership.coordinator.read()
            if view.schema is None:
                raise ConfigError("the coordinator has no tables of this cluster")
            draft = Catalog(Path(), is_draft=True, schema=view.schema)
            changed = change(draft)
            try:
                revision = await self._membership.coordinator.change_schema(draft.shared(), view.schema_revision)
            except ConflictError:
                await asyncio.sleep(random.uniform(0.0, _LONGEST_PAUSE_SECONDS))
                continue
            # This member first, for the others are told its revision.
            with suppress(UnreachableError):
                await self._membership.caught_up(revision, _APPLIED_MS)
            await self._membership.tell_others("map_change")
            return changed
        raise ConflictError("others change tables of the cluster all the time: try again")
