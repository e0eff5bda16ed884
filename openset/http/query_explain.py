"""POST /v1/query/{table}/explain: what a script does for one person, step by step."""

from __future__ import annotations

from openset.http.query import QueryResource, common_parameters, session_time_ms, time_zone
from openset.http.query_person import person_named
from openset.http.resource import Answer
from openset.query.explain_person import ExplainRequest, explain_person
from openset.query.explained_text import explained_text
from openset.query.formats import Document


class ExplainQuery(QueryResource):
    async def post(self, table: str) -> None:
        await self.respond(self._explain(table), cancellable=True)

    async def _explain(self, table: str) -> Answer:
        parameters = self.parameters()
        request = ExplainRequest(
            table=table,
            script=await self.script(),
            person=person_named(parameters),
            parameters=parameters,
            session_time_ms=session_time_ms(parameters),
            time_zone=time_zone(parameters),
            timeout_ms=common_parameters(parameters).timeout_ms,
        )
        explanation = await explain_person(await self.tools(), request)
        if "text/plain" in self.request.headers.get("Accept", ""):
            return Document(explained_text(explanation).encode(), "text/plain; charset=utf-8", {})
        return explanation
