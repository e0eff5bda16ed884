"""What an owner and a copy say to each other while a partition is sent as files.

A transfer is begun, its pieces follow, several at one time, and then it is ended. The bytes of a piece are the body of
its request, as they are in the file; what they are is said by the request's parameters.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from openset.store.copies import FileName

BEGIN_ROUTE, END_ROUTE, PIECE_ROUTE = "transfer_begin", "transfer_end", "transfer"
PIECE_BYTES = 4 * 1024 * 1024

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
    """Up to where the receiver has each file without a gap."""

    received_bytes: list[_Number]


class End(msgspec.Struct, frozen=True, array_like=True):
    transfer: str
    partition: _Number


class Piece(NamedTuple):
    """A part of a file. hash: xxh3_64 of its bytes. table: the table's name, for people."""

    transfer: str
    partition: int
    name: FileName
    offset: int
    hash: int
    table: str = ""

    @property
    def route(self) -> str:
        """With the parameters that say what the body is."""
        sidecar = "true" if self.name.is_sidecar else "false"
        table = f"table={self.table or self.name.table_id}&table_id={self.name.table_id}"
        file = f"partition={self.partition}&{table}&sidecar={sidecar}"
        return f"{PIECE_ROUTE}?{file}&transfer={self.transfer}&offset={self.offset}&hash={self.hash:016x}"
