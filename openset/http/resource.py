"""What every resource of the REST interface shares: reading bodies, answering, the error envelope, cancelling.

A resource parses the request, hands it to the query or store layer, and answers; it decides nothing itself.
"""

from __future__ import annotations

import asyncio
import gzip
import traceback
import zlib
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import msgspec
from tornado.web import HTTPError, RequestHandler, stream_request_body

import openset
from openset.errors import LimitError, OpenSetError, QueryError
from openset.http.envelope import MethodError, UnavailableError, as_error, encode_error
from openset.http.node import Node
from openset.log import get_logger
from openset.query.formats import Document
from openset.query.parameters import RequestParameters

log = get_logger("openset.http")

METHODS = ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH", "OPTIONS")
# A body that announces more than this many times the limit is not read to its end before the answer.
_REFUSED_AT_ONCE = 8
_INFLATE_WINDOW_BYTES = 1 << 12
# Smaller bodies are inflated on the event loop, larger ones in a thread.
_INFLATE_INLINE_BYTES = 1 << 15

# Smaller answers are not worth compressing; larger ones are compressed in a thread.
_COMPRESS_FROM_BYTES = 1_024
_COMPRESS_INLINE_BYTES = 1 << 15
# The fastest level: most of the gain, and answers are made once and read once.
_COMPRESS_LEVEL = 1


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """A JSON body that is sent as it is made. first: made already, so that errors come before the headers."""

    first: bytes
    rest: AsyncGenerator[bytes, None]


class Compressor(Protocol):
    """What zlib.compressobj makes."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self, mode: int = ..., /) -> bytes: ...


Answer = bytes | dict[str, Any] | Document | Pieces


async def whole_or_pieces(pieces: AsyncGenerator[bytes, None]) -> bytes | Pieces:
    """A body of one piece as a whole, a longer one as Pieces."""
    first = await anext(pieces)
    second = await anext(pieces, None)
    return first if second is None else Pieces(first + second, pieces)


@stream_request_body
class Resource(RequestHandler):
    """Base of all handlers. `error_kind` is the error class of bad requests to this resource.

    uses_store: a node that becomes a member of a cluster waits for those that do.
    while_stopping: served also by a daemon that stops and waits for what runs.
    """

    error_kind: type[OpenSetError] = QueryError
    uses_store = True
    while_stopping = False

    def initialize(self, node: Node) -> None:
        self.node = node
        self._chunks: list[bytes] = []
        self._received_bytes = 0
        self._work: asyncio.Task[Answer] | None = None
        self._cancellable = False
        self._gone = False

    @property
    def work(self) -> asyncio.Task[Answer] | None:
        """What makes the answer, once it has begun."""
        return self._work

    # ------------------------------------------------------------ the request

    def prepare(self) -> None:
        self.node.active.add(self)
        connection: Any = self.request.connection
        connection.set_max_body_size(1 << 62)  # sizes are judged here, where the answer can be an envelope
        if self.node.stopping and not self.while_stopping:
            self.set_header("Connection", "close")
            raise UnavailableError("the daemon is shutting down")
        announced = self.request.headers.get("Content-Length", "0")
        size = int(announced) if announced.isascii() and announced.isdigit() else 0
        limit = self.node.max_body_bytes
        if size > limit and (size > _REFUSED_AT_ONCE * limit or "Expect" in self.request.headers):
            raise self._too_large()

    def data_received(self, chunk: bytes) -> None:
        """Collects the body; what exceeds the limit is read and dropped, so that the client can read the answer."""
        self._received_bytes += len(chunk)
        if self._received_bytes <= self.node.max_body_bytes:
            self._chunks.append(chunk)
            return
        self._chunks.clear()
        if self._received_bytes > _REFUSED_AT_ONCE * self.node.max_body_bytes:
            connection: Any = self.request.connection
            connection.close()

    def parameters(self) -> RequestParameters:
        """The request's parameters, not yet checked for unknown ones."""
        return RequestParameters.parse(self.request.query, self.error_kind)

    def parts(self) -> list[bytes]:
        """The body as it was sent, in the parts in which it came. Raises LimitError when it is too large."""
        if self._received_bytes > self.node.max_body_bytes:
            raise self._too_large()
        parts, self._chunks = self._chunks, []
        return parts

    async def body(self) -> bytes:
        """The body, inflated where it is gzip. Raises LimitError when it is too large, `error_kind` when broken."""
        body = b"".join(self.parts())
        encoding = self.request.headers.get("Content-Encoding", "identity").strip().lower()
        if encoding in ("", "identity"):
            return body
        if encoding not in ("gzip", "x-gzip"):
            raise self.error_kind(f"the content encoding {encoding!r} is not supported; gzip is")
        limit = self.node.max_inflated_bytes
        try:
            if len(body) <= _INFLATE_INLINE_BYTES:
                return inflate(body, limit)
            return await asyncio.to_thread(inflate, body, limit)
        except (zlib.error, EOFError) as error:
            raise self.error_kind("the body is not valid gzip") from error

    async def script(self) -> str:
        """The body as the text of a script. Raises LimitError or `error_kind`."""
        body = await self.body()
        if len(body) > self.node.max_script_bytes:
            raise LimitError(f"the script is larger than {self.node.max_script_bytes} bytes")
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.error_kind(f"the script is not UTF-8: byte {error.start} cannot be decoded") from error

    def _too_large(self) -> LimitError:
        return LimitError(f"the body is larger than {self.node.max_body_bytes} bytes")

    # ------------------------------------------------------------ the answer

    async def respond(self, work: Coroutine[Any, Any, Answer], *, cancellable: bool = False) -> None:
        """Runs the work and sends what it returns. Work that is cancellable ends when the client goes away."""
        self._cancellable = cancellable
        self._work = asyncio.ensure_future(work)
        try:
            answer = await self._work
        except asyncio.CancelledError:
            if self._gone:
                return
            raise
        if isinstance(answer, Pieces):
            await self._send_pieces(answer)
            return
        if not isinstance(answer, Document):
            body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
            answer = Document(body, "application/json; charset=utf-8", {})
        body = await self._compressed(answer.body)
        if not self._gone:
            self.set_header("Content-Type", answer.content_type)
            for name, value in answer.headers.items():
                self.set_header(name, value)
            self.finish(body)

    async def _send_pieces(self, pieces: Pieces) -> None:
        """Sends a body piece by piece; one that breaks off is not ended, so that the client notices."""
        self.set_header("Content-Type", "application/json; charset=utf-8")
        compressor = self._compressor()
        self.write(await _packed(compressor, pieces.first))
        try:
            async with aclosing(pieces.rest) as rest:
                async for piece in rest:
                    if self._gone:
                        return
                    await self.flush()
                    self.write(await _packed(compressor, piece))
        except OpenSetError:
            if self._headers_written:
                assert self.request.connection is not None
                self.request.connection.stream.close()  # type: ignore[attr-defined]
                return
            raise
        if not self._gone:
            self.finish(b"" if compressor is None else compressor.flush())

    def _compressor(self) -> Compressor | None:
        """What gzips a body that is sent in pieces; None where the client does not take that."""
        self.add_header("Vary", "Accept, Accept-Encoding")
        if not takes_gzip(self.request.headers.get("Accept-Encoding", "")):
            return None
        self.set_header("Content-Encoding", "gzip")
        return zlib.compressobj(_COMPRESS_LEVEL, wbits=31)

    async def _compressed(self, body: bytes) -> bytes:
        """The body, gzipped where the client takes that and it is worth it."""
        self.add_header("Vary", "Accept, Accept-Encoding")
        if len(body) < _COMPRESS_FROM_BYTES or not takes_gzip(self.request.headers.get("Accept-Encoding", "")):
            return body
        self.set_header("Content-Encoding", "gzip")
        if len(body) <= _COMPRESS_INLINE_BYTES:
            return gzip.compress(body, _COMPRESS_LEVEL, mtime=0)
        return await asyncio.to_thread(gzip.compress, body, _COMPRESS_LEVEL, mtime=0)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        self._gone = True
        if self._work is None:
            self.node.active.discard(self)
        elif self._cancellable:
            self._work.cancel()

    def on_finish(self) -> None:
        self.node.active.discard(self)

    # ------------------------------------------------------------ failures

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        raised = kwargs.get("exc_info", (None, None, None))[1]
        if isinstance(raised, HTTPError) and raised.status_code == 405:
            raised = self._wrong_method()
        error = as_error(raised, status_code)
        self.set_status(error.status)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        if self.node.stopping:
            self.set_header("Connection", "close")
        self.finish(encode_error(error))

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if not self._gone:
            super().send_error(status_code, **kwargs)
        else:
            self.node.active.discard(self)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if isinstance(value, OpenSetError) and (value.status < 500 or value.status == 503):
            return  # the client's matter, or that of a disk, a node, a time: nothing here is broken
        if isinstance(value, HTTPError):
            return
        text = "".join(traceback.format_exception(typ, value, tb))
        log.error("request failed", method=self.request.method, path=self.request.path, traceback=text)

    def _wrong_method(self) -> MethodError:
        offered = [name for name in METHODS if getattr(type(self), name.lower()) is not _unsupported(name)]
        self.set_header("Allow", ", ".join(offered))
        return MethodError(f"{self.request.method} is not possible here; {' or '.join(offered) or 'nothing'} is")

    # ------------------------------------------------------------ headers

    def set_default_headers(self) -> None:
        self.set_header("Server", f"OpenSet/{openset.__version__}")

    def compute_etag(self) -> None:
        """No entity tags: hashing every answer would cost more than it saves."""
        return


def _unsupported(method: str) -> Any:
    return getattr(RequestHandler, method.lower())


async def _packed(compressor: Compressor | None, piece: bytes) -> bytes:
    """A piece as it is sent: all of it, so that the client need not wait for the next one."""
    if compressor is None:
        return piece
    return await asyncio.to_thread(lambda: compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH))


def takes_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header names gzip (or everything) with a weight above zero."""
    weights: dict[str, float] = {}
    for entry in accept_encoding.lower().split(","):
        coding, _, option = (part.strip() for part in entry.partition(";"))
        try:
            weights[coding] = float(option.removeprefix("q=")) if option else 1.0
        except ValueError:
            weights[coding] = 0.0
    return weights.get("gzip", weights.get("x-gzip", weights.get("*", 0.0))) > 0


def inflate(body: bytes, limit: int) -> bytes:
    """Gzip members one after the other. Raises zlib.error or EOFError for a broken body, LimitError beyond `limit`.

    The body is fed in small windows, so that neither a bomb nor a flood of tiny members costs more than its size.
    """
    parts: list[bytes] = []
    total = 0
    member = zlib.decompressobj(wbits=31)
    for start in range(0, len(body), _INFLATE_WINDOW_BYTES):
        window = body[start : start + _INFLATE_WINDOW_BYTES]
        while window:
            if member.eof:
                window = window.lstrip(b"\0")  # padding between and after members
                if not window:
                    break
                member = zlib.decompressobj(wbits=31)
            part = member.decompress(window)
            window = member.unused_data
            total += len(part)
            if total > limit:
                raise LimitError(f"the inflated body is larger than {limit} bytes")
            parts.append(part)
    if not member.eof:
        raise EOFError
    return b"".join(parts)
