"""Stored segments that are watched: who enters and leaves, by inserts and by computations."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.revent_node import TABLE, ReventNode, revent_node

from openset.errors import QueryError
from openset.query.work import sections_of
from openset.revent import watcher
from openset.revent.deliveries import Deliveries
from openset.revent.watching import follows_inserts
from openset.store.schema import TableSchema

BUYERS = '@segment buyers:\n    match where action is "buy":\n        tally\n'
FEW = "@segment few:\n    if event_count < 3:\n        tally\n"
FRESH = '@segment fresh:\n    match where action is "buy" and stamp > now - 30000 days:\n        tally\n'


async def moves(node: ReventNode, name: str) -> list[tuple[int | str, str]]:
    return [(one.person, one.name) for one in await node.messages(name)]


@pytest.mark.parametrize(
    ("script", "follows"),
    [(BUYERS, True), (FEW, True), (FRESH, False), ("@segment all:\n    population(buyers)\n", False)],
)
def test_what_follows_inserts(script: str, follows: bool) -> None:
    (section,) = sections_of(script, TableSchema(1, "t", ()))
    assert follows_inserts(section) is follows


def test_inserts_and_computations_move_people(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data") as node:
            await node.insert((1, "buy", 1), (2, "look", 1), ("ada", "look", 1))
            await node.count(BUYERS + FEW)
            assert await moves(node, "buyers") == [], "who is in it already has not entered"
            assert await moves(node, "few") == []
            await node.insert((2, "buy", 2), (3, "look", 2))
            await node.settled()
            assert await moves(node, "buyers") == [(2, "entered")]
            assert await moves(node, "few") == [(3, "entered")]
            node.clock_ms += 1
            await node.insert((2, "buy", 3), ("ada", "look", 2), (3, "look", 3))
            await node.insert(("ada", "look", 3), (3, "buy", 9))
            await node.settled()
            assert await moves(node, "buyers") == [(2, "entered"), (3, "entered")]
            left = (await moves(node, "few"))[1:]
            assert sorted(left, key=str) == sorted([(2, "exited"), (3, "exited"), ("ada", "exited")], key=str)
            node.clock_ms += 1
            await node.count(BUYERS)
            await node.count(FEW.replace("< 3", "> 0"))
            await node.until(lambda: len(few(node)) >= 7)
            assert len(await moves(node, "buyers")) == 2, "the computation only tells what was told"
            again = (await moves(node, "few"))[4:]
            assert sorted(again, key=str) == sorted([(2, "entered"), (3, "entered"), ("ada", "entered")], key=str)

    def few(node: ReventNode) -> list[object]:
        watch = next(one for one in node.store.triggers.of_table(node.schema.id) if one.name == "few")
        with node.store.triggers.states(node.schema.id) as states:
            return [one for state in states.values() for one in state.after(watch.id, 0, 100)]

    asyncio.run(run())


def test_segments_that_read_now_are_told_by_computations_only(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data") as node:
            await node.insert((1, "buy", 1))
            await node.count(FRESH)
            await moves(node, "fresh")
            await node.insert((2, "buy", 1))
            await node.settled()
            await asyncio.sleep(0.4)
            assert await moves(node, "fresh") == []
            await node.count(FRESH)
            source = await node.board.source(node.schema, "fresh")
            await node.until(lambda: any(
                node.board.after(source.table_id, source.trigger_id, number, 0, 1) for number in range(3)
            ))  # fmt: skip
            assert await moves(node, "fresh") == [(2, "entered")]

    asyncio.run(run())


@asynccontextmanager
async def late_computation(node: ReventNode, script: str) -> AsyncIterator[Callable[..., None]]:
    """A computation that knows nothing of what happens inside, and is stored at the end of it; what stores others."""
    put, read, may_store = node.store.segments.put, threading.Event(), threading.Event()

    def late(*arguments: Any, **named: Any) -> None:
        read.set()
        assert may_store.wait(20)
        put(*arguments, **named)

    node.store.segments.put = late  # type: ignore[method-assign]
    counting = asyncio.create_task(node.count(script))
    try:
        await node.until(read.is_set)
        yield put
    finally:
        may_store.set()
        await counting
        node.store.segments.put = put  # type: ignore[method-assign]


def test_a_computation_that_comes_while_an_insert_is_judged_waits_and_knows_of_it_then(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.count(BUYERS)
            assert await moves(node, "buyers") == []
            moved, lock = node.watcher.moved, node.watcher.lock
            is_judging, may_move, is_waiting = asyncio.Event(), asyncio.Event(), asyncio.Event()

            async def held(*arguments: Any) -> Any:
                """The turn that judges, which has the lock of its worker."""
                is_judging.set()
                await may_move.wait()
                return await moved(*arguments)

            def asked(worker: int) -> asyncio.Lock:
                if is_judging.is_set() and lock(worker).locked():
                    is_waiting.set()
                return lock(worker)

            node.watcher.moved = held  # type: ignore[method-assign]
            async with late_computation(node, BUYERS):
                await node.insert((1, "buy", 1))
                await is_judging.wait()
                node.watcher.lock = asked  # type: ignore[method-assign]
            comparing = asyncio.create_task(node.watcher.compare(node.schema))
            await is_waiting.wait()
            may_move.set()
            await comparing
            await node.settled()
            assert await moves(node, "buyers") == [(1, "entered")], "who was judged since stays in it"

    asyncio.run(run())


def test_who_was_judged_stays_whoever_judged(tmp_path: Path) -> None:
    """After a restart, or when partitions changed hands, nobody remembers whom inserts have judged."""

    async def run() -> None:
        async with revent_node(tmp_path / "data") as node:
            await node.insert((1, "look", 1), (2, "buy", 1))
            await node.count(BUYERS)
            await node.count(FEW)
            assert await moves(node, "buyers") == await moves(node, "few") == []
            await node.insert((1, "buy", 2), (1, "look", 2), (3, "buy", 2))
            await node.settled()
            node.watcher.forget()
            await node.watcher.compare(node.schema)
            assert sorted(await moves(node, "buyers"), key=str) == [(1, "entered"), (3, "entered")]
            assert sorted(await moves(node, "few"), key=str) == [(1, "exited"), (3, "entered")]
        async with revent_node(tmp_path / "data") as node:
            await node.watcher.compare(node.schema)
            await node.insert((2, "buy", 5))
            await node.settled()
            assert sorted(await moves(node, "buyers"), key=str) == [(1, "entered"), (3, "entered")]
            assert sorted(await moves(node, "few"), key=str) == [(1, "exited"), (3, "entered")]

    asyncio.run(run())


def test_a_late_computation_of_another_script_is_told_as_of_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watcher, "PEOPLE_PER_RUN", 2)

    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.insert(*((person, "look", 1) for person in range(1, 8)))
            await node.count(BUYERS)
            assert await moves(node, "buyers") == []
            async with late_computation(node, BUYERS.replace('"buy"', '"look"')):
                await node.insert((1, "buy", 2), (8, "buy", 2), (8, "look", 2), (9, "buy", 2))
                await node.settled()
            await node.watcher.compare(node.schema)
            entered = {(person, "entered") for person in range(1, 10)}
            assert set(await moves(node, "buyers")) == entered | {(9, "exited")}
            assert len(await moves(node, "buyers")) == 10

    asyncio.run(run())


def test_a_computation_that_knows_less_than_the_one_before_takes_nobody_out(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.count(BUYERS)
            assert await moves(node, "buyers") == []
            async with late_computation(node, BUYERS) as put:
                await node.runner.close()  # inserts wait
                await node.insert((1, "buy", 1))
                node.store.segments.put = put  # type: ignore[method-assign]
                await node.count(BUYERS)
                await node.watcher.compare(node.schema)
                assert await moves(node, "buyers") == [(1, "entered")]
            await node.watcher.compare(node.schema)
            assert await moves(node, "buyers") == [(1, "entered")]

    asyncio.run(run())


def test_a_late_computation_is_all_there_is_where_inserts_judge_nobody(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.count(FRESH)
            assert await moves(node, "fresh") == []
            await node.insert((1, "buy", 1))
            async with late_computation(node, FRESH):
                await node.insert((2, "buy", 1))
                await node.settled()
            await node.watcher.compare(node.schema)
            assert await moves(node, "fresh") == [(1, "entered")]

    asyncio.run(run())


def test_somebody_whose_events_have_expired_belongs_to_nothing(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            long_ago, now = 1_000_000_000_000, time.time_ns() // 1_000_000
            await node.count(BUYERS)
            assert await moves(node, "buyers") == []
            async with late_computation(node, BUYERS):
                await node.insert((1, "buy", long_ago), (2, "buy", long_ago))
                await node.insert((2, "buy", now))
                await node.settled()
                assert len(await moves(node, "buyers")) == 2
                await asyncio.to_thread(node.store.set_retention, TABLE, 100)
            await node.watcher.compare(node.schema)
            assert (1, "exited") in await moves(node, "buyers")
            assert len(await moves(node, "buyers")) == 3

    asyncio.run(run())


def test_a_partition_that_is_not_run_here_is_compared_when_it_is(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.count(FRESH)
            assert await moves(node, "fresh") == []
            await node.insert((1, "buy", 1))
            await node.settled()
            node.changes.may_run = lambda partition: False  # type: ignore[method-assign]
            await node.count(FRESH)
            await node.watcher.compare(node.schema)
            assert await moves(node, "fresh") == []
            node.changes.may_run = lambda partition: True  # type: ignore[method-assign]
            await node.watcher.compare(node.schema)
            assert await moves(node, "fresh") == [(1, "entered")]

    asyncio.run(run())


def test_inserts_are_judged_after_what_was_compared_last(tmp_path: Path) -> None:
    """Also in a turn that learned of the segments before a computation came."""

    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.count(BUYERS)
            await moves(node, "buyers")
            segments = await node.watcher.segments(node.schema)
            first = node.watcher.begun(node.schema, segments)[0].begins[0]
            await node.insert((1, "buy", 1))
            await node.settled()
            await node.count(BUYERS)
            await node.watcher.compare(node.schema)
            (known,) = [one.segment.sequence for one in node.store.segments.all(node.schema.id, 0)]
            assert node.watcher.begun(node.schema, segments)[0].begins[0] == known > first

    asyncio.run(run())


def test_a_restart_tells_what_was_computed_and_not_told(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data") as node:
            await node.insert((1, "buy", 1))
            await node.count(BUYERS)
            await moves(node, "buyers")
            await node.runner.close()
            await node.watcher.close()
            await node.insert((2, "buy", 1))
            await node.count(BUYERS)
        async with revent_node(tmp_path / "data") as node:
            await node.settled()
            assert await moves(node, "buyers") == [(2, "entered")]
            await node.insert((2, "buy", 5), (3, "buy", 5))
            await node.settled()
            assert await moves(node, "buyers") == [(2, "entered"), (3, "entered")]

    asyncio.run(run())


def test_a_segment_is_watched_while_somebody_subscribes(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data") as node:
            with pytest.raises(QueryError, match="no trigger and no stored segment 'buyers'"):
                await node.board.source(node.schema, "buyers")
            await node.insert((1, "buy", 1))
            await node.count(BUYERS)
            source = await node.board.source(node.schema, "buyers")
            assert source.is_segment and node.board.sources(node.schema) == [source]
            deliveries = Deliveries(node.board, lambda: node.clock_ms)
            await deliveries.open(node.schema, source, "a", 1_000, 1_000)
            await deliveries.open(node.schema, source, "b", 1_000, 1_000)
            await deliveries.remove(source, "a")
            assert node.board.sources(node.schema) == [source]
            await deliveries.remove(source, "b")
            assert node.board.sources(node.schema) == []

    asyncio.run(run())
