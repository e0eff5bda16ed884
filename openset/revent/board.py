"""The messages of a daemon's triggers: what `Messages` promises, answered from the state of partitions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from openset.errors import QueryError, UnreachableError
from openset.log import get_logger
from openset.revent.changes import TriggerChanges
from openset.revent.messages import Held, Source, merged_held
from openset.revent.watcher import Watcher
from openset.store.schema import TableSchema
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Cursor, Message, SubscriptionChange
from openset.suggestion import suggestion

log = get_logger("openset.revent")


class Board:
    """Made on the event loop; all methods are called there."""

    def __init__(self, store: Store, watcher: Watcher, changes: TriggerChanges):
        self._store = store
        self._changes = changes
        self._watcher = watcher
        self._triggers = store.triggers
        # By table and trigger.
        self._listeners: dict[tuple[int, int], list[Callable[[Collection[int]], None]]] = {}
        loop = asyncio.get_running_loop()
        self._unlisten = self._triggers.listen(
            lambda table_id, partitions, triggers: call_soon(loop, self._told, table_id, partitions, triggers)
        )

    @property
    def is_shared(self) -> bool:
        return self._changes.is_shared

    def close(self) -> None:
        """Nobody is told anything any more."""
        self._unlisten()

    async def source(self, table: TableSchema, name: str) -> Source:
        """The trigger or stored segment of this name; a segment is watched from now on. Raises QueryError."""
        triggers = self._triggers.of_table(table.id)
        found = next((one for one in triggers if one.name == name and not one.watched), None)
        if found is None:
            segments = [one.segment.name for one in self._store.segments.all(table.id, time.time() * 1_000)]
            if name not in segments:
                hint = suggestion(name, [*segments, *(one.name for one in triggers)])
                raise QueryError(f"table {table.name!r} has no trigger and no stored segment {name!r}{hint}")
            found = await self._watcher.watch(table, name)
        return _source(table, found)

    def sources(self, table: TableSchema) -> list[Source]:
        """The triggers and watched segments of a table."""
        return [_source(table, one) for one in self._triggers.of_table(table.id)]

    def partitions(self, table: TableSchema) -> list[int]:
        """The partitions whose messages there may be, and this node tells of.

        In a cluster those it owns, once it knows everything that was agreed about them.
        """
        return [number for number in self._triggers.partitions(table.id) if self._changes.may_run(number)]

    def after(self, table_id: int, trigger_id: int, partition: int, number: int, limit: int) -> list[Message]:
        """The oldest messages of a trigger in a partition above a number, ascending, at most `limit`."""
        with self._triggers.state(table_id, partition) as state:
            return state.after(trigger_id, number, limit)

    def subscriptions(self, table_id: int, trigger_id: int) -> dict[str, int]:
        """The subscriptions of a trigger: name and hold in ms. Raises UnreachableError when this node does not know.

        In a cluster every partition has all of them, unless whoever changed them was interrupted.
        """
        found: dict[str, int] = {}
        for part in self._subscriptions(table_id, trigger_id):
            for name, hold_ms in part.items():
                found[name] = max(hold_ms, found.get(name, 0))
        return found

    def held(self, table_id: int, trigger_id: int) -> dict[str, Held]:
        """The same, and which of them all partitions have that this node tells of. Raises as `subscriptions`."""
        parts = self._subscriptions(table_id, trigger_id)
        return merged_held([{name: Held(hold_ms) for name, hold_ms in part.items()} for part in parts])

    def _subscriptions(self, table_id: int, trigger_id: int) -> list[dict[str, int]]:
        """Name and hold, of each partition that this node tells of."""
        own = [number for number in range(self._store.partitions or 1) if self._changes.may_run(number)]
        if not own:
            raise UnreachableError("this node owns no partition, or does not know yet what was agreed about it")
        with self._triggers.states(table_id) as states:
            return [states[number].subscriptions(trigger_id) if number in states else {} for number in own]

    def cursor(self, table_id: int, trigger_id: int, name: str, partition: int) -> Cursor | None:
        """How far a subscription is in a partition; None when there is no such subscription."""
        with self._triggers.state(table_id, partition) as state:
            return state.cursor(trigger_id, name)

    async def change(self, table_id: int, partition: int | None, changes: Sequence[SubscriptionChange]) -> None:
        """Changes subscriptions durably, in one partition or (None) in all. Raises InternalError."""
        numbers = range(self._store.partitions or 1) if partition is None else [partition]
        await self._changes.append(table_id, {number: list(changes) for number in numbers})

    async def unwatch(self, source: Source) -> None:
        """What watched a segment goes: nobody is told of it any more. Nothing for a trigger. Raises as `change`."""
        watches = [one.id for one in self._triggers.of_table(source.table_id) if one.watched]
        if source.trigger_id in watches:
            await self._changes.remove(source.table_id, source.trigger_id)

    def listen(self, table_id: int, trigger_id: int, callback: Callable[[Collection[int]], None]) -> Callable[[], None]:
        """Calls back on the event loop when there are new messages, or subscriptions change, in some partitions.

        With none when the trigger was changed or is gone. Returns what ends it.
        """
        key = (table_id, trigger_id)
        self._listeners.setdefault(key, []).append(callback)

        def unlisten() -> None:
            listeners = self._listeners.get(key, [])
            if callback in listeners:
                listeners.remove(callback)
            if not listeners:
                self._listeners.pop(key, None)

        return unlisten

    def _told(self, table_id: int, partitions: Collection[int], triggers: Collection[int]) -> None:
        dropped = not partitions and not triggers
        for key in [key for key in self._listeners if key[0] == table_id and (dropped or key[1] in triggers)]:
            for callback in list(self._listeners.get(key, ())):
                try:
                    callback(partitions)
                except Exception:  # one listener must not keep the others from hearing of it
                    log.exception("a subscription could not be told of messages")


def _source(table: TableSchema, trigger: Trigger) -> Source:
    return Source(table.id, trigger.id, trigger.name, trigger.watched)


def call_soon(loop: asyncio.AbstractEventLoop, callback: Any, *arguments: Any) -> None:
    """Calls back on an event loop from another thread, unless the loop has ended."""
    try:
        loop.call_soon_threadsafe(callback, *arguments)
    except RuntimeError:
        assert loop.is_closed()  # nobody is left to be told
