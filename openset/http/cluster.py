"""/v1/cluster: initialise a node, invite others, look at the cluster, leave it."""

from __future__ import annotations

import os
import re

from openset.cluster.cluster_node import DEFAULT_PORT
from openset.cluster.invitation import HOST_PATTERN
from openset.errors import ConfigError
from openset.http.cluster_status import cluster_status
from openset.http.resource import Answer, Resource

MAX_PARTITIONS = 1000
MAX_REPLICAS = 16


class ClusterInit(Resource):
    uses_store = False
    error_kind = ConfigError

    async def put(self) -> None:
        await self.respond(self._init())

    async def _init(self) -> Answer:
        parameters = self.parameters()
        partitions = parameters.integer("partitions", 1, MAX_PARTITIONS)
        replicas = parameters.integer("replicas", 1, MAX_REPLICAS)
        parameters.finish()
        if partitions is None:
            raise ConfigError(f"partitions= is missing: a number from 1 to {MAX_PARTITIONS}")
        await self.node.opened()
        answer: dict[str, object] = {"server_name": await self.node.cluster.init(partitions, replicas)}
        cores = os.cpu_count() or 1
        if partitions < cores:
            answer["warning"] = (
                f"{partitions} partitions are fewer than the {cores} processor cores of this node: "
                f"a query cannot use them all"
            )
        return answer


class ClusterJoin(Resource):
    uses_store = False
    error_kind = ConfigError

    async def put(self) -> None:
        await self.respond(self._join())

    async def _join(self) -> Answer:
        parameters = self.parameters()
        host = parameters.text("host")
        port = parameters.integer("port", 1, 65_535)
        parameters.finish()
        if not host:
            raise ConfigError("host= is missing: the name or address of the empty node")
        host = host.removeprefix("[").removesuffix("]")
        if re.fullmatch(r"[^:]+:[0-9]+", host):
            raise ConfigError(f"host={host}: the port goes into port=")
        if re.fullmatch(HOST_PATTERN, host) is None:
            raise ConfigError(f"host={host} is neither a name nor an address")
        await self.node.opened()
        return {"node": await self.node.cluster.join(host, DEFAULT_PORT if port is None else port)}


class ClusterLeave(Resource):
    uses_store = False
    error_kind = ConfigError

    async def put(self) -> None:
        await self.respond(self._leave())

    async def _leave(self) -> Answer:
        parameters = self.parameters()
        name = parameters.text("node")
        parameters.finish()
        if not name:
            raise ConfigError("node= is missing: the name of the member that leaves")
        await self.node.opened()
        await self.node.cluster.leave(name)
        return {"leaving": name}


class IsMember(Resource):
    uses_store = False
    error_kind = ConfigError

    async def get(self) -> None:
        await self.respond(self._is_member())

    async def _is_member(self) -> Answer:
        self.parameters().finish()
        if not self.node.cluster.is_part:  # a member knows that also while its cluster is away
            await self.node.opened()
        return {"part_of_cluster": self.node.cluster.is_part}


class ClusterResource(Resource):
    uses_store = False
    error_kind = ConfigError

    async def get(self) -> None:
        await self.respond(self._status())

    async def _status(self) -> Answer:
        self.parameters().finish()
        store = await self.node.opened()
        return await cluster_status(self.node.cluster, store)
