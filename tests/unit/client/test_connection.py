"""The HTTP connection: requests as they arrive, answers, and every way it can go wrong."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from openset.client.connection import Connection, Refused, Unreachable, segment
from openset.client.daemon import free_port


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path == "/hang-up":
            self.close_connection = True
            return
        status, content = 200, json.dumps({"method": self.command, "path": self.path, "body": body.decode()}).encode()
        if self.path == "/refuse":
            error = {"class": "parse", "message": "no", "detail": "x\n^", "line": 3, "column": 1}
            status, content = 400, json.dumps({"error": error}).encode()
        elif self.path == "/page":
            status, content = 200, b"<html>hello</html>"
        elif self.path == "/other":
            status, content = 404, b'{"message": "not ours"}'
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _answer

    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_requests_arrive_as_they_are_meant(url: str) -> None:
    with Connection(url) as connection:
        answer = connection.request("POST", "/v1/x", parameters={"str_a": "b&c ü"}, body=b"hi")
        assert answer == {"method": "POST", "path": "/v1/x?str_a=b%26c+%C3%BC", "body": "hi"}
        assert connection.get("/" + segment("a/b c"))["path"] == "/a%2Fb%20c"
        assert connection.request("PUT", "/big", body=b"z" * 50_000, compress=True)["body"] == "z" * 50_000


def test_an_address_may_have_no_scheme_and_may_have_a_path(url: str) -> None:
    with Connection(url.removeprefix("http://") + "/proxy/") as connection:
        assert connection.get("/ping")["path"] == "/proxy/ping"


def test_an_error_envelope_becomes_an_error(url: str) -> None:
    with Connection(url) as connection, pytest.raises(Refused) as caught:
        connection.get("/refuse")
    error = caught.value
    assert (error.error_class, error.status, error.message, error.line) == ("parse", 400, "no", 3)


@pytest.mark.parametrize("path", ["/page", "/other", "/hang-up"])
def test_what_is_not_openset_is_unreachable(url: str, path: str) -> None:
    with Connection(url) as connection, pytest.raises(Unreachable):
        connection.get(path)


def test_no_daemon_says_how_to_start_one() -> None:
    with Connection(f"http://127.0.0.1:{free_port()}") as connection, pytest.raises(Unreachable, match="openset serve"):
        connection.get("/ping")


@pytest.mark.parametrize("bad", ["ftp://host", "http://", "http://host:port", "http://host:99999999"])
def test_what_is_no_address_is_refused(bad: str) -> None:
    with pytest.raises(Unreachable, match="is not the address of a daemon"):
        Connection(bad)
