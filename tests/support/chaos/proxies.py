"""A network of proxies on loopback: before every node and, for every node, before every member of etcd.

A node tells others an address of 127.0.1.0/24 where its proxy listens on the node's own port, for requests are signed
with the port. Who connects is read from the first request (`OpenSet-From`); connections whose sender does not say are
never cut. Nodes share a secret here. It needs no rights, and stands in for `namespaces` where they are missing.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.chaos.network import ETCD, Way, called
from support.cluster import SECRET, Node
from support.etcd import Etcd, EtcdMember

_SENDER = re.compile(rb"\r\nOpenSet-From: *([^\r\n]+)\r\n", re.IGNORECASE)
_CHUNK_BYTES = 1 << 16
_LOOK_SECONDS = 0.05


@dataclass(eq=False)
class _Connection:
    """One that is open. source: who connected, empty while that is not known."""

    source: str
    target: str
    writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def drop(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxies:
    """A Network. Bytes of requests go one way and those of answers the other, so one direction can be cut alone.

    What was sent while a cut was silent arrives when it is mended.
    """

    kind = "proxies"

    def __init__(self) -> None:
        self._members: list[EtcdMember] = []
        self._silent: set[Way] = set()
        self._refused: set[Way] = set()
        self._connections: set[_Connection] = set()
        # What nodes are called in this network, by the names that they have in their cluster.
        self._called: dict[str, str] = {}
        self._servers: list[asyncio.Server] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)
        self._thread.start()

    # --- from any thread -------------------------------------------------------------------------------------------

    def start_etcd(self, directory: Path) -> Etcd:
        etcd = Etcd(directory)
        self._members = etcd.members
        return etcd

    def node(self, number: int, data: Path, settings: dict[str, Any], **options: Any) -> Node:
        host, name = f"127.0.1.{number + 1}", called(number)
        ports = [self._listen("127.0.0.1", 0, member.client_port, ETCD, name) for member in self._members]
        coordinator = f"etcd://{','.join(f'127.0.0.1:{port}' for port in ports)}/chaos"
        node = Node(data, settings | {"secret": SECRET, "host": host, "coordinator": coordinator}, **options)
        self._listen(host, node.port, node.port, name)
        return node

    def _listen(self, host: str, port: int, to_port: int, target: str, source: str = "") -> int:
        """Before 127.0.0.1:to_port; the port where it listens. source: who uses it, else requests say so."""
        made = asyncio.run_coroutine_threadsafe(self._serve(host, port, to_port, target, source), self._loop)
        return made.result(10)

    def know(self, name: str, called: str) -> None:
        """A node's name in its cluster."""
        self._called[name] = called

    def cut(self, ways: Iterable[Way], *, silent: bool) -> None:
        self._loop.call_soon_threadsafe(self._cut, frozenset(ways), silent)

    def mend(self, ways: Iterable[Way] | None = None) -> None:
        """These, or all."""
        self._loop.call_soon_threadsafe(self._mend, None if ways is None else frozenset(ways))

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    # --- in the thread ---------------------------------------------------------------------------------------------

    async def _serve(self, host: str, port: int, to_port: int, target: str, source: str) -> int:
        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(reader, writer, to_port, _Connection(source, target, [writer]))

        server = await asyncio.start_server(connected, host, port)
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    def _cut(self, ways: frozenset[Way], silent: bool) -> None:
        (self._silent if silent else self._refused).update(ways)
        if not silent:
            for one in list(self._connections):
                if self._is_refused(one):
                    one.drop()

    def _mend(self, ways: frozenset[Way] | None) -> None:
        for cuts in (self._silent, self._refused):
            cuts.difference_update(cuts.copy() if ways is None else ways)

    def _is_refused(self, one: _Connection) -> bool:
        return bool({(one.source, one.target), (one.target, one.source)} & self._refused)

    async def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_port: int, one: _Connection
    ) -> None:
        self._connections.add(one)
        pumps: list[asyncio.Task[None]] = []
        try:
            first = b"" if one.source else await self._head(reader, one)
            if self._is_refused(one):
                return
            from_target, to_target = await asyncio.open_connection("127.0.0.1", to_port)
            one.writers.append(to_target)
            pumps = [
                asyncio.ensure_future(self._pump(reader, to_target, one, forward=True, first=first)),
                asyncio.ensure_future(self._pump(from_target, writer, one, forward=False)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass  # the node is down: its clients see a connection that ends
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            one.drop()
            self._connections.discard(one)

    async def _head(self, reader: asyncio.StreamReader, one: _Connection) -> bytes:
        head = b""
        while b"\r\n\r\n" not in head and (chunk := await reader.read(_CHUNK_BYTES)):
            head += chunk
        found = _SENDER.search(head)
        if found:
            one.source = self._called.get(found[1].decode("latin-1").strip(), "")
        return head

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        one: _Connection,
        *,
        forward: bool,
        first: bytes = b"",
    ) -> None:
        chunk = first or await reader.read(_CHUNK_BYTES)
        with suppress(OSError):
            while chunk:
                # Who connected may get its name while the connection is open.
                while ((one.source, one.target) if forward else (one.target, one.source)) in self._silent:
                    await asyncio.sleep(_LOOK_SECONDS)
                writer.write(chunk)
                await writer.drain()
                chunk = await reader.read(_CHUNK_BYTES)

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for one in list(self._connections):
            one.drop()
        tasks = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
