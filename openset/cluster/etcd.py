"""Keeps a cluster's values in etcd, through the JSON gateway that every member of etcd has.

One member is asked until it fails, then the next one. Requests that may be made twice are; a commit is not, once it may
have been received. A watch is asked for again every few seconds, from the revision it has reached: a member that hangs,
or was cut off from the others, is noticed by that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import TypeVar

from openset.cluster import etcd_messages as messages
from openset.cluster.etcd_address import Endpoint, EtcdAddress
from openset.cluster.http_stream import Answer, BrokenError, NotConnectedError, posted, whole_body
from openset.cluster.keeper import Changes, Commit, Contents, Lease, LeaseId, Refused, Renewed, Revision
from openset.errors import ConfigError, LeaseLostError, UnreachableError

_ROUNDS = 2
_PAUSE_BETWEEN_ROUNDS_SECONDS = 0.1

Meaning = TypeVar("Meaning")


@dataclass(frozen=True, slots=True)
class EtcdTiming:
    """All in ms. connect, answer: what a member may take before the next one is asked.

    patience: no further member is asked after that.  watch: so long one request of a watch stands.
    """

    connect_ms: int = 1_000
    answer_ms: int = 2_000
    patience_ms: int = 4_000
    watch_ms: int = 2_000


class EtcdKeeper:
    """A `keeper.Keeper`."""

    def __init__(self, address: EtcdAddress, timing: EtcdTiming | None = None):
        """Raises ConfigError for certificates that cannot be used. Connects when it is asked for something."""
        self._address = address
        self._timing = timing or EtcdTiming()
        self._keys = messages.Keys(address.prefix)
        self._tls = None if address.tls is None else address.tls.context()
        self._current = 0
        # What etcd gave for user and password; empty when it wants none.
        self._token: str | None = "" if address.user is None else None

    @property
    def may_lead(self) -> bool:
        return True

    async def read(self) -> Contents:
        keys = self._keys
        return await self._ask(messages.RANGE, messages.range_of_all(keys), lambda body: messages.contents(keys, body))

    async def commit(self, commit: Commit) -> Revision | Refused:
        keys = self._keys
        return await self._ask(
            messages.TRANSACTION,
            messages.transaction(keys, commit),
            lambda body: messages.committed(keys, commit, body),
            repeatable=False,
        )

    async def grant(self, ttl_ms: int) -> Lease:
        return await self._ask(messages.GRANT, messages.grant(ttl_ms), messages.granted)

    async def renew(self, lease: LeaseId, key: str) -> Renewed:
        keys = self._keys
        ttl_ms = await self._ask(messages.KEEP_ALIVE, messages.lease_named(lease), messages.kept_alive)
        found = await self._ask(
            messages.RANGE, messages.range_of_one(keys, key), lambda body: messages.contents(keys, body)
        )
        return Renewed(ttl_ms, found.items.get(key))

    async def revoke(self, lease: LeaseId) -> None:
        with suppress(LeaseLostError):
            await self._ask(messages.REVOKE, messages.lease_named(lease), lambda _: None)

    async def close(self) -> None:
        """Nothing is open but what is under way."""

    async def watch(self, after: Revision) -> AsyncGenerator[Changes, None]:
        told = messages.WatchReader(self._keys, after)
        reasons: dict[Endpoint, str] = {}
        while True:
            endpoint, token = self._endpoint, ""
            try:
                token = await self._authenticated(endpoint)
                async with self._posted(
                    endpoint, messages.WATCH, messages.watch(self._keys, told.after), token, messages.WATCH_HEADERS
                ) as answer:
                    await self._check_status(answer)
                    end = asyncio.get_running_loop().time() + self._timing.watch_ms / 1_000
                    while (line := await _line(answer, end)) is not None:
                        changes = told.read(line)
                        if changes is not None:
                            yield changes
                    reasons.clear()
            except messages.TokenNeededError as error:
                self._token_refused(token)
                if endpoint in reasons:
                    self._leave(endpoint)
                reasons[endpoint] = str(error)
            except (NotConnectedError, BrokenError, UnreachableError) as error:
                self._leave(endpoint)
                reasons[endpoint] = str(error)
            if len(reasons) == len(self._address.endpoints):
                raise self._unreachable(reasons)

    # ---------------------------------------------------------------- requests

    async def _ask(
        self, path: str, request: bytes, meaning: Callable[[bytes], Meaning], *, repeatable: bool = True
    ) -> Meaning:
        """Asks one member after the other. repeatable: also when one may have carried it out."""
        reasons: dict[Endpoint, str] = {}
        until = time.monotonic() + self._timing.patience_ms / 1_000
        for attempt in range(_ROUNDS * len(self._address.endpoints)):
            if attempt == len(self._address.endpoints):
                await asyncio.sleep(_PAUSE_BETWEEN_ROUNDS_SECONDS)
            if attempt and time.monotonic() > until:
                break
            endpoint = self._endpoint
            try:
                return await self._asked(endpoint, path, request, meaning)
            except NotConnectedError as error:
                self._leave(endpoint)
                reasons[endpoint] = str(error)
            except (BrokenError, UnreachableError) as error:
                self._leave(endpoint)
                reasons[endpoint] = str(error)
                if not repeatable:
                    break
        raise self._unreachable(reasons)

    async def _asked(
        self, endpoint: Endpoint, path: str, request: bytes, meaning: Callable[[bytes], Meaning]
    ) -> Meaning:
        """One member; with a new token, where the one there was is not valid any more."""
        for _ in range(2):
            token = await self._authenticated(endpoint)
            try:
                return await self._one_request(endpoint, path, request, meaning, token)
            except messages.TokenNeededError:
                self._token_refused(token)
        raise UnreachableError("it does not take the token it gave")

    async def _one_request(
        self, endpoint: Endpoint, path: str, request: bytes, meaning: Callable[[bytes], Meaning], token: str
    ) -> Meaning:
        async with self._posted(endpoint, path, request, token) as answer:
            await self._check_status(answer)
            body = await whole_body(answer, self._timing.answer_ms)
            return meaning(body)

    def _posted(
        self, endpoint: Endpoint, path: str, request: bytes, token: str, headers: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        authorised = {**(headers or {}), **({"Authorization": token} if token else {})}
        timing = self._timing
        return posted(endpoint, path, request, authorised, self._tls, timing.connect_ms, timing.answer_ms)

    async def _check_status(self, answer: Answer) -> None:
        if answer.status != 200:
            raise messages.refusal(answer.status, await whole_body(answer, self._timing.answer_ms))

    # ---------------------------------------------------------------- passwords

    async def _authenticated(self, endpoint: Endpoint) -> str:
        """The token to show, empty for none."""
        if self._token is None:
            assert self._address.user is not None and self._address.password is not None
            request = messages.authenticate(self._address.user, self._address.password)
            try:
                self._token = await self._one_request(endpoint, messages.AUTHENTICATE, request, messages.token, "")
            except messages.AuthenticationOffError:
                self._token = ""
            except messages.TokenNeededError as error:
                raise UnreachableError(str(error)) from error
        return self._token

    def _token_refused(self, token: str) -> None:
        if self._address.user is None:
            raise ConfigError("etcd wants a user and a password: etcd://user:password@host:2379")
        if self._token == token:
            self._token = None

    # ---------------------------------------------------------------- members

    @property
    def _endpoint(self) -> Endpoint:
        return self._address.endpoints[self._current]

    def _leave(self, endpoint: Endpoint) -> None:
        """Others ask the next one."""
        if self._endpoint == endpoint:
            self._current = (self._current + 1) % len(self._address.endpoints)

    def _unreachable(self, reasons: Mapping[Endpoint, str]) -> UnreachableError:
        told = "; ".join(f"{endpoint}: {reason}" for endpoint, reason in reasons.items())
        return UnreachableError(f"etcd does not answer ({told})")


async def _line(answer: Answer, end: float) -> bytes | None:
    """The next line of a watch; None when it has stood for long enough. Raises EOFError when it broke."""
    try:
        async with asyncio.timeout_at(end):
            line = await answer.reader.readline()
    except TimeoutError:
        return None
    if not line.endswith(b"\n"):
        raise EOFError("the watch broke off")
    return line
