"""One port for everybody: HTTP in the clear, and TLS for nodes of the cluster, told apart by the first byte.

A TLS connection begins with the byte 22, which no HTTP request does. So members have one address, and clients go on as
before.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream, SSLIOStream
from tornado.netutil import add_accept_handler, ssl_wrap_socket

_TLS_HANDSHAKE = 22
_FIRST_BYTE_SECONDS = 60.0


class Listener:
    """Accepts connections and hands them to a server, as TLS where they begin so."""

    def __init__(self, server: HTTPServer, sockets: list[socket.socket], tls: ssl.SSLContext):
        self._server = server
        self._tls = tls
        self._sockets = sockets
        self._waiting: set[asyncio.Task[None]] = set()
        self._stop: list[Callable[[], None]] = [add_accept_handler(each, self._accepted) for each in sockets]

    def stop(self) -> None:
        """Accepts no more."""
        for stop in self._stop:
            stop()
        for each in self._sockets:
            each.close()
        for task in self._waiting:
            task.cancel()

    def _accepted(self, connection: socket.socket, address: Any) -> None:
        connection.setblocking(False)
        task = asyncio.create_task(self._begin(connection, address))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)

    async def _begin(self, connection: socket.socket, address: Any) -> None:
        taken = False
        try:
            async with asyncio.timeout(_FIRST_BYTE_SECONDS):
                first = await _first_byte(connection)
            if first:
                stream = self._stream(connection, first[0] == _TLS_HANDSHAKE)
                taken = True
                self._server.handle_stream(stream, address)
        except (OSError, TimeoutError):
            pass  # it went away, or says nothing: nobody is there to be told
        finally:
            if not taken:
                connection.close()

    def _stream(self, connection: socket.socket, is_tls: bool) -> IOStream:
        sizes = {"max_buffer_size": self._server.max_buffer_size, "read_chunk_size": self._server.read_chunk_size}
        if not is_tls:
            return IOStream(connection, **sizes)
        wrapped = ssl_wrap_socket(connection, self._tls, server_side=True, do_handshake_on_connect=False)
        return SSLIOStream(wrapped, **sizes)


async def _first_byte(connection: socket.socket) -> bytes:
    """The first byte, which stays where it is; nothing when the other side has closed."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            return connection.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            readable = asyncio.Event()
            loop.add_reader(connection, readable.set)
            try:
                await readable.wait()
            finally:
                loop.remove_reader(connection)
