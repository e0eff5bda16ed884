"""Coordinators to try, each with what can happen to it: the embedded one and one on etcd, behind the same face."""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from pathlib import Path

from support.etcd import Etcd

from openset.cluster.coordinator import Coordinator, Session
from openset.cluster.embedded import EmbeddedServer
from openset.cluster.embedded_client import EmbeddedKeeper
from openset.cluster.etcd import EtcdKeeper, EtcdTiming
from openset.cluster.etcd_address import parse_address
from openset.cluster.keeper import Keeper
from openset.cluster.map import Member
from openset.cluster.view import Sentinel, Settings
from openset.errors import UnreachableError

FAST = EtcdTiming(connect_ms=300, answer_ms=600, patience_ms=1_200, watch_ms=400)


class Place(ABC):
    """Where a coordinator is kept. Everything made here shares one state."""

    def coordinator(self, ttl_ms: int = 10_000) -> Coordinator:
        """A client of its own. ttl_ms: whole seconds, which is what etcd has."""
        return Coordinator(self.keeper(), ttl_ms=ttl_ms)

    @abstractmethod
    def keeper(self) -> Keeper: ...

    @abstractmethod
    async def compact(self) -> None:
        """What changed up to now is not known any more."""

    @abstractmethod
    def go_down(self) -> None:
        """Nothing answers until `come_up`."""

    @abstractmethod
    def come_up(self) -> None: ...

    async def close(self) -> None:
        return


class EmbeddedPlace(Place):
    def __init__(self, directory: Path):
        self.directory = directory
        self.server: EmbeddedServer | None = None
        self.is_down = False

    async def send(self, request: bytes) -> bytes:
        if self.is_down:
            raise UnreachableError("it is down")
        if self.server is None:
            self.server = EmbeddedServer.open(self.directory, create=True)
        answer = await self.server.answer(request)
        if self.is_down:
            raise UnreachableError("it went down")
        return answer

    def keeper(self) -> Keeper:
        return EmbeddedKeeper(self.send, may_lead=True, patience_ms=2_000, wait_ms=400)

    async def compact(self) -> None:
        """A restart forgets what changed before it."""
        assert self.server is not None
        await self.close()

    def go_down(self) -> None:
        self.is_down = True

    def come_up(self) -> None:
        self.is_down = False

    async def close(self) -> None:
        if self.server is not None:
            server, self.server = self.server, None
            await server.close()


class EtcdPlace(Place):
    def __init__(self, etcd: Etcd):
        self.etcd = etcd
        self.prefix = f"tests/{os.urandom(6).hex()}"

    def keeper(self) -> Keeper:
        return EtcdKeeper(parse_address(f"etcd://{self.etcd.hosts}/{self.prefix}"), FAST)

    async def compact(self) -> None:
        revision = (await self.keeper().read()).revision
        await asyncio.to_thread(self.etcd.post, "/v3/kv/compaction", {"revision": str(revision), "physical": True})

    def go_down(self) -> None:
        for member in self.etcd.members:
            member.pause()

    def come_up(self) -> None:
        for member in self.etcd.members:
            member.go_on()
        self.etcd.wait_until_ready()


async def elected(coordinator: Coordinator, node: str = "n1") -> tuple[Session, Sentinel]:
    """A node that lives and is the sentinel."""
    session = await coordinator.open_session(node)
    sentinel = await coordinator.campaign(session)
    assert sentinel is not None
    return session, sentinel


async def initialised(coordinator: Coordinator, node: str = "n1", partitions: int = 4) -> tuple[Session, Sentinel]:
    """A cluster of one node, which is its sentinel."""
    session, sentinel = await elected(coordinator, node)
    settings = await coordinator.initialise(sentinel, Member(node, "host-1", 8080), partitions, 2)
    assert isinstance(settings, Settings)
    return session, sentinel
