"""One HTTP connection to a daemon: JSON in and out, errors as members of the error tree.

Responsible for requests and for telling "no daemon there" from "the daemon refused". Shortcut: the standard library's
blocking client, one request at a time; a broken connection is not tried again, because an event without a stamp
would then be inserted twice.
"""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from openset.errors import OpenSetError, QueryError

DEFAULT_URL = "http://127.0.0.1:8080"
_COMPRESS_FROM_BYTES = 16_384


class Unreachable(OpenSetError):
    """No daemon answers at the address, or the connection broke."""

    error_class = "connection"


class Refused(OpenSetError):
    """The daemon answered with an error envelope, whose class and HTTP status this carries."""

    def __init__(
        self,
        message: str,
        *,
        detail: Any = None,
        line: int | None = None,
        column: int | None = None,
        error_class: str = "internal",
        status: int = 400,
    ):
        super().__init__(message, detail=detail, line=line, column=column)
        self.error_class = error_class
        self.status = status


class Connection:
    """A connection to the daemon at `url` (http or https). Usable as a context manager."""

    def __init__(self, url: str = DEFAULT_URL, *, timeout_seconds: float = 600.0):
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = 0
        if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
            raise Unreachable(f"{url!r} is not the address of a daemon; one looks like {DEFAULT_URL}")
        self.url = f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"
        self._prefix = parts.path.rstrip("/")
        import http.client  # here, because commands that work on files have no connection and should not wait for it

        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._http = kind(parts.hostname, port, timeout=timeout_seconds)

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, parameters: Mapping[str, str] | None = None) -> Any:
        return self.request("GET", path, parameters=parameters)

    def request(
        self,
        method: str,
        path: str,
        *,
        parameters: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        compress: bool = False,
    ) -> Any:
        """Sends one request and returns the decoded JSON of its answer.

        `path` starts with "/" and is sent as it is: quote table names and the like with `segment`. `compress` sends
        bodies of 16 KB and more gzipped. Raises Unreachable and Refused.
        """
        headers = {"Accept": "application/json", "Accept-Encoding": "identity"}
        if body is not None:
            headers["Content-Type"] = content_type
            if compress and len(body) >= _COMPRESS_FROM_BYTES:
                body = gzip.compress(body, compresslevel=1)
                headers["Content-Encoding"] = "gzip"
        status, content, _ = self._exchange(method, path, parameters, body, headers)
        return _decoded(self.url, status, content)

    def request_bytes(
        self, method: str, path: str, accept: str, *, parameters: Mapping[str, str] | None = None, body: bytes = b""
    ) -> tuple[bytes, Any]:
        """Sends one request and returns the answer as it is, in another format than JSON, and the facts about it.

        Facts are decoded from the header OpenSet-Info, None where there is none. Raises as `request`.
        """
        headers = {"Accept": accept, "Accept-Encoding": "identity", "Content-Type": "text/plain"}
        status, content, info = self._exchange(method, path, parameters, body, headers)
        if status >= 400:
            _decoded(self.url, status, content)
        return content, None if info is None else msgspec.json.decode(info)

    def _exchange(
        self,
        method: str,
        path: str,
        parameters: Mapping[str, str] | None,
        body: bytes | None,
        headers: Mapping[str, str],
    ) -> tuple[int, bytes, str | None]:
        """Status, body and facts of an answer. Raises Unreachable."""
        import http.client  # as above

        query = f"?{urlencode(parameters)}" if parameters else ""
        try:
            self._http.request(method, f"{self._prefix}{path}{query}", body=body, headers=dict(headers))
            response = self._http.getresponse()
            content = response.read()
        except ConnectionRefusedError:
            self.close()
            raise Unreachable(f"no OpenSet daemon answers at {self.url}; start one with: openset serve") from None
        except TimeoutError:
            self.close()
            raise Unreachable(f"the daemon at {self.url} did not answer in time") from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            reason = str(error) or type(error).__name__
            raise Unreachable(f"the connection to the daemon at {self.url} failed: {reason}") from None
        return response.status, content, response.getheader("OpenSet-Info")

    def wait_until_ready(self, timeout_seconds: float = 30.0) -> None:
        """Returns as soon as the daemon answers /ping; raises Unreachable when it has not within the time."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                self.get("/ping")
                return
            except Unreachable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)


def segment(text: str) -> str:
    """One part of a path, quoted, a slash in it included. Raises QueryError for an empty one, which is none."""
    if not text:
        raise QueryError("a name is empty")
    return quote(text, safe="")


def _decoded(url: str, status: int, content: bytes) -> Any:
    try:
        answer = msgspec.json.decode(content) if content else None
    except msgspec.DecodeError:
        raise Unreachable(f"what answers at {url} is not OpenSet: status {status}, and no JSON") from None
    if status < 400:
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        raise Unreachable(f"what answers at {url} is not OpenSet: status {status}, and no error envelope")
    raise Refused(
        str(error.get("message", "the daemon gave no reason")),
        detail=error.get("detail"),
        line=error.get("line"),
        column=error.get("column"),
        error_class=str(error.get("class", "internal")),
        status=status,
    )
