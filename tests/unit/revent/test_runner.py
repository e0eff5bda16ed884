"""The runner under a clock that the test moves: what is seen by whom, and in which order things happen."""

from __future__ import annotations

import asyncio
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.revent_node import ReventNode, revent_node

from openset.errors import QueryError

COUNTS = "def on_insert():\n    n = 0\n    match where is_new:\n        n = n + 1\n    emit('seen', [n, event_count])\n"
SILENT = (
    "def on_insert():\n    match 1 where is_new and action is 'bye':\n        cancel('silent')\n        exit\n"
    "    schedule(1000, 'silent')\n\ndef silent():\n    emit('silent', event_count)\n"
)


def test_requests_that_wait_together_are_each_seen_for_themselves(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=2) as node:
            await node.save("seen", COUNTS, once=False)
            people: list[int | str] = [1, 2, "ada", "ben", 5]
            await asyncio.gather(
                *(node.insert(*((who, f"a{stamp}", stamp) for who in people for stamp in (2 * at, 2 * at + 1)))
                  for at in range(30))
            )  # fmt: skip
            await node.settled()
            found = await node.messages("seen")
            for who in people:
                assert [one.value for one in found if one.person == who] == [[2, 2 * at] for at in range(1, 31)]

    asyncio.run(run())


def test_what_was_due_before_an_insert_arrived_runs_first(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data") as node:
            await node.save("silent", SILENT)
            await node.insert((1, "a", 1), (2, "a", 1), (3, "a", 1))
            await node.settled()
            node.clock_ms += 999
            await node.insert((2, "a", 2), (3, "bye", 2))
            await node.settled()
            assert await node.messages("silent") == []
            node.clock_ms += 5_000  # as after a pause: both are due, and something comes in now
            await node.insert((2, "bye", 3))
            await node.settled()
            found = await node.messages("silent")
            assert [(one.person, one.value, one.stamp_ms) for one in found] == [
                (1, 1, node.clock_ms), (2, 2, node.clock_ms)
            ]  # fmt: skip

    asyncio.run(run())


def test_compactions_wait_for_triggers(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.save("seen", COUNTS, once=False)
            await node.insert((1, "a", 1))
            await node.settled()
            await node.runner.close()
            await node.insert((1, "b", 2), (2, "b", 2))
            assert node.store.compact_all() == 1
            (snapshot,) = node.store.snapshot("t")
            assert snapshot.generation == 1 and len(snapshot.records) == 1, "the insert that waits stays"
            assert node.store.compact_all() == 0
        async with revent_node(tmp_path / "data") as node:
            await node.settled()
            assert [(one.person, one.value) for one in await node.messages("seen")] == [
                (1, [1, 1]), (1, [1, 2]), (2, [1, 1])
            ]  # fmt: skip
            assert node.store.compact_all() == 1

    asyncio.run(run())


def test_a_new_trigger_does_not_look_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data") as node:
            await node.save("seen", COUNTS, once=False)
            await node.runner.close()
            await node.insert((1, "a", 1))
            await node.save("later", COUNTS, once=False)
            await node.insert((2, "a", 1))
        async with revent_node(tmp_path / "data") as node:
            await node.settled()
            assert [one.person for one in await node.messages("seen")] == [1, 2]
            assert [one.person for one in await node.messages("later")] == [2]

    asyncio.run(run())


def test_listeners_hear_of_messages_and_of_the_end(tmp_path: Path) -> None:
    async def told(node: ReventNode) -> int:
        calls: list[int] = []
        await node.save("seen", COUNTS, once=False)
        source = await node.board.source(node.schema, "seen")
        unlisten = node.board.listen(source.table_id, source.trigger_id, lambda partitions: calls.append(1))
        await node.insert((1, "a", 1))
        await node.until(lambda: bool(calls))
        heard = len(calls)
        await node.registry.remove("t", "seen")
        await node.until(lambda: len(calls) > heard)
        unlisten()
        with pytest.raises(QueryError, match="no trigger"):
            await node.board.source(node.schema, "seen")
        return heard

    async def run() -> None:
        async with revent_node(tmp_path / "data") as node:
            assert await told(node) >= 1

    asyncio.run(run())


def test_a_script_that_changes_while_it_runs_is_seen_as_a_whole(tmp_path: Path) -> None:
    """Results of the old script that come after the change do not count: everyone is evaluated by one or the other."""

    async def run() -> None:
        async with revent_node(tmp_path / "data") as node:
            script = "def on_insert():\n    emit('v{}')\n"
            await node.save("t", script.format(0))
            for version in range(1, 8):
                people = range(100 * version, 100 * version + 50)
                inserting = asyncio.create_task(node.insert(*((who, "a", 1) for who in people)))
                await node.save("t", script.format(version))
                await inserting
                await node.insert(*((who, "b", 2) for who in people))
                await node.settled()
                told = [one for one in await node.messages("t") if isinstance(one.person, int) and one.person in people]
                by_name = {
                    name: [one.person for one in told if one.name == name] for name in {one.name for one in told}
                }
                assert by_name.keys() <= {f"v{version - 1}", f"v{version}"}
                assert sorted(by_name[f"v{version}"]) == list(people), "after the change everyone emits, once"

    asyncio.run(run())


def test_errors_are_forgotten_when_a_trigger_is_changed_wherever_that_was_asked(tmp_path: Path) -> None:
    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.save("wrong", "def on_insert():\n    emit('x', 'a' + event_count)\n", once=False)
            await node.insert((1, "a", 1))
            await node.settled()
            await node.until(lambda: node.runner.last_error(node.schema.id, 1) is not None)

            async def adopted(**changes: Any) -> None:
                """As what another node has saved is taken over."""
                contents = deepcopy(node.store.triggers.contents(node.schema.id))
                contents.triggers = [msgspec.structs.replace(one, **changes) for one in contents.triggers]
                node.store.triggers.adopt(node.schema.id, contents)
                await asyncio.sleep(0)
                await asyncio.sleep(0)

            await adopted(disabled="so many errors", webhooks={"a": {"url": "http://a/"}})
            assert node.runner.last_error(node.schema.id, 1) is not None
            await adopted(disabled=None, start=1)
            assert node.runner.last_error(node.schema.id, 1) is None

    asyncio.run(run())


def test_a_trigger_that_is_made_while_a_turn_is_prepared_misses_nothing(tmp_path: Path) -> None:
    """What the turn knows of triggers is as new as the inserts that it takes."""

    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.save("first", COUNTS, once=False)
            reached, goes_on = asyncio.Event(), asyncio.Event()
            segments = node.watcher.segments

            async def slowly(schema: Any) -> Any:
                found = await segments(schema)
                reached.set()
                await goes_on.wait()
                return found

            node.watcher.segments = slowly  # type: ignore[method-assign]
            await node.insert((1, "a", 1))
            async with asyncio.timeout(20):
                await reached.wait()
            await node.save("second", COUNTS, once=False)
            await node.insert((1, "a", 2))
            goes_on.set()
            await node.settled()
            assert [one.value for one in await node.messages("first")] == [[1, 1], [1, 2]]
            assert [one.value for one in await node.messages("second")] == [[1, 2]]

    asyncio.run(run())
