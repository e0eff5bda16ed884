"""Subscriptions while the daemon runs: consumers that wait, leases that end, cursors that are made durable.

The state machine of each subscription is `subscription.Subscription`; this is what drives it on the event loop. One
exists for each subscription that somebody has used since the daemon started.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from openset.errors import QueryError
from openset.revent.messages import Acknowledged, Messages, Source, Subscribed, Unsubscribed, message_id
from openset.revent.names import check_name
from openset.revent.subscription import Delivery, Key, Poll, Subscription
from openset.revent.tokens import encode_token
from openset.store.fold import iso_text
from openset.store.schema import TableSchema
from openset.store.trigger_changes import Message
from openset.suggestion import suggestion

_PENDING_COUNTED = 100_000


@dataclass(slots=True)
class _Live:
    """A subscription in use. waiters: the consumers that wait, by number. watchers: who wants to know of news only.

    owned: in a cluster, the partitions that are told of.
    """

    table: TableSchema
    source: Source
    name: str
    subscription: Subscription
    stop_listening: Callable[[], None] = lambda: None
    waiters: dict[int, asyncio.Future[Delivery | None]] = field(default_factory=dict)
    watchers: set[asyncio.Future[bool]] = field(default_factory=set)
    owned: frozenset[int] = frozenset()
    timer: asyncio.TimerHandle | None = None


class Deliveries:
    """All subscriptions of a node. All methods are called on the event loop. clock: ms since 1970."""

    def __init__(self, messages: Messages, clock: Callable[[], int]):
        self.messages = messages
        self.clock = clock
        self._live: dict[tuple[int, int, str], _Live] = {}
        self._consumers = itertools.count(1)
        self.closed = False

    def close(self) -> None:
        """Nobody waits any more: the daemon stops."""
        self.closed = True
        for live in self._live.values():
            if live.timer is not None:
                live.timer.cancel()
            for waiter in live.waiters.values():
                if not waiter.done():
                    waiter.set_result(None)
            for watcher in live.watchers:
                if not watcher.done():
                    watcher.set_result(False)

    # ---------------------------------------------------------------- for consumers

    def new_consumer(self) -> int:
        """The number of a new consumer."""
        return next(self._consumers)

    async def open(self, table: TableSchema, source: Source, name: str, hold_ms: int | None, default_ms: int) -> None:
        """Makes a subscription when there is none, or changes its hold, durably. Raises QueryError, InternalError."""
        known = self.messages.subscriptions(source.table_id, source.trigger_id)
        if name not in known:
            check_name(name, "subscription")
        wanted = known.get(name, default_ms) if hold_ms is None else hold_ms
        if known.get(name) != wanted:
            await self.messages.change(source.table_id, None, [Subscribed(source.trigger_id, name, wanted)])
        live = self._live.get((source.table_id, source.trigger_id, name))
        if live is None:
            self._begin(table, source, name, wanted)
        else:
            live.subscription.hold_ms = wanted

    def _begin(self, table: TableSchema, source: Source, name: str, hold_ms: int) -> None:
        partitions = self.messages.partitions(table)
        found = {
            number: self.messages.cursor(source.table_id, source.trigger_id, name, number) for number in partitions
        }
        cursors = {number: cursor for number, cursor in found.items() if cursor is not None}

        def read(partition: int, number: int, limit: int) -> Sequence[Message]:
            return self.messages.after(source.table_id, source.trigger_id, partition, number, limit)

        live = _Live(table, source, name, Subscription(partitions, cursors, read, hold_ms))
        live.stop_listening = self.messages.listen(
            source.table_id, source.trigger_id, lambda numbers: self._news(live, numbers)
        )
        live.owned = frozenset(partitions)
        self._live[source.table_id, source.trigger_id, name] = live

    async def take(self, source: Source, name: str, poll: Poll, timeout_ms: int) -> Delivery | None:
        """Messages for a consumer, leased to it; it waits for some at most so long. None when there are none.

        Raises QueryError when the trigger or the subscription goes meanwhile. Cancelling it leases nothing.
        """
        live = self._found(source, name)
        self._serve(live)
        delivery = live.subscription.poll(poll, self.clock())
        if delivery is not None or timeout_ms <= 0 or self.closed:
            live.subscription.leave(poll.consumer)
            return delivery
        waiter: asyncio.Future[Delivery | None] = asyncio.get_running_loop().create_future()
        live.waiters[poll.consumer] = waiter
        self._set_timer(live)
        try:
            return await asyncio.wait_for(asyncio.shield(waiter), timeout_ms / 1_000)
        except TimeoutError:
            return waiter.result() if waiter.done() else None
        except asyncio.CancelledError:
            if waiter.done() and waiter.exception() is None and (found := waiter.result()) is not None:
                live.subscription.release(found.keys)
                self._serve(live)
            raise
        finally:
            live.waiters.pop(poll.consumer, None)
            live.subscription.leave(poll.consumer)

    def dismiss(self, source: Source, name: str, consumer: int) -> None:
        """A consumer that waits is answered with nothing."""
        live = self._live.get((source.table_id, source.trigger_id, name))
        waiter = None if live is None else live.waiters.get(consumer)
        if live is not None and waiter is not None and not waiter.done():
            live.subscription.leave(consumer)
            waiter.set_result(None)

    async def acknowledge(self, source: Source, name: str, numbers: Mapping[int, Sequence[int]]) -> None:
        """Makes acknowledgements durable. Those of before change nothing. Raises InternalError, QueryError."""
        live = self._found(source, name)
        news = live.subscription.acknowledge(numbers)
        for partition, fresh in news.items():
            change = Acknowledged(source.trigger_id, name, list(fresh))
            await self.messages.change(source.table_id, partition, [change])
        self._settle(live, news)

    def _settle(self, live: _Live, partitions: Mapping[int, Any]) -> None:
        source = live.source
        found = {
            number: self.messages.cursor(source.table_id, source.trigger_id, live.name, number)
            for number in partitions
        }  # fmt: skip
        live.subscription.settled({number: cursor for number, cursor in found.items() if cursor is not None})

    def extend(self, source: Source, name: str, keys: Sequence[Key], until_ms: int) -> None:
        """Leases last longer."""
        self._found(source, name).subscription.extend(keys, until_ms)

    def unacknowledged(self, source: Source, name: str, keys: Sequence[Key]) -> list[Key]:
        """Those of some messages that are not acknowledged. Raises QueryError when the subscription is gone."""
        return self._found(source, name).subscription.unacknowledged(keys)

    def release(self, source: Source, name: str, keys: Sequence[Key]) -> None:
        """Messages that have not reached their consumer go to the next one."""
        live = self._live.get((source.table_id, source.trigger_id, name))
        if live is not None:
            live.subscription.release(keys)
            self._serve(live)

    def there(self, source: Source, keys: Sequence[Key]) -> set[Key]:
        """Those of some messages that are still kept."""
        found: set[Key] = set()
        for partition, number in keys:
            messages = self.messages.after(source.table_id, source.trigger_id, partition, number - 1, 1)
            if messages and messages[0].number == number:
                found.add((partition, number))
        return found

    # ---------------------------------------------------------------- for other nodes, of the partitions here

    def use(self, table: TableSchema, source: Source, name: str) -> None:
        """Has a subscription that there is in use. Raises QueryError when there is none of this name."""
        live = self._live.get((source.table_id, source.trigger_id, name))
        if live is None:
            self._begin(table, source, name, self.known(source, name))
        elif live.owned != frozenset(self.messages.partitions(table)):
            self._news(live)

    def is_used(self, source: Source, name: str) -> bool:
        """Whether a subscription is in use here."""
        return (source.table_id, source.trigger_id, name) in self._live

    async def wait(self, source: Source, name: str, timeout_ms: int) -> bool:
        """Whether there is a message to be taken, as soon as there is; False after a time. It leases nothing.

        Raises QueryError when the trigger or the subscription goes meanwhile.
        """
        live = self._found(source, name)
        if live.subscription.has_news(self.clock()):
            return True
        if self.closed:
            return False
        watcher: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        live.watchers.add(watcher)
        self._set_timer(live)
        try:
            return await asyncio.wait_for(watcher, timeout_ms / 1_000)
        except TimeoutError:
            return False
        finally:
            live.watchers.discard(watcher)

    def counted(self, source: Source, name: str) -> tuple[int, int]:
        """How many messages are not acknowledged, and how many are leased. Raises QueryError."""
        subscription, now_ms = self._found(source, name).subscription, self.clock()
        return subscription.pending(now_ms, _PENDING_COUNTED), subscription.leased(now_ms)

    def owned_changed(self) -> None:
        """Other partitions are told of here than before."""
        for live in list(self._live.values()):
            self._news(live)

    # ---------------------------------------------------------------- looking up, removing

    async def source(self, table: TableSchema, name: str) -> Source:
        """The trigger or segment of this name. Raises QueryError."""
        return await self.messages.source(table, name)

    def known(self, source: Source, name: str) -> int:
        """The hold of a subscription in ms. Raises QueryError when there is none of this name."""
        known = self.messages.subscriptions(source.table_id, source.trigger_id)
        if name not in known:
            raise QueryError(f"{source.name!r} has no subscription {name!a}{suggestion(name, list(known))}")
        return known[name]

    async def describe(self, table: TableSchema, source: Source, name: str) -> dict[str, Any]:
        """A subscription as users see it. Raises QueryError."""
        hold_ms = self.known(source, name)
        await self.open(table, source, name, None, hold_ms)
        live, now_ms = self._found(source, name), self.clock()
        return {
            "table": table.name,
            "trigger": source.name,
            "name": name,
            "hold": hold_ms,
            "pending": live.subscription.pending(now_ms, _PENDING_COUNTED),
            "leased": live.subscription.leased(now_ms),
            "consumers": len(live.waiters),
        }

    async def remove(self, source: Source, name: str) -> None:
        """Removes a subscription durably; who waits for it is told. Raises QueryError, InternalError."""
        self.known(source, name)
        await self.messages.change(source.table_id, None, [Unsubscribed(source.trigger_id, name)])
        if not self.messages.subscriptions(source.table_id, source.trigger_id):
            await self.messages.unwatch(source)
        self._end(source, name, f"subscription {name!r} was removed")

    def _end(self, source: Source, name: str, reason: str) -> None:
        live = self._live.pop((source.table_id, source.trigger_id, name), None)
        if live is None:
            return
        live.stop_listening()
        if live.timer is not None:
            live.timer.cancel()
        for waiter in live.waiters.values():
            if not waiter.done():
                waiter.set_exception(QueryError(reason))
        for watcher in live.watchers:
            if not watcher.done():
                watcher.set_exception(QueryError(reason))

    def _found(self, source: Source, name: str) -> _Live:
        live = self._live.get((source.table_id, source.trigger_id, name))
        if live is None:
            raise QueryError(f"subscription {name!r} was removed meanwhile")
        return live

    # ---------------------------------------------------------------- what comes by itself

    def _news(self, live: _Live, told: Collection[int] = ()) -> None:
        """Messages or subscriptions have changed in some partitions; where none are told, everything may have."""
        source = live.source
        numbers = self.messages.partitions(live.table)
        if numbers or not self.messages.is_shared:
            hold_ms = self.messages.subscriptions(source.table_id, source.trigger_id).get(live.name)
        else:  # the others know whether there is the subscription
            is_there = any(one.trigger_id == source.trigger_id for one in self.messages.sources(live.table))
            hold_ms = live.subscription.hold_ms if is_there else None
        if hold_ms is None:
            self._end(source, live.name, f"{source.name!r} was removed")
            return
        live.subscription.hold_ms = hold_ms
        if self.messages.is_shared:
            self._follow_owners(live, frozenset(numbers), told)
        else:
            for partition in told or numbers:
                live.subscription.know(partition)
        self._serve(live)

    def _follow_owners(self, live: _Live, owned: frozenset[int], told: Collection[int]) -> None:
        """Tells of the partitions that are this node's now, and knows what was acknowledged through other nodes."""
        source, is_same = live.source, bool(told) and owned == live.owned
        live.owned = owned
        found = {
            number: self.messages.cursor(source.table_id, source.trigger_id, live.name, number)
            for number in (owned.intersection(told) if is_same else owned)
        }
        cursors = {number: cursor for number, cursor in found.items() if cursor is not None}
        if is_same:
            live.subscription.catch_up(cursors)
        else:
            live.subscription.own(cursors)

    def _serve(self, live: _Live) -> None:
        """Gives those who wait what there is."""
        for delivery in live.subscription.serve(self.clock()):
            waiter = live.waiters.get(delivery.consumer)
            if waiter is None or waiter.done():
                live.subscription.release(delivery.keys)
            else:
                waiter.set_result(delivery)
        if live.watchers and live.subscription.has_news(self.clock()):
            for watcher in live.watchers:
                if not watcher.done():
                    watcher.set_result(True)
        self._set_timer(live)

    def _set_timer(self, live: _Live) -> None:
        """Looks again when the next lease ends, while somebody waits."""
        if live.timer is not None:
            live.timer.cancel()
            live.timer = None
        ends_ms = live.subscription.next_lease_end() if live.waiters or live.watchers else None
        if ends_ms is not None:
            delay_s = max(ends_ms - self.clock(), 1) / 1_000
            live.timer = asyncio.get_running_loop().call_later(delay_s, self._serve, live)


def shown_message(source: Source, name: str, partition: int, message: Message) -> dict[str, Any]:
    """A message as consumers get it. ack: its token."""
    key = (partition, message.number)
    return {
        "id": message_id(source.table_id, partition, message.number),
        "stamp": message.stamp_ms,
        "stamp_iso": iso_text(message.stamp_ms),
        "person": message.person,
        "trigger": message.trigger,
        "name": message.name,
        "value": message.value,
        "ack": encode_token(source.table_id, source.trigger_id, name, [key]),
    }
