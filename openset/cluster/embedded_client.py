"""The embedded coordinator as other nodes, and its own, reach it: requests through whatever sends them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import TypeVar

from openset.cluster.embedded_messages import (
    LONGEST_WAIT_MS,
    Answer,
    Committed,
    Compacted,
    DoCommit,
    Ended,
    Failed,
    Grant,
    Granted,
    Kept,
    Read,
    Renew,
    Request,
    Revoke,
    Wait,
    decode_answer,
    encode,
)
from openset.cluster.keeper import (
    Changes,
    Commit,
    CompactedError,
    Contents,
    Item,
    Lease,
    LeaseId,
    Refused,
    Renewed,
    Revision,
)
from openset.errors import InternalError, LeaseLostError, UnreachableError

# Brings a request to the node that has the coordinator and its answer back. Raises UnreachableError, ConfigError.
SendRequest = Callable[[bytes], Awaitable[bytes]]

Wanted = TypeVar("Wanted", bound=Answer)


class EmbeddedKeeper:
    """A `keeper.Keeper`. may_lead: on the node that has the coordinator; it is the sentinel and nobody else."""

    def __init__(self, send: SendRequest, *, may_lead: bool, patience_ms: int = 5_000, wait_ms: int = 10_000):
        """patience_ms: for an answer.  wait_ms: how long one request of a watch stands, up to LONGEST_WAIT_MS."""
        assert 0 < wait_ms <= LONGEST_WAIT_MS
        self._send = send
        self._may_lead = may_lead
        self._patience_ms = patience_ms
        self._wait_ms = wait_ms

    @property
    def may_lead(self) -> bool:
        return self._may_lead

    async def read(self) -> Contents:
        answer = _expected(Kept, await self._ask(Read()))
        return Contents(answer.revision, _present(answer.items))

    async def commit(self, commit: Commit) -> Revision | Refused:
        answer = await self._ask(DoCommit(commit))
        if isinstance(answer, Committed):
            return answer.revision
        found = _expected(Kept, answer)
        return Refused(found.revision, found.items)

    async def grant(self, ttl_ms: int) -> Lease:
        answer = _expected(Granted, await self._ask(Grant(ttl_ms)))
        return Lease(answer.lease, answer.ttl_ms)

    async def renew(self, lease: LeaseId, key: str) -> Renewed:
        answer = _expected(Granted, await self._ask(Renew(lease, key)))
        return Renewed(answer.ttl_ms, answer.item)

    async def revoke(self, lease: LeaseId) -> None:
        _expected(Ended, await self._ask(Revoke(lease)))

    async def watch(self, after: Revision) -> AsyncGenerator[Changes, None]:
        while True:
            answer = await self._ask(Wait(after, self._wait_ms), self._wait_ms)
            if isinstance(answer, Compacted):
                raise CompactedError
            changed = _expected(Kept, answer)
            if changed.items:
                after = changed.revision
                yield Changes(after, changed.items)

    async def close(self) -> None:
        return

    async def _ask(self, request: Request, waits_ms: int = 0) -> Answer:
        try:
            async with asyncio.timeout((self._patience_ms + waits_ms) / 1_000):
                data = await self._send(encode(request))
        except TimeoutError as error:
            raise UnreachableError("the node with the coordinator does not answer in time") from error
        try:
            answer = decode_answer(data)
        except ValueError as error:
            raise UnreachableError(f"what answers in place of the coordinator is none: {error}") from error
        match answer:
            case Failed("unreachable", message):
                raise UnreachableError(message)
            case Failed("lease_lost", message):
                raise LeaseLostError(message)
            case Failed(_, message):
                raise InternalError(f"the coordinator does not understand a request: {message}")
        return answer


def _expected(kind: type[Wanted], answer: Answer) -> Wanted:
    if not isinstance(answer, kind):
        raise UnreachableError(f"the coordinator answers with {type(answer).__name__}, not {kind.__name__}")
    return answer


def _present(items: Mapping[str, Item | None]) -> dict[str, Item]:
    return {key: item for key, item in items.items() if item is not None}
