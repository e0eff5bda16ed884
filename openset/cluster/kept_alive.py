"""HTTP/1.1 over connections that are kept: requests to one address, each with one answer.

What nodes need of each other and Tornado's client does not do: connections that are used again, bodies that are sent as
they come, and knowing whether a request may have been received. Understands what our own server sends, nothing else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass

from openset.cluster.security import Security
from openset.errors import AbsentError, UnreachableError

MOST_ANSWER_BYTES = 1 << 30
_MOST_HEADER_BYTES = 1 << 16
_MOST_IDLE = 8
# The server closes idle connections after an hour; what stands in between may do so earlier.
_IDLE_SECONDS = 60.0
_CONNECT_SECONDS = 2.0
# What the socket does not take at once is moved in memory with every part that it takes.
_WRITE_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Received:
    """An answer. headers: names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Wire:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    used: float = 0.0

    def is_fresh(self) -> bool:
        """Whether the other side has not closed it meanwhile, as far as one can know."""
        closed = self.reader.at_eof() or self.reader.exception() is not None or self.writer.is_closing()
        return not closed and time.monotonic() - self.used < _IDLE_SECONDS

    def abort(self) -> None:
        self.writer.transport.abort()


class Channel:
    """Requests to one address; several at one time have a connection each."""

    def __init__(self, host: str, port: int, security: Security):
        self.host = host
        self.port = port
        self._security = security
        self._idle: list[_Wire] = []
        self._closed = False

    def close(self) -> None:
        """Requests that run go on; their connections are not kept."""
        self._closed = True
        while self._idle:
            self._idle.pop().abort()

    async def ask(self, method: str, path: str, headers: Mapping[str, str], body: bytes, timeout_ms: int) -> Received:
        """timeout_ms: for all of it. Raises UnreachableError, ConfigError for a host that may not be asked."""
        wire = None
        try:
            async with asyncio.timeout(timeout_ms / 1_000):
                wire = await self._wire()
                wire.writer.write(self._head(method, path, headers, len(body)))
                view = memoryview(body)
                for start in range(0, len(body), _WRITE_BYTES):
                    wire.writer.write(view[start : start + _WRITE_BYTES])
                    await wire.writer.drain()
                received = await _answer(wire.reader)
                self._keep(wire, received)
                wire = None
                return received
        except (TimeoutError, OSError, EOFError, ValueError) as error:
            raise self._unreachable(error) from error
        finally:
            if wire is not None:
                wire.abort()

    async def _wire(self) -> _Wire:
        while self._idle:
            wire = self._idle.pop()
            if wire.is_fresh():
                return wire
            wire.abort()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                return _Wire(*await self._connect())
        except TimeoutError as error:
            with_tls = "" if self._security.client_tls is None else " with TLS: was it started with --cluster-cert?"
            raise ValueError(f"no connection in time{with_tls}") from error

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = [str(each[4][0]) for each in found]
        # The address that was checked is the one that is asked, not the name, which might mean another a moment later.
        self._security.check_host(self.host, addresses)
        tls = self._security.client_tls
        failures: list[OSError] = []
        for address in dict.fromkeys(addresses):
            try:
                return await asyncio.open_connection(
                    address,
                    self.port,
                    ssl=tls,
                    server_hostname=self.host if tls is not None else None,
                    limit=_MOST_HEADER_BYTES,
                )
            except OSError as error:
                failures.append(error)
        others = [error for error in failures if not isinstance(error, ConnectionRefusedError)]
        raise (others or failures or [OSError("no address")])[-1]

    def _head(self, method: str, path: str, headers: Mapping[str, str], size_bytes: int) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [
            f"{method} {path} HTTP/1.1",
            f"Host: {host}:{self.port}",
            "Content-Type: application/octet-stream",
            f"Content-Length: {size_bytes}",
            *(f"{name}: {value}" for name, value in headers.items()),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    def _keep(self, wire: _Wire, received: Received) -> None:
        if self._closed or len(self._idle) >= _MOST_IDLE or received.headers.get("connection") == "close":
            wire.abort()
            return
        wire.used = time.monotonic()
        self._idle.append(wire)

    def _unreachable(self, error: Exception) -> UnreachableError:
        host = f"[{self.host}]" if ":" in self.host else self.host
        kind = AbsentError if isinstance(error, ConnectionRefusedError) else UnreachableError
        return kind(f"{host}:{self.port} cannot be reached: {_reason(error)}")


async def _answer(reader: asyncio.StreamReader) -> Received:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise ValueError("what answers does not speak HTTP") from error
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdecimal():
        raise ValueError("what answers does not speak HTTP")
    headers = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    size = headers.get("content-length", "")
    if not size.isdecimal() or int(size) > MOST_ANSWER_BYTES:
        raise ValueError("the answer has no length, or one that is too large")
    return Received(int(words[1]), headers, await reader.readexactly(int(size)))


def _reason(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "no answer in time"
        case ssl.SSLCertVerificationError():
            return f"its certificate is refused: {error.verify_message}"
        case ssl.SSLError() if "ALERT" in (error.reason or ""):
            return f"it refuses this node's certificate ({error.reason})"
        case ssl.SSLError():
            return f"it does not speak TLS; was it started with --cluster-cert? ({error.reason})"
        case asyncio.IncompleteReadError():
            return "the connection ended before the answer"
        case socket.gaierror():
            return "no such host is known"
        case OSError():
            return os.strerror(error.errno) if error.errno else str(error) or type(error).__name__
    return str(error) or type(error).__name__
