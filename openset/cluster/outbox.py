"""Messages to one other node: those that wait while a request is under way go together with the next one.

Nothing is promised: what cannot be delivered is forgotten, owners and copies say it again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol

from openset.cluster.map import NodeName
from openset.cluster.messages import Message
from openset.cluster.wire import encode_messages, size_of
from openset.errors import OpenSetError
from openset.log import get_logger

log = get_logger("openset.cluster")

LOG_ROUTE = "log"
TIMEOUT_MS = 2_000
_TOGETHER_BYTES = 8 * 1024 * 1024
_MOST_WAITING_BYTES = 64 * 1024 * 1024
_PAUSE_SECONDS = 0.1


class Caller(Protocol):
    """What sends a request to another node (`peers.Peers`)."""

    async def call(self, node: NodeName, route: str, body: bytes = b"", *, timeout_ms: int) -> bytes: ...


class Outbox:
    """Made on the event loop; sends until it is closed."""

    def __init__(self, peers: Caller, node: NodeName):
        self._peers = peers
        self._node = node
        self._waiting: deque[tuple[Message, int]] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._troubled = ""
        self._task = asyncio.create_task(self._run())

    def put(self, message: Message) -> None:
        """Sends it soon; the oldest that wait are forgotten when they are too many."""
        size_bytes = size_of(message)
        self._waiting.append((message, size_bytes))
        self._waiting_bytes += size_bytes
        while self._waiting_bytes > _MOST_WAITING_BYTES and len(self._waiting) > 1:
            self._waiting_bytes -= self._waiting.popleft()[1]
        self._wake.set()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            batch = self._batch()
            if not batch:
                self._wake.clear()
                continue
            try:
                await self._peers.call(self._node, LOG_ROUTE, encode_messages(batch), timeout_ms=TIMEOUT_MS)
            except OpenSetError as error:
                if error.message != self._troubled:
                    log.warning("a node does not take messages", node=self._node, reason=error.message)
                    self._troubled = error.message
                await asyncio.sleep(_PAUSE_SECONDS)
            except Exception:  # without this task the node would never speak to the other one again
                log.exception("a defect in sending messages", node=self._node)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                if self._troubled:
                    log.info("a node takes messages again", node=self._node)
                    self._troubled = ""

    def _batch(self) -> list[Message]:
        batch: list[Message] = []
        size_bytes = 0
        while self._waiting and (not batch or size_bytes + self._waiting[0][1] <= _TOGETHER_BYTES):
            message, own = self._waiting.popleft()
            batch.append(message)
            size_bytes += own
        self._waiting_bytes -= size_bytes
        return batch
