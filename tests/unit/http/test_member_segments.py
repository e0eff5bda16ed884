"""When a member compares its stored segments with which others, and what waits for it (`http.member_data`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.nodes import Nodes

from openset.errors import InternalError, UnreachableError
from openset.http import member_data as module
from openset.http.member_data import MemberData
from openset.query.stored_segments import remove_segment

SECTIONS = "@segment one:\n    match: tally\n@segment two:\n    match: tally\n"


@pytest.fixture
def nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Nodes]:
    monkeypatch.setattr(module, "_FIRST_PAUSE_SECONDS", 0.01)
    made = Nodes.of(tmp_path, 3, 3)
    made.create_table("t", [])
    made.insert("t", [{"person": person, "stamp": 1, "action": "view"} for person in range(9)])
    yield made
    made.close()


class Being:
    """The data of a member, without partitions, and what it is told of who lives since when."""

    def __init__(self, nodes: Nodes, name: str):
        tools = nodes.members[name].tools
        self.name = name
        self.store = tools.store
        self.data = MemberData(SimpleNamespace(held_store=tools.store, spread=tools.spread))  # type: ignore[arg-type]
        self.data.attach(SimpleNamespace(node=name))  # type: ignore[arg-type]

    def see(self, **alive: int) -> None:
        view: Any = SimpleNamespace(alive=alive, members=dict.fromkeys("abc"))
        self.data._look_alive(view)

    @property
    def names(self) -> list[str]:
        return [one.segment.name for one in self.store.segments.all(self.store.table("t").id, 0)]


async def until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.01)


async def missed(nodes: Nodes, name: str) -> None:
    """A node does not hear that of two segments one is removed; it knows both."""
    await nodes.members["a"].query("t", "counts", SECTIONS)
    nodes.down.add(name)
    await remove_segment(nodes.members["a"].tools, "t", "one")
    nodes.down.clear()


def test_all_that_live_are_heard_before_it_is_current(nodes: Nodes) -> None:
    """Also when the first one to answer knows no more than this node, and the other one does not answer at first."""

    async def run() -> None:
        await nodes.members["a"].query("t", "counts", SECTIONS)
        nodes.down.update("bc")
        await remove_segment(nodes.members["a"].tools, "t", "one")
        nodes.down.clear()
        refusals = 3

        async def refuse(node: str, body: bytes) -> bytes | None:
            nonlocal refusals
            if node == "a" and refusals:
                refusals -= 1
                raise UnreachableError("it starts") if refusals else InternalError("it cannot say")
            return None

        nodes.before_answer = refuse
        being = Being(nodes, "c")
        assert not being.data.is_current
        being.see(a=1, b=2, c=3)
        waiting = asyncio.create_task(being.data.current())
        await until(lambda: refusals < 3)
        assert not being.data.is_current and not waiting.done() and being.names == ["one", "two"]
        await waiting
        assert refusals == 0 and being.data.is_current and being.names == ["two"]
        await being.data.close()

    asyncio.run(run())


def test_who_comes_back_is_asked_by_those_that_were_there(nodes: Nodes) -> None:
    async def run() -> None:
        await missed(nodes, "c")
        being = Being(nodes, "c")
        being.see(c=3)
        assert being.data.is_current and being.names == ["one", "two"], "there is nobody to ask"
        being.see(c=3, a=4)
        assert not being.data.is_current
        await until(lambda: being.data.is_current)
        assert being.names == ["two"]
        asked = len(nodes.asked)
        being.see(c=3, a=4)
        await asyncio.sleep(0.05)
        assert len(nodes.asked) == asked and being.data.is_current, "it was asked already"
        being.see(c=3, a=5)
        assert not being.data.is_current, "it was away again"
        await until(lambda: being.data.is_current)
        assert len(nodes.asked) == asked + 1
        await being.data.close()

    asyncio.run(run())


def test_nobody_waits_for_who_does_not_live(nodes: Nodes) -> None:
    async def run() -> None:
        hung = asyncio.Event()

        async def hang(node: str, body: bytes) -> bytes | None:
            if node == "b":
                await hung.wait()
            return None

        await missed(nodes, "c")
        nodes.before_answer = hang
        being = Being(nodes, "c")
        being.see(a=1, b=2, c=3)
        await until(lambda: being.data._comparisons["a"].is_heard)
        assert being.names == ["two"] and not being.data.is_current
        being.see(a=1, c=3)
        assert being.data.is_current
        being.see(a=1)
        assert not being.data.is_current, "it does not live itself"
        being.see(a=1, c=7)
        await until(lambda: being.data.is_current)
        await being.data.close()

    asyncio.run(run())


def test_the_wait_is_limited(nodes: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CURRENT_SECONDS", 0.1)

    async def run() -> None:
        nodes.down.update("ab")
        being = Being(nodes, "c")
        being.see(a=1, b=2, c=3)
        async with asyncio.timeout(5):
            await being.data.current()
        assert not being.data.is_current, "it goes on asking"
        nodes.down.clear()
        await until(lambda: being.data.is_current)
        await being.data.close()

    asyncio.run(run())


def test_one_segment_that_cannot_be_read_does_not_keep_the_others_back(nodes: Nodes) -> None:
    async def run() -> None:
        async def refuse(node: str, body: bytes) -> bytes | None:
            if node == "c" and b"put segments" in body:
                raise UnreachableError("it is cut off")
            return None

        nodes.before_answer = refuse
        await nodes.members["a"].query("t", "counts", SECTIONS)
        nodes.before_answer = None
        store = nodes.members["a"].tools.store
        first = store.segments.all(store.table("t").id, 0)[0]
        path = store.data_dir / first.ref.file
        path.chmod(0o644)
        path.write_bytes(b"damaged")
        being = Being(nodes, "c")
        being.see(a=1, c=3)
        await until(lambda: being.data.is_current)
        assert being.names == ["two"]
        being.see(a=1, b=2, c=3)
        await until(lambda: being.data.is_current)
        assert being.names == ["one", "two"]
        await being.data.close()

    asyncio.run(run())
