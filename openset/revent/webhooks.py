"""Webhooks: the messages of a subscription sent to an address, signed, in order, again when they are not taken.

A webhook is a consumer like any other. What its receiver does not take after all tries becomes a dead letter and is
acknowledged, so that it does not hold up what comes after it. Targets must be on the daemon's list.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

import msgspec
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest

from openset.errors import ConfigError, OpenSetError, QueryError
from openset.log import get_logger
from openset.revent.board import call_soon
from openset.revent.changes import TriggerChanges
from openset.revent.deliveries import Deliveries, shown_message
from openset.revent.letters import Letters
from openset.revent.messages import DEFAULT_HOLD_MS, Source
from openset.revent.subscription import Key, Poll
from openset.revent.subscriptions import Subscriptions
from openset.revent.wire import WebhookFacts
from openset.store.dead_letters import DeadLetter
from openset.store.schema import TableSchema
from openset.store.store import Store
from openset.store.trigger_catalog import Trigger

log = get_logger("openset.webhooks")

SIGNATURE_HEADER = "OpenSet-Signature"
REQUEST_TIMEOUT_SECONDS = 10.0
MAX_BACKOFF_MS = 3_600_000
_LEASE_MARGIN_MS = 60_000
_WAIT_MS = 2_000
_PAUSE_SECONDS = 5.0
_LOOK_SECONDS = 0.5
_FORBIDDEN_HEADERS = frozenset({"host", "content-length", "content-type", "transfer-encoding", "connection"})


class Webhook(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where messages are sent. batch: how many at once. tries, retry_ms: how often, and the first pause between."""

    url: str
    secret: str = ""
    headers: dict[str, str] = {}
    batch: int = 100
    tries: int = 8
    retry_ms: int = 500


@dataclass(frozen=True, slots=True)
class AllowList:
    """The targets a daemon may send to; nothing unless told.

    An entry is a host or a pattern like *.example.com, with a port or not, or the beginning of an address.
    """

    entries: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str) -> AllowList:
        """From a list with commas."""
        return cls(tuple(entry.strip().lower() for entry in text.split(",") if entry.strip()))

    def allows(self, url: str) -> bool:
        """Whether an address may be sent to."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        place = f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
        for entry in self.entries:
            if "://" in entry:
                beginning = entry if entry.count("/") > 2 else entry + "/"
                if f"{parts.scheme}://{parts.netloc.lower()}{parts.path or '/'}".startswith(beginning):
                    return True
            elif fnmatchcase(place if ":" in entry else host, entry):
                return True
        return False


def read_webhook(body: bytes, allowed: AllowList) -> Webhook:
    """The webhook of a request body. Raises QueryError, ConfigError for a target that is not allowed."""
    try:
        hook = msgspec.json.decode(body, type=Webhook)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise QueryError(f"the body is no webhook: {error}") from error
    try:
        parts = urlsplit(hook.url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        sound = False
    if not sound or "@" in parts.netloc or not hook.url.isascii() or any(c <= " " for c in hook.url):
        raise QueryError("url has to be an address like https://example.com/path, without a name and password")
    if not 1 <= hook.batch <= 1_000 or not 1 <= hook.tries <= 50 or not 10 <= hook.retry_ms <= MAX_BACKOFF_MS:
        raise QueryError("batch is from 1 to 1000, tries from 1 to 50, retry_ms from 10 to 3600000")
    for name, value in hook.headers.items():
        sound = name.replace("-", "").isalnum() and name.isascii() and value.isprintable() and value.isascii()
        if not sound or name.lower() in _FORBIDDEN_HEADERS or name.lower() == SIGNATURE_HEADER.lower():
            raise QueryError(f"the header {name!a} cannot be sent")
    if not allowed.allows(hook.url):
        raise ConfigError(
            f"{parts.hostname} is not on the daemon's list of webhook targets; it is set by --webhook-allow"
        )
    return hook


def signature(secret: str, stamp_ms: int, body: bytes) -> str:
    """The value of the signature header: HMAC-SHA256 over the time, a dot and the body."""
    digest = hmac.new(secret.encode(), f"{stamp_ms}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={stamp_ms},v1={digest}"


def backoff_ms(tried: int, retry_ms: int, chance: float) -> int:
    """How long to wait after so many tries: twice as long each time, up to an hour.

    chance: 0 to 1, takes up to half of it away, so that many receivers are not tried at one moment.
    """
    return int(min(retry_ms * 2.0 ** (tried - 1), MAX_BACKOFF_MS) * (1.0 - chance / 2))


@dataclass(frozen=True, slots=True)
class _Parcel:
    """What is sent at once. keys: of the messages, which are leased; none for dead letters that are tried again.

    erasures: how many people of the table had been erased when it was made.
    """

    messages: Sequence[dict[str, Any]]
    keys: Sequence[Key]
    erasures: int


class Webhooks:
    """The webhooks of a node and their tasks. Made on the event loop."""

    def __init__(
        self,
        store: Store,
        deliveries: Deliveries,
        subscriptions: Subscriptions,
        changes: TriggerChanges,
        letters: Letters,
        allowed: AllowList,
    ):
        """deliveries: of the messages that this node tells of, subscriptions: of all."""
        self._store = store
        self._changes = changes
        self._subscriptions = subscriptions
        self._letters = letters
        self._deliveries = deliveries
        self._allowed = allowed
        self._client = AsyncHTTPClient(force_instance=True, max_clients=100)
        self._tasks: dict[tuple[int, int, str], asyncio.Task[None]] = {}
        self._states: dict[tuple[int, int, str], dict[str, Any]] = {}
        self._consumers: dict[tuple[int, int, str], int] = {}
        # The webhooks that have a task, as they were saved.
        self._saved: dict[tuple[int, int, str], Any] = {}
        loop = asyncio.get_running_loop()
        self._unlisten = store.triggers.listen(
            lambda table_id, partitions, triggers: None if partitions else call_soon(loop, self._follow)
        )
        self._follow()

    def _follow(self) -> None:
        """Has a task for each webhook that there is, begun anew where it was changed."""
        if self._deliveries.closed:
            return
        found = {
            (schema.id, trigger.id, name): (schema, trigger, hook)
            for schema in self._store.tables()
            for trigger in self._store.triggers.of_table(schema.id)
            for name, hook in trigger.webhooks.items()
        }
        for key in [key for key, hook in self._saved.items() if key not in found or found[key][2] != hook]:
            del self._saved[key]
            self._stop(key)
        for key, (schema, trigger, hook) in found.items():
            if key not in self._saved:
                self._saved[key] = hook
                self._start(schema, Source(schema.id, trigger.id, trigger.name, trigger.watched), key[2])

    async def close(self) -> None:
        """Ends the tasks; what is under way will be sent again."""
        self._unlisten()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._client.close()

    # ---------------------------------------------------------------- what users do

    async def put(self, table: TableSchema, source: Source, name: str, body: bytes) -> dict[str, Any]:
        """Sets the webhook of a subscription, which is made when there is none. Raises QueryError, ConfigError."""
        hook = read_webhook(body, self._allowed)
        await self._subscriptions.open(table, source, name, None, DEFAULT_HOLD_MS)
        key = (source.table_id, source.trigger_id, name)
        self._saved.pop(key, None)  # it begins anew, also when it is what it was
        self._stop(key)
        try:
            await self._save(table, source, name, hook)
        finally:
            self._follow()
        return await self.describe(table, source, name)

    async def remove(self, table: TableSchema, source: Source, name: str, *, missing_is_fine: bool = False) -> None:
        """Takes the webhook of a subscription away, with its dead letters. Raises QueryError, InternalError."""
        if name not in self._trigger(source).webhooks:
            if missing_is_fine:
                return
            raise QueryError(f"subscription {name!a} has no webhook")
        await self._save(table, source, name, None)
        self._follow()
        await self._letters.remove(table.id, source.trigger_id, name)

    async def describe(self, table: TableSchema, source: Source, name: str) -> dict[str, Any]:
        """A webhook as it is shown: without its secret and the values of its headers. Raises QueryError."""
        stored = self._trigger(source).webhooks.get(name)
        if stored is None:
            raise QueryError(f"subscription {name!a} has no webhook")
        hook = msgspec.convert(stored, Webhook)
        facts = await self._subscriptions.webhook(source, name, self.own_facts)
        return {
            "url": hook.url, "signed": bool(hook.secret), "headers": sorted(hook.headers), "batch": hook.batch,
            "tries": hook.tries, "retry_ms": hook.retry_ms, "dead": facts.dead, "dead_forgotten": facts.fallen,
            "sent": facts.sent, "last_error": facts.error,
        }  # fmt: skip

    def own_facts(self, source: Source, name: str) -> WebhookFacts:
        """What this node knows of a webhook, in the partitions that it tells of."""
        letters, fallen = self._letters.of(source.table_id, source.trigger_id, name)
        state = self._states.get((source.table_id, source.trigger_id, name), {})
        return WebhookFacts(len(letters), fallen, state.get("sent", 0), state.get("error"))

    def own_letters(self, source: Source, name: str) -> list[DeadLetter]:
        """The dead letters of those partitions, oldest first."""
        return self._letters.of(source.table_id, source.trigger_id, name)[0]

    def has(self, source: Source, name: str) -> bool:
        """Whether a subscription has a webhook."""
        return name in self._trigger(source).webhooks

    async def dead(self, source: Source, name: str) -> list[dict[str, Any]]:
        """The dead letters of a subscription, oldest first."""
        letters = await self._subscriptions.letters(source, name, self.own_letters)
        return [
            {"message": one.message, "reason": one.reason, "tries": one.tries, "at": one.at_ms, "again": one.again}
            for one in letters
        ]

    async def retry(self, table: TableSchema, source: Source, name: str) -> int:
        """Has the dead letters tried again, before anything that is newer; how many there are. Raises QueryError."""
        if not self.has(source, name):
            raise QueryError(f"subscription {name!a} has no webhook")
        count = len(await self._subscriptions.letters(source, name, self.own_letters))
        await self._letters.try_again(table.id, source.trigger_id, name)
        self._deliveries.dismiss(source, name, self._consumers.get((source.table_id, source.trigger_id, name), 0))
        return count

    def _trigger(self, source: Source) -> Trigger:
        found = next(
            (one for one in self._store.triggers.of_table(source.table_id) if one.id == source.trigger_id), None
        )
        if found is None:
            raise QueryError(f"{source.name!r} was removed meanwhile")
        return found

    async def _save(self, table: TableSchema, source: Source, name: str, hook: Webhook | None) -> None:
        before = self._trigger(source)
        webhooks = {key: held for key, held in before.webhooks.items() if key != name}
        if hook is not None:
            webhooks[name] = msgspec.to_builtins(hook)
        changed = msgspec.structs.replace(before, webhooks=webhooks)
        await self._changes.put(table.id, changed, before)

    # ---------------------------------------------------------------- sending

    def _start(self, table: TableSchema, source: Source, name: str) -> None:
        key = (source.table_id, source.trigger_id, name)
        self._states[key] = {"sent": 0, "error": None}
        self._consumers[key] = self._deliveries.new_consumer()
        self._tasks[key] = asyncio.create_task(self._run(table, source, name))

    def _stop(self, key: tuple[int, int, str]) -> None:
        task = self._tasks.pop(key, None)
        if task is not None:
            task.cancel()

    async def _run(self, table: TableSchema, source: Source, name: str) -> None:
        # A cancellation may be swallowed by a wait that ends at the same moment: who is not the task any more ends too.
        key = (source.table_id, source.trigger_id, name)
        consumer = self._consumers[key]
        while not self._deliveries.closed and self._tasks.get(key) is asyncio.current_task():
            if self._store.health.is_read_only:  # what is sent could not be marked as sent
                await asyncio.sleep(_PAUSE_SECONDS)
                continue
            try:
                hook = msgspec.convert(self._trigger(source).webhooks[name], Webhook)
                if not await self._is_ready(table, source, name):
                    await asyncio.sleep(_LOOK_SECONDS)
                    continue
                await self._next(table, source, name, hook, consumer)
            except KeyError:
                return  # the webhook is gone
            except QueryError:
                if not self._deliveries.messages.is_shared:
                    return  # the trigger or the subscription is gone
                await asyncio.sleep(_LOOK_SECONDS)  # or only with another owner: when it is gone, so is this task
            except OpenSetError as error:
                log.error("a webhook cannot go on", trigger=source.name, subscription=name, reason=error.message)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _is_ready(self, table: TableSchema, source: Source, name: str) -> bool:
        """Whether this node tells of messages of the subscription."""
        messages = self._deliveries.messages
        if not messages.is_shared:
            await self._deliveries.open(table, source, name, None, DEFAULT_HOLD_MS)
            return True
        if not messages.partitions(table) or name not in messages.subscriptions(source.table_id, source.trigger_id):
            return False
        self._deliveries.use(table, source, name)
        return True

    async def _next(self, table: TableSchema, source: Source, name: str, hook: Webhook, consumer: int) -> None:
        """Sends dead letters that are to be tried again, or else what comes next."""
        erasures = self._store.triggers.erasures(table.id)
        letters, _ = self._letters.of(table.id, source.trigger_id, name)
        again = [one for one in letters if one.again][: hook.batch]
        if again:
            parcel = _Parcel([one.message for one in again], [], erasures)
            reason = await self._send(source, name, hook, parcel)
            if reason is None:
                ids = [one.id for one in again]
                await self._letters.remove(table.id, source.trigger_id, name, ids)
            else:
                await self._bury(table, source, name, hook, parcel, reason)
            return
        lease_ms = _LEASE_MARGIN_MS + hook.retry_ms
        delivery = await self._deliveries.take(source, name, Poll(consumer, hook.batch, lease_ms), _WAIT_MS)
        if delivery is None:
            return
        messages = []
        for partition, message in delivery.messages:
            shown = shown_message(source, name, partition, message)
            del shown["ack"]
            messages.append(shown)
        parcel = _Parcel(messages, delivery.keys, erasures)
        try:
            reason = await self._send(source, name, hook, parcel)
            if reason is not None:
                await self._bury(table, source, name, hook, parcel, reason)
        except asyncio.CancelledError:
            self._deliveries.release(source, name, delivery.keys)
            raise
        numbers: dict[int, list[int]] = {}
        for partition, number in delivery.keys:
            numbers.setdefault(partition, []).append(number)
        await self._deliveries.acknowledge(source, name, numbers)

    def _left(self, source: Source, name: str, parcel: _Parcel) -> Sequence[dict[str, Any]]:
        """The messages of it that nobody was erased of meanwhile."""
        if self._store.triggers.erasures(source.table_id) == parcel.erasures:
            return parcel.messages
        if not parcel.keys:
            there = {one.id for one in self._letters.of(source.table_id, source.trigger_id, name)[0]}
            return [one for one in parcel.messages if one["id"] in there]
        kept = self._deliveries.there(source, parcel.keys)
        return [one for one, key in zip(parcel.messages, parcel.keys, strict=True) if key in kept]

    async def _bury(
        self, table: TableSchema, source: Source, name: str, hook: Webhook, parcel: _Parcel, reason: str
    ) -> None:
        now_ms, again = self._deliveries.clock(), not parcel.keys
        letters = [
            DeadLetter(source.trigger_id, name, message, reason, hook.tries, now_ms)
            for message in self._left(source, name, parcel)
        ]
        if not letters:
            return
        await self._letters.add(table.id, letters, again=again)
        log.warning("a webhook did not take messages", url=hook.url, messages=len(letters), reason=reason)
        if not again:  # who was erased while they were written is not to stay
            left = {one["id"] for one in self._left(source, name, parcel)}
            gone = [one.id for one in letters if one.id not in left]
            if gone:
                await self._letters.remove(table.id, source.trigger_id, name, gone)

    async def _send(self, source: Source, name: str, hook: Webhook, parcel: _Parcel) -> str | None:
        """None when the receiver took them, else why not, after all tries."""
        state = self._states[source.table_id, source.trigger_id, name]
        reason: str | None = None
        for tried in range(1, hook.tries + 1):
            messages = self._left(source, name, parcel)
            if not messages:
                return None
            body = msgspec.json.encode({"subscription": name, "trigger": source.name, "messages": messages})
            state["error"] = reason = await self._post(hook, body)
            if reason is None:
                state["sent"] += len(messages)
                return None
            if tried < hook.tries:
                pause_ms = backoff_ms(tried, hook.retry_ms, random.random())
                if parcel.keys:
                    until_ms = self._deliveries.clock() + pause_ms + _LEASE_MARGIN_MS
                    self._deliveries.extend(source, name, parcel.keys, until_ms)
                await asyncio.sleep(pause_ms / 1_000)
        return reason

    async def _post(self, hook: Webhook, body: bytes) -> str | None:
        if not self._allowed.allows(hook.url):
            return "the target is not on the daemon's list any more"
        headers = {"Content-Type": "application/json", "User-Agent": "OpenSet", **hook.headers}
        if hook.secret:
            headers[SIGNATURE_HEADER] = signature(hook.secret, self._deliveries.clock(), body)
        request = HTTPRequest(
            hook.url,
            "POST",
            headers,
            body,
            connect_timeout=REQUEST_TIMEOUT_SECONDS,
            request_timeout=REQUEST_TIMEOUT_SECONDS,
            follow_redirects=False,
        )
        try:
            response = await self._client.fetch(request, raise_error=False)
        except (OSError, HTTPClientError, ValueError) as error:
            return str(error) or type(error).__name__
        if 200 <= response.code < 300:
            return None
        return f"status {response.code}" if response.code != 599 else str(response.error)
