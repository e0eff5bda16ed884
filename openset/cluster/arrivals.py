"""Whole partitions that arrive from their owners: taken piece by piece, and verified before they count.

What is received lies beside the files of the partition until the cluster's agreement puts it in place. `transfers` is
the side that sends. Names, sizes and bytes are another node's and are hostile until they are checked.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xxhash import xxh3_64

from openset.cluster.map import NodeName, Position
from openset.cluster.messages import TransferArrived
from openset.cluster.transfer_messages import PIECE_BYTES, Begin, Piece, Standing
from openset.errors import DamagedError, InternalError, InternodeError, OpenSetError, UnreachableError
from openset.store.copies import FileName, Received
from openset.store.store import Store
from openset.store.trigger_state import TriggerState
from openset_format.errors import FormatError
from openset_format.reader import PartitionFile
from openset_format.revent_file import ReventHead, read_revent_file
from openset_format.verify import unreadable

# A transfer of which nothing was heard for so long gives way to another one.
_SILENT_SECONDS = 20.0
# How far behind a gap pieces are taken.
_MOST_AHEAD_BYTES = 16 * PIECE_BYTES


@dataclass(slots=True)
class ArrivingFile:
    """A file that arrives. path: where it is written to, relative to the data directory.

    whole_bytes: up to here there is no gap. ends: of the pieces behind the gap, by offset.
    """

    path: Path
    size_bytes: int
    whole_bytes: int = 0
    ends: dict[int, int] = field(default_factory=dict)

    @property
    def received_bytes(self) -> int:
        return self.whole_bytes + sum(end - offset for offset, end in self.ends.items())

    def takes(self, offset: int, size_bytes: int) -> bool:
        """Whether it may be a piece of the file."""
        is_inside = 0 < size_bytes <= self.size_bytes - offset
        return is_inside and offset <= self.whole_bytes + _MOST_AHEAD_BYTES

    def note(self, offset: int, size_bytes: int) -> None:
        """A piece is here."""
        self.ends[offset] = max(offset + size_bytes, self.ends.get(offset, 0))
        while (first := min(self.ends, default=self.size_bytes + 1)) <= self.whole_bytes:
            self.whole_bytes = max(self.whole_bytes, self.ends.pop(first))


@dataclass(slots=True)
class _Arriving:
    """A transfer. writing: pieces on their way to the disk. closed: no more of them are taken.

    busy: held while it is begun, verified or removed.
    """

    begin: Begin
    sender: NodeName
    files: dict[FileName, ArrivingFile] = field(default_factory=dict)
    writing: set[asyncio.Future[None]] = field(default_factory=set)
    closed: bool = False
    verified: bool = False
    heard: float = field(default_factory=time.monotonic)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def missing_bytes(self) -> int:
        return sum(one.size_bytes - one.received_bytes for one in self.files.values())

    @property
    def gives_way(self) -> bool:
        """Whether another transfer may take its place."""
        return not self.busy.locked() and (self.verified or time.monotonic() - self.heard > _SILENT_SECONDS)

    async def close(self) -> None:
        """Returns when nothing more is written."""
        self.closed = True
        if self.writing:
            await asyncio.wait(self.writing)


class Arrivals:
    """At the copy: transfers that arrive, one for each partition."""

    def __init__(self, store: Store, arrived: Callable[[TransferArrived], None]):
        """arrived: hears of every transfer that is complete and verified."""
        assert store.copies is not None
        self._store = store
        self._copies = store.copies
        self._told = arrived
        self._arriving: dict[int, _Arriving] = {}
        # The last transfer of each partition that was told of: an answer may be lost.
        self._done: dict[int, str] = {}

    def shown(self) -> list[dict[str, Any]]:
        """For people."""
        return [
            {
                "partition": number,
                "from": one.sender,
                "direction": "in",
                "received_bytes": sum(file.received_bytes for file in one.files.values()),
                "total_bytes": sum(file.size_bytes for file in one.begin.files),
            }
            for number, one in sorted(self._arriving.items())
        ]

    async def begin(self, sender: NodeName, begin: Begin) -> Standing:
        """A transfer begins, or goes on. Raises InternodeError, InternalError."""
        if self._done.get(begin.partition) == begin.transfer:
            return Standing([one.size_bytes for one in begin.files])
        known = self._arriving.get(begin.partition)
        if known is None or known.begin.transfer != begin.transfer:
            if known is not None and not known.gives_way:
                raise UnreachableError(f"another transfer of partition {begin.partition} is under way")
            known, before = _Arriving(begin, sender), known
            self._arriving[begin.partition] = known
            async with known.busy:
                await self._stage(known, before)
        async with known.busy:  # it may be begun just now, by a request whose answer was lost
            if self._arriving.get(begin.partition) is not known:
                raise UnreachableError("the transfer could not be begun")
            known.heard = time.monotonic()
            return Standing([known.files[one.name].whole_bytes for one in begin.files])

    async def _stage(self, one: _Arriving, before: _Arriving | None) -> None:
        """Makes the files, in place of those of the transfer before."""
        try:
            if before is not None:
                await self._remove(before)
            self._check_room(one.begin)
            try:
                one.files = await asyncio.to_thread(self._staged, one.begin)
            except OSError as error:
                raise InternalError(f"partition {one.begin.partition} is not received: {error}") from error
        except BaseException:
            self._arriving.pop(one.begin.partition, None)
            raise

    def _staged(self, begin: Begin) -> dict[FileName, ArrivingFile]:
        files = {}
        for head in begin.files:
            path = self._copies.staging_path(head.name, begin.partition)
            self._copies.begin_staged(path)
            files[head.name] = ArrivingFile(path, head.size_bytes)
        return files

    def _check_room(self, begin: Begin) -> None:
        wanted = sum(one.size_bytes for one in begin.files)
        free = self._store.free_bytes() - sum(one.missing_bytes for one in self._arriving.values())
        if free < wanted:
            raise InternalError(
                f"partition {begin.partition} is not received: it takes {wanted >> 20:,} MiB, {max(free, 0) >> 20:,} "
                "are free"
            )

    async def piece(self, piece: Piece, parts: Sequence[bytes]) -> None:
        """A part of a file. parts: its bytes, one behind the other. Raises InternodeError, InternalError."""
        one = self._found(piece.partition, piece.transfer)
        file = one.files.get(piece.name)
        if file is None:
            raise InternodeError(f"the transfer has no such file of table {piece.name.table_id}")
        size_bytes = sum(map(len, parts))
        if one.closed or not file.takes(piece.offset, size_bytes):
            raise UnreachableError(f"the piece does not fit: {file.whole_bytes:,} bytes are here")
        writing = asyncio.ensure_future(asyncio.to_thread(self._write, file.path, piece, parts))
        one.writing.add(writing)
        try:
            await writing
        finally:
            one.writing.discard(writing)
        file.note(piece.offset, size_bytes)
        one.heard = time.monotonic()

    def _write(self, path: Path, piece: Piece, parts: Sequence[bytes]) -> None:
        """Raises UnreachableError, InternalError."""
        found = xxh3_64()
        for part in parts:
            found.update(part)
        if found.intdigest() != piece.hash:
            raise UnreachableError("the piece does not match its checksum")
        try:
            self._copies.write_staged(path, piece.offset, parts)
        except OSError as error:
            raise InternalError(f"a piece of partition {piece.partition} cannot be written: {error}") from error

    async def end(self, partition: int, transfer: str) -> None:
        """Everything is here: verified, durable, and told. Raises DamagedError, InternodeError, InternalError."""
        if self._done.get(partition) == transfer:
            return
        one = self._found(partition, transfer)
        async with one.busy:
            if self._arriving.get(partition) is not one:
                raise UnreachableError("another request has ended the transfer")
            await one.close()
            short = [name.table_id for name, file in one.files.items() if file.whole_bytes != file.size_bytes]
            if short:
                one.closed = False
                raise UnreachableError(f"the files of tables {short} are not complete")
            if not one.verified:
                try:
                    await asyncio.to_thread(self._verify, one)
                except BaseException:
                    await self._forget(one)
                    raise
                one.verified = True
            self._done[partition] = transfer
        begin = one.begin
        position = Position(begin.position_term, begin.position_index)
        self._told(TransferArrived(partition, one.sender, begin.term, position, begin.committed))
        if self._arriving.get(partition) is one:
            await self._forget(one)  # nobody wanted it

    def _verify(self, one: _Arriving) -> None:
        """Raises DamagedError, InternodeError for files that are not what they should be, InternalError."""
        for name, arrived in one.files.items():
            check = _checked_sidecar if name.is_sidecar else _checked_file
            try:
                self._copies.sync_staged(arrived.path)
                found = check(self._store.data_dir / arrived.path)
            except FormatError as error:
                reason = f"the file of table {name.table_id} that was received is damaged: {error}"
                raise DamagedError(reason) from error
            except OSError as error:  # the disk here, not the one it comes from
                raise InternalError(f"partition {one.begin.partition} is not received: {error}") from error
            if (found.table_id, found.partition) != (name.table_id, one.begin.partition):
                raise InternodeError(f"the file received is of partition {found.partition} of table {found.table_id}")
            if found.journal_id != self._copies.journal_id:
                raise InternodeError("the file received is of another cluster")
            if found.applied_sequence > one.begin.covers:
                raise InternodeError("the file received has more records than it should")

    def take(self, partition: int, position: Position) -> Received | None:
        """What has arrived of a partition, to be put in place; None when it is not there any more."""
        one = self._arriving.get(partition)
        if one is None or not one.verified:
            return None
        begin = one.begin
        if Position(begin.position_term, begin.position_index) != position:
            return None
        del self._arriving[partition]
        staged = {name: file.path for name, file in one.files.items()}
        return Received(position.term, position.index, begin.covers, staged)

    def _found(self, partition: int, transfer: str) -> _Arriving:
        one = self._arriving.get(partition)
        if one is None or one.begin.transfer != transfer:
            raise UnreachableError("this transfer is not known here (any more)")
        return one

    async def _forget(self, one: _Arriving) -> None:
        self._arriving.pop(one.begin.partition, None)
        await self._remove(one)

    async def _remove(self, one: _Arriving) -> None:
        await one.close()
        for file in one.files.values():
            with suppress(OpenSetError, OSError):
                await asyncio.to_thread(self._copies.discard_staged, file.path)


def _checked_file(path: Path) -> PartitionFile:
    """Raises FormatError for damage anywhere in a partition file, OSError."""
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
