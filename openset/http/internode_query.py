"""POST /v1/internode/query: a node's share of a query that another node coordinates, and what nodes say of segments."""

from __future__ import annotations

from openset.errors import InternodeError, MisdirectedError, WireError
from openset.http.internode import InternodeResource
from openset.http.resource import Answer
from openset.query.remote import answer_remote
from openset.revent.spread_backtests import KIND, answer_pass


class InternodeQuery(InternodeResource):
    async def post(self) -> None:
        await self.serve(self._answer(), cancellable=True)

    async def _answer(self) -> Answer:
        tools = await self.node.tools_for_nodes()
        if tools.spread is None:
            raise MisdirectedError("this node answers no queries for others")
        try:
            return await answer_remote(tools, await self.body(), tools.spread.may_answer, {KIND: answer_pass})
        except WireError as error:
            raise InternodeError("the body is no request for a share of a query", detail=error.message) from error
