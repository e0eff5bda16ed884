"""POST /v1/insert/{table}: events, answered when they are on disk."""

from __future__ import annotations

import asyncio

from openset.errors import InsertError
from openset.http.resource import Answer, Resource

NDJSON_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"})


class Insert(Resource):
    error_kind = InsertError

    async def post(self, table: str) -> None:
        await self.respond(self._insert(table))

    async def _insert(self, table: str) -> Answer:
        parameters = self.parameters()
        skip_bad = parameters.choice("on_error", ("fail", "skip")) == "skip"
        parameters.finish()
        store = await self.node.store()
        store.table(table)
        body = await self.body()
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        prepared = await asyncio.to_thread(
            store.prepare_insert,
            table,
            body,
            newline_delimited=content_type in NDJSON_TYPES,
            skip_bad=skip_bad,
        )
        await self.node.insert(table, prepared)
        answer: dict[str, object] = {"message": "yummy", "accepted": prepared.accepted}
        if prepared.rejected:
            answer["rejected"] = prepared.rejected
            answer["errors"] = prepared.report()
        return answer
