"""Two nodes of which one sends the other whole partitions, over a line that a test may break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.replicated import LocalCluster, LocalNode

from openset.cluster.arrivals import Arrivals
from openset.cluster.messages import TransferArrived
from openset.cluster.transfer_messages import Begin, FileHead
from openset.cluster.transfers import Rate, SendTransfer
from openset.store.copies import FileName
from openset.store.snapshot import partition_path


@dataclass
class Line:
    """Between the two nodes; a test says what becomes of a request. calls: the routes that were asked for."""

    peers: Any
    before: Callable[[str], Any] = lambda route: None
    after: Callable[[str], Any] = lambda route: None
    calls: list[str] = field(default_factory=list)

    async def call(self, node: str, route: str, body: bytes = b"", *, timeout_ms: int) -> bytes:
        self.calls.append(route)
        if (wait := self.before(route)) is not None:
            await wait
        answer: bytes = await self.peers.call(node, route, body, timeout_ms=timeout_ms)
        self.after(route)
        return answer

    def count(self, route: str) -> int:
        return sum(one.split("?")[0] == route for one in self.calls)


@dataclass
class Pair:
    """Two members with all partitions, compacted at the first one; the second one keeps what arrives in `taken`."""

    source: LocalNode
    other: LocalNode
    line: Line
    taken: list[dict[FileName, bytes]] = field(default_factory=list)

    def send(self, partition: int = 0, rate: int = 0, turns: asyncio.Semaphore | None = None) -> SendTransfer:
        assert self.source.store is not None and self.source.store.copies is not None
        turns = turns or asyncio.Semaphore(1)
        return SendTransfer(
            self.source.store.copies, self.line, self.other.node, partition, 2, 0, Rate(rate), turns
        )  # fmt: skip

    @property
    def arrivals(self) -> Arrivals:
        assert self.other.replication is not None
        return self.other.replication.arrivals

    def take(self, arrived: TransferArrived) -> None:
        received = self.arrivals.take(arrived.partition, arrived.position)
        assert received is not None
        self.taken.append({name: (self.other.directory / path).read_bytes() for name, path in received.staged.items()})

    def begin(self, name: str) -> Begin:
        """A transfer of partition 0 that a test sends piece by piece."""
        assert self.source.store is not None and self.source.store.copies is not None
        outgoing = self.source.store.copies.outgoing(0)
        for one in outgoing.files:
            one.file.close()
        heads = [FileHead(one.name.table_id, one.size_bytes, one.name.is_sidecar) for one in outgoing.files]
        return Begin(name, 0, 2, outgoing.term, outgoing.index, outgoing.covers, 0, heads)

    def file(self, partition: int = 0) -> bytes:
        return (self.source.directory / partition_path(1, partition)).read_bytes()

    def leftovers(self) -> list[Path]:
        return list(self.other.directory.glob("tables/*/*received*"))


def record_is_visible(node: LocalNode, partition: int) -> bool:
    """A copy hears with the next sign of life what is agreed."""
    assert node.store is not None and node.store.replicas is not None
    journals = node.store.replicas.journals
    return 0 < journals.shown(partition) == journals.of(partition).last_sequence


@asynccontextmanager
async def pair_of(directory: Path, partitions: int = 1, events: int = 400) -> AsyncIterator[Pair]:
    async with LocalCluster(directory, ["a", "b"], partitions=partitions, replicas=2) as cluster:
        await cluster.settled()
        source, other = cluster.nodes["a"], cluster.nodes["b"]
        body = [
            {"person": f"p{number % 97}", "stamp": 10**12 + number, "action": "view", "attr": {"units": number}}
            for number in range(events)
        ]
        await cluster.insert("a", body)
        async with asyncio.timeout(10):
            while not all(record_is_visible(source, number) for number in range(partitions)):
                await asyncio.sleep(0.01)
        assert source.store is not None and other.store is not None and other.replication is not None
        await asyncio.to_thread(source.store.compact_all)
        pair = Pair(source, other, Line(source.peers))
        other.replication.arrivals = Arrivals(other.store, pair.take)
        yield pair
