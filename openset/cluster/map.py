"""The cluster map: members, and per partition its term, owner, copies in sync and copies being filled.

Every partition's placement is a value of its own in the coordinator, changed by compare-and-swap only: by the sentinel,
and by the owner for the copies in sync. So whoever changes one has seen the one it replaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from openset.errors import InternalError
from openset_format.decoding import json_decoder

NodeName = str


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """A record in a partition's log. index counts from 1; (0, 0) is before the first one."""

    term: int
    index: int


NOWHERE = Position(0, 0)


class Member(msgspec.Struct, frozen=True):
    """A node of the cluster. leaving: it is being emptied, then removed. full: its disk takes nothing at the moment.

    damaged: the partitions of which its copy is damaged, ascending.
    """

    node: NodeName
    host: str
    port: int
    leaving: bool = False
    full: bool = False
    damaged: tuple[int, ...] = ()


class Placement(msgspec.Struct, frozen=True):
    """Where a partition is.

    term: grows with every change of the owner; copies refuse what an owner of an earlier term sends.
    in_sync: nodes that have every acknowledged record, ascending; the owner is one of them.
    filling: nodes that get the partition and are not in sync yet, each with its ticket. A node that is taken out and
    added again gets another ticket, so that what it said before, when it may have had records that it since discarded,
    does not count.  tickets: how many were given.
    successor: the copy in sync to which the owner is asked to hand over; it does so itself, so that it never answers
    after another one began to.  handed_over: the owner before gave it up by itself, and does nothing an owner does any
    more.  reason: of the last change, for people.
    away: nodes, ascending, that were copies until they died, said nothing or had no room. They are no copies any more,
    and keep what they have for when they are filled again, so that only what they lack is sent.
    newest: who came into the set in sync last, so that it is not what goes when there is a copy too many.
    """

    term: int
    owner: NodeName
    in_sync: tuple[NodeName, ...]
    filling: Mapping[NodeName, int] = msgspec.field(default_factory=dict)
    tickets: int = 0
    successor: NodeName | None = None
    reason: str = ""
    handed_over: bool = False
    away: tuple[NodeName, ...] = ()
    newest: NodeName = ""

    def __post_init__(self) -> None:
        assert self.owner in self.in_sync, "the owner is in sync with itself"
        assert not set(self.in_sync) & set(self.filling), "a copy is in sync or being filled"
        assert tuple(sorted(self.in_sync)) == self.in_sync
        assert not self.copies & set(self.away), "who is away is no copy"
        assert tuple(sorted(self.away)) == self.away

    @property
    def copies(self) -> frozenset[NodeName]:
        """Everyone who has the partition or gets it."""
        return frozenset(self.in_sync) | frozenset(self.filling)


class Placed(NamedTuple):
    """A placement and the revision it has in the coordinator, which a swap has to name."""

    revision: int
    placement: Placement


class ClusterMap(msgspec.Struct, frozen=True):
    """What a node or the sentinel knows. revision: of the coordinator, up to which everything is in here.

    replicas: how many copies each partition should have.
    """

    revision: int
    replicas: int
    members: Mapping[NodeName, Member]
    placements: Mapping[int, Placed]


def encode_placement(placement: Placement) -> bytes:
    """As the coordinator keeps it."""
    return msgspec.json.encode(placement)


def decode_placement(data: bytes) -> Placement:
    """Raises InternalError for what is no placement."""
    try:
        return json_decoder(Placement).decode(data)
    except (msgspec.DecodeError, AssertionError, UnicodeDecodeError) as error:
        raise InternalError(f"the coordinator has a placement that cannot be read: {error}") from error


def changed(
    placement: Placement,
    reason: str,
    *,
    owner: NodeName | None = None,
    in_sync: frozenset[NodeName] | None = None,
    fill: NodeName | None = None,
    stop_filling: frozenset[NodeName] = frozenset(),
    successor: NodeName | None = None,
    handed_over: bool = False,
    away: frozenset[NodeName] | None = None,
) -> Placement:
    """The placement that replaces another one. owner: begins a new term, also the one there was.

    handed_over: by the owner before.  fill: this node gets the partition. stop_filling: these do not any more, or are
    in sync now. A successor that is not named again is forgotten.  away: all who are to be remembered, but for those
    that are copies then; None for those who are.
    """
    new_owner = placement.owner if owner is None else owner
    filling = {node: ticket for node, ticket in placement.filling.items() if node not in stop_filling}
    if fill is not None:
        filling[fill] = placement.tickets + 1
    in_sync = frozenset(placement.in_sync) if in_sync is None else in_sync
    added = in_sync - set(placement.in_sync)
    remembered = frozenset(placement.away) if away is None else away
    return Placement(
        term=placement.term + (owner is not None),
        owner=new_owner,
        in_sync=tuple(sorted(in_sync)),
        filling=filling,
        tickets=placement.tickets + (fill is not None),
        successor=successor,
        reason=reason,
        handed_over=handed_over or (owner is None and placement.handed_over),
        away=tuple(sorted(remembered - in_sync - filling.keys())),
        newest=min(added, default=placement.newest),
    )
