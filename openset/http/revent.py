"""/v1/table/{table}/revent/{name} (also trigger/{name}) and /revents: making, changing and looking at triggers."""

from __future__ import annotations

import asyncio
import json

from openset.http.query_person import stamp_parameter
from openset.http.resource import Answer, Resource
from openset.query.formats import INFO_HEADER, NDJSON, Document, negotiated
from openset.query.frame import DEFAULT_TIMEOUT_MS, MAX_TIMEOUT_MS
from openset.query.parameters import RequestParameters, parse_bool
from openset.revent.backtests import BacktestRequest, backtest
from openset.revent.registry import Options


class TriggerList(Resource):
    async def get(self, table: str) -> None:
        await self.respond(self._list(table))

    async def _list(self, table: str) -> Answer:
        self.parameters().finish()
        return await (await self.node.registry()).all(table)


class TriggerResource(Resource):
    async def get(self, table: str, name: str) -> None:
        await self.respond(self._describe(table, name))

    async def post(self, table: str, name: str) -> None:
        await self.respond(self._save(table, name))

    async def delete(self, table: str, name: str) -> None:
        await self.respond(self._remove(table, name))

    async def _describe(self, table: str, name: str) -> Answer:
        self.parameters().finish()
        return await (await self.node.registry()).describe(table, name)

    async def _save(self, table: str, name: str) -> Answer:
        options = trigger_options(self.parameters())
        registry = await self.node.registry()
        return await registry.save(table, name, await self.script(), options)

    async def _remove(self, table: str, name: str) -> Answer:
        self.parameters().finish()
        return await (await self.node.registry()).remove(table, name)


class TriggerReset(Resource):
    async def post(self, table: str, name: str) -> None:
        await self.respond(self._reset(table, name))

    async def _reset(self, table: str, name: str) -> Answer:
        self.parameters().finish()
        return await (await self.node.registry()).reset(table, name)


class TriggerBacktest(Resource):
    async def post(self, table: str, name: str) -> None:
        await self.respond(self._backtest(table, name), cancellable=True)

    async def _backtest(self, table: str, name: str) -> Answer:
        parameters = self.parameters()
        once = parameters.text("once")
        request = BacktestRequest(
            table=table,
            name=name,
            script=await self.script(),
            from_ms=stamp_parameter("from", parameters.text("from")),
            to_ms=stamp_parameter("to", parameters.text("to")),
            once=None if once is None else parse_bool("once", once),
            filter=parameters.text("filter"),
            timeout_ms=parameters.integer("timeout", 1, MAX_TIMEOUT_MS) or DEFAULT_TIMEOUT_MS,
            errors_until_disabled=self.node.trigger_errors,
        )
        parameters.finish()
        tested = await backtest(await self.node.tools(), request)
        if negotiated(self.request.headers.get("Accept")) == NDJSON:
            headers = {INFO_HEADER: json.dumps(await asyncio.to_thread(tested.facts))}
            return Document(await asyncio.to_thread(tested.lines), NDJSON, headers)
        return await asyncio.to_thread(tested.shown)


def trigger_options(parameters: RequestParameters) -> Options:
    """The options that a request gives; none other. Raises QueryError."""
    given = {name: parameters.text(name) for name in ("enabled", "once", "emit_as_event")}
    flags = {name: None if text is None else parse_bool(name, text) for name, text in given.items()}
    options = Options(flags["enabled"], flags["once"], flags["emit_as_event"], parameters.text("filter"))
    parameters.finish()
    return options
