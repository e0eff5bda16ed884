"""The messages that triggers have left in the states of their partitions, as subscriptions read and change them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence

from openset.errors import QueryError
from openset.query.parameters import suggestion
from openset.revent.messages import Cursor, Message, Source, SubscriptionChange
from openset.store.schema import TableSchema
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger


class StoredMessages:
    """`Messages` over a store."""

    def __init__(self, store: Store):
        self._store = store
        self._loop = asyncio.get_running_loop()

    async def source(self, table: TableSchema, name: str) -> Source:
        known = self._store.triggers.of_table(table.id)
        # A trigger comes before a segment of its name.
        for trigger in sorted(known, key=lambda one: one.watched):
            if trigger.name == name:
                return _source(table, trigger)
        raise QueryError(
            f"table {table.name!r} has no trigger {name!a}{suggestion(name, [one.name for one in known])}"
        )  # fmt: skip

    def sources(self, table: TableSchema) -> list[Source]:
        return [_source(table, trigger) for trigger in self._store.triggers.of_table(table.id)]

    def partitions(self, table: TableSchema) -> list[int]:
        return list(range(self._store.partitions or 0))

    def after(self, table_id: int, trigger_id: int, partition: int, number: int, limit: int) -> list[Message]:
        with self._store.triggers.state(table_id, partition) as state:
            return state.after(trigger_id, number, limit)

    def subscriptions(self, table_id: int, trigger_id: int) -> dict[str, int]:
        # A trigger that is gone has no subscriptions in any state.
        found: dict[str, int] = {}
        with self._store.triggers.states(table_id) as states:
            for state in states.values():
                found |= state.subscriptions(trigger_id)
        return found

    def cursor(self, table_id: int, trigger_id: int, name: str, partition: int) -> Cursor | None:
        with self._store.triggers.state(table_id, partition) as state:
            return state.cursor(trigger_id, name)

    async def change(self, table_id: int, partition: int | None, changes: Sequence[SubscriptionChange]) -> None:
        numbers = range(self._store.partitions or 0) if partition is None else (partition,)
        await asyncio.wrap_future(self._store.triggers.append(table_id, dict.fromkeys(numbers, changes)))

    def listen(self, table_id: int, trigger_id: int, callback: Callable[[], None]) -> Callable[[], None]:
        def told(told_table: int, partitions: Collection[int], triggers: Collection[int]) -> None:
            # A table that is dropped names no triggers.
            if told_table == table_id and (trigger_id in triggers or not triggers):
                self._loop.call_soon_threadsafe(callback)

        return self._store.triggers.listen(told)


def _source(table: TableSchema, trigger: Trigger) -> Source:
    return Source(table.id, trigger.id, trigger.name, trigger.watched)
