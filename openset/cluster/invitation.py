"""What a member and the empty node that it invites say to each other, and the member's part in it.

And what a node that starts asks whoever answers in its place.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

import msgspec

from openset.cluster.identity import Identity
from openset.cluster.map import NodeName
from openset.cluster.peers import Address, Peers
from openset.errors import ConfigError, InternodeError, OpenSetError

HOST_PATTERN = r"^[A-Za-z0-9._:\-]{1,253}$"
_ASK_MS = 5_000
_JOIN_MS = 60_000
_UNIQUE_MS = 2_000


class Home(msgspec.Struct, frozen=True):
    """The node with the embedded coordinator."""

    node: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._:\-\[\]]{1,100}$")]
    host: Annotated[str, msgspec.Meta(pattern=HOST_PATTERN)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65_535)]


class JoinRequest(msgspec.Struct, frozen=True):
    """What the inviting member tells an empty node. host: where it reached it.  home: None where it has etcd."""

    cluster: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{16}$")]
    host: Annotated[str, msgspec.Meta(pattern=HOST_PATTERN)]
    home: Home | None


class JoinAnswer(msgspec.Struct, frozen=True):
    """From a node that is a member now."""

    node: NodeName


class Membered(msgspec.Struct, frozen=True):
    """Whether a node belongs to a cluster already, as the interface says it. removed: it has left one."""

    part_of_cluster: bool
    removed: bool = False


async def check_guest(strangers: Peers, address: Address, name: NodeName, members: Collection[NodeName]) -> None:
    """Whether the node at an address is empty. name: of the inviting node. Raises ConfigError, InternodeError."""
    reply = await strangers.ask(address, "is_cluster_member", timeout_ms=_ASK_MS, method="GET")
    if reply.node and reply.node == name:
        raise ConfigError(f"{address} is this node itself")
    try:
        answer = msgspec.json.decode(reply.body, type=Membered)
    except msgspec.DecodeError as error:
        raise InternodeError(f"{address} answers something else than whether it is a member: {error}") from error
    if answer.removed:
        raise ConfigError(f"{address} is a node that has left its cluster: it can join with an empty directory")
    if answer.part_of_cluster and reply.node in members:
        raise ConfigError(f"{address} is {reply.node}, a member of this cluster already")
    if answer.part_of_cluster:
        who = reply.node or "a node"
        raise ConfigError(f"{address} is {who}, which is initialised already; only an empty node can join")


async def invite(strangers: Peers, address: Address, identity: Identity) -> NodeName:
    """Has the empty node at an address join; its name, when it is a member. identity: of the inviting node.

    Raises ConfigError, InternodeError.
    """
    home = None if identity.home is None else Home(identity.home.node, identity.home.host, identity.home.port)
    request = JoinRequest(identity.cluster, address.host, home)
    reply = await strangers.ask(address, "join_to_cluster", msgspec.msgpack.encode(request), timeout_ms=_JOIN_MS)
    try:
        return msgspec.msgpack.decode(reply.body, type=JoinAnswer).node
    except msgspec.DecodeError as error:
        raise InternodeError(f"{address} answers something else than its name: {error}") from error


async def check_unique(strangers: Peers, address: Address, name: NodeName, process: str) -> None:
    """Raises ConfigError where another process is this node already, with a copy of its directory.

    address: where the cluster knows the node. process: this one.
    """
    try:
        reply = await strangers.ask(address, "is_member", timeout_ms=_UNIQUE_MS, method="GET")
    except OpenSetError:
        return
    if reply.node == name and reply.process != process:
        raise ConfigError(f"{name} runs at {address} already: this directory is a copy of the one of that process")
