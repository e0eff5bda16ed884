"""The daemon: binds the socket, opens the store behind it, serves until it is told to stop, and leaves in order."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from openset.cluster.options import ClusterOptions
from openset.cluster.peers import Address
from openset.errors import ConfigError, OpenSetError, UnreachableError
from openset.http import logs
from openset.http.app import make_app
from openset.http.listener import Listener
from openset.http.node import MAX_BODY_BYTES, Node
from openset.log import get_logger
from openset.query.executor import Executor
from openset.query.process_executor import ProcessExecutor
from openset.query.worker_process import start_copies
from openset.revent.disabling import ERRORS_UNTIL_DISABLED
from openset.store.compaction import Policy
from openset.store.scrub import Scrubbing
from openset_format.files import FILES, FileLayer

log = get_logger("openset.server")

DRAIN_TIMEOUT_SECONDS = 60.0
_DRAIN_STEP_SECONDS = 0.02
_IDLE_CONNECTION_SECONDS = 3600
# What is read from a connection at one time: a body of megabytes costs by the read, not by the byte.
_READ_BYTES = 256 * 1024


def serve(
    data: Path | str,
    host: str = "127.0.0.1",
    port: int = 8080,
    init: int | None = None,
    *,
    workers: int | None = None,
    max_body_bytes: int = MAX_BODY_BYTES,
    policy: Policy | None = None,
    trigger_errors: int = ERRORS_UNTIL_DISABLED,
    webhook_allow: str = "",
    scrubbing: Scrubbing | None = None,
    files: FileLayer = FILES,
    cluster: ClusterOptions | None = None,
) -> int:
    """Runs the daemon until SIGTERM or SIGINT and returns the exit code of the process.

    data: the data directory, made when it is missing.  port: 0 takes a free one (the log line `listening` says which).
    init: makes this many partitions when the data directory is fresh.  workers: query processes, one per core
    unless told.  policy: when partitions are compacted.  trigger_errors: after so many in a row a trigger is disabled.
    webhook_allow: the targets of webhooks, with commas between them.  scrubbing: how fast and how often checksums are
    verified.  files: what the store writes through.  cluster: how the node speaks to others.  Failures to start are
    logged and give exit code 1.
    """
    logs.configure()
    directory = Path(data).absolute()
    workers = workers or os.cpu_count() or 1
    gc.freeze()  # whoever loaded all the modules may have done it without collecting; they are no garbage
    gc.enable()
    try:
        started = start_copies(directory, workers)
    except OSError as error:
        log.error("the daemon cannot run", reason=f"worker processes cannot be started: {error}")
        return 1
    try:
        options = {
            "max_body_bytes": max_body_bytes,
            "policy": policy,
            "trigger_errors": trigger_errors,
            "webhook_allow": webhook_allow,
            "scrubbing": scrubbing,
            "files": files,
            "cluster": cluster,
        }
        asyncio.run(_run(directory, host, port, init, ProcessExecutor(directory, workers, started), options))
    except OpenSetError as error:
        log.error("the daemon cannot run", reason=error.message, detail=error.detail)
        return 1
    log.info("stopped")
    return 0


async def _run(
    data: Path,
    host: str,
    port: int,
    init: int | None,
    executor: Executor,
    options: dict[str, Any],
) -> None:
    stop = asyncio.Event()
    _on_signals(stop)
    try:
        sockets = _bind(host, port)
    except ConfigError:
        await executor.close()
        raise
    try:
        node = Node(data, executor, address=Address(host, sockets[0].getsockname()[1]), **options)
    except ConfigError:
        await executor.close()
        raise
    server = HTTPServer(make_app(node), idle_connection_timeout=_IDLE_CONNECTION_SECONDS, chunk_size=_READ_BYTES)
    tls = None if node.cluster.security is None else node.cluster.security.server_tls
    listener = None if tls is None else Listener(server, sockets, tls)
    if listener is None:
        server.add_sockets(sockets)
    log.info("listening", host=host, port=sockets[0].getsockname()[1], process=os.getpid())
    giving_up = asyncio.create_task(_give_up_waiting(node, stop))
    try:
        try:
            await node.open(init)
        except UnreachableError:
            if not stop.is_set():
                raise
        else:
            log.info("ready", data=str(data), partitions=(await node.opened()).partitions, workers=executor.workers)
        await stop.wait()
        log.info("stopping", running=len(node.active))
    finally:
        giving_up.cancel()
        node.end_waiting()
        server.stop()
        if listener is not None:
            listener.stop()
        await asyncio.gather(node.cluster.resign(), _drain(node))
        await node.close()
        await server.close_all_connections()


async def _give_up_waiting(node: Node, stop: asyncio.Event) -> None:
    """A member that waits for its cluster stops when it is told to."""
    await stop.wait()
    node.cluster.give_up_waiting()


def _on_signals(stop: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT stops in order, a second one at once."""
    loop = asyncio.get_running_loop()

    def told() -> None:
        if stop.is_set():
            log.error("stopped at once, on the second signal")
            os._exit(1)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)


def _bind(host: str, port: int) -> list[socket.socket]:
    try:
        return bind_sockets(port, host)
    except OSError as error:
        raise ConfigError(f"cannot listen on {host} port {port}: {error.strerror or error}") from error


async def _drain(node: Node) -> None:
    """Waits for the requests that run."""
    deadline = asyncio.get_running_loop().time() + DRAIN_TIMEOUT_SECONDS
    while node.active and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(_DRAIN_STEP_SECONDS)
