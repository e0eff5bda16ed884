"""/v1/table/{table}/segments: which segments are stored, and removing one."""

from __future__ import annotations

from openset.http.resource import Answer, Resource
from openset.query.stored_segments import list_segments, remove_segment


class SegmentList(Resource):
    async def get(self, table: str) -> None:
        await self.respond(self._list(table))

    async def _list(self, table: str) -> Answer:
        self.parameters().finish()
        tools = await self.node.tools()
        return await list_segments(tools.store, tools.plans, table)


class SegmentResource(Resource):
    async def delete(self, table: str, name: str) -> None:
        await self.respond(self._remove(table, name))

    async def _remove(self, table: str, name: str) -> Answer:
        self.parameters().finish()
        return await remove_segment(await self.node.tools(), table, name)
