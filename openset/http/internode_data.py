"""Routes between nodes that are about data: records of partitions, writes for their owners, whole partitions.

What only members need is imported when it is: a node that stands alone starts without.
"""

from __future__ import annotations

import re

import msgspec

from openset.errors import ConfigError, InternodeError
from openset.http.internode import InternodeResource
from openset.http.resource import Answer

_HASH = re.compile("[0-9a-f]{16}", re.ASCII)


class LogMessages(InternodeResource):
    """Messages of owners and copies; answered when they are taken, not when they are carried out."""

    # Writes that run need what the copies answer.
    while_stopping = True

    async def post(self) -> None:
        await self.serve(self._take())

    async def _take(self) -> Answer:
        self.node.data.replication.receive(self.member, await self.body())
        return b""


class Writes(InternodeResource):
    """Records for partitions that this node owns; answered when it is known what became of them."""

    async def post(self) -> None:
        await self.serve(self._write())

    async def _write(self) -> Answer:
        return await self.node.data.routing.answer(await self.body())


class Stamps(InternodeResource):
    """Stamps for events that have none, of partitions that this node owns."""

    async def post(self) -> None:
        await self.serve(self._give())

    async def _give(self) -> Answer:
        from openset.cluster.stamping import Ask

        return self.node.data.stamping.answer(await self.message(Ask))


class MemberCompaction(InternodeResource):
    """A table's compaction on this member, and up to where its copies are visible."""

    async def post(self) -> None:
        await self.serve(self._compact())

    async def _compact(self) -> Answer:
        from openset.http.member_compaction import Compact, answer_compaction

        message = await self.message(Compact)
        replicas = (await self.node.store()).replicas
        if replicas is None:
            raise InternodeError("this node has no copies")
        return await answer_compaction(await self.node.compactor(), replicas, message)


class TransferBegin(InternodeResource):
    async def post(self) -> None:
        await self.serve(self._begin())

    async def _begin(self) -> Answer:
        from openset.cluster.transfer_messages import Begin

        begin = await self.message(Begin)
        return msgspec.msgpack.encode(await self.node.data.replication.arrivals.begin(self.member, begin))


class TransferEnd(InternodeResource):
    async def post(self) -> None:
        await self.serve(self._end())

    async def _end(self) -> Answer:
        from openset.cluster.transfer_messages import End

        end = await self.message(End)
        await self.node.data.replication.arrivals.end(end.partition, end.transfer)
        return b""


class TransferResource(InternodeResource):
    """PUT begins the transfer of a partition to a node; POST brings a piece of a file."""

    # Pieces would wait for every change of the map that comes while they do.
    catches_up = False
    takes_parameters = True

    async def put(self) -> None:
        await self.serve(self._give())

    async def _give(self) -> Answer:
        """The owner takes the node among those that get the partition; its sentinel decides who keeps it."""
        from openset.cluster.map import changed
        from openset.cluster.view import checked_node

        parameters = self.parameters()
        partition = parameters.integer("partition", 0, 999)
        node = parameters.text("node")
        parameters.finish()
        if partition is None or node is None:
            raise ConfigError("partition= and node= are missing: which partition goes to which member")
        membership = self.membership()
        await membership.read_now()
        placed = membership.view.placements.get(partition)
        if placed is None:
            raise ConfigError(f"there is no partition {partition}")
        if checked_node(node) not in membership.view.members:
            raise ConfigError(f"{node} is no member of the cluster")
        if placed.placement.owner != membership.node:
            raise ConfigError(f"{placed.placement.owner} owns partition {partition}; ask there")
        if node not in placed.placement.copies:
            wanted = changed(placed.placement, f"{self.caller or 'somebody'} asked for it", fill=node)
            await membership.coordinator.swap(partition, placed.revision, wanted)
            await membership.read_now()
        return {"partition": partition, "node": node}

    async def post(self) -> None:
        await self.serve(self._piece())

    async def _piece(self) -> Answer:
        from openset.cluster.transfer_messages import Piece
        from openset.store.copies import FileName

        parameters = self.parameters()
        partition, table = parameters.integer("partition", 0, 999), parameters.text("table")
        table_id = parameters.integer("table_id", 1, 1 << 62)
        is_sidecar = parameters.flag("sidecar")
        transfer, offset = parameters.text("transfer"), parameters.integer("offset", 0, 1 << 62)
        found = _HASH.fullmatch(parameters.text("hash") or "")
        parameters.finish()
        if partition is None or table is None or transfer is None or offset is None or found is None:
            raise InternodeError("partition=, table=, transfer=, offset= and hash= say what a piece is")
        if partition not in self.membership().view.placements:
            raise ConfigError(f"there is no partition {partition}")
        if table_id is None:
            table_id = (await self.node.store()).table(table).id
        piece = Piece(transfer, partition, FileName(table_id, is_sidecar), offset, int(found.group(), 16))
        await self.node.data.replication.arrivals.piece(piece, self.parts())
        return b""
