"""Stored segments that are watched: who enters and leaves, by inserts and by computations."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.revent_node import ReventNode, revent_node

from openset.errors import QueryError
from openset.query.work import sections_of
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
