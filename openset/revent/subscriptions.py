"""Subscriptions as consumers use them: those of a node alone, and those of a cluster, gathered from the owners.

In a cluster every owner leases the messages of its partitions. The node that is asked takes from all of them; where
there is nothing it waits at all of them for news, which leases nothing, and takes again. Acknowledgements are records
of the partitions' logs, written from whichever node was asked.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from openset.errors import InternodeError, QueryError, UnreachableError
from openset.revent.deliveries import Deliveries
from openset.revent.messages import Acknowledged, Held, Source, Subscribed, Unsubscribed, merged_held
from openset.revent.names import check_name
from openset.revent.subscription import Delivery, Key, Poll
from openset.revent.wire import Asked, Operation, OwnFacts, WebhookFacts, decoded, encoded
from openset.store.dead_letters import DeadLetter
from openset.store.schema import TableSchema
from openset.store.trigger_changes import Message
from openset.suggestion import suggestion

_ASK_MS = 3_000
# For which subscriptions there are: an owner that does not say so in time is passed over.
_NAMES_MS = 1_000
_PAUSE_SECONDS = 0.2
# So long owners are waited for that do not know yet what they own.
_PATIENCE_SECONDS = 10.0
# How soon who waits notices that the daemon stops.
_LOOK_SECONDS = 0.5
# One wait for news; then it is looked again who owns what.
_WAIT_MS = 2_000


class Subscriptions(Protocol):
    """All methods are called on the event loop. They raise QueryError, and as what makes changes durable does."""

    @property
    def clock(self) -> Callable[[], int]: ...

    def new_consumer(self) -> int:
        """The number of a new consumer."""
        ...

    async def source(self, table: TableSchema, name: str) -> Source:
        """The trigger or stored segment of this name; a segment is watched from now on."""
        ...

    async def open(self, table: TableSchema, source: Source, name: str, hold_ms: int | None, default_ms: int) -> None:
        """Makes a subscription when there is none, or changes its hold, durably."""
        ...

    async def names(self, source: Source) -> dict[str, int]:
        """The subscriptions of a trigger: name and hold in ms."""
        ...

    async def take(self, table: TableSchema, source: Source, name: str, poll: Poll, timeout_ms: int) -> Delivery | None:
        """Messages for a consumer, leased to it; it waits for some at most so long."""
        ...

    async def acknowledge(self, source: Source, name: str, numbers: Mapping[int, Sequence[int]]) -> None:
        """Makes acknowledgements durable."""
        ...

    async def extend(self, source: Source, name: str, keys: Sequence[Key], until_ms: int) -> None:
        """Leases last longer."""
        ...

    async def release(self, source: Source, name: str, keys: Sequence[Key]) -> None:
        """Leases end at once."""
        ...

    async def unacknowledged(self, source: Source, name: str, keys: Sequence[Key]) -> list[Key]:
        """Those of some messages that are not acknowledged."""
        ...

    async def describe(self, table: TableSchema, source: Source, name: str) -> dict[str, Any]:
        """A subscription as users see it."""
        ...

    async def remove(self, source: Source, name: str) -> None:
        """Removes a subscription durably; who waits for it is told."""
        ...

    async def webhook(self, source: Source, name: str, own: Callable[[Source, str], WebhookFacts]) -> WebhookFacts:
        """What all nodes know of a webhook. own: what this node does."""
        ...

    async def letters(
        self, source: Source, name: str, own: Callable[[Source, str], list[DeadLetter]]
    ) -> list[DeadLetter]:
        """The dead letters of all partitions, oldest first. own: those this node tells of."""
        ...


class LocalSubscriptions:
    """Of a node that stands alone."""

    def __init__(self, deliveries: Deliveries):
        self._deliveries = deliveries

    @property
    def clock(self) -> Callable[[], int]:
        return self._deliveries.clock

    def new_consumer(self) -> int:
        return self._deliveries.new_consumer()

    async def source(self, table: TableSchema, name: str) -> Source:
        return await self._deliveries.source(table, name)

    async def open(self, table: TableSchema, source: Source, name: str, hold_ms: int | None, default_ms: int) -> None:
        await self._deliveries.open(table, source, name, hold_ms, default_ms)

    async def names(self, source: Source) -> dict[str, int]:
        return self._deliveries.messages.subscriptions(source.table_id, source.trigger_id)

    async def take(self, table: TableSchema, source: Source, name: str, poll: Poll, timeout_ms: int) -> Delivery | None:
        return await self._deliveries.take(source, name, poll, timeout_ms)

    async def acknowledge(self, source: Source, name: str, numbers: Mapping[int, Sequence[int]]) -> None:
        await self._deliveries.acknowledge(source, name, numbers)

    async def extend(self, source: Source, name: str, keys: Sequence[Key], until_ms: int) -> None:
        self._deliveries.extend(source, name, keys, until_ms)

    async def release(self, source: Source, name: str, keys: Sequence[Key]) -> None:
        self._deliveries.release(source, name, keys)

    async def unacknowledged(self, source: Source, name: str, keys: Sequence[Key]) -> list[Key]:
        return self._deliveries.unacknowledged(source, name, keys)

    async def describe(self, table: TableSchema, source: Source, name: str) -> dict[str, Any]:
        return await self._deliveries.describe(table, source, name)

    async def remove(self, source: Source, name: str) -> None:
        await self._deliveries.remove(source, name)

    async def webhook(self, source: Source, name: str, own: Callable[[Source, str], WebhookFacts]) -> WebhookFacts:
        return own(source, name)

    async def letters(
        self, source: Source, name: str, own: Callable[[Source, str], list[DeadLetter]]
    ) -> list[DeadLetter]:
        return own(source, name)


class Others(Protocol):
    """The cluster as triggers see it. All methods are called on the event loop."""

    @property
    def node(self) -> str:
        """This node's name."""
        ...

    def owners(self) -> Mapping[int, str]:
        """By partition a node's name."""
        ...

    def living(self) -> Collection[str]:
        """The names of the members that are alive, as far as is known."""
        ...

    async def ask_revent(self, node: str, body: bytes, timeout_ms: int) -> bytes:
        """Has another node answer. Raises InternodeError when it does not, else the error that it ended with."""
        ...


class GatheredSubscriptions:
    """Of a member of a cluster. consumers: how many wait here, by table, trigger and name."""

    def __init__(self, deliveries: Deliveries, others: Others):
        self._deliveries = deliveries
        self._others = others
        self._consumers = itertools.count(1)
        self.consumers: Counter[tuple[int, int, str]] = Counter()
        # Leases of consumers that have gone, on their way back to the owners.
        self._giving_back: set[asyncio.Task[None]] = set()

    @property
    def clock(self) -> Callable[[], int]:
        return self._deliveries.clock

    def new_consumer(self) -> int:
        return next(self._consumers)

    async def source(self, table: TableSchema, name: str) -> Source:
        return await self._deliveries.source(table, name)

    async def names(self, source: Source) -> dict[str, int]:
        return {name: held.hold_ms for name, held in (await self._held(source)).items()}

    async def _held(self, source: Source) -> dict[str, Held]:
        """The subscriptions in the partitions of all owners that answer. Raises InternodeError when none does."""
        asked, loop = _asked("names", source, ""), asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_SECONDS
        while True:
            try:
                told = await self._from_each(
                    self._owners(), asked, dict[str, Held], None, must_answer=True, timeout_ms=_NAMES_MS
                )
            except InternodeError:
                if loop.time() > until or self._deliveries.closed:
                    raise
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return merged_held(list(told.values()))

    async def open(self, table: TableSchema, source: Source, name: str, hold_ms: int | None, default_ms: int) -> None:
        """Also makes one whole that some partitions lack, because whoever made or changed it was interrupted."""
        before = (await self._held(source)).get(name)
        if before is None:
            check_name(name, "subscription")
        kept_ms = default_ms if before is None else before.hold_ms
        wanted = Held(kept_ms if hold_ms is None else hold_ms)
        if before != wanted:
            change = Subscribed(source.trigger_id, name, wanted.hold_ms)
            await self._deliveries.messages.change(source.table_id, None, [change])

    # ---------------------------------------------------------------- messages

    async def take(self, table: TableSchema, source: Source, name: str, poll: Poll, timeout_ms: int) -> Delivery | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_ms / 1_000
        key = (source.table_id, source.trigger_id, name)
        while True:
            self._check_there(table, source)
            taken = await self._taken(table, source, name, poll)
            if taken:
                return Delivery(poll.consumer, tuple(taken))
            left_ms = int(1_000 * (until - loop.time()))
            if left_ms <= 0 or self._deliveries.closed:
                return None
            self.consumers[key] += 1
            try:
                await self._wait(table, source, name, left_ms)
            finally:
                self.consumers[key] -= 1

    def _check_there(self, table: TableSchema, source: Source) -> None:
        if all(one.trigger_id != source.trigger_id for one in self._deliveries.messages.sources(table)):
            raise QueryError(f"{source.name!r} was removed")

    async def _taken(self, table: TableSchema, source: Source, name: str, poll: Poll) -> list[tuple[int, Message]]:
        """`_take_now`; when the consumer goes meanwhile, what owners lease to it is given back."""
        taking = asyncio.create_task(self._take_now(table, source, name, poll))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(lambda task: self._give_back(source, name, task))
            raise

    def _give_back(self, source: Source, name: str, taken: asyncio.Task[list[tuple[int, Message]]]) -> None:
        if taken.cancelled() or taken.exception() is not None or not taken.result():
            return
        keys = [(partition, message.number) for partition, message in taken.result()]
        releasing = asyncio.create_task(self.release(source, name, keys))
        self._giving_back.add(releasing)
        releasing.add_done_callback(self._giving_back.discard)

    async def _take_now(self, table: TableSchema, source: Source, name: str, poll: Poll) -> list[tuple[int, Message]]:
        """What all owners have now, at most so many: first the same share of each, then of those that have more."""
        found: dict[str, list[tuple[int, Message]]] = {}
        room, nodes = poll.most, self._owners()
        asked_all = True
        while room > 0 and nodes:
            share = -(-room // len(nodes))
            asked = _asked("take", source, name, most=share, lease_ms=poll.lease_ms)
            taken = await self._from_each(nodes, asked, list[tuple[int, Message]], table, must_answer=asked_all)
            asked_all = False
            for node, messages in taken.items():
                found.setdefault(node, []).extend(messages)
            room -= sum(map(len, taken.values()))
            nodes = [node for node, messages in taken.items() if len(messages) == share]
        # Of one owner the order is that of its partitions' numbers, whatever the stamps say.
        merged = list(heapq.merge(*found.values(), key=lambda entry: entry[1].stamp_ms))
        if merged[poll.most :]:
            await self.release(source, name, [(partition, one.number) for partition, one in merged[poll.most :]])
        return merged[: poll.most]

    async def _wait(self, table: TableSchema, source: Source, name: str, timeout_ms: int) -> None:
        """Until some owner has news, or owners may have changed, or time is up."""
        asked = _asked("wait", source, name, timeout_ms=min(timeout_ms, _WAIT_MS))
        tasks = {asyncio.create_task(self._told_by(node, asked, table)) for node in self._owners()}
        try:
            waiting = tasks
            while waiting and not self._deliveries.closed:
                done, waiting = await asyncio.wait(waiting, timeout=_LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if any(task.result() for task in done):
                    return
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _told_by(self, node: str, asked: Asked, table: TableSchema) -> bool:
        """Whether to look again. An owner that does not answer may have lost its partitions to another one."""
        try:
            return bool(await self._at(node, asked, bool, table, asked.timeout_ms + _ASK_MS))
        except InternodeError:
            await asyncio.sleep(_PAUSE_SECONDS)
            return True

    async def acknowledge(self, source: Source, name: str, numbers: Mapping[int, Sequence[int]]) -> None:
        owners = self._others.owners()
        changes = {
            partition: [Acknowledged(source.trigger_id, name, list(own))]
            for partition, own in numbers.items()
            if own and partition in owners
        }
        if changes:
            await known(self, source, name)
            await asyncio.gather(
                *(
                    self._deliveries.messages.change(source.table_id, partition, own)
                    for partition, own in changes.items()
                )
            )

    async def extend(self, source: Source, name: str, keys: Sequence[Key], until_ms: int) -> None:
        for node, own in self._by_owner(keys).items():
            asked = _asked("extend", source, name, keys=own, until_ms=until_ms)
            await self._from_each([node], asked, None, None, must_answer=False)

    async def release(self, source: Source, name: str, keys: Sequence[Key]) -> None:
        for node, own in self._by_owner(keys).items():
            await self._from_each([node], _asked("release", source, name, keys=own), None, None, must_answer=False)

    async def unacknowledged(self, source: Source, name: str, keys: Sequence[Key]) -> list[Key]:
        found: list[Key] = []
        for node, own in self._by_owner(keys).items():
            asked = _asked("unacknowledged", source, name, keys=own)
            told = await self._from_each([node], asked, list[Key], None, must_answer=False)
            found += told.get(node, own)
        return found

    # ---------------------------------------------------------------- looking up, removing

    async def describe(self, table: TableSchema, source: Source, name: str) -> dict[str, Any]:
        hold_ms = await known(self, source, name)
        asked = _asked("counted", source, name)
        nodes = sorted({*self._owners(), *self._others.living()})
        counted = await self._from_each(nodes, asked, tuple[int, int, int], table, must_answer=True)
        pending, leased, consumers = (sum(one[at] for one in counted.values()) for at in range(3))
        return {
            "table": table.name, "trigger": source.name, "name": name, "hold": hold_ms, "pending": pending,
            "leased": leased, "consumers": consumers,
        }  # fmt: skip

    async def remove(self, source: Source, name: str) -> None:
        await known(self, source, name)
        messages = self._deliveries.messages
        await messages.change(source.table_id, None, [Unsubscribed(source.trigger_id, name)])
        if not await self.names(source):
            await messages.unwatch(source)

    async def webhook(self, source: Source, name: str, own: Callable[[Source, str], WebhookFacts]) -> WebhookFacts:
        found = own(source, name)
        for told in await self._from_others(_asked("webhook", source, name), WebhookFacts):
            found = found.plus(told)
        return found

    async def letters(
        self, source: Source, name: str, own: Callable[[Source, str], list[DeadLetter]]
    ) -> list[DeadLetter]:
        found = own(source, name)
        for told in await self._from_others(_asked("dead", source, name), list[DeadLetter]):
            found += told
        return sorted(found, key=lambda one: one.at_ms)

    async def facts(self, table: TableSchema, own: Callable[[int], OwnFacts]) -> OwnFacts:
        """What the owners know of the triggers of a table. own: what this node does.

        Raises InternodeError when an owner cannot be asked.
        """
        found = own(table.id)
        for told in await self._from_others(Asked("triggers", table.id), OwnFacts):
            found = found.plus(told)
        return found

    # ---------------------------------------------------------------- owners

    def _owners(self) -> list[str]:
        """Each once."""
        return sorted(set(self._others.owners().values()))

    def _by_owner(self, keys: Sequence[Key]) -> dict[str, list[Key]]:
        owners, found = self._others.owners(), dict[str, list[Key]]()
        for partition, number in keys:
            if partition in owners:
                found.setdefault(owners[partition], []).append((partition, number))
        return found

    async def _from_others(self, asked: Asked, kind: Any) -> list[Any]:
        """What all other owners answer. Raises InternodeError when one cannot be asked."""
        others = [node for node in self._owners() if node != self._others.node]
        return await asyncio.gather(*(self._ask(node, asked, kind) for node in others))

    async def _from_each(
        self, nodes: Sequence[str], asked: Asked, kind: Any, table: TableSchema | None, *, must_answer: bool,
        timeout_ms: int = _ASK_MS,
    ) -> dict[str, Any]:  # fmt: skip
        """What nodes answer, by node; those that cannot be reached are left out.

        must_answer: raises InternodeError when none of them can be. Raises what the others end with besides.
        """
        tasks = [self._at(node, asked, kind, table, timeout_ms) for node in nodes]
        answers = dict(zip(nodes, await asyncio.gather(*tasks, return_exceptions=True), strict=True))
        found, failure = {}, None
        for node, answer in answers.items():
            if isinstance(answer, InternodeError):
                failure = answer
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found[node] = answer
        if must_answer and not found:
            raise failure or UnreachableError("the cluster has no partitions")
        return found

    async def _at(self, node: str, asked: Asked, kind: Any, table: TableSchema | None, timeout_ms: int) -> Any:
        if node == self._others.node:
            return await self.answer(asked, table)
        return await self._ask(node, asked, kind, timeout_ms)

    async def _ask(self, node: str, asked: Asked, kind: Any, timeout_ms: int = _ASK_MS) -> Any:
        return decoded(await self._others.ask_revent(node, encoded(asked), timeout_ms), kind)

    async def answer(self, asked: Asked, table: TableSchema | None) -> Any:
        """What this node says of the partitions that it owns. table: None where the operation needs none."""
        source = Source(asked.table_id, asked.trigger_id, asked.trigger, asked.is_segment)
        here, name = self._deliveries, asked.name
        match asked.operation:
            case "names":
                return here.messages.held(source.table_id, source.trigger_id)
            case "extend":
                return here.extend(source, name, asked.keys, asked.until_ms) if here.is_used(source, name) else None
            case "release":
                return here.release(source, name, asked.keys)
            case "unacknowledged":
                used = here.is_used(source, name)
                return here.unacknowledged(source, name, asked.keys) if used else asked.keys
        assert table is not None
        consumers = self.consumers[source.table_id, source.trigger_id, name]
        if not here.messages.partitions(table):
            # It owns nothing (any more), or nothing has been said here yet.
            if asked.operation == "wait":
                await asyncio.sleep(_PAUSE_SECONDS)
                return True
            return [] if asked.operation == "take" else (0, 0, consumers)
        here.use(table, source, name)
        if asked.operation == "wait":
            return await here.wait(source, name, asked.timeout_ms)
        if asked.operation == "counted":
            return (*here.counted(source, name), consumers)
        delivery = await here.take(source, name, Poll(here.new_consumer(), asked.most, asked.lease_ms), 0)
        return [] if delivery is None else list(delivery.messages)


async def known(subscriptions: Subscriptions, source: Source, name: str) -> int:
    """The hold of a subscription in ms. Raises QueryError when there is none of this name."""
    names = await subscriptions.names(source)
    if name not in names:
        raise QueryError(f"{source.name!r} has no subscription {name!a}{suggestion(name, list(names))}")
    return names[name]


def _asked(operation: Operation, source: Source, name: str, **more: Any) -> Asked:
    return Asked(operation, source.table_id, source.trigger_id, source.name, source.is_segment, name, **more)
