"""Requests to other nodes against servers that keep, drop, delay and garble; who is believed and what errors become."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.certificates import Authority

from openset.cluster.peers import PROTOCOL, Address, Peers
from openset.cluster.security import Caller, SecretSecurity, is_loopback, security_of
from openset.errors import (
    ConfigError,
    ConflictError,
    ForbiddenError,
    InsertError,
    InternodeError,
    OpenSetError,
    ReadOnlyError,
    UnreachableError,
)

SECRET = "a secret for these tests"
Answering = Callable[["Request"], Awaitable[bytes]]


@dataclass
class Request:
    path: str
    headers: dict[str, str]
    body: bytes
    port: int


@dataclass
class Server:
    """Answers requests as it is told; counts connections."""

    port: int = 0
    connections: int = 0
    requests: list[Request] = field(default_factory=list)


def answered(request: Request, body: bytes = b"", status: int = 200, node: str = "n2", **headers: str) -> bytes:
    """An answer of a node of the cluster."""
    caller = Caller(request.path, "127.0.0.1", request.port, False, request.headers)
    sent = {
        "Content-Length": str(len(body)),
        "OpenSet-Protocol": PROTOCOL,
        "OpenSet-Node": node,
        **SecretSecurity(SECRET).check_request(caller),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
    return f"HTTP/1.1 {status} Some reason\r\n{lines}\r\n".encode() + body


def failed(request: Request, error: dict[str, Any], status: int, name: str) -> bytes:
    return answered(request, json.dumps({"error": error}).encode(), status, OpenSet_Error=name)


@asynccontextmanager
async def serving(answer: Answering) -> AsyncIterator[tuple[Server, Peers]]:
    """A node n2 that answers so, and the peers of n1."""
    server = Server()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                lower = {name.lower(): value for name, value in headers.items()}
                body = await reader.readexactly(int(lower["content-length"]))
                request = Request(head[0].split()[1], lower, body, server.port)
                server.requests.append(request)
                sent = await answer(request)
                writer.write(sent)
                if b"connection: close" in sent.lower() or not sent:
                    break
        except (EOFError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    peers = Peers(
        SecretSecurity(SECRET),
        "n1",
        "c",
        lambda node: Address("127.0.0.1", server.port) if node == "n2" else None,
        lambda: 7,
    )
    try:
        yield server, peers
    finally:
        peers.close()
        listening.close()


async def test_connections_are_kept_and_requests_say_what_they_are() -> None:
    async def echo(request: Request) -> bytes:
        return answered(request, request.body)

    async with serving(echo) as (server, peers):
        for number in range(3):
            body = bytes([number]) * 100_000 * number
            assert await peers.call("n2", "echo?x=1", body, timeout_ms=2_000) == body
        assert server.connections == 1
        headers = server.requests[0].headers
        assert server.requests[0].path == "/v1/internode/echo?x=1"
        assert (headers["openset-from"], headers["openset-to"], headers["openset-cluster"]) == ("n1", "n2", "c")
        assert (headers["openset-revision"], headers["openset-protocol"]) == ("7", PROTOCOL)
        assert SECRET not in str(server.requests)
        answers = await asyncio.gather(*(peers.call("n2", "echo", b"x", timeout_ms=2_000) for _ in range(5)))
        assert answers == [b"x"] * 5
        assert server.connections <= 5
    with pytest.raises(UnreachableError, match="no member"):
        await peers.call("n3", "echo", timeout_ms=100)


async def test_a_connection_that_was_closed_meanwhile_is_not_used() -> None:
    async def once(request: Request) -> bytes:
        return answered(request, b"ok")

    async with serving(once) as (server, peers):
        assert await peers.call("n2", "x", timeout_ms=2_000) == b"ok"

        async def closing(request: Request) -> bytes:
            return answered(request, b"ok", Connection="close")

        async with serving(closing) as (other, others):
            for _ in range(3):
                assert await others.call("n2", "x", timeout_ms=2_000) == b"ok"
            assert other.connections == 3
        with pytest.raises(UnreachableError):
            await others.call("n2", "x", timeout_ms=2_000)
        assert server.connections == 1


@pytest.mark.parametrize(
    "error, status, name, kind",
    [
        ({"class": "limit", "message": "the disk is full"}, 503, "ReadOnlyError", ReadOnlyError),
        ({"class": "internode", "message": "was faster"}, 409, "ConflictError", ConflictError),
        ({"class": "insert", "message": "bad", "detail": [{"index": 1}]}, 400, "InsertError", InsertError),
        ({"class": "limit", "message": "it stops"}, 503, "UnavailableError", UnreachableError),
        ({"class": "internode", "message": "this is n5"}, 421, "MisdirectedError", UnreachableError),
        ({"class": "new", "message": "of a newer version"}, 400, "LaterError", InternodeError),
        ({"class": "new", "message": "no error at all"}, 400, "Any", InternodeError),
        ({"class": "new", "message": 7}, 400, "ConfigError", UnreachableError),
    ],
)
async def test_errors_come_back_as_what_they_were(
    error: dict[str, Any], status: int, name: str, kind: type[OpenSetError]
) -> None:
    async def failing(request: Request) -> bytes:
        return failed(request, error, status, name)

    async with serving(failing) as (_, peers):
        with pytest.raises(OpenSetError) as raised:
            await peers.call("n2", "x", timeout_ms=2_000)
    assert type(raised.value) is kind
    assert raised.value.detail == error.get("detail")
    assert str(error["message"]) in raised.value.message or error["message"] == 7
    assert kind is UnreachableError or raised.value.status == status


@pytest.mark.parametrize(
    "garbled, says",
    [
        (lambda request: b"", "connection ended"),
        (lambda request: b"220 mail ready\r\n\r\n", "HTTP"),
        (lambda request: b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 20_000 + b"\r\n", "HTTP"),
        (lambda request: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "no length"),
        (lambda request: answered(request, b"", Content_Length="99999999999999"), "too large"),
        (lambda request: answered(request, b"", Content_Length="-1"), "no length"),
        (lambda request: answered(request, b"short", Content_Length="10", Connection="close"), "connection ended"),
        (lambda request: answered(request, b"<html>", 500), "no reason"),
        (lambda request: answered(request, node="n9"), "is n9, not n2"),
        (lambda request: answered(request, OpenSet_Protocol="2"), "another version"),
        (lambda request: answered(request, OpenSet_Proof="0" * 64), "does not know the secret"),
    ],
)
async def test_what_is_no_answer_is_nobody_reached(garbled: Callable[[Request], bytes], says: str) -> None:
    async def answer(request: Request) -> bytes:
        return garbled(request)

    async with serving(answer) as (_, peers):
        with pytest.raises(UnreachableError, match=says):
            await peers.call("n2", "x", timeout_ms=2_000)


async def test_time_is_up() -> None:
    async def slowly(request: Request) -> bytes:
        if request.body == b"slow":
            await asyncio.sleep(0.5)
        return answered(request, request.body)

    async with serving(slowly) as (_, peers):
        begun = time.monotonic()
        with pytest.raises(UnreachableError, match="no answer in time"):
            await peers.call("n2", "x", b"slow", timeout_ms=100)
        assert time.monotonic() - begun < 0.4
        # The late answer is not taken for that of the next request.
        assert await peers.call("n2", "x", b"quick", timeout_ms=2_000) == b"quick"


async def test_signed_requests_are_for_one_path_and_port_and_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    security = SecretSecurity(SECRET)
    headers = {name.lower(): value for name, value in security.request_headers("/v1/internode/a?x=1", 80).items()}
    security.check_request(Caller("/v1/internode/a?x=1", "127.0.0.1", 80, False, headers))
    for caller in (
        Caller("/v1/internode/a?x=2", "127.0.0.1", 80, False, headers),
        Caller("/v1/internode/a?x=1", "127.0.0.1", 81, False, headers),
        Caller("/v1/internode/a?x=1", "10.0.0.1", 80, False, headers),
        Caller("/v1/internode/a?x=1", "127.0.0.1", 80, False, {}),
    ):
        with pytest.raises(ForbiddenError):
            security.check_request(caller)
    with pytest.raises(ForbiddenError):
        SecretSecurity(SECRET + ".").check_request(Caller("/v1/internode/a?x=1", "127.0.0.1", 80, False, headers))
    now_ns = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now_ns + 400 * 10**9)
    with pytest.raises(ForbiddenError, match="too long ago"):
        security.check_request(Caller("/v1/internode/a?x=1", "127.0.0.1", 80, False, headers))


@pytest.mark.parametrize(
    "address, expected",
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("10.0.0.1", False),
        ("0.0.0.0", False),
        ("fe80::1%lo", False),
        ("localhost", False),
        ("", False),
    ],
)
def test_loopback(address: str, expected: bool) -> None:
    assert is_loopback(address) is expected


def test_nothing_configured_is_nobody_to_talk_to() -> None:
    assert security_of(None, None, None, None) is None
    with pytest.raises(ConfigError, match="belong together"):
        security_of(Path("ca"), Path("cert"), None, None)


def test_a_certificate_that_others_would_refuse_is_refused_at_the_start(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path, "own"), Authority(tmp_path, "other")
    cert, key = authority.issue("node", "127.0.0.1")
    assert security_of(authority.ca, cert, key, None) is not None
    with pytest.raises(ConfigError, match="other nodes would refuse"):
        security_of(other.ca, cert, key, None)
    cert, key = authority.issue("server", "127.0.0.1", is_for_clients=False)
    with pytest.raises(ConfigError, match="certificate purpose"):
        security_of(authority.ca, cert, key, None)
