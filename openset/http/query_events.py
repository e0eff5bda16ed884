"""POST /v1/query/{table}/events: a PyQL script over everyone's events."""

from __future__ import annotations

from openset.http.resource import Answer, Resource
from openset.pyql.settings import SESSION_TIME_MS
from openset.query.compare import compared_names
from openset.query.events import DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS, EventsRequest, run_events

MAX_SESSION_TIME_MS = 1 << 53


class EventsQuery(Resource):
    async def post(self, table: str) -> None:
        await self.respond(self._events(table), cancellable=True)

    async def _events(self, table: str) -> Answer:
        parameters = self.parameters()
        session_time_ms = parameters.integer("session_time", 0, MAX_SESSION_TIME_MS)
        request = EventsRequest(
            table=table,
            script=await self.script(),
            parameters=parameters,
            segments=compared_names(parameters.text("segments")),
            sort=parameters.text("sort"),
            ascending=parameters.choice("order", ("asc", "desc")) == "asc",
            trim=parameters.integer("trim", 0, 1 << 31),
            session_time_ms=SESSION_TIME_MS if session_time_ms is None else session_time_ms,
            timeout_ms=parameters.integer("timeout", 1, MAX_TIMEOUT_MS) or DEFAULT_TIMEOUT_MS,
            debug=parameters.flag("debug"),
            info=parameters.flag("info"),
        )
        return await run_events(await self.node.store(), self.node.executor, self.node.plans, request)
