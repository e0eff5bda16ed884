"""How what triggers do becomes durable: on a node that stands alone in its journal, in a cluster through the owners.

`TriggerChanges` is a port; a member answers it (`openset.cluster.trigger_changes`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from openset.store.ingest import Insert
from openset.store.records import EMITTED_RECORD
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Change


class TriggerChanges(Protocol):
    """All methods are called on the event loop.

    Those that change something return when it is durable and in the states of the partitions here, and raise
    ReadOnlyError, InternalError; in a cluster UnreachableError besides, when nobody knows whether the change was made.

    is_shared: whether other nodes have partitions, and acknowledge what this one tells of.
    """

    is_shared: bool

    async def append(self, table_id: int, changes: Mapping[int, Sequence[Change]]) -> None:
        """Changes of the states of partitions, by partition."""
        ...

    async def put(self, table_id: int, trigger: Trigger, replaces: Trigger | None) -> Trigger:
        """Saves a trigger, and returns it as it is then. Raises QueryError when `replaces` is not what there is.

        A new one (id 0) gets its id. One that did not run before runs for inserts after this moment only.
        """
        ...

    async def remove(self, table_id: int, trigger_id: int) -> None:
        """Removes a trigger with everything of it."""
        ...

    async def insert_emitted(self, table: str, insert: Insert) -> None:
        """Inserts what triggers emitted as events."""
        ...

    async def begin(self, table_id: int, triggers: Sequence[Trigger], partitions: Sequence[int]) -> None:
        """Triggers that are to run and have not begun in some partitions do so."""
        ...

    def may_run(self, partition: int) -> bool:
        """Whether triggers of a partition are run by this node, now."""
        ...

    def owns(self, partition: int) -> bool:
        """Whether this node is the one that tells of the messages of a partition."""
        ...


class LocalChanges:
    """A node that stands alone. changing: held around a change of which triggers there are."""

    is_shared = False

    def __init__(self, store: Store, changing: Callable[[], AbstractAsyncContextManager[None]]):
        self._store = store
        self._changing = changing

    async def append(self, table_id: int, changes: Mapping[int, Sequence[Change]]) -> None:
        await asyncio.wrap_future(self._store.triggers.append(table_id, changes))

    async def put(self, table_id: int, trigger: Trigger, replaces: Trigger | None) -> Trigger:
        store = self._store
        async with self._changing():
            return await asyncio.to_thread(
                store.triggers.put, table_id, trigger, replaces, lambda: store.visible_sequence
            )

    async def remove(self, table_id: int, trigger_id: int) -> None:
        async with self._changing():
            await asyncio.to_thread(self._store.triggers.remove, table_id, trigger_id)

    async def insert_emitted(self, table: str, insert: Insert) -> None:
        await asyncio.wrap_future(self._store.submit(table, insert, EMITTED_RECORD))

    async def begin(self, table_id: int, triggers: Sequence[Trigger], partitions: Sequence[int]) -> None:
        raise AssertionError("on a node alone triggers begin when they are saved")

    def may_run(self, partition: int) -> bool:
        return True

    def owns(self, partition: int) -> bool:
        return True
