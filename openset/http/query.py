"""What the resources of queries share: the parameters all queries have, running, the format of the answer."""

from __future__ import annotations

import asyncio

from openset.http.resource import Answer, Resource
from openset.pyql.settings import SESSION_TIME_MS
from openset.query.formats import document, negotiated
from openset.query.frame import DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS, Common, Query, Tools, run_query
from openset.query.parameters import RequestParameters
from openset.query.time_zone import UTC_NAME, zone_of

MAX_SESSION_TIME_MS = 1 << 53
MAX_TRIM = 1 << 31


def common_parameters(parameters: RequestParameters) -> Common:
    """The parameters of every query. Raises QueryError."""
    return Common(
        timeout_ms=parameters.integer("timeout", 1, MAX_TIMEOUT_MS) or DEFAULT_TIMEOUT_MS,
        info=parameters.flag("info"),
        explain=parameters.flag("explain"),
        partial=parameters.flag("partial"),
    )


def session_time_ms(parameters: RequestParameters) -> int:
    """How long without an event a session lasts. Raises QueryError."""
    given = parameters.integer("session_time", 0, MAX_SESSION_TIME_MS)
    return SESSION_TIME_MS if given is None else given


def time_zone(parameters: RequestParameters) -> str:
    """The name of the zone of the date functions. Raises QueryError when no zone has it."""
    name = parameters.text("tz")
    if name is None:
        return UTC_NAME
    zone_of(name)
    return name


class QueryResource(Resource):
    """Base of the resources that answer queries."""

    async def tools(self) -> Tools:
        """What queries run with, when recovery is done."""
        return await self.node.tools()

    async def answer(self, query: Query) -> Answer:
        """Runs a query and writes its answer in the format the client asks for."""
        media_type = negotiated(self.request.headers.get("Accept"))
        answer = await run_query(await self.tools(), query)
        return await asyncio.to_thread(document, answer, media_type)
