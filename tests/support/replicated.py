"""Members in one process: real stores and replication over a network that can be cut, one embedded coordinator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
from support import store_model as model

from openset.cluster.coordinator import Coordinator
from openset.cluster.embedded import EmbeddedServer
from openset.cluster.embedded_client import EmbeddedKeeper
from openset.cluster.map import Member, NodeName, changed
from openset.cluster.owner import Timing
from openset.cluster.presence import Presence
from openset.cluster.replication import Replication
from openset.cluster.routing import Routing, insert_items
from openset.cluster.sentinel import Health, decide
from openset.cluster.transfer_messages import BEGIN_ROUTE, END_ROUTE, PIECE_ROUTE, Begin, End, Piece
from openset.cluster.view import View
from openset.cluster.wire import WriteItem
from openset.errors import ConflictError, OpenSetError, UnreachableError
from openset.store.copies import FileName, make_member
from openset.store.records import ERASURE_RECORD, encode_erasure
from openset.store.store import Store
from openset.store.views import ViewCache
from openset_format.files import FILES
from openset_format.hashing import partition_of

JOURNAL_ID = "cd" * 16
LEASE_MS = 1_500
TIMING = Timing(heartbeat_ms=50, retry_ms=150, silence_ms=1_200, patience_ms=2_000)
TABLE_ID = 1
PATIENCE_MS = 4_000


class Network:
    """Who reaches whom. cut: pairs that do not.

    lost: routes, each for one request that is carried out and whose answer does not come; on_lost: told by whom.
    """

    def __init__(self) -> None:
        self.nodes: dict[NodeName, LocalNode] = {}
        self.cut: set[frozenset[NodeName]] = set()
        self.calls: list[tuple[NodeName, NodeName, str]] = []
        self.pieces_until_break = -1
        self.lost: list[str] = []
        self.on_lost: Callable[[NodeName], Awaitable[None]] | None = None

    async def call(self, sender: NodeName, to: NodeName, route: str, body: bytes, timeout_ms: int) -> bytes:
        node = self.nodes.get(to)
        if node is None or node.replication is None or frozenset((sender, to)) in self.cut:
            await asyncio.sleep(0.02)
            raise UnreachableError(f"{to} cannot be reached")
        await asyncio.sleep(0)
        self.calls.append((sender, to, route))
        if route.startswith(PIECE_ROUTE + "?"):
            self.pieces_until_break -= 1
            if self.pieces_until_break == 0:
                raise UnreachableError("the connection broke")
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                answer = await node.serve(sender, route, body)
        except TimeoutError as error:
            raise UnreachableError(f"{to} does not answer in time") from error
        if route in self.lost:
            self.lost.remove(route)
            if self.on_lost is not None:
                await self.on_lost(to)
            raise UnreachableError("the connection broke before the answer")
        return answer


class Peers:
    def __init__(self, network: Network, node: NodeName):
        self._network = network
        self._node = node

    async def call(self, node: NodeName, route: str, body: bytes = b"", *, timeout_ms: int) -> bytes:
        return await self._network.call(self._node, node, route, body, timeout_ms)


class LocalNode:
    """A node that is started and stopped like a process. It is its own membership, as far as the data need one."""

    def __init__(self, name: NodeName, directory: Path, server: EmbeddedServer, network: Network, partitions: int):
        self.node = name
        self.directory = directory
        self.network = network
        self.peers: Any = Peers(network, name)
        self.store: Store | None = None
        self.replication: Replication | None = None
        self.routing: Routing | None = None
        self.view = View(0)
        self.hangs = False
        self._server = server
        self._tasks: list[asyncio.Task[None]] = []
        store = Store.open(directory)
        store.initialise(partitions)
        store.create_table("t", model.COLUMNS, model.Z_ORDER)
        self.schema = store.shared_schema()
        store.close()
        make_member(directory, store._catalog, FILES, JOURNAL_ID)

    async def start(self) -> None:
        self.coordinator = Coordinator(EmbeddedKeeper(self._server.answer, may_lead=True), ttl_ms=LEASE_MS)
        self.store = await asyncio.to_thread(Store.open, self.directory)
        self.replication = Replication(self.store, self, timing=TIMING)
        self.routing = Routing(self, self.replication)
        self._presence = Presence(self.coordinator, self.node, self.replication.lease)
        self._tasks = [
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._presence.run()),
            asyncio.create_task(self._tell_of_damage()),
        ]
        self.network.nodes[self.node] = self

    async def _watch(self) -> None:
        async for view in self.coordinator.views():
            self._take(view)

    def _take(self, view: View) -> None:
        if view.revision > self.view.revision and self.replication is not None:
            self.view = view
            self.replication.view(view)

    async def _tell_of_damage(self) -> None:
        """As `Membership` does."""
        while True:
            await asyncio.sleep(0.05)
            registered = self.view.members.get(self.node)
            if registered is None or self.store is None:
                continue
            assert self.store.copies is not None
            damaged = self.store.copies.damaged()
            if damaged != registered.member.damaged:
                with suppress(OpenSetError):
                    told = msgspec.structs.replace(registered.member, damaged=damaged)
                    await self.coordinator.change_member(told, registered.revision)

    async def read_now(self) -> None:
        with suppress(OpenSetError):
            self._take(await self.coordinator.read())

    async def changed(self, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return True

    async def stand_aside(self) -> None:
        self._tasks[1].cancel()
        await self._presence.end()

    async def hang(self) -> None:
        """It takes requests, says nothing and renews nothing."""
        assert self.replication is not None
        self.hangs = True
        self._tasks[1].cancel()
        await self.replication.close()

    async def stop(self) -> None:
        """As a crash: nobody is told, the lease runs out."""
        replication, self.replication = self.replication, None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if replication is not None and self.store is not None:
            await replication.close()
            await asyncio.to_thread(self.store.close)
        self.store = None
        self.view = View(0)

    async def serve(self, sender: NodeName, route: str, body: bytes) -> bytes:
        if self.hangs:
            await asyncio.sleep(3_600)
        if self.replication is None or self.routing is None:
            raise UnreachableError(f"{self.node} stops")
        arrivals = self.replication.arrivals
        path = urlsplit(route)
        if path.path == "log":
            self.replication.receive(sender, body)
            return b""
        if path.path == "write":
            return await self.routing.answer(body)
        if path.path == BEGIN_ROUTE:
            return msgspec.msgpack.encode(await arrivals.begin(sender, msgspec.msgpack.decode(body, type=Begin)))
        if path.path == END_ROUTE:
            end = msgspec.msgpack.decode(body, type=End)
            await arrivals.end(end.partition, end.transfer)
            return b""
        assert path.path == PIECE_ROUTE
        where = {name: values[0] for name, values in parse_qs(path.query).items()}
        name = FileName(int(where["table_id"]), where["sidecar"] == "true")
        piece = Piece(where["transfer"], int(where["partition"]), name, int(where["offset"]), int(where["hash"], 16))
        await arrivals.piece(piece, [body])
        return b""

    def contents(self) -> dict[Any, Any]:
        """Everything visible of the partitions this node may answer for."""
        assert self.store is not None and self.replication is not None
        snapshots = [
            snapshot for snapshot in self.store.snapshot("t") if self.replication.may_answer(snapshot.partition)
        ]
        return model.read_snapshots(ViewCache(self.directory), snapshots)


class LocalCluster:
    """Use as an async context manager. The sentinel is a loop of this object, as if it never died."""

    node_type: type[LocalNode] = LocalNode

    def __init__(
        self,
        directory: Path,
        names: Sequence[NodeName],
        partitions: int = 2,
        replicas: int = 2,
        gone_after_seconds: float = 2.5,
    ):
        """gone_after_seconds: who is dead for so long is replaced as a copy."""
        self.gone_after_seconds = gone_after_seconds
        self.network = Network()
        self.partitions = partitions
        self.replicas = replicas
        self._server = EmbeddedServer.open(directory / "coordinator", create=True)
        self.nodes = {
            name: self.node_type(name, directory / name, self._server, self.network, partitions) for name in names
        }
        self._coordinator = Coordinator(EmbeddedKeeper(self._server.answer, may_lead=True), ttl_ms=600_000)
        self._sentinel: asyncio.Task[None] | None = None
        self._dead_since: dict[NodeName, float] = {}

    async def __aenter__(self) -> LocalCluster:
        first, *others = self.nodes
        session = await self._coordinator.open_session("sentinel")
        self._term = await self._coordinator.campaign(session)
        assert self._term is not None
        member, schema = Member(first, "here", 1), self.nodes[first].schema
        await self._coordinator.initialise(self._term, member, self.partitions, self.replicas, schema=schema)
        for name in others:
            await self._coordinator.add_member(Member(name, "here", 1))
        for node in self.nodes.values():
            await node.start()
        self._sentinel = asyncio.create_task(self._decide())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sentinel is not None:
            self._sentinel.cancel()
            await asyncio.gather(self._sentinel, return_exceptions=True)
        for node in self.nodes.values():
            if node.replication is not None:
                await node.stop()
        await self._server.close()

    async def _decide(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            view = await self._coordinator.read()
            assert view.map is not None
            alive = frozenset(view.alive)
            now = asyncio.get_running_loop().time()
            for name in self.nodes:
                if name in alive:
                    self._dead_since.pop(name, None)
                else:
                    self._dead_since.setdefault(name, now)
            gone = frozenset(name for name, since in self._dead_since.items() if now - since > self.gone_after_seconds)
            for change in decide(view.map, Health(alive, gone)):
                with suppress(OpenSetError):
                    await self._coordinator.swap(
                        change.partition, change.expected_revision, change.placement,
                        while_dead=change.while_dead, sentinel=self._term,
                    )  # fmt: skip

    async def view(self) -> View:
        return await self._coordinator.read()

    async def insert(self, node: NodeName, events: list[dict[str, Any]], patience_ms: int = PATIENCE_MS) -> None:
        one = self.nodes[node]
        assert one.store is not None and one.routing is not None
        insert = one.store.prepare_insert("t", json.dumps(events).encode())
        await one.routing.write(insert_items(insert), patience_ms)

    async def erase(self, node: NodeName, person: Any) -> None:
        one = self.nodes[node]
        assert one.routing is not None
        partition = partition_of(person, self.partitions)
        payload = encode_erasure(person, self.partitions)
        await one.routing.write([WriteItem(partition, ERASURE_RECORD, TABLE_ID, payload)])

    async def settled(self, seconds: float = 20.0) -> None:
        """Until every partition has its copies in sync and an owner who answers, and nothing is to be moved."""
        wanted = min(self.replicas, sum(node.replication is not None for node in self.nodes.values()))
        until = asyncio.get_running_loop().time() + seconds
        while True:
            view = await self.view()
            bad = {
                number: placed.placement
                for number, placed in view.placements.items()
                if len(placed.placement.in_sync) != wanted
                or placed.placement.filling
                or not self._answers(placed.placement.owner, number)
            }
            assert view.map is not None
            if not bad and not decide(view.map, Health(frozenset(view.alive))):
                return
            assert asyncio.get_running_loop().time() < until, f"not settled: {bad}, alive: {view.alive}"
            await asyncio.sleep(0.05)

    async def leave(self, node: NodeName) -> None:
        """Marks a node as leaving: the sentinel gives what it has to others."""
        while not (registered := (await self.view()).members[node]).member.leaving:
            with suppress(ConflictError):
                leaving = msgspec.structs.replace(registered.member, leaving=True)
                await self._coordinator.change_member(leaving, registered.revision)

    async def hand_over(self, partition: int, seconds: float = 20.0) -> None:
        """Until the owner of a partition has handed it to another one of the copies in sync."""
        until = asyncio.get_running_loop().time() + seconds
        term = (await self.view()).placements[partition].placement.term
        while True:
            placed = (await self.view()).placements[partition]
            if placed.placement.term > term:
                return
            heirs = sorted(set(placed.placement.in_sync) - {placed.placement.owner})
            if heirs and placed.placement.successor is None:
                asked = changed(placed.placement, "asked for by the test", successor=heirs[0])
                with suppress(OpenSetError):
                    await self._coordinator.swap(partition, placed.revision, asked, sentinel=self._term)
            assert asyncio.get_running_loop().time() < until, f"not handed over: {placed.placement}"
            await asyncio.sleep(0.02)

    def _answers(self, node: NodeName, partition: int) -> bool:
        replication = self.nodes[node].replication
        return replication is not None and replication.may_answer(partition)

    async def contents(self, seconds: float = 20.0) -> dict[Any, Any]:
        """What the owners answer, together; waits while a partition changes its owner."""
        until = asyncio.get_running_loop().time() + seconds
        while True:
            living = [node for node in self.nodes.values() if node.replication is not None]
            answering = [
                number for node in living for number in range(self.partitions) if self._answers(node.node, number)
            ]
            if sorted(answering) == list(range(self.partitions)):
                break
            assert asyncio.get_running_loop().time() < until, f"only {answering} are answered for"
            await asyncio.sleep(0.02)
        found: dict[Any, Any] = {}
        for node in living:
            part = node.contents()
            assert not part.keys() & found.keys()
            found |= part
        return found
