"""Several queries of one table in one request: answered in one pass over its partitions where that is possible.

The pass is `openset.query.passes`. Queries that make
segments run before the pass, so that the others can compare what they made; the look-up of a person needs no pass. One
query's failure is its own answer. All see the table at one moment, except for what runs before the pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import msgspec

from openset.errors import OpenSetError
from openset.query.counts import CountsRequest
from openset.query.frame import Facts, Query, Runnable, Tools, made_ready, run_query, with_missing
from openset.query.passes import one_pass, spread_pass
from openset.query.result import encode
from openset.query.spread import Gathered, OutdatedError, Spread, wait_for_others
from openset.query.wire.asking import request_bytes, request_of
from openset.store.schema import TableSchema

MOST_QUERIES = 100

# A query that needs no pass: what asks for its answer.
Single = Callable[[Tools], Awaitable[bytes]]
Entry = Query | Single | OpenSetError
Outcome = dict[str, Any] | msgspec.Raw


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
    if tools.spread is None:
        await _pass_here(tools, table, passing, facts, outcomes)
    else:
        await _pass_everywhere(tools, tools.spread, table, passing, facts, outcomes)
    return await asyncio.to_thread(encode, outcomes)


async def _pass_here(
    tools: Tools, table: str, passing: Sequence[tuple[int, Query]], facts: Facts, outcomes: list[Outcome]
) -> None:
    """One pass over the partitions of this node, which are all."""
    with ExitStack() as held:
        schema, snapshots = held.enter_context(tools.store.pinned_table(table, facts.now_ms))
        facts = replace(facts, partitions=len(snapshots))
        ready = await _all_ready(tools, schema, passing, facts, held, outcomes)
        found = await one_pass(tools.executor, [one.work for _, _, one in ready], snapshots)
        for (index, query, one), results in zip(ready, found, strict=True):
            outcomes[index] = await _shielded(_finished(query, one, results, facts))


async def _pass_everywhere(
    tools: Tools,
    spread: Spread,
    table: str,
    passing: Sequence[tuple[int, Query]],
    facts: Facts,
    outcomes: list[Outcome],
) -> None:
    """One pass over the partitions of all nodes."""
    requests = {index: request_bytes(query) for index, query in passing}
    deadline = facts.started + max((query.common.timeout_ms for _, query in passing), default=0) / 1000
    while True:
        with ExitStack() as held:
            schema = tools.store.table(table)
            again = [(index, request_of(requests[index], type(query))) for index, query in passing]
            ready = await _all_ready(tools, schema, again, facts, held, outcomes)
            if not ready:
                return
            asked = [(query, requests[index], one) for index, query, one in ready]
            try:
                found = await spread_pass(tools, spread, schema, asked, facts)
            except OutdatedError:
                await wait_for_others(deadline)
                continue
            except OpenSetError as error:
                failed: list[Any] = [error] * len(ready)
                found = Gathered(failed, 0, (), {})
            facts = replace(facts, partitions=found.read, missing=found.missing)
            results: list[Any] = [None] * len(ready) if found.result is None else found.result
            for (index, query, one), result in zip(ready, results, strict=True):
                if found.missing and not query.common.partial and not isinstance(result, OpenSetError):
                    result = found.error()
                if not isinstance(result, OpenSetError):
                    result = [] if found.result is None else [result]
                outcomes[index] = await _shielded(_finished(query, one, result, facts))
            return


async def _all_ready(
    tools: Tools,
    schema: TableSchema,
    passing: Sequence[tuple[int, Query]],
    facts: Facts,
    held: ExitStack,
    outcomes: list[Outcome],
) -> list[tuple[int, Query, Runnable]]:
    """The queries that are to be run; the others have their outcome."""
    ready: list[tuple[int, Query, Runnable]] = []
    for index, query in passing:
        try:
            one = await made_ready(tools, query, schema, facts, held)
        except OpenSetError as error:
            outcomes[index] = error.envelope()
            continue
        if isinstance(one, Runnable):
            ready.append((index, query, one))
        else:
            outcomes[index] = one.body
    return ready


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


async def _finished(query: Query, one: Runnable, results: list[Any] | OpenSetError, facts: Facts) -> Outcome:
    if isinstance(results, OpenSetError):
        raise results
    answer = await asyncio.to_thread(one.finish, results, facts)
    return with_missing(answer, query.common, facts).body
