"""DELETE /v1/table/{table}/person and POST /v1/table/{table}/compact: erasing somebody, and leaving nothing behind."""

from __future__ import annotations

from openset.http.query_person import asked_id
from openset.http.resource import Answer, Resource
from openset.query.erasure import erase_in_cluster, erase_person


class PersonResource(Resource):
    async def delete(self, table: str) -> None:
        await self.respond(self._erase(table))

    async def _erase(self, table: str) -> Answer:
        person = asked_id(self.parameters())
        tools = await self.node.tools()
        if tools.spread is None:
            await erase_person(tools.store, tools.executor, table, person)
        else:
            await erase_in_cluster(tools, self.node.data.write_erasure, table, person)
        return {"deleted": person}


class Compaction(Resource):
    async def post(self, table: str) -> None:
        await self.respond(self._compact(table))

    async def _compact(self, table: str) -> Answer:
        self.parameters().finish()
        compactor, store, membership = await self.node.compactor(), await self.node.store(), self.node.membership
        if store.replicas is None or membership is None:
            return {"compacted": await compactor.compact(table)}
        from openset.http.member_compaction import compact_everywhere

        store.table(table)
        return {"compacted": await compact_everywhere(membership, compactor, store.replicas, table)}
