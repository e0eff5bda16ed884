"""Whole partitions on their way from an owner to a copy: the side that sends. `arrivals` is the other one.

Pieces of a file are sent several at one time, partitions a few at one time to each node, so that one is verified and
put in place while the next one comes. What was not taken is sent again from where the receiver stands, also after a
broken connection. The shortcut: each piece is a request of its own, so that a file is resumed, limited and shown by the
piece.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from openset.cluster.map import NodeName
from openset.cluster.outbox import Caller
from openset.cluster.transfer_messages import BEGIN_ROUTE, END_ROUTE, PIECE_BYTES, Begin, End, FileHead, Piece, Standing
from openset.errors import InternalError, InternodeError, UnreachableError
from openset.log import get_logger
from openset.store.copies import Copies, Outgoing, OutgoingFile
from openset_format.decoding import msgpack_decoder
from openset_format.hashing import checksum

log = get_logger("openset.cluster")

# Partitions on their way from here to one node. Those that are being verified there do not count.
TRANSFERS_AT_ONCE = 2
_PIECES_AT_ONCE = 2
_PIECE_MS = 20_000
_END_MS = 600_000
# So often nothing at all arrives.
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.5


class Rate:
    """Holds back what would be faster than a limit. bytes_per_second: 0 for no limit; all transfers share it."""

    def __init__(self, bytes_per_second: int = 0):
        self.bytes_per_second = bytes_per_second
        self._free_at = 0.0

    async def take(self, size_bytes: int) -> None:
        """Returns when so many bytes may be sent."""
        if not self.bytes_per_second:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + size_bytes / self.bytes_per_second
        await asyncio.sleep(self._free_at - now)


class SendTransfer:
    """At the owner."""

    def __init__(
        self,
        copies: Copies,
        peers: Caller,
        to: NodeName,
        partition: int,
        term: int,
        committed: int,
        rate: Rate,
        turns: asyncio.Semaphore,
    ):
        """turns: shared by all transfers to that node; held while files are sent."""
        self._copies = copies
        self._peers = peers
        self._to = to
        self._partition = partition
        self._term = term
        self._committed = committed
        self._rate = rate
        self._turns = turns
        self._name = os.urandom(8).hex()
        self._total_bytes = 0
        self._sent_bytes = 0
        self._started = time.monotonic()

    def shown(self, to: NodeName) -> dict[str, Any]:
        """For people."""
        seconds = max(time.monotonic() - self._started, 0.001)
        return {
            "partition": self._partition,
            "to": to,
            "direction": "out",
            "sent_bytes": self._sent_bytes,
            "total_bytes": self._total_bytes,
            "bytes_per_second": int(self._sent_bytes / seconds),
        }

    async def run(self) -> None:
        """Returns when the receiver has everything and has verified it. Raises OpenSetError, FormatError, OSError."""
        outgoing: Outgoing | None = None
        attempts, sent_bytes = 0, 0
        try:
            while True:
                try:
                    async with self._turns:
                        if outgoing is None:
                            # Not before its turn: the records behind the files must still be there when they arrive.
                            outgoing = await asyncio.to_thread(self._copies.outgoing, self._partition)
                            self._started = time.monotonic()
                        await self._send(outgoing)
                    await self._call(END_ROUTE, End(self._name, self._partition), _END_MS)
                except UnreachableError as error:
                    attempts = attempts + 1 if self._sent_bytes <= sent_bytes else 1
                    sent_bytes = max(sent_bytes, self._sent_bytes)
                    if attempts >= _ATTEMPTS:
                        raise
                    log.info("a transfer goes on where it was", partition=self._partition, reason=error.message)
                    await asyncio.sleep(_PAUSE_SECONDS)
                else:
                    return
        finally:
            for one in () if outgoing is None else outgoing.files:
                one.file.close()

    async def _send(self, outgoing: Outgoing) -> None:
        """What the receiver does not have yet."""
        standing = await self._begin(outgoing)
        pieces = _pieces(outgoing.files, standing.received_bytes)
        senders = [asyncio.create_task(self._send_pieces(pieces)) for _ in range(_PIECES_AT_ONCE)]
        try:
            await asyncio.gather(*senders)
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)

    async def _begin(self, outgoing: Outgoing) -> Standing:
        heads = [FileHead(one.name.table_id, one.size_bytes, one.name.is_sidecar) for one in outgoing.files]
        begin = Begin(
            self._name, self._partition, self._term, outgoing.term, outgoing.index, outgoing.covers,
            min(self._committed, outgoing.index), heads,
        )  # fmt: skip
        answer = await self._call(BEGIN_ROUTE, begin, _PIECE_MS)
        try:
            standing = msgpack_decoder(Standing).decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InternodeError(f"this is no answer to a transfer: {error}") from error
        if len(standing.received_bytes) != len(outgoing.files):
            raise InternodeError("the answer to a transfer is about other files")
        self._total_bytes = sum(one.size_bytes for one in outgoing.files)
        self._sent_bytes = sum(standing.received_bytes)
        return standing

    async def _send_pieces(self, pieces: Iterator[tuple[OutgoingFile, int]]) -> None:
        """Takes one after the other."""
        for one, offset in pieces:
            data, hash_ = await asyncio.to_thread(_read, one, offset)
            await self._rate.take(len(data))
            table = self._copies.table_name(one.name.table_id)
            piece = Piece(self._name, self._partition, one.name, offset, hash_, table)
            await self._peers.call(self._to, piece.route, data, timeout_ms=_PIECE_MS)
            self._sent_bytes += len(data)

    async def _call(self, route: str, message: Begin | End, timeout_ms: int) -> bytes:
        return await self._peers.call(self._to, route, msgspec.msgpack.encode(message), timeout_ms=timeout_ms)


def _pieces(files: Sequence[OutgoingFile], received_bytes: Sequence[int]) -> Iterator[tuple[OutgoingFile, int]]:
    """The files and offsets of what is to be sent, in order."""
    for one, received in zip(files, received_bytes, strict=True):
        for offset in range(received, one.size_bytes, PIECE_BYTES):
            yield one, offset


def _read(one: OutgoingFile, offset: int) -> tuple[bytes, int]:
    """A piece and its hash. Raises InternalError, OSError."""
    wanted = min(PIECE_BYTES, one.size_bytes - offset)
    data = os.pread(one.file.fileno(), wanted, offset)
    if len(data) != wanted:
        raise InternalError(f"a file of table {one.name.table_id} is shorter than it was")
    return data, checksum(data)
