"""What GET /v1/cluster shows: members, map, health, and what the sentinel decided lately and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from openset.cluster.cluster_node import ClusterNode
from openset.cluster.map import NodeName, Placement
from openset.errors import OpenSetError
from openset_format.decoding import msgpack_decoder

if TYPE_CHECKING:
    from openset.cluster.member import Membership
    from openset.cluster.view import View

_ASK_MS = 2_000


async def cluster_status(cluster: ClusterNode, partitions: int | None) -> dict[str, Any]:
    """The body of the answer. partitions: of the store, None before it is initialised."""
    membership = cluster.membership
    if membership is None:
        mode = cluster.identity.mode if partitions is not None else "empty"
        return {"mode": mode, "node": cluster.name or None, "partitions": partitions}
    view = membership.view
    assert view.settings is not None and view.map is not None
    home = cluster.identity.home
    return {
        "mode": "member",
        "node": membership.node,
        "cluster": view.settings.cluster,
        "revision": view.revision,
        "coordinator": "etcd" if home is None else home.node,
        "partitions": view.settings.partitions,
        "replicas": view.map.replicas,
        "health": health(view, view.map.replicas),
        "members": [member(view, node) for node in sorted(view.members)],
        "map": [
            {"partition": number, **_placement(placed.placement)} for number, placed in sorted(view.placements.items())
        ],
        "sentinel": await _sentinel(membership, view),
        "transfers": cluster.transfers,
    }


def health(view: View, replicas: int) -> dict[str, Any]:
    """ok: every partition has a living owner and all its copies. degraded: some lack copies. unavailable: some have
    no living owner, and are not readable or writable now.
    """
    without_owner, missing_copies = [], []
    for number, placed in sorted(view.placements.items()):
        placement = placed.placement
        if placement.owner not in view.alive:
            without_owner.append(number)
        elif sum(_is_sound(view, node, number) for node in placement.in_sync) < replicas:
            missing_copies.append(number)
    status = "unavailable" if without_owner else "degraded" if missing_copies else "ok"
    return {"status": status, "without_owner": without_owner, "missing_copies": missing_copies}


def _is_sound(view: View, node: NodeName, partition: int) -> bool:
    return node in view.alive and node in view.members and partition not in view.members[node].member.damaged


def member(view: View, node: NodeName) -> dict[str, Any]:
    """A member: where it is, whether it lives, and how many partitions it owns, has, and gets."""
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
    }


def _placement(placement: Placement) -> dict[str, Any]:
    return {
        "term": placement.term,
        "owner": placement.owner,
        "in_sync": list(placement.in_sync),
        "filling": sorted(placement.filling),
        "successor": placement.successor,
        "reason": placement.reason,
    }


async def _sentinel(membership: Membership, view: View) -> dict[str, Any] | None:
    """The sentinel and its decisions, newest first, which only itself has; None while nobody is elected."""
    from openset.cluster.sentinel_run import Decision

    if view.sentinel is None:
        return None
    shown: dict[str, Any] = {"node": view.sentinel.node, "term": view.sentinel.term, "decisions": []}
    try:
        if view.sentinel.node == membership.node:
            decisions = list(membership.sentinel_run.decisions)
        else:
            body = await membership.peers.call(view.sentinel.node, "sentinel", timeout_ms=_ASK_MS)
            decisions = msgpack_decoder(list[Decision]).decode(body)
    except (OpenSetError, msgspec.DecodeError) as error:
        return {**shown, "unreachable": str(error)}
    return {**shown, "decisions": [msgspec.to_builtins(each) for each in reversed(decisions)]}
