"""Subscriptions gathered from several owners: what one of them lacks, what changes meanwhile, who goes in between."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from support.gathering import NAME, SOURCE, TABLE, Member, World

from openset.errors import QueryError, UnreachableError
from openset.revent.messages import DEFAULT_HOLD_MS
from openset.revent.subscription import Delivery, Key
from openset.revent.wire import Asked


def world(**options: Any) -> World:
    return World({0: "a", 1: "b", 2: "c", 3: "b"}, **options)


def said(delivery: Delivery) -> list[str]:
    return [str(message.person) for _, message in delivery.messages]


def test_owners_hear_of_another_hold() -> None:
    async def run() -> None:
        all_nodes = world()
        a = all_nodes.members["a"]
        await a.poll(hold_ms=1_000)
        for partition in range(4):
            all_nodes.emit(partition, f"p{partition}")
        all_nodes.now_ms += 5_000
        assert said(await a.poll()) == [], "they are beyond the hold"
        assert sorted(said(await a.poll(hold_ms=60_000))) == ["p0", "p1", "p2", "p3"]

    asyncio.run(run())


@pytest.mark.parametrize("asked", ["a", "b", "c"])
def test_a_subscription_that_some_partitions_lack_is_made_whole(asked: str) -> None:
    """Whoever made it may have been gone in the middle."""

    async def run() -> None:
        all_nodes = world()
        all_nodes.refusing = {2, 3}
        with pytest.raises(UnreachableError):
            await all_nodes.members["a"].poll(hold_ms=60_000)
        all_nodes.refusing = set()
        for partition in range(4):
            all_nodes.emit(partition, f"p{partition}")
        assert sorted(said(await all_nodes.members[asked].poll())) == ["p0", "p1", "p2", "p3"]
        for state in all_nodes.states.values():
            assert state.subscriptions(SOURCE.trigger_id) == {NAME: 60_000}

    asyncio.run(run())


@pytest.mark.parametrize("asked", ["a", "b", "c"])
def test_what_was_removed_from_some_partitions_only_is_removed_by_the_next_one_who_asks(asked: str) -> None:
    async def run() -> None:
        all_nodes = world()
        await all_nodes.members["a"].poll()
        all_nodes.refusing = {1, 3}
        with pytest.raises(UnreachableError):
            await all_nodes.members["a"].subscriptions_.remove(SOURCE, NAME)
        all_nodes.refusing = set()
        gathered = all_nodes.members[asked].subscriptions_
        assert await gathered.names(SOURCE) == {NAME: DEFAULT_HOLD_MS}
        await gathered.remove(SOURCE, NAME)
        assert all(not state.subscriptions(SOURCE.trigger_id) for state in all_nodes.states.values())
        assert await gathered.names(SOURCE) == {}

    asyncio.run(run())


def test_everybodys_messages_come_in_their_order_when_clocks_differ() -> None:
    """An owner gives more than its share, and the owner before it had a clock that was ahead."""

    async def run() -> None:
        all_nodes = world()
        await all_nodes.members["a"].poll()
        for number in range(40):
            all_nodes.emit(0, f"{number:02}", stamp_ms=1_000_000 - number)
        assert said(await all_nodes.members["c"].poll(most=30)) == [f"{number:02}" for number in range(30)]

    asyncio.run(run())


def test_a_consumer_that_goes_while_owners_are_asked_leaves_nothing_leased() -> None:
    async def run() -> None:
        all_nodes = world()
        a = all_nodes.members["a"]
        await a.poll()
        for partition in range(4):
            all_nodes.emit(partition, f"p{partition}")
        answering, asked_c = asyncio.Event(), asyncio.Event()

        async def slowly() -> None:
            asked_c.set()
            await answering.wait()

        def on_the_way(node: str, asked: Asked) -> object:
            return slowly() if (node, asked.operation) == ("c", "take") else None

        all_nodes.on_the_way = on_the_way
        polling = asyncio.create_task(a.poll(lease_ms=1_000_000))
        await asked_c.wait()
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        answering.set()
        all_nodes.on_the_way = lambda node, asked: None
        found: set[str] = set()
        async with asyncio.timeout(5):
            while len(found) < 4:
                found |= set(said(await a.poll()))
                await asyncio.sleep(0.01)

    asyncio.run(run())


@pytest.mark.parametrize("owners", [{0: "a", 1: "a"}, {0: "a", 1: "b"}])
def test_who_waits_is_told_that_the_table_was_dropped(owners: dict[int, str]) -> None:
    async def run() -> None:
        all_nodes = World(owners)
        a = all_nodes.members["a"]
        await a.poll()
        waiting = asyncio.create_task(a.poll(timeout_ms=60_000))
        while not a.subscriptions_.consumers[TABLE.id, SOURCE.trigger_id, NAME]:
            await asyncio.sleep(0.01)
        all_nodes.drop()
        with pytest.raises(QueryError):
            await asyncio.wait_for(waiting, 10)
        assert not a.deliveries.is_used(SOURCE, NAME)

    asyncio.run(run())


class History:
    """Consumers at three nodes, messages, acknowledgements from anywhere, owners that change and nodes that are down.

    Same seed, same history. What was acknowledged does not come again, everybody's messages come for the first time in
    their order, and in the end all of them have come.
    """

    def __init__(self, seed: int):
        self.rng = random.Random(seed)
        self.seed = seed
        self.world = world()
        self.deliveries: list[Delivery] = []
        self.acknowledged: set[Key] = set()
        self.perhaps: set[Key] = set()  # where the answer was an error
        self.seen: dict[int, int] = {}
        self.delivered = 0

    async def run(self) -> None:
        for _ in range(150):
            self.world.now_ms += self.rng.choice((0, 1, 30, 400))
            step = self.rng.choice((self._emit, self._emit, self._poll, self._poll, self._ack, self._fail))
            await step()
        self.world.down, self.world.refusing = set(), set()
        self.world.now_ms += 10_000
        while (found := await self._poll()).messages:
            await self._member().acknowledge(found)
            self.acknowledged |= set(found.keys)
        wanted = {
            (number, one + 1) for number, state in self.world.states.items() for one in range(state.next_number - 1)
        }
        assert wanted - self.perhaps <= self.acknowledged <= wanted, f"seed {self.seed}"
        described = await self._member().subscriptions_.describe(TABLE, SOURCE, NAME)
        assert (described["pending"], described["leased"]) == (0, 0), f"seed {self.seed}"

    def _member(self) -> Member:
        return self.world.members[self.rng.choice("abc")]

    async def _emit(self) -> None:
        number = self.rng.randrange(4)
        for _ in range(self.rng.choice((1, 3, 9))):
            self.world.emit(number, "somebody", self.world.now_ms + self.rng.randrange(100))

    async def _poll(self) -> Delivery:
        most, lease_ms = self.rng.choice((1, 4, 50)), self.rng.choice((50, 500))
        try:
            found = await self._member().poll(most, lease_ms=lease_ms)
        except UnreachableError:
            assert self.world.refusing, "that is why it could not be made"
            return Delivery(0, ())
        for partition, number in found.keys:
            assert (partition, number) not in self.acknowledged, f"seed {self.seed}: {partition}, {number} comes again"
            assert number <= self.seen.get(partition, 0) + 1, f"seed {self.seed}: {partition}, {number} comes too soon"
            self.seen[partition] = max(number, self.seen.get(partition, 0))
        self.delivered += len(found.messages)
        self.deliveries.append(found)
        return found

    async def _ack(self) -> None:
        if not self.deliveries:
            return
        found = self.rng.choice(self.deliveries[-5:])
        try:
            await self._member().acknowledge(found)
        except UnreachableError:
            self.perhaps |= set(found.keys)
            return
        self.acknowledged |= set(found.keys)

    async def _fail(self) -> None:
        match self.rng.randrange(4):
            case 0:
                self.world.move(self.rng.randrange(4), self.rng.choice("abc"))
            case 1:
                self.world.down = {self.rng.choice("abc")} if self.rng.random() < 0.5 else set()
            case 2:
                self.world.refusing = {self.rng.randrange(4)} if self.rng.random() < 0.5 else set()
            case 3:
                if self.deliveries:
                    found = self.rng.choice(self.deliveries[-5:])
                    await self._member().subscriptions_.extend(SOURCE, NAME, found.keys, self.world.now_ms + 300)
        if not set(self.world.owner.values()) - self.world.down:
            self.world.down = set()  # somebody answers, or who asks would wait


@pytest.mark.parametrize("first", range(0, 120, 40))
def test_random_histories(first: int) -> None:
    delivered = 0
    for seed in range(first, first + 40):
        history = History(seed)
        asyncio.run(history.run())
        delivered += history.delivered
    assert delivered > 4_000
