"""The edge of the handlers: defects as envelopes, gzip bodies."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import zlib
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from openset.errors import InternalError, LimitError, OpenSetError
from openset.http.app import make_app
from openset.http.node import Node
from openset.http.resource import inflate
from openset.query.executor import SerialExecutor


async def answer_when_the_store_fails(directory: Path, failure: BaseException) -> HTTPResponse:
    node = Node(directory, SerialExecutor(directory))

    async def opened() -> Any:
        raise failure

    node.opened = opened  # type: ignore[method-assign]
    socket, port = bind_unused_port()
    server = HTTPServer(make_app(node))
    server.add_sockets([socket])
    try:
        return await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/v1/table/t", raise_error=False)
    finally:
        server.stop()
        assert not node.active


@pytest.mark.parametrize("failure", [KeyError("secret"), InternalError("the disk is full"), asyncio.CancelledError()])
def test_a_failure_inside_is_a_500_in_the_envelope(failure: BaseException, tmp_path: Path) -> None:
    answer = asyncio.run(answer_when_the_store_fails(tmp_path, failure))
    error = json.loads(answer.body)["error"]
    assert (answer.code, error["class"]) == (500, "internal")
    assert "secret" not in error["message"]
    if isinstance(failure, OpenSetError):
        assert error["message"] == failure.message


def test_inflate_takes_members_and_padding() -> None:
    data = os.urandom(100_000)
    assert inflate(gzip.compress(data), len(data)) == data
    many = b"".join(gzip.compress(bytes([number % 256])) for number in range(2_000))
    assert inflate(many + bytes(5_000), 2_000) == bytes(number % 256 for number in range(2_000))


def test_inflate_stops_at_the_limit() -> None:
    with pytest.raises(LimitError):
        inflate(gzip.compress(bytes(10_001)), 10_000)


@pytest.mark.parametrize(
    "body", [b"", b"\0\0", b"PK\3\4", gzip.compress(b"abc", mtime=0)[:-1], gzip.compress(b"abc", mtime=0) + b"x"]
)
def test_inflate_refuses_broken_bodies(body: bytes) -> None:
    with pytest.raises((zlib.error, EOFError)):
        inflate(body, 1_000)
