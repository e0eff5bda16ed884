"""The subscriptions of some nodes in one process, over states of partitions that all of them see as agreed.

What one node asks of another goes as bytes. Partitions can be moved, nodes can be down, and changes of some partitions
can be refused. Nothing waits for a disk; time is what the test says.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from openset.errors import QueryError, UnreachableError
from openset.revent.deliveries import Deliveries
from openset.revent.messages import DEFAULT_HOLD_MS, Held, Source, merged_held
from openset.revent.subscription import Delivery, Poll
from openset.revent.subscriptions import GatheredSubscriptions
from openset.revent.wire import Asked, decoded, encoded
from openset.store.schema import TableSchema
from openset.store.trigger_catalog import Trigger
from openset.store.trigger_changes import Change, Cursor, Emitted, Message, SubscriptionChange
from openset.store.trigger_state import TriggerState

TABLE = TableSchema(7, "t", ())
SOURCE = Source(TABLE.id, 3, "each")
NAME = "sub"
_TRIGGER = Trigger(SOURCE.trigger_id, SOURCE.name, 1, "", True, False, False, None, 0, (), 0)


@dataclass(eq=False)
class World:
    """owner: by partition. down: nodes that do not answer. refusing: partitions that take no changes. dropped: whether
    the table is. on_the_way: awaited with each question to another node, before it is answered.
    """

    owner: dict[int, str]
    now_ms: int = 1_000_000
    down: set[str] = field(default_factory=set)
    refusing: set[int] = field(default_factory=set)
    dropped: bool = False
    states: dict[int, TriggerState] = field(default_factory=dict)
    members: dict[str, Member] = field(default_factory=dict)
    on_the_way: Callable[[str, Asked], object] = lambda node, asked: None

    def __post_init__(self) -> None:
        self.states = {number: TriggerState() for number in self.owner}
        for state in self.states.values():
            state.retain({_TRIGGER.id: _TRIGGER})
        self.members = {name: Member(self, name) for name in sorted(set(self.owner.values()))}

    def apply(self, partition: int, changes: Sequence[Change]) -> None:
        """A record of the log of a partition, seen by all nodes at once."""
        self.states[partition].apply(changes, {_TRIGGER.id: _TRIGGER})
        self.tell([partition])

    def emit(self, partition: int, person: str, stamp_ms: int | None = None) -> None:
        stamp_ms = self.now_ms if stamp_ms is None else stamp_ms
        self.apply(partition, [Emitted(stamp_ms, 0, person, _TRIGGER.id, _TRIGGER.name, "said")])

    def move(self, partition: int, name: str) -> None:
        self.owner[partition] = name
        for member in self.members.values():
            member.deliveries.owned_changed()

    def drop(self) -> None:
        """The table is gone."""
        self.dropped = True
        self.tell([])

    def tell(self, partitions: Collection[int]) -> None:
        for member in self.members.values():
            for listener in list(member.listeners):
                listener(partitions)


class Member:
    """A node, with the messages that it tells of (a `messages.Messages`) and what it sees of others."""

    is_shared = True

    def __init__(self, world: World, name: str):
        self.world = world
        self.node = name
        self.listeners: list[Callable[[Collection[int]], None]] = []
        self.deliveries = Deliveries(self, lambda: world.now_ms)
        self.subscriptions_ = GatheredSubscriptions(self.deliveries, self)

    # ---------------------------------------------------------------- as a client asks

    async def poll(
        self, most: int = 100, timeout_ms: int = 0, hold_ms: int | None = None, lease_ms: int = 1_000
    ) -> Delivery:
        """Opens the subscription and takes messages. Raises OpenSetError."""
        gathered = self.subscriptions_
        await gathered.open(TABLE, SOURCE, NAME, hold_ms, DEFAULT_HOLD_MS)
        poll = Poll(gathered.new_consumer(), most, lease_ms)
        return await gathered.take(TABLE, SOURCE, NAME, poll, timeout_ms) or Delivery(poll.consumer, ())

    async def acknowledge(self, delivery: Delivery) -> None:
        numbers: dict[int, list[int]] = {}
        for partition, number in delivery.keys:
            numbers.setdefault(partition, []).append(number)
        await self.subscriptions_.acknowledge(SOURCE, NAME, numbers)

    # ---------------------------------------------------------------- Messages

    def _own(self) -> list[int]:
        return [number for number, owner in self.world.owner.items() if owner == self.node]

    async def source(self, table: TableSchema, name: str) -> Source:
        return SOURCE

    def sources(self, table: TableSchema) -> list[Source]:
        return [] if self.world.dropped else [SOURCE]

    def partitions(self, table: TableSchema) -> list[int]:
        return [] if self.world.dropped else self._own()

    def after(self, table_id: int, trigger_id: int, partition: int, number: int, limit: int) -> list[Message]:
        return self.world.states[partition].after(trigger_id, number, limit)

    def subscriptions(self, table_id: int, trigger_id: int) -> dict[str, int]:
        return {name: one.hold_ms for name, one in self.held(table_id, trigger_id).items()}

    def held(self, table_id: int, trigger_id: int) -> dict[str, Held]:
        if not self._own():
            raise UnreachableError("it owns nothing")
        parts = [self.world.states[number].subscriptions(trigger_id) for number in self._own()]
        return merged_held([{name: Held(hold_ms) for name, hold_ms in part.items()} for part in parts])

    def cursor(self, table_id: int, trigger_id: int, name: str, partition: int) -> Cursor | None:
        return self.world.states[partition].cursor(trigger_id, name)

    async def change(self, table_id: int, partition: int | None, changes: Sequence[SubscriptionChange]) -> None:
        numbers = list(self.world.states) if partition is None else [partition]
        for number in numbers:
            if number not in self.world.refusing:
                self.world.apply(number, list(changes))
        if self.world.refusing & set(numbers):
            raise UnreachableError("some partitions take nothing")

    async def unwatch(self, source: Source) -> None: ...

    def listen(self, table_id: int, trigger_id: int, callback: Callable[[Collection[int]], None]) -> Callable[[], None]:
        self.listeners.append(callback)
        return lambda: self.listeners.remove(callback)

    # ---------------------------------------------------------------- Others

    def owners(self) -> Mapping[int, str]:
        return dict(self.world.owner)

    def living(self) -> Collection[str]:
        return self.world.members.keys() - self.world.down

    async def ask_revent(self, node: str, body: bytes, timeout_ms: int) -> bytes:
        asked: Asked = decoded(body, Asked)
        found = self.world.on_the_way(node, asked)
        if hasattr(found, "__await__"):
            await found
        if node in self.world.down:
            raise UnreachableError(f"{node} is down")
        if self.world.dropped:
            raise QueryError("the table was dropped meanwhile")
        return encoded(await self.world.members[node].subscriptions_.answer(asked, TABLE))
