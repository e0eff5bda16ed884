"""POST /v1/query/{table}/histogram/{name}: people by the number a script returns for them."""

from __future__ import annotations

from openset.http.query import MAX_TRIM, QueryResource, common_parameters, session_time_ms, time_zone
from openset.http.resource import Answer
from openset.query.compare import compared_names
from openset.query.histogram import HistogramRequest, Scale
from openset.query.parameters import RequestParameters, bucket_width, parse_number


def histogram_request(table: str, name: str, script: str, parameters: RequestParameters) -> HistogramRequest:
    """A histogram query as its parameters ask for it; those of the script are still unread. Raises QueryError."""
    bucket, low, high = parameters.text("bucket"), parameters.text("min"), parameters.text("max")
    return HistogramRequest(
        table=table,
        name=name,
        script=script,
        common=common_parameters(parameters),
        parameters=parameters,
        scale=Scale(
            bucket=None if bucket is None else bucket_width(bucket),
            low=None if low is None else parse_number("min", low),
            high=None if high is None else parse_number("max", high),
        ),
        segments=compared_names(parameters.text("segments")),
        descending=parameters.choice("order", ("asc", "desc")) == "desc",
        trim=parameters.integer("trim", 0, MAX_TRIM),
        session_time_ms=session_time_ms(parameters),
        time_zone=time_zone(parameters),
        debug=parameters.flag("debug"),
    )


class HistogramQuery(QueryResource):
    async def post(self, table: str, name: str) -> None:
        await self.respond(self._histogram(table, name), cancellable=True)

    async def _histogram(self, table: str, name: str) -> Answer:
        return await self.answer(histogram_request(table, name, await self.script(), self.parameters()))
