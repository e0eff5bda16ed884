"""Every failure is the one JSON envelope, whatever went wrong."""

from __future__ import annotations

import gzip
import http.client
import json
from collections.abc import Iterator

import pytest
from support.daemon import Daemon

LIMIT = 1 << 16


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon that takes bodies up to 64 KiB."""
    with Daemon(tmp_path_factory.mktemp("small") / "data", init=1, workers=1, max_body_bytes=LIMIT) as started:
        started.create("cart", {"product": "text"})
        yield started


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
@pytest.mark.parametrize("path", ["/", "/nope", "/v1/query/cart", "/v1/query/cart/evens", "/v1/insert", "/v2/ping"])
def test_unknown_route(daemon: Daemon, method: str, path: str) -> None:
    answer = daemon.request(method, path)
    assert answer.status == 404
    assert answer.error["class"] == "query"
    assert path in answer.error["message"]


def test_head_of_an_unknown_route_has_no_body(daemon: Daemon) -> None:
    assert daemon.request("HEAD", "/nope").status == 404


@pytest.mark.parametrize(
    "method, path, allowed",
    [
        ("POST", "/ping", "GET"),
        ("GET", "/v1/cluster/init", "PUT"),
        ("PATCH", "/v1/table/cart", "GET, POST, PUT, DELETE"),
        ("GET", "/v1/insert/cart", "POST"),
        ("GET", "/v1/query/cart/events", "POST"),
        ("POST", "/v1/query/cart/person", "GET"),
        ("BREW", "/ping", "GET"),
    ],
)
def test_wrong_method(daemon: Daemon, method: str, path: str, allowed: str) -> None:
    answer = daemon.request(method, path)
    assert answer.status == 405
    assert answer.headers["allow"] == allowed
    assert method in answer.error["message"]


@pytest.mark.parametrize("path", ["/v1/insert/cart", "/v1/query/cart/events", "/v1/table/big", "/nope"])
def test_body_too_large(small: Daemon, path: str) -> None:
    for size in (LIMIT + 1, 3 * LIMIT):
        answer = small.request("POST", path, b"x" * size)
        assert (answer.status, answer.error["class"]) == ((413, "limit") if path != "/nope" else (404, "query"))


def test_body_of_exactly_the_limit_is_read(small: Daemon) -> None:
    event = '[{"person":"a","action":"b"}]'
    assert small.request("POST", "/v1/insert/cart", event.ljust(LIMIT)).status == 200


def test_announced_body_far_too_large_is_refused_before_it_is_sent(small: Daemon) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", small.port, timeout=10)
    connection.putrequest("POST", "/v1/insert/cart")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]["class"]) == (413, "limit")
    connection.close()


def test_chunked_body_too_large(small: Daemon) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", small.port, timeout=10)
    connection.request("POST", "/v1/insert/cart", iter([b"x" * LIMIT, b"y"]), {}, encode_chunked=True)
    answer = connection.getresponse()
    assert (answer.status, json.loads(answer.read())["error"]["class"]) == (413, "limit")
    connection.close()


def test_gzip_bomb_is_refused(daemon: Daemon) -> None:
    bomb = gzip.compress(bytes(300 << 20), 9)
    answer = daemon.request("POST", "/v1/insert/cart", bomb, headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.error["class"]) == (413, "limit")


@pytest.mark.parametrize("body", [b"", b"not gzip", gzip.compress(b"[]", mtime=0)[:-4], b"\x1f\x8b"])
def test_broken_gzip(daemon: Daemon, body: bytes) -> None:
    answer = daemon.request("POST", "/v1/insert/cart", body, headers={"Content-Encoding": "gzip"})
    assert (answer.status, answer.error["class"]) == (400, "insert")
    assert "gzip" in answer.error["message"]


def test_unknown_content_encoding(daemon: Daemon) -> None:
    answer = daemon.request("POST", "/v1/insert/cart", b"[]", headers={"Content-Encoding": "br"})
    assert (answer.status, answer.error["class"]) == (400, "insert")


def test_undecodable_address(daemon: Daemon) -> None:
    answer = daemon.raw("GET", "/v1/table/%ff%fe")
    assert answer.status == 400
    assert answer.error["class"] == "query"
    answer = daemon.raw("GET", "/v1/query/cart/person?sid=%ff")
    assert (answer.status, answer.error["class"]) == (400, "query")
    assert "UTF-8" in answer.error["message"]


@pytest.mark.parametrize(
    "method, path, kind",
    [
        ("GET", "/ping", "query"),
        ("PUT", "/v1/cluster/init", "config"),
        ("GET", "/v1/table/cart", "config"),
        ("POST", "/v1/insert/cart", "insert"),
        ("GET", "/v1/query/cart/person", "query"),
        ("POST", "/v1/query/cart/events", "query"),
    ],
)
def test_unknown_and_doubled_parameters(daemon: Daemon, method: str, path: str, kind: str) -> None:
    body = "[]" if "insert" in path else "tally(1)"
    given = "id=1&" if "person" in path else "partitions=2&" if "init" in path else ""
    answer = daemon.raw(method, f"{path}?{given}nonsense=1", body)
    assert (answer.status, answer.error["class"]) == (400, kind)
    assert "nonsense" in answer.error["message"]
    answer = daemon.raw(method, f"{path}?a=1&a=1", body)
    assert (answer.status, answer.error["class"]) == (400, kind)
    assert "more than once" in answer.error["message"]


@pytest.mark.parametrize("path", ["/ping/", "/v1/table/cart/", "/v1/query/cart/person/?id=12345"])
def test_trailing_slashes_are_tolerated(daemon: Daemon, path: str) -> None:
    assert daemon.raw("GET", path).status == (400 if "person" in path else 200)


def test_an_address_can_be_encoded(daemon: Daemon) -> None:
    assert daemon.raw("GET", "/v1/table/%63art").json["table"] == "cart"
