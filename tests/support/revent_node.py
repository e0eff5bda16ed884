"""Triggers in this process: a store, workers in threads, a clock that a test moves, and what runs triggers."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

from openset.query.counts import CountsRequest
from openset.query.executor import ThreadExecutor
from openset.query.frame import Common, Tools, run_query
from openset.query.parameters import RequestParameters
from openset.query.work import PlanCache
from openset.revent.board import Board
from openset.revent.changes import LocalChanges
from openset.revent.messages import Message
from openset.revent.registry import Options, Registry
from openset.revent.runner import Runner
from openset.revent.watcher import Watcher
from openset.store.store import Store

TABLE = "t"


class ReventNode:
    """Everything about triggers of a data directory with one table `t`. `clock_ms` is what triggers take for now."""

    def __init__(self, data_dir: Path, partitions: int):
        self.store = Store.open(data_dir)
        if self.store.partitions is None:
            self.store.initialise(partitions)
            self.store.create_table(TABLE, [("product", "text"), ("units", "int")])
        self.clock_ms = 1_700_000_000_000
        self.store.triggers.clock = lambda: self.clock_ms
        self.executor = ThreadExecutor(data_dir, 2)
        self.tools = Tools(self.store, self.executor, PlanCache())
        self.changes = changes = LocalChanges(self.store, nullcontext)
        self.watcher = Watcher(self.store, self.executor, self.tools.plans, changes)
        self.runner = Runner(self.store, self.executor, self.watcher, changes)
        self._turns = 0
        self._count_turns()
        self.board = Board(self.store, self.watcher, changes)
        self.registry = Registry(self.store, self.runner, changes)

    def _count_turns(self) -> None:
        """What a turn wrote is seen before the turn ends, which may disable the trigger."""
        run = self.runner._run

        async def counted(*arguments: Any) -> None:
            self._turns += 1
            try:
                await run(*arguments)
            finally:
                self._turns -= 1

        self.runner._run = counted  # type: ignore[method-assign, assignment]

    @property
    def schema(self) -> Any:
        return self.store.table(TABLE)

    async def save(self, name: str, script: str, **options: Any) -> dict[str, Any]:
        return await self.registry.save(TABLE, name, script, Options(**options))

    async def insert(self, *events: tuple[int | str, str, int]) -> None:
        """Events of (person, action, stamp), one request."""
        body = [{"person": person, "action": action, "stamp": stamp} for person, action, stamp in events]
        prepared = self.store.prepare_insert(TABLE, json.dumps(body).encode())
        await self.store.commit(TABLE, prepared)

    async def count(self, script: str) -> None:
        """A counts query, which stores segments."""
        await run_query(self.tools, CountsRequest(TABLE, script, Common(), RequestParameters([])))

    async def until(self, wanted: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not wanted():
            assert time.monotonic() < deadline, "it did not come to that"
            await asyncio.sleep(0.01)

    async def settled(self) -> None:
        """Until no insert waits, nothing is due and no turn goes on."""

        def is_settled() -> bool:
            if self._turns or self.store.triggers.backlog(self.schema.id)[0]:
                return False
            with self.store.triggers.states(self.schema.id) as states:
                due = [state.next_due() for state in states.values()]
            return not any(one is not None and one <= self.clock_ms for one in due)

        await self.until(is_settled)

    async def messages(self, name: str) -> list[Message]:
        """The messages of a trigger or watched segment, by stamp and person."""
        source = await self.board.source(self.schema, name)
        found = [
            message
            for number in self.board.partitions(self.schema)
            for message in self.board.after(source.table_id, source.trigger_id, number, 0, 100_000)
        ]
        return sorted(found, key=lambda one: (one.stamp_ms, str(one.person), one.number))

    async def close(self) -> None:
        self.board.close()
        await self.runner.close()
        await self.watcher.close()
        await self.executor.close()
        await asyncio.to_thread(self.store.close)


@asynccontextmanager
async def revent_node(data_dir: Path, partitions: int = 3) -> AsyncIterator[ReventNode]:
    """A node that is closed at the end."""
    node = ReventNode(data_dir, partitions)
    try:
        yield node
    finally:
        await node.close()
