"""Nodes of a cluster in one process: stores with the same table, each with the people of its partitions, and a Spread
between them that can lose nodes and move partitions.

What one node asks of another goes as bytes, and errors as the envelopes that clients see.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from openset.errors import OpenSetError, QueryError, UnreachableError
from openset.http.query_batch import batch_entries
from openset.http.query_column import column_request
from openset.http.query_counts import counts_request
from openset.http.query_events import events_request
from openset.http.query_histogram import histogram_request
from openset.http.query_person import asked_person
from openset.pyql.settings import SESSION_TIME_MS
from openset.query.answer import QueryAnswer
from openset.query.batch import run_batch
from openset.query.executor import ThreadExecutor
from openset.query.explain_person import ExplainRequest, explain_person
from openset.query.formats import Document, document, negotiated
from openset.query.frame import Tools, run_query
from openset.query.parameters import RequestParameters
from openset.query.person import find_person
from openset.query.remote import answer_remote
from openset.query.spread import Owners
from openset.query.time_zone import UTC_NAME
from openset.query.work import PlanCache
from openset.revent.spread_backtests import KIND, answer_pass
from openset.store.store import Store
from openset_format.hashing import partition_of

NAMES = ("a", "b", "c", "d", "e")


@dataclass(eq=False)
class Nodes:
    """Some nodes and who owns what.

    owners: the map as everyone knows it.  really: what owners themselves know to own; None where that is the map.
    down: nodes that do not answer.  before_answer: called on the way to a node, with its name and the bytes.
    """

    owners: dict[int, str]
    members: dict[str, Member] = field(default_factory=dict)
    really: dict[int, str] | None = None
    down: set[str] = field(default_factory=set)
    revision: int = 1
    asked: list[tuple[str, str]] = field(default_factory=list)
    before_answer: Callable[[str, bytes], Awaitable[bytes | None]] | None = None
    _waiting: list[asyncio.Future[None]] = field(default_factory=list)

    @classmethod
    def of(cls, directory: Path, count: int, partitions: int) -> Nodes:
        """Empty nodes that share the partitions in turn."""
        nodes = cls({number: NAMES[number % count] for number in range(partitions)})
        for name in NAMES[:count]:
            (directory / name).mkdir(parents=True)
            store = Store.open(directory / name)
            store.initialise(partitions)
            executor = ThreadExecutor(directory / name, 1)
            nodes.members[name] = Member(nodes, name, Tools(store, executor, PlanCache(), FakeSpread(nodes, name)))
        return nodes

    def create_table(self, name: str, columns: Sequence[tuple[str, Any]], z_order: Sequence[str] = ()) -> None:
        """The table on every node."""
        for member in self.members.values():
            member.tools.store.create_table(name, columns, z_order)

    def insert(self, table: str, events: Sequence[dict[str, Any]], everywhere: Collection[int] = ()) -> None:
        """Events to the owners of their people; those of some partitions to every node, as copies have them."""
        for name, member in self.members.items():
            own = [
                event
                for event in events
                if (number := partition_of(event["person"], len(self.owners))) in everywhere
                or self.owners[number] == name
            ]
            if own:
                store = member.tools.store
                store.submit(table, store.prepare_insert(table, json.dumps(own).encode())).result()

    def move(self, number: int, name: str | None) -> None:
        """Another owner for a partition, or none, and everybody hears of it."""
        if name is None:
            self.owners.pop(number, None)
        else:
            self.owners[number] = name
        self.revision += 1
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()

    def lose(self, name: str, heir: str | None) -> None:
        """A node does not answer any more, and its partitions get another owner."""
        self.down.add(name)
        for number in [number for number, owner in self.owners.items() if owner == name]:
            self.move(number, heir)

    def stand_alone(self) -> None:
        """Without the others."""
        for member in self.members.values():
            member.tools = replace(member.tools, spread=None)

    async def changed(self, revision: int, timeout_ms: int) -> None:
        if revision != self.revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await asyncio.wait([future], timeout=timeout_ms / 1000)

    def close(self) -> None:
        for member in self.members.values():
            asyncio.run(member.tools.executor.close())
            member.tools.store.close()


@dataclass(eq=False)
class FakeSpread:
    """What a node sees of the others."""

    nodes: Nodes
    node: str

    def owners(self) -> Owners:
        return Owners(self.nodes.revision, dict(self.nodes.owners))

    def members(self) -> Collection[str]:
        return list(self.nodes.members)

    def may_answer(self, partition: int) -> bool:
        owners = self.nodes.owners if self.nodes.really is None else self.nodes.really
        return owners.get(partition) == self.node

    async def ask(self, node: str, body: bytes, timeout_ms: int) -> bytes:
        self.nodes.asked.append((self.node, node))
        if self.nodes.before_answer is not None:
            answer = await self.nodes.before_answer(node, body)
            if answer is not None:
                return answer
        if node in self.nodes.down:
            raise UnreachableError(f"no connection to {node}")
        member = self.nodes.members[node]
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                return await answer_remote(member.tools, body, member.may_answer, {KIND: answer_pass})
        except TimeoutError as error:
            raise UnreachableError(f"{node} took too long") from error

    async def changed(self, revision: int, timeout_ms: int) -> None:
        await self.nodes.changed(revision, timeout_ms)


@dataclass(eq=False)
class Member:
    """A node that is asked as clients ask it."""

    nodes: Nodes
    name: str
    tools: Tools

    def may_answer(self, partition: int) -> bool:
        spread = self.tools.spread
        assert spread is not None
        return spread.may_answer(partition)

    async def query(self, table: str, path: str, body: str = "", **parameters: str) -> QueryAnswer:
        """A query over all partitions, by the path behind the table's name. Raises OpenSetError."""
        given = RequestParameters(list(parameters.items()))
        kind, _, name = path.partition("/")
        if kind == "events":
            return await run_query(self.tools, events_request(table, body, given))
        if kind == "counts":
            return await run_query(self.tools, counts_request(table, body, given))
        if kind == "column":
            return await run_query(self.tools, column_request(table, name, given))
        if kind == "histogram":
            return await run_query(self.tools, histogram_request(table, name, body, given))
        raise QueryError(f"no query {path!r}")

    async def document(self, table: str, path: str, accept: str | None, body: str = "", **parameters: str) -> Document:
        """An answer in the format that is asked for. Raises OpenSetError."""
        return document(await self.query(table, path, body, **parameters), negotiated(accept))

    async def explain(self, table: str, script: str, person: str | int) -> dict[str, Any]:
        """What a script does for a person. Raises OpenSetError."""
        request = ExplainRequest(table, script, person, RequestParameters([]), SESSION_TIME_MS, UTC_NAME)
        return await explain_person(self.tools, request)

    async def body(self, table: str, path: str, body: str = "", accept: str | None = None, **parameters: str) -> bytes:
        """The bytes of an answer or of an error's envelope."""
        try:
            if path == "batch":
                return await run_batch(self.tools, table, batch_entries(table, body.encode(), 1 << 20))
            if path == "person":
                person = asked_person(RequestParameters(list(parameters.items())))
                return await find_person(self.tools, table, person)
            return (await self.document(table, path, accept, body, **parameters)).body
        except OpenSetError as error:
            return json.dumps(error.envelope()).encode()
