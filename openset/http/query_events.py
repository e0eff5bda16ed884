"""POST /v1/query/{table}/events: a PyQL script over everyone's events."""

from __future__ import annotations

from openset.http.query import MAX_TRIM, QueryResource, common_parameters, session_time_ms, time_zone
from openset.http.resource import Answer
from openset.query.compare import compared_names
from openset.query.events import EventsRequest
from openset.query.parameters import RequestParameters


def events_request(table: str, script: str, parameters: RequestParameters) -> EventsRequest:
    """An events query as its parameters ask for it; those of the script are still unread. Raises QueryError."""
    return EventsRequest(
        table=table,
        script=script,
        common=common_parameters(parameters),
        parameters=parameters,
        segments=compared_names(parameters.text("segments")),
        sort=parameters.text("sort"),
        ascending=parameters.choice("order", ("asc", "desc")) == "asc",
        trim=parameters.integer("trim", 0, MAX_TRIM),
        session_time_ms=session_time_ms(parameters),
        time_zone=time_zone(parameters),
        debug=parameters.flag("debug"),
    )


class EventsQuery(QueryResource):
    async def post(self, table: str) -> None:
        await self.respond(self._events(table), cancellable=True)

    async def _events(self, table: str) -> Answer:
        return await self.answer(events_request(table, await self.script(), self.parameters()))
