"""POST /v1/internode/revent: triggers in the partitions that this node owns, and leases on their messages."""

from __future__ import annotations

from openset.errors import QueryError
from openset.http.internode import InternodeResource
from openset.http.resource import Answer
from openset.revent.messages import Source
from openset.revent.wire import Asked, encoded


class InternodeRevent(InternodeResource):
    async def post(self) -> None:
        await self.serve(self._answer(), cancellable=True)

    async def _answer(self) -> Answer:
        asked = await self.message(Asked)
        gathered, store = await self.node.gathered(), await self.node.store()
        if asked.operation == "triggers":
            return encoded((await self.node.registry()).own_facts(asked.table_id))
        table = next((one for one in store.tables() if one.id == asked.table_id), None)
        if table is None:
            raise QueryError("the table was dropped meanwhile")
        if asked.trigger_id not in (one.id for one in store.triggers.of_table(table.id)):
            raise QueryError(f"{asked.trigger!r} was removed meanwhile")
        if asked.operation in ("webhook", "dead"):
            webhooks = await self.node.webhooks()
            source = Source(asked.table_id, asked.trigger_id, asked.trigger, asked.is_segment)
            told = webhooks.own_facts if asked.operation == "webhook" else webhooks.own_letters
            return encoded(told(source, asked.name))
        return encoded(await gathered.answer(asked, table))
