"""Several queries of one table in one request: answered in one pass over its partitions where that is possible.

A worker takes one partition after the other and runs every query over it while its maps are warm. Queries that make
segments run before the pass, so that the others can compare what they made; the look-up of a person needs no pass. One
query's failure is its own answer. All see the table at one moment, except for what runs before the pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from openset.errors import OpenSetError
from openset.pyql.settings import RunSettings
from openset.query.answer import QueryAnswer
from openset.query.compare import compared_segments
from openset.query.counts import CountsRequest
from openset.query.executor import Executor
from openset.query.explain import ExplainWork, explanation
from openset.query.fan_out import PartitionedWork, Portion, fan_out, turn
from openset.query.frame import Facts, Prepared, Query, Tools, run_query
from openset.query.result import encode
from openset.query.work import WorkerState, budget_error
from openset.store.snapshot import PartitionSnapshot

MOST_QUERIES = 100

# A query that needs no pass: what asks for its answer.
Single = Callable[[Tools], Awaitable[bytes]]
Entry = Query | Single | OpenSetError
Outcome = dict[str, Any] | msgspec.Raw


@dataclass(frozen=True, slots=True, eq=False)
class BatchWork:
    """One turn of several queries on a worker: all of them over one partition after the other.

    works: of each query, without snapshots.
    """

    works: Sequence[PartitionedWork]
    snapshots: Sequence[PartitionSnapshot]
    settings: RunSettings

    def run(self, state: WorkerState) -> Portion[list[list[Any] | OpenSetError]]:
        """Per query its results, or the first error it ended with."""
        results: list[list[Any] | OpenSetError] = [[] for _ in self.works]
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


@dataclass(frozen=True, slots=True, eq=False)
class _Ready:
    """A query of the pass. index: its place in the batch."""

    index: int
    work: PartitionedWork
    finish: Callable[[Sequence[Any], Facts], QueryAnswer]


async def run_batch(tools: Tools, table: str, entries: Sequence[Entry]) -> bytes:
    """A JSON list with the answer or the error envelope of each query, in their order.

    Raises QueryError for an unknown table.
    """
    tools.store.table(table)
    outcomes: list[Outcome] = [{} for _ in entries]
    passing: list[tuple[int, Query]] = []
    for index, entry in enumerate(entries):
        if isinstance(entry, OpenSetError):
            outcomes[index] = entry.envelope()
        elif isinstance(entry, CountsRequest):
            outcomes[index] = await _shielded(_counted(tools, entry))
        elif callable(entry):
            outcomes[index] = await _shielded(_single(tools, entry))
        else:
            passing.append((index, entry))
    facts = Facts()
    with ExitStack() as held:
        schema, snapshots = held.enter_context(tools.store.pinned_table(table, facts.now_ms))
        facts = replace(facts, partitions=len(snapshots))
        ready: list[_Ready] = []
        for index, query in passing:
            try:
                prepared = await query.prepare(tools, schema, facts)
                if isinstance(prepared, QueryAnswer):
                    outcomes[index] = prepared.body
                    continue
                compared = held.enter_context(
                    compared_segments(tools.store.segments, schema.id, query.segments, facts.now_ms)
                )
            except OpenSetError as error:
                outcomes[index] = error.envelope()
            else:
                ready.append(_ready(index, query, prepared, compared))
        found = await one_pass(tools.executor, [one.work for one in ready], snapshots)
        for one, results in zip(ready, found, strict=True):
            outcomes[one.index] = await _shielded(_finished(one, results, facts))
    return await asyncio.to_thread(encode, outcomes)


def _ready(index: int, query: Query, prepared: Prepared, compared: Any) -> _Ready:
    work: Any = prepared.work
    if query.common.explain:
        looking = ExplainWork(prepared.columns, (), work.settings, compared, prepared.candidates)
        return _Ready(
            index,
            looking,
            lambda portions, facts: QueryAnswer(explanation(prepared.plan, portions, facts.partitions)),
        )
    return _Ready(index, replace(work, compared=compared), prepared.render)


async def one_pass(
    executor: Executor, works: Sequence[PartitionedWork], snapshots: Sequence[PartitionSnapshot]
) -> list[list[Any] | OpenSetError]:
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


async def _shielded(answer: Awaitable[Outcome]) -> Outcome:
    """The answer, or the envelope of the error it ends with."""
    try:
        return await answer
    except OpenSetError as error:
        return error.envelope()


async def _counted(tools: Tools, request: CountsRequest) -> Outcome:
    return (await run_query(tools, request)).body


async def _single(tools: Tools, single: Single) -> Outcome:
    return msgspec.Raw(await single(tools))


async def _finished(one: _Ready, results: list[Any] | OpenSetError, facts: Facts) -> Outcome:
    if isinstance(results, OpenSetError):
        raise results
    return (await asyncio.to_thread(one.finish, results, facts)).body
