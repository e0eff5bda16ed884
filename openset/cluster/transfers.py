"""Whole partitions on their way from an owner to a copy: the side that sends. `arrivals` is the other one.

Pieces of a file are sent several at one time, partitions a few at one time to each node, so that one is verified and
put in place while the next one comes. What was not taken is sent again from where the receiver stands, also after a
broken connection. An attempt that fails is followed by another one, after a pause that grows; where the receiver found
damage, the files here are verified first, so that the cluster hears whose copy is damaged. The shortcut: each piece is
a request of its own, so that a file is resumed, limited and shown by the piece.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from openset.cluster.map import NodeName
from openset.cluster.outbox import Caller
from openset.cluster.transfer_messages import BEGIN_ROUTE, END_ROUTE, PIECE_BYTES, Begin, End, FileHead, Piece, Standing
from openset.errors import DamagedError, InternodeError, OpenSetError, UnreachableError
from openset.log import get_logger
from openset.store.copies import Copies, Outgoing, OutgoingFile
from openset.store.scrub import unthrottled
from openset_format.decoding import msgpack_decoder
from openset_format.errors import FormatError
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
# After an attempt that failed; each time twice as long.
_FIRST_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


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


@dataclass(slots=True)
class Attempts:
    """To send a partition to a node, until one succeeds. made: how many; error: why it failed the last time."""

    made: int = 0
    error: str = ""

    @property
    def pause_seconds(self) -> float:
        """How long to wait after this many."""
        doubled = min(self.made - 1, 30)
        return min(_FIRST_PAUSE_SECONDS * 2.0**doubled, _LONGEST_PAUSE_SECONDS)


class SendTransfer:
    """At the owner: one attempt. unwanted: set when nobody is to have the partition from here any more."""

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
        attempts: Attempts | None = None,
    ):
        """turns: shared by all transfers to that node; held while files are sent."""
        self.unwanted = asyncio.Event()
        self._attempts = attempts or Attempts(1)
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
            "attempts": self._attempts.made,
            "error": self._attempts.error or None,
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
                    self._attempts.error = error.message
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


class Transfers:
    """All that a node sends. By partition and node, as a partition may be on its way to several."""

    def __init__(self, copies: Copies, peers: Caller, rate: Rate):
        self._copies = copies
        self._peers = peers
        self._rate = rate
        self._running: dict[tuple[int, NodeName], SendTransfer] = {}
        self._attempts: dict[tuple[int, NodeName], Attempts] = {}
        # By node: whose turn it is to be sent there.
        self._turns: dict[NodeName, asyncio.Semaphore] = {}
        # Held by whoever reads files for damage: the disk has other things to do.
        self._looking = asyncio.Lock()

    def shown(self) -> list[dict[str, Any]]:
        """Those that run or are to be tried again, for people."""
        return [one.shown(to) for (_, to), one in sorted(self._running.items(), key=lambda item: item[0])]

    def keep(self, is_wanted: Callable[[int, NodeName], bool]) -> None:
        """Forgets what has failed, and waits no longer, where a partition is not to be sent to a node any more."""
        for key in [key for key in self._attempts if not is_wanted(*key)]:
            del self._attempts[key]
            if key in self._running:
                self._running[key].unwanted.set()

    async def send(self, to: NodeName, partition: int, term: int, committed: int) -> bool:
        """One attempt. Returns when it is over, however it went, and the next one may begin.

        False where another one was begun meanwhile, of a later term or for a later request: that counts.
        """
        key = partition, to
        attempts = self._attempts.setdefault(key, Attempts())
        attempts.made += 1
        turns = self._turns.setdefault(to, asyncio.Semaphore(TRANSFERS_AT_ONCE))
        send = SendTransfer(self._copies, self._peers, to, partition, term, committed, self._rate, turns, attempts)
        self._running[key] = send
        try:
            await send.run()
            if self._running.get(key) is send:
                self._attempts.pop(key, None)
        except (OpenSetError, FormatError, OSError) as error:
            attempts.error = str(error)
            log.warning(
                "a partition could not be sent", partition=partition, to=to, attempts=attempts.made, reason=str(error)
            )
            if isinstance(error, DamagedError | FormatError | OSError):
                await self._look_for_damage(partition)
            with suppress(TimeoutError):
                async with asyncio.timeout(attempts.pause_seconds):
                    await send.unwanted.wait()
        finally:
            is_last = self._running.get(key) is send
            if is_last:
                del self._running[key]
        return is_last

    async def _look_for_damage(self, partition: int) -> None:
        """Verifies what was sent; of what is damaged the cluster is told as of any damage (`Membership`)."""
        throttle = unthrottled()
        try:
            async with self._looking:
                await asyncio.to_thread(self._copies.look_for_damage, partition, throttle)
        except OpenSetError as error:
            log.warning("a damaged file could not be mended", partition=partition, reason=error.message)
        finally:
            throttle.stop()


def _pieces(files: Sequence[OutgoingFile], received_bytes: Sequence[int]) -> Iterator[tuple[OutgoingFile, int]]:
    """The files and offsets of what is to be sent, in order."""
    for one, received in zip(files, received_bytes, strict=True):
        for offset in range(received, one.size_bytes, PIECE_BYTES):
            yield one, offset


def _read(one: OutgoingFile, offset: int) -> tuple[bytes, int]:
    """A piece and its hash. Raises DamagedError, OSError."""
    wanted = min(PIECE_BYTES, one.size_bytes - offset)
    data = os.pread(one.file.fileno(), wanted, offset)
    if len(data) != wanted:
        raise DamagedError(f"a file of table {one.name.table_id} is shorter than it was")
    return data, checksum(data)
