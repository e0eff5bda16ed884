"""GET /v1/query/{table}/column/{column}: the values of a column and how many people have each."""

from __future__ import annotations

from openset.http.query import MAX_TRIM, QueryResource, common_parameters, session_time_ms
from openset.http.resource import Answer
from openset.query.column import ColumnRequest
from openset.query.compare import compared_names
from openset.query.parameters import RequestParameters


def column_request(table: str, column: str, parameters: RequestParameters) -> ColumnRequest:
    """A column query as its parameters ask for it. Raises QueryError."""
    filters = {
        "gt": parameters.text("gt"),
        "gte": parameters.text("gte"),
        "lt": parameters.text("lt"),
        "lte": parameters.text("lte"),
        "eq": parameters.text("eq"),
        "between": parameters.text("between"),
        "and": parameters.text("and"),
        "rx": parameters.text("rx"),
        "sub": parameters.text("sub"),
    }
    request = ColumnRequest(
        table=table,
        column=column,
        common=common_parameters(parameters),
        segments=compared_names(parameters.text("segments")),
        filters={name: text for name, text in filters.items() if text is not None},
        bucket=parameters.text("bucket"),
        ascending=parameters.choice("order", ("asc", "desc")) == "asc",
        trim=parameters.integer("trim", 0, MAX_TRIM),
        session_time_ms=session_time_ms(parameters),
    )
    parameters.finish()
    return request


class ColumnQuery(QueryResource):
    async def get(self, table: str, column: str) -> None:
        await self.respond(self._column(table, column), cancellable=True)

    async def _column(self, table: str, column: str) -> Answer:
        return await self.answer(column_request(table, column, self.parameters()))
