"""Several queries in one pass over the partitions of their table, on the workers of this node and of others.

A worker takes one partition after the other and runs every query over it while its maps are warm. One query's failure
is its own result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import msgspec

from openset.errors import OpenSetError
from openset.pyql.settings import RunSettings
from openset.query.answer import QueryAnswer
from openset.query.executor import Executor
from openset.query.fan_out import PartitionedWork, Portion, fan_out, turn
from openset.query.frame import (
    Facts,
    Query,
    Runnable,
    Target,
    Tools,
    ask_bytes,
    bringing,
    differs,
    editions,
    made_ready,
    pinned_of,
    share_of,
)
from openset.query.spread import Asking, Gathered, Share, Spread, gather
from openset.query.wire.asking import request_of, schema_mark
from openset.query.wire.codec import Codec, checked, decoded, encoded
from openset.query.wire.failures import Failure, packed_error, unpacked_error
from openset.query.work import WorkerState, budget_error
from openset.store.schema import TableSchema
from openset.store.segment import StoredSegment
from openset.store.snapshot import PartitionSnapshot

KIND = "batch"

One = TypeVar("One")
# Per query what was found, or the first error it ended with.
Found = list[One | OpenSetError]


@dataclass(frozen=True, slots=True, eq=False)
class BatchWork:
    """One turn of several queries on a worker: all of them over one partition after the other.

    works: of each query, without snapshots.
    """

    works: Sequence[PartitionedWork]
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings

    def run(self, state: WorkerState) -> Portion[Found[list[Any]]]:
        """Per query its results, or the first error it ended with."""
        results: Found[list[Any]] = [[] for _ in self.works]
        done = 0
        for snapshot in turn(self.snapshots):
            for index, work in enumerate(self.works):
                found = results[index]
                if isinstance(found, OpenSetError):
                    continue
                one: Any = work
                try:
                    found.append(replace(one, snapshots=[snapshot]).run(state).result)
                except (OpenSetError, MemoryError, RecursionError) as error:
                    results[index] = budget_error(error)
            done += 1
        return Portion(results, done)


async def one_pass(
    executor: Executor, works: Sequence[PartitionedWork], snapshots: Sequence[PartitionSnapshot]
) -> Found[list[Any]]:
    """The results of each work, or the error it ended with.

    A worker process that dies of one of them takes the pass with it; then each goes on its own.
    """
    if not works:
        return []
    latest = max((work.settings for work in works), key=lambda settings: settings.deadline or 0.0)
    try:
        portions = await fan_out(executor, BatchWork(works, snapshots, latest))
    except OpenSetError as error:
        if len(works) == 1:
            return [error]
        return [(await one_pass(executor, [work], snapshots))[0] for work in works]
    return [_joined([portion[index] for portion in portions]) for index in range(len(works))]


def _joined(parts: Sequence[list[Any] | OpenSetError]) -> list[Any] | OpenSetError:
    joined: list[Any] = []
    for part in parts:
        if isinstance(part, OpenSetError):
            return part
        joined += part
    return joined


# ---------------------------------------------------------------- across nodes


class PassQuery(msgspec.Struct, array_like=True, frozen=True):
    """A query of a pass: its kind, and its fields as bytes."""

    kind: str
    request: bytes


class PassRequest(msgspec.Struct, frozen=True):
    """What another node is sent. timeout_ms: of the query that may take longest."""

    table: str
    timeout_ms: int
    queries: list[PassQuery]


class _PackedFound(msgspec.Struct, array_like=True, frozen=True):
    result: bytes | None
    error: Failure | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PassCodec:
    """Of a result or an error per query. codecs: of the queries."""

    codecs: Sequence[Codec[Any]]

    def merged(self, results: Sequence[Found[Any]]) -> Found[Any]:
        return [
            merged_found(codec, [found[index] for found in results]) for index, codec in enumerate(self.codecs)
        ]  # fmt: skip

    def encode(self, result: Found[Any]) -> bytes:
        return encoded(
            [
                _PackedFound(None, packed_error(found))
                if isinstance(found, OpenSetError)
                else _PackedFound(codec.encode(found))
                for codec, found in zip(self.codecs, result, strict=True)
            ]
        )

    def decode(self, data: bytes) -> Found[Any]:
        packed: list[_PackedFound] = decoded(data, list[_PackedFound])
        checked(len(packed) == len(self.codecs), "it answers more or fewer queries")
        return [self._one(codec, found) for codec, found in zip(self.codecs, packed, strict=True)]

    def _one(self, codec: Codec[Any], packed: _PackedFound) -> Any:
        if packed.error is not None:
            return unpacked_error(packed.error)
        checked(packed.result is not None, "a query has neither a result nor an error")
        assert packed.result is not None
        return codec.decode(packed.result)


def merged_found(codec: Codec[Any], results: Sequence[Any]) -> Any:
    """Results of one query merged, or the first error among them or of merging."""
    for result in results:
        if isinstance(result, OpenSetError):
            return result
    return codec.merged(results)


async def spread_pass(
    tools: Tools,
    spread: Spread,
    schema: TableSchema,
    ready: Sequence[tuple[Query, bytes, Runnable]],
    facts: Facts,
) -> Gathered[Found[Any]]:
    """The merged results of each query over all nodes. ready: each query with its bytes.

    Raises OutdatedError, RunTimeError, the error of a request.
    """
    names = list(dict.fromkeys(name for _, _, one in ready for name in one.segments))
    timeout_ms = max(query.common.timeout_ms for query, _, _ in ready)
    request = PassRequest(schema.name, timeout_ms, [PassQuery(query.kind, data) for query, data, _ in ready])
    with tools.store.segments.pinned(schema.id, names, facts.now_ms) as found:
        target = Target(KIND, encoded(request), schema_mark(schema), editions(names, found))
        return await _gathered_pass(tools, spread, ready, facts, target, request, found)


async def _gathered_pass(
    tools: Tools,
    spread: Spread,
    ready: Sequence[tuple[Query, bytes, Runnable]],
    facts: Facts,
    target: Target,
    request: PassRequest,
    found: Mapping[str, StoredSegment],
) -> Gathered[Found[Any]]:
    deadline = facts.started + request.timeout_ms / 1000

    async def here(numbers: Sequence[int]) -> Share[Found[Any]]:
        queries = [request_of(data, type(query)) for query, data, _ in ready]
        share, _ = await pass_here(tools, request.table, queries, facts, target, numbers, spread.may_answer)
        return share

    asking = Asking(
        spread,
        PassCodec([one.codec for _, _, one in ready]),
        here,
        lambda numbers: ask_bytes(target, facts, deadline, numbers),
        deadline,
        request.timeout_ms,
        partial=True,  # each query decides for itself
        bring=bringing(tools, spread, found),
    )
    return await gather(asking, range(tools.store.partitions or 0))


async def pass_here(
    tools: Tools,
    table: str,
    queries: Sequence[Query],
    facts: Facts,
    target: Target,
    numbers: Sequence[int],
    may_answer: Callable[[int], bool],
) -> tuple[Share[Found[Any]], PassCodec]:
    """This node's share of a pass, as `frame.run_here` has it for one query, and the codec of its result.

    Raises QueryError for an unknown table.
    """
    nothing = PassCodec([])
    allowed = [number for number in numbers if may_answer(number)]
    if not allowed:
        return Share(None, refused=numbers), nothing
    with ExitStack() as held:
        schema, snapshots = held.enter_context(tools.store.pinned_table(table, facts.now_ms))
        differing = differs(tools, schema, target, facts)
        if differing is not None:
            return differing, nothing
        ready: Found[Runnable] = []
        for query in queries:
            try:
                made = await made_ready(tools, query, schema, facts, held)
                assert not isinstance(made, QueryAnswer), "what needs no run is answered where it was asked"
                ready.append(made)
            except OpenSetError as error:
                ready.append(error)
        differing = differs(tools, schema, target, facts)  # what was pinned is between the two
        if differing is not None:
            return differing, nothing
        running = [one for one in ready if not isinstance(one, OpenSetError)]
        own = pinned_of(snapshots, allowed)
        results = iter(await one_pass(tools.executor, [one.work for one in running], own))
    found: Found[Any] = []
    for one in ready:
        if isinstance(one, OpenSetError):
            found.append(one)
            continue
        result = next(results)
        found.append(result if isinstance(result, OpenSetError) else await asyncio.to_thread(one.codec.merged, result))
    codec = PassCodec([_NoCodec() if isinstance(one, OpenSetError) else one.codec for one in ready])
    return share_of(found, len(own), numbers, allowed, may_answer), codec


class _NoCodec:
    """In the place of the codec of a query that could not be prepared: it has an error and never a result."""

    def merged(self, results: Sequence[Any]) -> Any:
        raise AssertionError

    encode = decode = merged
