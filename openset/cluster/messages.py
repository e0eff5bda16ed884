"""What goes into the state of a node (events), what comes out (instructions), and what nodes say to each other.

All of them are frozen, and Structs: every start of a daemon would wait for so many dataclasses to be made. Payloads of
records are opaque here: whoever carries out a `Transmit` puts them in.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from openset.cluster.map import ClusterMap, NodeName, Placement, Position

# ---------------------------------------------------------------- between nodes


class Entry(Struct, frozen=True):
    """A record on its way. term: of the owner who appended it first."""

    term: int
    payload: Any


class Append(Struct, frozen=True):
    """From an owner to a copy: the records behind `previous`, none for a sign of life.

    committed: up to this index everyone in sync has them.  complete: behind these records the owner has no others, so
    what a copy has there from earlier terms was never agreed.  sent_ms: the owner's clock.
    """

    partition: int
    term: int
    previous: Position
    entries: tuple[Entry, ...]
    committed: int
    complete: bool
    sent_ms: int = 0


class Appended(Struct, frozen=True):
    """The copy's answer. matched: up to here it has, durably, what the owner has; None when `previous` is not there.

    hint: where the owner should try next when it is not.  term: the copy's; greater than the owner's means: deposed.
    ticket: the last one the copy saw in the map, 0 for none.  echo_ms: the latest `sent_ms` of this term, 0 for none: a
    copy that answers so promises not to begin owning the partition for a while.
    """

    partition: int
    term: int
    matched: int | None
    hint: int
    ticket: int = 0
    echo_ms: int = 0


Message = Append | Appended

# ---------------------------------------------------------------- events


class MapRead(Struct, frozen=True):
    """The map as the coordinator has it now (first of all, and whenever the watch tells of a change)."""

    map: ClusterMap


class Received(Struct, frozen=True):
    sender: NodeName
    message: Message


class Write(Struct, frozen=True):
    """A client's record for a partition. request: names it in the answer."""

    request: int
    partition: int
    payload: Any


class Await(Struct, frozen=True):
    """A client's record that is in the log already, maybe from an owner before. request: names it in the answer."""

    request: int
    partition: int
    index: int


class Synced(Struct, frozen=True):
    """Records up to an index are durable. epoch: of the log they were stored in (see Keep)."""

    partition: int
    index: int
    epoch: int


class Compacted(Struct, frozen=True):
    """Records up to a position are in the partition's file and may be gone from the journal."""

    partition: int
    position: Position


class TransferArrived(Struct, frozen=True):
    """At the copy: a partition file with records up to a position was received and verified, and waits for `Install`.

    sender, term: the owner and its term.  committed: how far its records were agreed when it was sent.
    """

    partition: int
    sender: NodeName
    term: int
    position: Position
    committed: int


class TransferClosed(Struct, frozen=True):
    """At the owner: the file was sent or could not be; what the copy has now shows in its next answer."""

    partition: int
    to: NodeName


class LeaseRenewed(Struct, frozen=True):
    """The coordinator holds this node for alive until then (the node's own clock), without a gap since `revision`."""

    until_ms: int
    revision: int


class Tick(Struct, frozen=True):
    """Time goes by."""


Event = MapRead | Received | Write | Await | Synced | Compacted | TransferArrived | TransferClosed | LeaseRenewed | Tick

# ---------------------------------------------------------------- instructions


class Keep(Struct, frozen=True):
    """Store records from `first` on, make them durable, then tell `Synced` with this epoch."""

    partition: int
    first: int
    entries: tuple[Entry, ...]
    epoch: int


class Cut(Struct, frozen=True):
    """Forget the records behind an index, durably before anything that is kept later."""

    partition: int
    after: int


class Install(Struct, frozen=True):
    """Put the file that has arrived in place of all records of the partition, durably, then tell `Synced`."""

    partition: int
    position: Position
    epoch: int


class Show(Struct, frozen=True):
    """Records up to this index may be seen by queries from now on."""

    partition: int
    committed: int


class Send(Struct, frozen=True):
    to: NodeName
    message: Appended


class Transmit(Struct, frozen=True):
    """Send an Append with the records first … last (none when last < first)."""

    to: NodeName
    partition: int
    term: int
    previous: Position
    first: int
    last: int
    committed: int
    complete: bool
    sent_ms: int = 0


class Transfer(Struct, frozen=True):
    """Send the partition's file, because the journal no longer has the records the copy lacks."""

    to: NodeName
    partition: int
    term: int


class Propose(Struct, frozen=True):
    """Swap a placement in the coordinator, then read the map, whatever became of it."""

    partition: int
    expected_revision: int
    placement: Placement


class Answer(Struct, frozen=True):
    """To a client. done: the record is agreed. Otherwise `reason` says why not, and it may be sent again."""

    request: int
    done: bool
    reason: str = ""


class Discard(Struct, frozen=True):
    """This node is no copy of the partition any more: its files and records may go."""

    partition: int


Instruction = Keep | Cut | Install | Show | Send | Transmit | Transfer | Propose | Answer | Discard
