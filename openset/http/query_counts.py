"""POST /v1/query/{table}/counts: sections that become stored segments, and how many people belong to each."""

from __future__ import annotations

from openset.http.query import QueryResource, common_parameters, session_time_ms, time_zone
from openset.http.resource import Answer
from openset.query.counts import CountsRequest
from openset.query.parameters import RequestParameters


def counts_request(table: str, script: str, parameters: RequestParameters) -> CountsRequest:
    """A counts query as its parameters ask for it; those of the scripts are still unread. Raises QueryError."""
    return CountsRequest(
        table=table,
        script=script,
        common=common_parameters(parameters),
        parameters=parameters,
        session_time_ms=session_time_ms(parameters),
        time_zone=time_zone(parameters),
        debug=parameters.flag("debug"),
    )


class CountsQuery(QueryResource):
    async def post(self, table: str) -> None:
        await self.respond(self._counts(table), cancellable=True)

    async def _counts(self, table: str) -> Answer:
        return await self.answer(counts_request(table, await self.script(), self.parameters()))
