"""What a member and the empty node that it invites say to each other."""

from __future__ import annotations

from typing import Annotated

import msgspec

from openset.cluster.map import NodeName

HOST_PATTERN = r"^[A-Za-z0-9._:\-]{1,253}$"


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
