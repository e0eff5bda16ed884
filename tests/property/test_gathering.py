"""Random histories of a query over nodes that fail, refuse, hang and lose partitions: each partition counts once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openset.errors import PartitionsError, UnreachableError
from openset.query import spread
from openset.query.spread import Asking, Owners, Share, gather
from openset.query.wire.asking import Answered
from openset.query.wire.codec import Lists, decoded, encoded

HERE = "a"
NODES = ("a", "b", "c")


@dataclass
class Chaos:
    """A Spread whose nodes do as chance wills, until it calms down. lost: partitions that have no owner in the end."""

    chance: random.Random
    of: dict[int, str]
    lost: set[int]
    node: str = HERE
    revision: int = 0
    calm: bool = False
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def owners(self) -> Owners:
        return Owners(self.revision, dict(self.of))

    def members(self) -> Collection[str]:
        return NODES

    def may_answer(self, partition: int) -> bool:
        return True

    async def answer(self, node: str, numbers: Sequence[int]) -> Share[list[int]]:
        """What a node says: all, some, or nothing of what it was asked for."""
        await asyncio.sleep(self.chance.choice((0, 0, 0.002, 0.01)))
        owned = [number for number in numbers if self.of.get(number) == node]
        if not self.calm:
            what = self.chance.randrange(5)
            if what == 0:
                raise UnreachableError(f"{node} does not answer")
            if what == 1:
                while not self.calm:
                    await asyncio.sleep(0.002)
                raise UnreachableError(f"{node} was killed")
            if what == 2:
                owned = [number for number in owned if self.chance.random() < 0.5]
        refused = [number for number in numbers if number not in owned]
        return Share(owned or None, len(owned), refused)

    async def ask(self, node: str, body: bytes, timeout_ms: int) -> bytes:
        share = await self.answer(node, decoded(body, list[int]))
        result = None if share.result is None else encoded(share.result)
        return encoded(Answered(result, share.read, list(share.refused)))

    async def here(self, numbers: Sequence[int]) -> Share[list[int]]:
        return await self.answer(HERE, numbers)

    async def changed(self, revision: int, timeout_ms: int) -> None:
        while revision == self.revision:
            self.told.clear()
            await self.told.wait()

    async def shake(self) -> None:
        """Moves partitions about for a while; then every one has an owner for good that answers, but the lost ones."""
        for _ in range(self.chance.randrange(6)):
            await asyncio.sleep(self.chance.choice((0, 0.003)))
            self.move(self.chance.choice(list(self.of) or [0]), self.chance.choice((*NODES, None)))
        self.calm = True
        for number in range(8):
            self.move(number, None if number in self.lost else self.chance.choice(NODES))

    def move(self, number: int, node: str | None) -> None:
        if node is None:
            self.of.pop(number, None)
        else:
            self.of[number] = node
        self.revision += 1
        self.told.set()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1 << 60), st.sampled_from([set(), set(), set(), {3}]), st.booleans())
def test_every_partition_counts_once(seed: int, lost: set[int], partial: bool) -> None:
    async def run() -> None:
        chance = random.Random(seed)
        chaos = Chaos(chance, {number: chance.choice(NODES) for number in range(8)}, lost)

        async def bring(node: str, names: Sequence[str]) -> bool:
            raise AssertionError("no segment is read")

        seconds = 1.0 if lost else 20.0
        asking = Asking(
            chaos, Lists(int), chaos.here, lambda numbers: encoded(list(numbers)), time.monotonic() + seconds,
            round(1000 * seconds), partial, bring,
        )  # fmt: skip
        shaking = asyncio.create_task(chaos.shake())
        try:
            found = await gather(asking, range(8))
        except PartitionsError as error:
            assert not partial and error.detail["missing_partitions"] == sorted(lost)
            return
        finally:
            shaking.cancel()
        assert partial or not found.missing
        taken = found.result or []
        assert sorted([*taken, *found.missing]) == list(range(8))
        assert found.read == len(taken)
        assert set(found.missing) <= lost

    asyncio.run(run())


def test_nothing_spins_while_it_waits() -> None:
    """A partition without an owner is waited for; a node that does not answer is asked now and then."""

    async def run() -> None:
        chaos = Chaos(random.Random(1), {0: "b"}, set())
        asked = 0

        async def refuse(node: str, body: bytes, timeout_ms: int) -> bytes:
            nonlocal asked
            asked += 1
            raise UnreachableError("no")

        async def bring(node: str, names: Sequence[str]) -> bool:
            return False

        chaos.ask = refuse  # type: ignore[method-assign]
        asking = Asking(
            chaos, Lists(int), chaos.here, lambda numbers: encoded(list(numbers)), time.monotonic() + 0.5, 500, False,
            bring,
        )  # fmt: skip
        used = time.process_time()
        with pytest.raises(PartitionsError, match="no node owns"):
            await gather(asking, range(2))
        assert asked <= 5
        assert time.process_time() - used < 0.25

    asyncio.run(run())


@pytest.mark.parametrize("hangs", [False, True])
def test_a_node_that_loses_a_partition_is_waited_for_a_little(hangs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lives answers for the rest; what one that hangs was asked is asked of the next owner."""
    monkeypatch.setattr(spread, "LOST_GRACE_SECONDS", 0.3)

    async def run() -> None:
        chaos = Chaos(random.Random(1), {0: "b", 1: "b"}, set(), calm=True)
        ended: list[str] = []

        async def ask(node: str, body: bytes, timeout_ms: int) -> bytes:
            if node == "b":
                try:
                    await asyncio.sleep(30 if hangs else 0.1)
                except asyncio.CancelledError:
                    ended.append(node)
                    raise
            return await Chaos.ask(chaos, node, body, timeout_ms)

        async def bring(node: str, names: Sequence[str]) -> bool:
            return False

        chaos.ask = ask  # type: ignore[method-assign]
        asking = Asking(
            chaos, Lists(int), chaos.here, lambda numbers: encoded(list(numbers)), time.monotonic() + 20, 20_000, False,
            bring,
        )  # fmt: skip
        gathering = asyncio.create_task(gather(asking, range(2)))
        await asyncio.sleep(0.02)
        chaos.move(0, "c")
        if hangs:
            chaos.move(1, "c")
        began = time.monotonic()
        found = await gathering
        assert sorted(found.result or []) == [0, 1]
        assert ended == (["b"] if hangs else [])
        assert time.monotonic() - began < 10

    asyncio.run(run())
