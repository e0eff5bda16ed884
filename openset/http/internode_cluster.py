"""Routes between nodes that are about the cluster itself: joining, being told of changes, the embedded coordinator."""

from __future__ import annotations

import asyncio

import msgspec

from openset.cluster.invitation import JoinAnswer, JoinRequest
from openset.errors import ConfigError
from openset.http.internode import InternodeResource
from openset.http.resource import Answer


class _Membered(InternodeResource):
    for_members = False

    async def get(self) -> None:
        await self.serve(self._is_member())

    async def _is_member(self) -> Answer:
        cluster = self.node.cluster
        if not cluster.is_part:  # a member knows that also while its cluster is away
            await self.node.opened()
        removed = {"removed": True} if cluster.identity.mode == "removed" else {}
        return {"part_of_cluster": cluster.is_part, **removed}


class IsClusterMember(_Membered):
    async def get(self) -> None:
        await super().get()


class InternodeIsMember(_Membered):
    async def get(self) -> None:
        await super().get()


class JoinToCluster(InternodeResource):
    """To an empty node, from the member that invites it."""

    error_kind = ConfigError
    for_members = False

    async def post(self) -> None:
        await self.serve(self._join())

    async def _join(self) -> Answer:
        request = await self.message(JoinRequest)
        await self.node.opened()
        # An inviting node that goes away does not leave half a member behind.
        node = await asyncio.shield(asyncio.create_task(self.node.cluster.joined(request)))
        return msgspec.msgpack.encode(JoinAnswer(node))


class AddNode(InternodeResource):
    """Somebody has joined: the caller's revision of the map says who."""

    async def post(self) -> None:
        await self.serve(self._seen())

    async def _seen(self) -> Answer:
        return {"revision": self.membership().revision}


class MapChange(InternodeResource):
    """The map has changed: up to the caller's revision."""

    async def post(self) -> None:
        await self.serve(self._seen())

    async def _seen(self) -> Answer:
        return {"revision": self.membership().revision}


class CoordinatorRequest(InternodeResource):
    """A request to the embedded coordinator, as `embedded_messages` has them."""

    # From nodes of the cluster, but nobody can be asked to have seen what it is asking for.
    catches_up = False

    async def post(self) -> None:
        await self.serve(self._ask(), cancellable=True)

    async def _ask(self) -> Answer:
        return await self.node.cluster.answer_coordinator(await self.body())


class SentinelTold(InternodeResource):
    """What this node has decided as the sentinel lately, and what it knows of the partitions."""

    async def post(self) -> None:
        await self.serve(self._told())

    async def _told(self) -> Answer:
        return msgspec.msgpack.encode(self.membership().sentinel_run.told())


class RunningTransfers(InternodeResource):
    """The transfers of partitions that run at this node."""

    async def post(self) -> None:
        await self.serve(self._transfers())

    async def _transfers(self) -> Answer:
        return msgspec.msgpack.encode(self.node.cluster.transfers)


class PartitionLoads(InternodeResource):
    """How many rows the partitions have that are here."""

    async def post(self) -> None:
        await self.serve(self._rows())

    async def _rows(self) -> Answer:
        return msgspec.msgpack.encode(self.membership().rows())
