"""GET /ping: the node runs."""

from __future__ import annotations

from openset.http.resource import Answer, Resource


class Ping(Resource):
    uses_store = False

    async def get(self) -> None:
        await self.respond(self._pong())

    async def _pong(self) -> Answer:
        self.parameters().finish()
        return {"pong": True}
