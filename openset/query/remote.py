"""The owner's side of a query that another node coordinates: it is prepared and run against this node's data.

The request and its limits are checked as those of a client are; errors go back as those of a client do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from openset.errors import WireError
from openset.query import erasure, explain_person, passes, person
from openset.query.column import ColumnRequest
from openset.query.counts import CountsRequest
from openset.query.erasure import ErasureAsk, concerned_here
from openset.query.events import EventsRequest
from openset.query.explain_person import ExplainRequest, explained_here
from openset.query.frame import MAX_TIMEOUT_MS, Facts, Query, Target, Tools, run_here
from openset.query.histogram import HistogramRequest
from openset.query.one_owner import Whole, answered_here
from openset.query.passes import PassRequest, pass_here
from openset.query.person import PersonAsk, person_here
from openset.query.refresher import RefreshRequest
from openset.query.shared_segments import SegmentMessage, answer_segments
from openset.query.spread import Share
from openset.query.wire.asking import Answered, Ask, request_of
from openset.query.wire.codec import Codec, checked, decoded, encoded
from openset_format.block import PersonId
from openset_format.hashing import partition_of

MayAnswer = Callable[[int], bool]
Shared = tuple[Share[Any], Codec[Any] | None]
ShareOf = Callable[[Tools, Ask, MayAnswer], Awaitable[Shared]]

_QUERIES: dict[str, type[Any]] = {
    kind.kind: kind for kind in (EventsRequest, ColumnRequest, HistogramRequest, CountsRequest, RefreshRequest)
}
# Queries of a pass must not make segments: which of them a segment knows follows from their order.
_OF_A_PASS = (EventsRequest.kind, ColumnRequest.kind, HistogramRequest.kind)


async def answer_remote(
    tools: Tools, body: bytes, may_answer: MayAnswer, more: Mapping[str, ShareOf] | None = None
) -> bytes:
    """What another node asked for, for the partitions this node may answer for; the others are refused.

    more: kinds of requests that are answered elsewhere.

    Cancelling it ends what runs. Raises WireError for what is no request, and whatever the query ends with.
    """
    message: Ask | SegmentMessage = decoded(body, Ask | SegmentMessage)
    if not isinstance(message, Ask):
        return await answer_segments(tools.store, message)
    ask, count = message, tools.store.partitions or 0
    numbers = ask.partitions
    checked(bool(numbers) and numbers == sorted(set(numbers)), "it names no partitions, or one of them twice")
    checked(numbers[0] >= 0 and numbers[-1] < count, "it names a partition that there is not")
    checked(1 <= ask.left_ms <= MAX_TIMEOUT_MS, "it gives a query no time, or too much")
    share_of = (more or {}).get(ask.kind, _share)
    share, codec = await share_of(tools, ask, may_answer)
    result = None
    if share.result is not None:
        assert codec is not None
        result = await asyncio.to_thread(codec.encode, share.result)
    return encoded(Answered(result, share.read, list(share.refused), share.other_schema, list(share.other_segments)))


async def _share(tools: Tools, ask: Ask, may_answer: MayAnswer) -> Shared:
    if ask.kind in _QUERIES:
        query: Query = request_of(ask.request, _QUERIES[ask.kind])
        facts = _facts(ask, query.common.timeout_ms)
        return await run_here(tools, query, facts, _target(ask), ask.partitions, may_answer)
    if ask.kind == passes.KIND:
        batch = request_of(ask.request, PassRequest)
        checked(all(one.kind in _OF_A_PASS for one in batch.queries), "a query of a batch is of no known kind")
        queries = [request_of(one.request, _QUERIES[one.kind]) for one in batch.queries]
        facts = _facts(ask, batch.timeout_ms)
        return await pass_here(tools, batch.table, queries, facts, _target(ask), ask.partitions, may_answer)
    if ask.kind == person.KIND:
        asked = request_of(ask.request, PersonAsk)
        _check_partition(tools, ask, asked.request.person)
        return await answered_here(
            ask.partitions, may_answer, lambda: person_here(tools, asked.table, asked.request)
        ), Whole()  # fmt: skip
    if ask.kind == erasure.KIND:
        erased = request_of(ask.request, ErasureAsk)
        _check_partition(tools, ask, erased.person)
        return await answered_here(ask.partitions, may_answer, lambda: concerned_here(tools, erased)), Whole()
    if ask.kind == explain_person.KIND:
        request = request_of(ask.request, ExplainRequest)
        _check_partition(tools, ask, request.person)
        facts = _facts(ask, request.timeout_ms)

        async def explained() -> bytes:
            return encoded(await explained_here(tools, request, facts))

        return await answered_here(ask.partitions, may_answer, explained), Whole()
    raise WireError(f"another node's request cannot be read: it is of kind {ask.kind!r}")


def _target(ask: Ask) -> Target:
    return Target(ask.kind, ask.request, ask.schema, ask.segments)


def _facts(ask: Ask, timeout_ms: int) -> Facts:
    """When the query began, by this node's clock: as much time is left as the other node says."""
    return Facts(ask.now_ms, time.monotonic() - (timeout_ms - ask.left_ms) / 1000)


def _check_partition(tools: Tools, ask: Ask, asked: PersonId) -> None:
    number = partition_of(asked, tools.store.partitions or 1)
    checked(ask.partitions == [number], "a person is in another partition")
