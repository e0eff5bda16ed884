"""POST /v1/query/{table}/batch: several queries of one table, each answered by its own result or error."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec

from openset.errors import LimitError, OpenSetError, QueryError
from openset.http.query import QueryResource
from openset.http.query_column import column_request
from openset.http.query_counts import counts_request
from openset.http.query_events import events_request
from openset.http.query_histogram import histogram_request
from openset.http.query_person import asked_person
from openset.http.resource import Answer
from openset.query.batch import MOST_QUERIES, Entry, run_batch
from openset.query.parameters import RequestParameters
from openset.query.person import find_person
from openset.suggestion import suggestion

KINDS = ("events", "counts", "column", "histogram", "person")


def batch_entries(table: str, body: bytes, max_script_bytes: int) -> list[Entry]:
    """The queries of a batch; one that cannot be understood is its error. Raises QueryError when it is no batch."""
    try:
        items = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise QueryError(f"a batch is a JSON list of queries: {error}") from error
    if not isinstance(items, list):
        raise QueryError('a batch is a JSON list of queries, like [{"query": "column", "column": "product"}]')
    if len(items) > MOST_QUERIES:
        raise QueryError(f"a batch has at most {MOST_QUERIES} queries, this one has {len(items):,}")
    return [_entry(table, item, max_script_bytes) for item in items]


def _entry(table: str, item: Any, max_script_bytes: int) -> Entry:
    try:
        return _query(table, item, max_script_bytes)
    except OpenSetError as error:
        return error


def _query(table: str, item: Any, max_script_bytes: int) -> Entry:
    """Raises QueryError, LimitError."""
    if not isinstance(item, dict):
        raise QueryError('a query of a batch is an object, like {"query": "column", "column": "product"}')
    given = dict(item)
    kind = given.pop("query", None)
    if kind not in KINDS:
        hint = suggestion(kind, KINDS) if isinstance(kind, str) else ""
        raise QueryError(f'"query" must be one of {", ".join(KINDS)}{hint}')
    if kind == "column":
        return column_request(table, _text(given, "column"), _parameters(given))
    if kind == "person":
        parameters = _parameters(given)
        person = asked_person(parameters)
        return lambda tools: find_person(tools, table, person)
    name = _text(given, "name") if kind == "histogram" else ""
    script = _text(given, "script")
    if len(script.encode()) > max_script_bytes:
        raise LimitError(f"the script is larger than {max_script_bytes} bytes")
    parameters = _parameters(given)
    if kind == "histogram":
        return histogram_request(table, name, script, parameters)
    return (events_request if kind == "events" else counts_request)(table, script, parameters)


def _text(given: dict[str, Any], name: str) -> str:
    """A field that has to be there. Raises QueryError."""
    value = given.pop(name, None)
    if not isinstance(value, str):
        raise QueryError(f'this query needs "{name}", a text')
    return value


def _parameters(given: Mapping[str, Any]) -> RequestParameters:
    """The fields that are left, as the parameters of an address. Raises QueryError for what cannot be one."""
    return RequestParameters([(name, _parameter(name, value)) for name, value in given.items()])


def _parameter(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if name == "segments" and isinstance(value, list) and all(isinstance(segment, str) for segment in value):
        return ",".join(value)
    raise QueryError(f'"{name}" must be a text, a number, true or false')


class BatchQuery(QueryResource):
    async def post(self, table: str) -> None:
        await self.respond(self._batch(table), cancellable=True)

    async def _batch(self, table: str) -> Answer:
        self.parameters().finish()
        limit = self.node.max_script_bytes
        entries = await asyncio.to_thread(batch_entries, table, await self.body(), limit)
        return await run_batch(await self.tools(), table, entries)
