"""What GET /v1/cluster shows: members, map, health, and what the sentinel decided lately and why."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from openset.cluster.cluster_node import ClusterNode
from openset.cluster.map import Member, NodeName, Placed, Placement
from openset.errors import OpenSetError
from openset.store.store import Store
from openset_format.decoding import msgpack_decoder

if TYPE_CHECKING:
    from openset.cluster.member import Membership
    from openset.cluster.view import View

_ASK_MS = 2_000
_TRANSFERS = msgpack_decoder(list[dict[str, Any]])


async def cluster_status(cluster: ClusterNode, store: Store) -> dict[str, Any]:
    """The body of the answer."""
    membership = cluster.membership
    if membership is None:
        mode, partitions = cluster.identity.mode, store.partitions
        if partitions is None:
            return {"mode": "empty", "node": cluster.name or None, "partitions": None}
        found = {"mode": mode, "node": cluster.name or None, "partitions": partitions}
        return {**found, **_alone(cluster, store, partitions)} if mode == "standalone" else found
    view = membership.view
    assert view.settings is not None and view.map is not None
    home = cluster.identity.home
    (sentinel, rows), transfers = await asyncio.gather(
        _sentinel(membership, view), _transfers(membership, view, cluster.transfers)
    )
    return {
        "mode": "member",
        "node": membership.node,
        "cluster": view.settings.cluster,
        "revision": view.revision,
        "coordinator": "etcd" if home is None else home.node,
        "partitions": view.settings.partitions,
        "replicas": view.map.replicas,
        "health": health(view, view.map.replicas, membership.trouble),
        "members": [member(view, node, rows) for node in sorted(view.members)],
        "map": _map(view, rows),
        "sentinel": sentinel,
        "transfers": transfers,
    }


def _alone(cluster: ClusterNode, store: Store, partitions: int) -> dict[str, Any]:
    """A node that stands alone, shown as the cluster of one that it would found."""
    from openset.cluster.sentinel import first_placements
    from openset.cluster.view import Registered, Sentinel, Settings, View

    name, address = cluster.name, cluster.address
    damaged = tuple(sorted(store.damage.partitions()))
    view = View(
        0,
        Settings("", partitions, cluster.identity.replicas),
        members={name: Registered(0, Member(name, address.host, address.port, damaged=damaged))},
        placements={number: Placed(0, one) for number, one in first_placements(partitions, name).items()},
        alive={name: 0},
        sentinel=Sentinel(name, 0),
    )
    assert view.map is not None
    rows = store.compactions.rows(range(partitions))
    return {
        "cluster": None,
        "revision": 0,
        "coordinator": name,
        "replicas": view.map.replicas,
        "health": health(view, view.map.replicas),
        "members": [{**member(view, name, rows), "full": store.health.condition.state == "full"}],
        "map": _map(view, rows),
        "sentinel": {"node": name, "term": 0, "decisions": []},
        "transfers": [],
    }


def health(view: View, replicas: int, trouble: str = "") -> dict[str, Any]:
    """ok: every partition has a living owner and all its copies. degraded: some lack copies. unavailable: some have
    no living owner, and are not readable or writable now. unknown: the coordinator cannot be used, which is trouble;
    the rest is as it was when it could be used last.
    """
    without_owner, missing_copies = [], []
    for number, placed in sorted(view.placements.items()):
        placement = placed.placement
        if placement.owner not in view.alive:
            without_owner.append(number)
        elif sum(_is_sound(view, node, number) for node in placement.in_sync) < replicas:
            missing_copies.append(number)
    status = "unavailable" if without_owner else "degraded" if missing_copies else "ok"
    found = {"status": status, "without_owner": without_owner, "missing_copies": missing_copies}
    return {**found, "status": "unknown", "reason": trouble} if trouble else found


def _is_sound(view: View, node: NodeName, partition: int) -> bool:
    return node in view.alive and node in view.members and partition not in view.members[node].member.damaged


def member(view: View, node: NodeName, rows: Mapping[int, int]) -> dict[str, Any]:
    """A member: where it is, whether it lives, and how many partitions it owns, has, and gets.

    rows: by partition, as far as the sentinel knows.
    """
    found = view.members[node].member
    placements = [placed.placement for placed in view.placements.values()]
    sentinel = view.sentinel is not None and view.sentinel.node == node
    return {
        "node": node,
        "host": found.host,
        "port": found.port,
        "alive": node in view.alive,
        "leaving": found.leaving,
        "full": found.full,
        "damaged": list(found.damaged),
        "roles": ["sentinel"] if sentinel else [],
        "owns": sum(placement.owner == node for placement in placements),
        "in_sync": sum(node in placement.in_sync for placement in placements),
        "filling": sum(node in placement.filling for placement in placements),
        "owned_rows": sum(
            rows.get(number, 0) for number, one in view.placements.items() if one.placement.owner == node
        ),
        "held_rows": sum(
            rows.get(number, 0) for number, one in view.placements.items() if node in one.placement.in_sync
        ),
    }


def _map(view: View, rows: Mapping[int, int]) -> list[dict[str, Any]]:
    return [
        {"partition": number, **_placement(placed.placement), "rows": rows.get(number)}
        for number, placed in sorted(view.placements.items())
    ]


def _placement(placement: Placement) -> dict[str, Any]:
    return {
        "term": placement.term,
        "owner": placement.owner,
        "in_sync": list(placement.in_sync),
        "filling": sorted(placement.filling),
        "away": list(placement.away),
        "successor": placement.successor,
        "reason": placement.reason,
    }


async def _transfers(membership: Membership, view: View, own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of all members that live and answer; each is told by who sends and by who receives."""
    nodes = sorted(view.alive.keys() & view.members.keys() - {membership.node})

    async def of(node: NodeName) -> list[dict[str, Any]]:
        try:
            return _TRANSFERS.decode(await membership.peers.call(node, "transfers", timeout_ms=_ASK_MS))
        except (OpenSetError, msgspec.DecodeError):
            return []

    told = dict(zip(nodes, await asyncio.gather(*(of(node) for node in nodes)), strict=True))
    told[membership.node] = own
    return [{"node": node, **one} for node, found in sorted(told.items()) for one in found]


async def _sentinel(membership: Membership, view: View) -> tuple[dict[str, Any] | None, Mapping[int, int]]:
    """What only the sentinel knows: its decisions, newest first, and the rows of partitions.

    None while nobody is elected.
    """
    from openset.cluster.sentinel_run import Told

    if view.sentinel is None or view.sentinel.node not in view.members:  # it has just left
        return None, {}
    shown: dict[str, Any] = {"node": view.sentinel.node, "term": view.sentinel.term, "decisions": []}
    try:
        if view.sentinel.node == membership.node:
            told = membership.sentinel_run.told()
        else:
            body = await membership.peers.call(view.sentinel.node, "sentinel", timeout_ms=_ASK_MS)
            told = msgpack_decoder(Told).decode(body)
    except (OpenSetError, msgspec.DecodeError) as error:
        return {**shown, "unreachable": str(error)}, {}
    return {**shown, "decisions": [msgspec.to_builtins(each) for each in reversed(told.decisions)]}, told.rows
