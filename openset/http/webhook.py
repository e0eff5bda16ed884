"""…/webhook and …/dead of a subscription: where its messages are sent, and what was not taken."""

from __future__ import annotations

from openset.http.resource import Answer, Resource
from openset.revent.messages import Source
from openset.revent.subscriptions import known
from openset.store.schema import TableSchema


class _OfSubscription(Resource):
    async def _named(self, table: str, trigger: str) -> tuple[TableSchema, Source]:
        deliveries = await self.node.subscriptions()
        schema = (await self.node.store()).table(table)
        return schema, await deliveries.source(schema, trigger)


class WebhookResource(_OfSubscription):
    async def put(self, table: str, trigger: str, name: str) -> None:
        await self.respond(self._put(table, trigger, name))

    async def get(self, table: str, trigger: str, name: str) -> None:
        await self.respond(self._describe(table, trigger, name))

    async def delete(self, table: str, trigger: str, name: str) -> None:
        await self.respond(self._remove(table, trigger, name))

    async def _put(self, table: str, trigger: str, name: str) -> Answer:
        self.parameters().finish()
        schema, source = await self._named(table, trigger)
        return await (await self.node.webhooks()).put(schema, source, name, await self.body())

    async def _describe(self, table: str, trigger: str, name: str) -> Answer:
        self.parameters().finish()
        schema, source = await self._named(table, trigger)
        return await (await self.node.webhooks()).describe(schema, source, name)

    async def _remove(self, table: str, trigger: str, name: str) -> Answer:
        self.parameters().finish()
        schema, source = await self._named(table, trigger)
        await (await self.node.webhooks()).remove(schema, source, name)
        return {"deleted": name}


class DeadLetterList(_OfSubscription):
    async def get(self, table: str, trigger: str, name: str) -> None:
        await self.respond(self._list(table, trigger, name))

    async def _list(self, table: str, trigger: str, name: str) -> Answer:
        self.parameters().finish()
        _, source = await self._named(table, trigger)
        await known(await self.node.subscriptions(), source, name)
        return {"dead": await (await self.node.webhooks()).dead(source, name)}


class DeadLetterRetry(_OfSubscription):
    async def post(self, table: str, trigger: str, name: str) -> None:
        await self.respond(self._retry(table, trigger, name))

    async def _retry(self, table: str, trigger: str, name: str) -> Answer:
        self.parameters().finish()
        schema, source = await self._named(table, trigger)
        return {"retried": await (await self.node.webhooks()).retry(schema, source, name)}
