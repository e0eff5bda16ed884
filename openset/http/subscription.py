"""/v1/subscription/{table}/{trigger}/{name}: messages of triggers by long polls and as server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from openset.errors import QueryError
from openset.http.resource import Answer, Resource
from openset.query.parameters import RequestParameters
from openset.revent.deliveries import shown_message
from openset.revent.messages import DEFAULT_HOLD_MS, Source
from openset.revent.subscription import MOST_MESSAGES, Delivery, Key, Poll
from openset.revent.subscriptions import Subscriptions, known
from openset.revent.tokens import Given, encode_token, numbers_of
from openset.store.schema import TableSchema

DEFAULT_MESSAGES = 100
DEFAULT_TIMEOUT_MS = 10_000
MAX_TIMEOUT_MS = 300_000
DEFAULT_LEASE_MS = 30_000
MAX_LEASE_MS = 86_400_000
MAX_HOLD_MS = 366 * 86_400_000
# A stream says that it lives, and looks whether the daemon stops.
HEARTBEAT_MS = 15_000
_STREAM_STEP_MS = 1_000
_LEAST_STREAM_LEASE_MS = 5_000
# A stream that acknowledges nothing gets no more than this.
MOST_UNACKNOWLEDGED = 10_000
EVENT_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a request says. hold_ms: None leaves it."""

    hold_ms: int | None
    most: int
    timeout_ms: int
    lease_ms: int
    tokens: Sequence[str]
    auto_ack: bool


class SubscriptionResource(Resource):
    """A subscription: polled, streamed, described, removed."""

    async def post(self, table: str, trigger: str, name: str) -> None:
        if self._wants_stream():
            await self._stream(table, trigger, name)
        else:
            await self.respond(self._poll(table, trigger, name), cancellable=True)

    async def get(self, table: str, trigger: str, name: str) -> None:
        if self._wants_stream():
            await self._stream(table, trigger, name)
        else:
            await self.respond(self._describe(table, trigger, name))

    async def delete(self, table: str, trigger: str, name: str) -> None:
        await self.respond(self._remove(table, trigger, name))

    def _wants_stream(self) -> bool:
        return EVENT_STREAM in self.request.headers.get("Accept", "")

    async def _poll(self, table: str, trigger: str, name: str) -> Answer:
        wanted = _wanted(self.parameters(), DEFAULT_TIMEOUT_MS)
        tokens = [*wanted.tokens, *_tokens_in(await self.body())]
        deliveries = await self.node.subscriptions()
        source = await self._opened(deliveries, table, trigger, name, wanted)
        await deliveries.acknowledge(source, name, numbers_of(source, name, tokens))
        poll = Poll(deliveries.new_consumer(), wanted.most, wanted.lease_ms)
        schema = (await self.node.store()).table(table)
        delivery = await deliveries.take(schema, source, name, poll, wanted.timeout_ms)
        if delivery is None:
            return {"messages": []}
        if wanted.auto_ack:
            await deliveries.acknowledge(source, name, _numbers(delivery.keys))
        return _shown(source, name, delivery)

    async def _opened(self, deliveries: Subscriptions, table: str, trigger: str, name: str, wanted: _Wanted) -> Source:
        schema = (await self.node.store()).table(table)
        source = await deliveries.source(schema, trigger)
        await deliveries.open(schema, source, name, wanted.hold_ms, DEFAULT_HOLD_MS)
        return source

    async def _describe(self, table: str, trigger: str, name: str) -> Answer:
        self.parameters().finish()
        deliveries = await self.node.subscriptions()
        schema = (await self.node.store()).table(table)
        source = await deliveries.source(schema, trigger)
        shown = await deliveries.describe(schema, source, name)
        webhooks = await self.node.webhooks()
        has_one = webhooks.has(source, name)
        return shown | {"webhook": await webhooks.describe(schema, source, name) if has_one else None}

    async def _remove(self, table: str, trigger: str, name: str) -> Answer:
        self.parameters().finish()
        deliveries = await self.node.subscriptions()
        schema = (await self.node.store()).table(table)
        source = await deliveries.source(schema, trigger)
        await known(deliveries, source, name)
        await (await self.node.webhooks()).remove(schema, source, name, missing_is_fine=True)
        await deliveries.remove(source, name)
        return {"deleted": name}

    # ---------------------------------------------------------------- server-sent events

    async def _stream(self, table: str, trigger: str, name: str) -> None:
        wanted = _wanted(self.parameters(), 0)
        deliveries = await self.node.subscriptions()
        source = await self._opened(deliveries, table, trigger, name, wanted)
        tokens = list(wanted.tokens)
        last = self.request.headers.get("Last-Event-ID")
        if last:
            tokens.append(last)
        await deliveries.acknowledge(source, name, numbers_of(source, name, tokens))
        self.set_header("Content-Type", EVENT_STREAM)
        self.set_header("Cache-Control", "no-cache")
        self.write(b": connected\n\n")
        await self.flush()
        schema = (await self.node.store()).table(table)
        await self._send_events(deliveries, schema, source, name, wanted)
        if not self._gone:
            self.finish()

    async def _send_events(
        self, deliveries: Subscriptions, table: TableSchema, source: Source, name: str, wanted: _Wanted
    ) -> None:
        """Sends messages until the client goes, the daemon stops or the subscription is removed."""
        consumer = deliveries.new_consumer()
        given = Given(source.table_id, source.trigger_id, name)
        lease_ms = max(wanted.lease_ms, _LEAST_STREAM_LEASE_MS)
        silent_ms, extend_at_ms = 0, 0
        while not self._gone and not self.node.stopping:
            delivery = None
            try:
                if len(given.keys) >= MOST_UNACKNOWLEDGED:
                    left = await deliveries.unacknowledged(source, name, given.keys)
                    given = Given(source.table_id, source.trigger_id, name, left)
                room = min(wanted.most, MOST_UNACKNOWLEDGED - len(given.keys))
                if room > 0:
                    poll = Poll(consumer, room, lease_ms)
                    delivery = await deliveries.take(table, source, name, poll, _STREAM_STEP_MS)
                else:
                    await asyncio.sleep(_STREAM_STEP_MS / 1_000)
                now_ms = deliveries.clock()
                if now_ms >= extend_at_ms:
                    await deliveries.extend(source, name, given.keys, now_ms + lease_ms)
                    extend_at_ms = now_ms + lease_ms // 4
            except QueryError:
                return  # the subscription or its trigger was removed
            if delivery is None:
                silent_ms += _STREAM_STEP_MS
                if silent_ms >= HEARTBEAT_MS and not self._gone:
                    silent_ms = 0
                    self.write(b": alive\n\n")
                    await self.flush()
                continue
            silent_ms = 0
            await self._send(deliveries, source, name, delivery, given, wanted)
        await deliveries.release(source, name, given.keys)

    async def _send(
        self,
        deliveries: Subscriptions,
        source: Source,
        name: str,
        delivery: Delivery,
        given: Given,
        wanted: _Wanted,
    ) -> None:
        """Writes messages; those that are not acknowledged by that are added to `given`."""
        for partition, message in delivery.messages:
            shown = shown_message(source, name, partition, message)
            if not wanted.auto_ack:
                given.add(partition, message.number)
            if self._gone:
                continue
            # Handed back as Last-Event-ID it acknowledges everything the stream has brought so far.
            token = shown["ack"] if wanted.auto_ack else given.token()
            lines = (f"id: {token}", f"event: {_one_line(message.name)}", f"data: {_json(shown)}")
            self.write("\n".join(lines) + "\n\n")
        if not self._gone:
            await self.flush()
        if wanted.auto_ack:
            if self._gone:
                await deliveries.release(source, name, delivery.keys)
            else:
                await deliveries.acknowledge(source, name, _numbers(delivery.keys))


class SubscriptionList(Resource):
    async def get(self, table: str, trigger: str) -> None:
        await self.respond(self._list(table, trigger))

    async def _list(self, table: str, trigger: str) -> Answer:
        self.parameters().finish()
        deliveries = await self.node.subscriptions()
        schema = (await self.node.store()).table(table)
        source = await deliveries.source(schema, trigger)
        names = sorted(await deliveries.names(source))
        return {"subscriptions": [await deliveries.describe(schema, source, name) for name in names]}


def _wanted(parameters: RequestParameters, timeout_ms: int) -> _Wanted:
    """Raises QueryError."""
    hold = parameters.integer("hold", 1_000, MAX_HOLD_MS)
    most = parameters.integer("max", 1, MOST_MESSAGES)
    timeout = parameters.integer("timeout", 0, MAX_TIMEOUT_MS)
    lease = parameters.integer("lease", 100, MAX_LEASE_MS)
    token = parameters.text("ack")
    auto_ack = parameters.flag("auto_ack")
    parameters.finish()
    return _Wanted(
        hold,
        DEFAULT_MESSAGES if most is None else most,
        timeout_ms if timeout is None else timeout,
        DEFAULT_LEASE_MS if lease is None else lease,
        [one for one in (token or "").split(",") if one],
        auto_ack,
    )


def _tokens_in(body: bytes) -> list[str]:
    """The tokens of a body: a JSON list of texts. Raises QueryError."""
    if not body.strip():
        return []
    try:
        return msgspec.json.decode(body, type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise QueryError("the body has to be a JSON list of ack tokens, or empty") from error


def _numbers(keys: Sequence[Key]) -> dict[int, list[int]]:
    numbers: dict[int, list[int]] = {}
    for partition, number in keys:
        numbers.setdefault(partition, []).append(number)
    return numbers


def _shown(source: Source, name: str, delivery: Delivery) -> dict[str, Any]:
    messages = [shown_message(source, name, partition, message) for partition, message in delivery.messages]
    return {"messages": messages, "ack": encode_token(source.table_id, source.trigger_id, name, delivery.keys)}


def _json(value: dict[str, Any]) -> str:
    return msgspec.json.encode(value).decode()


def _one_line(text: str) -> str:
    return text.replace("\r", " ").replace("\n", " ")
