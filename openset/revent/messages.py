"""The messages of triggers, as subscriptions see them: what has to be told, and how far each subscription is.

An emission is durable before it is a message here. `Messages` is a port: the daemon's runner answers it, and tests of
subscriptions answer it from memory.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from openset.store.schema import TableSchema
from openset.store.trigger_changes import (
    Acknowledged,
    Cursor,
    Message,
    Subscribed,
    SubscriptionChange,
    Unsubscribed,
    message_id,
)

DEFAULT_HOLD_MS = 3 * 3_600_000


@dataclass(frozen=True, slots=True)
class Source:
    """What can be subscribed to: a trigger, or a stored segment that is watched (`entered`, `exited`)."""

    table_id: int
    trigger_id: int
    name: str
    is_segment: bool = False


class Held(NamedTuple):
    """A subscription in some partitions. hold_ms: the longest. is_whole: all of them have it, with this hold."""

    hold_ms: int
    is_whole: bool = True


def merged_held(parts: Sequence[Mapping[str, Held]]) -> dict[str, Held]:
    """The subscriptions of all parts together, by name."""
    merged: dict[str, Held] = {}
    for name in {name for part in parts for name in part}:
        held = [part[name] for part in parts if name in part]
        hold_ms = max(one.hold_ms for one in held)
        merged[name] = Held(hold_ms, len(held) == len(parts) and all(one == (hold_ms, True) for one in held))
    return merged


class Messages(Protocol):
    """What subscriptions read and change. All methods are called on the event loop.

    is_shared: whether other nodes acknowledge messages, too.
    """

    @property
    def is_shared(self) -> bool: ...

    async def source(self, table: TableSchema, name: str) -> Source:
        """The trigger or stored segment of this name; a segment is watched from now on. Raises QueryError."""
        ...

    def sources(self, table: TableSchema) -> list[Source]:
        """The triggers and watched segments of a table."""
        ...

    def partitions(self, table: TableSchema) -> list[int]:
        """The partitions whose messages there may be."""
        ...

    def after(self, table_id: int, trigger_id: int, partition: int, number: int, limit: int) -> list[Message]:
        """The oldest messages of a trigger in a partition above a number, ascending, at most `limit`."""
        ...

    def subscriptions(self, table_id: int, trigger_id: int) -> dict[str, int]:
        """The subscriptions of a trigger: name and hold in ms. Raises UnreachableError when that is not known here."""
        ...

    def held(self, table_id: int, trigger_id: int) -> dict[str, Held]:
        """The same, and which of them all partitions have that this node tells of. Raises as `subscriptions`."""
        ...

    def cursor(self, table_id: int, trigger_id: int, name: str, partition: int) -> Cursor | None:
        """How far a subscription is in a partition; None when there is no such subscription."""
        ...

    async def change(self, table_id: int, partition: int | None, changes: Sequence[SubscriptionChange]) -> None:
        """Changes subscriptions durably, in one partition or (None) in all. Raises InternalError, QueryError."""
        ...

    async def unwatch(self, source: Source) -> None:
        """What watched a segment goes: nobody is told of it any more. Nothing for a trigger. Raises as `change`."""
        ...

    def listen(self, table_id: int, trigger_id: int, callback: Callable[[Collection[int]], None]) -> Callable[[], None]:
        """Calls back on the event loop when there are new messages, or subscriptions change, in some partitions.

        With none when the trigger was changed or is gone. Returns what ends it.
        """
        ...


__all__ = [
    "DEFAULT_HOLD_MS",
    "Acknowledged",
    "Cursor",
    "Held",
    "Message",
    "Messages",
    "Source",
    "Subscribed",
    "SubscriptionChange",
    "Unsubscribed",
    "merged_held",
    "message_id",
]
