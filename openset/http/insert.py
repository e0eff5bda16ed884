"""POST /v1/insert/{table}: events, answered when they are on disk."""

from __future__ import annotations

import asyncio
import time

from openset.errors import InsertError
from openset.http.resource import Answer, Resource
from openset.store.ingest import prepare_insert

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
        schema = store.table(table)
        body = await self.body()
        now_ms = time.time_ns() // 1_000_000
        content_type = self.request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        assert store.partitions is not None
        prepared = await asyncio.to_thread(
            prepare_insert,
            body,
            schema,
            store.partitions,
            now_ms,
            newline_delimited=content_type in NDJSON_TYPES,
            skip_bad=skip_bad,
        )
        if prepared.batch is not None:
            await store.commit(schema, prepared.batch)
        answer: dict[str, object] = {"message": "yummy", "accepted": prepared.accepted}
        if prepared.rejected:
            answer["rejected"] = prepared.rejected
            answer["errors"] = prepared.report()
        return answer
