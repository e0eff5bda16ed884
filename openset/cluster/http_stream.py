"""POST requests whose answers are read as they come, one connection each, closed as soon as nobody reads on.

HTTP/1.0 on purpose: the answer comes as it is, without chunks and without trailers behind them, which etcd sends. Its
end is the end of the connection, so whoever reads has to know what a whole answer is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from openset.cluster.etcd_address import Endpoint

MOST_ANSWER_BYTES = 64 << 20
_MOST_HEADER_LINES = 100


class NotConnectedError(Exception):
    """Nobody is there: the request was not sent."""


class BrokenError(Exception):
    """The request may have been sent; a whole answer did not come, or none that is HTTP."""


class Answer(NamedTuple):
    """status: of HTTP. reader: the body, up to the end of the connection."""

    status: int
    reader: asyncio.StreamReader


@asynccontextmanager
async def posted(
    endpoint: Endpoint,
    path: str,
    body: bytes,
    headers: Mapping[str, str],
    tls: ssl.SSLContext | None,
    connect_ms: int,
    answer_ms: int,
) -> AsyncGenerator[Answer, None]:
    """Sends a request. connect_ms: for the connection, TLS included. answer_ms: up to the end of the headers.

    Raises NotConnectedError, BrokenError.
    """
    try:
        async with asyncio.timeout(connect_ms / 1_000):
            reader, writer = await asyncio.open_connection(
                endpoint.host, endpoint.port, ssl=tls, limit=MOST_ANSWER_BYTES
            )
    except TimeoutError as error:
        raise NotConnectedError("no connection in time") from error
    except (OSError, UnicodeError) as error:  # a host's name may be one that cannot be encoded
        raise NotConnectedError(_reason(error)) from error
    try:
        lines = [f"POST {path} HTTP/1.0", f"Host: {endpoint}", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        writer.write("\r\n".join(lines).encode("ascii") + body)
        async with asyncio.timeout(answer_ms / 1_000):
            status = await _status(reader)
        yield Answer(status, reader)
    except TimeoutError as error:
        raise BrokenError("no answer in time") from error
    except (OSError, EOFError, ValueError) as error:
        raise BrokenError(_reason(error)) from error
    finally:
        writer.transport.abort()  # not closed in order: an etcd that hangs would keep us waiting


async def whole_body(answer: Answer, answer_ms: int) -> bytes:
    """All of it. Raises TimeoutError, OSError, which `posted` makes BrokenErrors of."""
    async with asyncio.timeout(answer_ms / 1_000):
        body = bytearray()
        while part := await answer.reader.read(1 << 16):
            body += part
            if len(body) > MOST_ANSWER_BYTES:
                raise ValueError("the answer is too long")
        return bytes(body)


async def _status(reader: asyncio.StreamReader) -> int:
    words = (await reader.readline()).split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        raise ValueError("what answers does not speak HTTP, or wants TLS")
    for _ in range(_MOST_HEADER_LINES):
        line = await reader.readline()
        if not line:
            raise EOFError("the connection ended within the headers")
        if line in (b"\r\n", b"\n"):
            return int(words[1])
    raise ValueError("the answer has too many headers")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    return str(error) or type(error).__name__
