"""Whole partitions on their way from an owner to a copy: file by file, piece by piece, verified before they count.

A piece that was not taken is sent again from where the receiver stands, also after a broken connection; what is
received lies beside the files until the cluster's agreement puts it in place. The shortcut: each piece is a request of
its own, so that a file is resumed, limited and shown by the piece.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from openset.cluster.map import NodeName, Position
from openset.cluster.messages import TransferArrived
from openset.cluster.outbox import Caller
from openset.errors import InternalError, InternodeError, OpenSetError, UnreachableError
from openset.log import get_logger
from openset.store.copies import Copies, FileName, Outgoing, OutgoingFile
from openset.store.copies import Received as ReceivedCopy
from openset.store.store import Store
from openset.store.trigger_state import TriggerState
from openset_format.decoding import msgpack_decoder
from openset_format.errors import FormatError
from openset_format.hashing import checksum
from openset_format.reader import PartitionFile
from openset_format.revent_file import ReventHead, read_revent_file

log = get_logger("openset.cluster")

PIECE_BYTES = 4 * 1024 * 1024
BEGIN_ROUTE, END_ROUTE, PIECE_ROUTE = "transfer_begin", "transfer_end", "transfer"
_PIECE_MS = 20_000
_END_MS = 600_000
_ATTEMPTS = 20
_PAUSE_SECONDS = 0.5
# What has arrived and is not asked for is forgotten after so long.
_KEPT_SECONDS = 600.0

_Number = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class FileHead(msgspec.Struct, frozen=True, array_like=True):
    """A file that is sent. table_id, is_sidecar: its name, see copies.FileName."""

    table_id: _Number
    size_bytes: _Number
    is_sidecar: bool = False

    @property
    def name(self) -> FileName:
        return FileName(self.table_id, self.is_sidecar)


class Begin(msgspec.Struct, frozen=True, array_like=True):
    """A transfer. transfer: names it. The rest: see messages.TransferArrived and copies.Outgoing."""

    transfer: str
    partition: _Number
    term: _Number
    position_term: _Number
    position_index: _Number
    covers: _Number
    committed: _Number
    files: list[FileHead]


class Standing(msgspec.Struct, frozen=True, array_like=True):
    """How much of each file the receiver has."""

    received_bytes: list[int]


class End(msgspec.Struct, frozen=True, array_like=True):
    transfer: str
    partition: _Number


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A part of a file. hash: xxh3_64 of the data. is_sidecar: of the file of the table that the request names."""

    transfer: str
    offset: _Number
    hash: int
    data: bytes
    is_sidecar: bool = False


def piece_route(partition: int, table_id: int) -> str:
    return f"{PIECE_ROUTE}?partition={partition}&table={table_id}"


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
        self, copies: Copies, peers: Caller, to: NodeName, partition: int, term: int, committed: int, rate: Rate
    ):
        self._copies = copies
        self._peers = peers
        self._to = to
        self._partition = partition
        self._term = term
        self._committed = committed
        self._rate = rate
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
        outgoing = await asyncio.to_thread(self._copies.outgoing, self._partition)
        try:
            await self._send(outgoing)
        finally:
            for one in outgoing.files:
                one.file.close()

    async def _send(self, outgoing: Outgoing) -> None:
        self._total_bytes = sum(one.size_bytes for one in outgoing.files)
        heads = [FileHead(one.name.table_id, one.size_bytes, one.name.is_sidecar) for one in outgoing.files]
        begin = Begin(
            self._name, self._partition, self._term, outgoing.term, outgoing.index, outgoing.covers,
            min(self._committed, outgoing.index), heads,
        )  # fmt: skip
        attempts = 0
        while True:
            try:
                await self._attempt(outgoing, begin)
            except UnreachableError as error:
                attempts += 1
                if attempts >= _ATTEMPTS:
                    raise
                log.info("a transfer goes on where it was", partition=self._partition, reason=error.message)
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                return

    async def _attempt(self, outgoing: Outgoing, begin: Begin) -> None:
        """From where the receiver stands."""
        answer = await self._call(BEGIN_ROUTE, begin, _PIECE_MS)
        try:
            standing = msgpack_decoder(Standing).decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InternodeError(f"this is no answer to a transfer: {error}") from error
        if len(standing.received_bytes) != len(outgoing.files):
            raise InternodeError("the answer to a transfer is about other files")
        self._sent_bytes = sum(standing.received_bytes)
        for one, offset in zip(outgoing.files, standing.received_bytes, strict=True):
            await self._send_file(one, offset)
        await self._call(END_ROUTE, End(self._name, self._partition), _END_MS)

    async def _send_file(self, one: OutgoingFile, offset: int) -> None:
        route = piece_route(self._partition, one.name.table_id)
        while offset < one.size_bytes:
            data = await asyncio.to_thread(os.pread, one.file.fileno(), PIECE_BYTES, offset)
            if not data:
                raise InternalError(f"a file of partition {self._partition} is shorter than it was")
            await self._rate.take(len(data))
            piece = Piece(self._name, offset, checksum(data), data, one.name.is_sidecar)
            await self._call(route, piece, _PIECE_MS)
            offset += len(data)
            self._sent_bytes += len(data)

    async def _call(self, route: str, message: Any, timeout_ms: int) -> bytes:
        return await self._peers.call(self._to, route, msgspec.msgpack.encode(message), timeout_ms=timeout_ms)


@dataclass(slots=True)
class _Arriving:
    """A transfer at the receiver. paths: of its files, relative to the data directory; received: bytes of each."""

    begin: Begin
    sender: NodeName
    paths: dict[FileName, Path]
    received: dict[FileName, int]
    verified: bool = False
    heard: float = field(default_factory=time.monotonic)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)


class Arrivals:
    """At the copy: transfers that arrive, one for each partition."""

    def __init__(self, store: Store, arrived: Callable[[TransferArrived], None]):
        """arrived: hears of every transfer that is complete and verified."""
        assert store.copies is not None
        self._store = store
        self._copies = store.copies
        self._told = arrived
        self._arriving: dict[int, _Arriving] = {}

    def shown(self) -> list[dict[str, Any]]:
        """For people."""
        return [
            {
                "partition": number,
                "from": one.sender,
                "direction": "in",
                "received_bytes": sum(one.received.values()),
                "total_bytes": sum(file.size_bytes for file in one.begin.files),
            }
            for number, one in sorted(self._arriving.items())
        ]

    async def begin(self, sender: NodeName, begin: Begin) -> Standing:
        """A transfer begins, or goes on. Raises InternodeError, InternalError."""
        known = self._arriving.get(begin.partition)
        if known is None or known.begin.transfer != begin.transfer:
            if known is not None and not known.verified and time.monotonic() - known.heard < _PIECE_MS / 1_000:
                raise UnreachableError(f"another transfer of partition {begin.partition} is under way")
            await self._forget(begin.partition)
            self._check_room(begin)
            paths = {
                one.name: await asyncio.to_thread(self._copies.staging_path, one.name, begin.partition)
                for one in begin.files
            }
            known = self._arriving[begin.partition] = _Arriving(begin, sender, paths, dict.fromkeys(paths, 0))
            for path in paths.values():
                await asyncio.to_thread(self._copies.begin_staged, path)
        known.heard = time.monotonic()
        return Standing([known.received[one.name] for one in begin.files])

    def _check_room(self, begin: Begin) -> None:
        wanted = sum(one.size_bytes for one in begin.files)
        free = self._store.free_bytes()
        if free < wanted:
            raise InternalError(
                f"partition {begin.partition} is not received: it takes {wanted >> 20:,} MiB, {free >> 20:,} are free"
            )

    async def piece(self, partition: int, table_id: int, piece: Piece) -> None:
        """A part of a file, at the end of what is here of it. Raises InternodeError, InternalError."""
        one = self._found(partition, piece.transfer)
        name = FileName(table_id, piece.is_sidecar)
        if name not in one.paths:
            raise InternodeError(f"the transfer has no file of table {table_id}")
        async with one.busy:
            if piece.offset != one.received[name] or checksum(piece.data) != piece.hash:
                raise UnreachableError(f"the piece does not fit: {one.received[name]:,} bytes are here")
            await asyncio.to_thread(self._copies.write_staged, one.paths[name], piece.offset, piece.data)
            one.received[name] += len(piece.data)
            one.heard = time.monotonic()

    async def end(self, partition: int, transfer: str) -> None:
        """Everything is here: verified, durable, and told. Raises InternodeError, InternalError."""
        one = self._found(partition, transfer)
        async with one.busy:
            short = [file.table_id for file in one.begin.files if one.received[file.name] != file.size_bytes]
            if short:
                raise UnreachableError(f"the files of tables {short} are not complete")
            if not one.verified:
                try:
                    await asyncio.to_thread(self._verify, one)
                except BaseException:
                    await self._forget(partition)
                    raise
                one.verified = True
        begin = one.begin
        position = Position(begin.position_term, begin.position_index)
        self._told(TransferArrived(partition, one.sender, begin.term, position, begin.committed))
        if self._arriving.get(partition) is one:
            await self._forget(partition)  # nobody wanted it

    def _verify(self, one: _Arriving) -> None:
        """Raises InternodeError for files that are not what they should be, InternalError."""
        for name, path in one.paths.items():
            self._copies.sync_staged(path)
            check = _checked_sidecar if name.is_sidecar else _checked_file
            try:
                found = check(self._store.data_dir / path)
            except (FormatError, OSError) as error:
                reason = f"the file of table {name.table_id} that was received is damaged: {error}"
                raise InternodeError(reason) from error
            if (found.table_id, found.partition) != (name.table_id, one.begin.partition):
                raise InternodeError(f"the file received is of partition {found.partition} of table {found.table_id}")
            if found.journal_id != self._copies.journal_id:
                raise InternodeError("the file received is of another cluster")
            if found.applied_sequence > one.begin.covers:
                raise InternodeError("the file received has more records than it should")

    def take(self, partition: int, position: Position) -> ReceivedCopy | None:
        """What has arrived of a partition, to be put in place; None when it is not there any more."""
        one = self._arriving.get(partition)
        if one is None or not one.verified:
            return None
        begin = one.begin
        if Position(begin.position_term, begin.position_index) != position:
            return None
        del self._arriving[partition]
        return ReceivedCopy(position.term, position.index, begin.covers, one.paths)

    def _found(self, partition: int, transfer: str) -> _Arriving:
        one = self._arriving.get(partition)
        if one is None or one.begin.transfer != transfer:
            raise UnreachableError("this transfer is not known here (any more)")
        return one

    async def _forget(self, partition: int) -> None:
        one = self._arriving.pop(partition, None)
        if one is not None:
            for path in one.paths.values():
                with suppress(OpenSetError, OSError):
                    await asyncio.to_thread(self._copies.discard_staged, path)


def _checked_file(path: Path) -> PartitionFile:
    """Raises FormatError for damage anywhere in a partition file, OSError."""
    from openset_format.verify import unreadable  # h5py takes its time to load

    file = PartitionFile.open(path)
    with path.open("rb") as handle:
        damage = next(unreadable(file, handle), None)
    if damage is not None:
        raise FormatError(str(damage))
    return file


def _checked_sidecar(path: Path) -> ReventHead:
    """Raises FormatError for damage anywhere in the state of triggers, OSError."""
    file = read_revent_file(path)
    TriggerState.decode(file.body)
    return file.head
