"""A lease outlasts an embedded coordinator that is known not to be running, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from openset.cluster.coordinator import Coordinator
from openset.cluster.embedded import EmbeddedServer
from openset.cluster.embedded_client import EmbeddedKeeper
from openset.cluster.messages import LeaseRenewed
from openset.cluster.presence import Presence
from openset.errors import AbsentError, UnreachableError

TTL_MS = 1_000


class Place:
    """A coordinator that fails as it is told, and a clock that is turned by hand. extended: what a node heard."""

    def __init__(self, directory: Path):
        self.now_ms = 5_000
        self.failure: UnreachableError | None = None
        self.extended: list[LeaseRenewed] = []
        self.renewed: list[LeaseRenewed] = []
        self.tried = 0
        self._server = EmbeddedServer.open(directory, create=True, clock=lambda: self.now_ms)
        keeper = EmbeddedKeeper(self._send, may_lead=False)
        coordinator = Coordinator(keeper, ttl_ms=TTL_MS, clock=lambda: self.now_ms)
        self.presence = Presence(coordinator, "n1", self.renewed.append, None, self.extended.append)

    async def _send(self, request: bytes) -> bytes:
        self.tried += 1
        if self.failure is not None:
            raise self.failure
        return await self._server.answer(request)

    async def run(self) -> asyncio.Task[None]:
        running = asyncio.create_task(self.presence.run())
        while not self.renewed:
            await asyncio.sleep(0.01)
        return running

    async def tries(self) -> None:
        """Until it has tried twice more."""
        until = self.tried + 2
        while self.tried < until:
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        await self._server.close()


async def test_a_lease_lasts_while_nobody_listens_in_the_place_of_the_coordinator(tmp_path: Path) -> None:
    place = Place(tmp_path / "coordinator")
    running = await place.run()
    first = place.renewed[-1]
    assert first.until_ms == 5_800
    for _ in range(5):
        place.failure = AbsentError("connection refused")
        place.now_ms += 600
        await place.tries()
        assert place.extended[-1] == LeaseRenewed(place.now_ms + 800, first.revision)
    # It is not known any more that it is down: the lease ends when it would have.
    place.failure = UnreachableError("no answer in time")
    place.now_ms += 500
    await place.tries()
    assert place.extended[-1].until_ms == place.now_ms + 300
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await place.close()


@pytest.mark.parametrize("late_ms", [800, 5_000])
async def test_a_lease_that_is_over_stays_over(tmp_path: Path, late_ms: int) -> None:
    """The coordinator may have given to others what the node owned, and have stopped then."""
    place = Place(tmp_path / "coordinator")
    running = await place.run()
    place.failure = UnreachableError("no answer in time")
    await place.tries()
    place.now_ms = 5_000 + late_ms
    place.failure = AbsentError("connection refused")
    await place.tries()
    await place.tries()
    assert not place.extended
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await place.close()
