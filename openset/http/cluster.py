"""PUT /v1/cluster/init: makes the partitions of a fresh node."""

from __future__ import annotations

import asyncio
import os

from openset.errors import ConfigError
from openset.http.resource import Answer, Resource

MAX_PARTITIONS = 1000


class ClusterInit(Resource):
    error_kind = ConfigError

    async def put(self) -> None:
        await self.respond(self._init())

    async def _init(self) -> Answer:
        parameters = self.parameters()
        partitions = parameters.integer("partitions", 1, MAX_PARTITIONS)
        parameters.finish()
        if partitions is None:
            raise ConfigError(f"partitions= is missing: a number from 1 to {MAX_PARTITIONS}")
        store = await self.node.opened()
        server_name = await asyncio.to_thread(store.initialise, partitions)
        answer: dict[str, object] = {"server_name": server_name}
        cores = os.cpu_count() or 1
        if partitions < cores:
            answer["warning"] = (
                f"{partitions} partitions are fewer than the {cores} processor cores of this node: "
                f"a query cannot use them all"
            )
        return answer
