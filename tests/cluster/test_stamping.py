"""Stamps for events that come without one: each once, whoever owns the partition, and whoever asks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from openset.cluster import stamping
from openset.cluster.map import Placed, Placement
from openset.cluster.stamping import STAMPS_ROUTE, Ask, Stamping, Wanted
from openset.errors import OpenSetError, QueryError, UnreachableError
from openset.store.ingest import Insert, prepare_insert
from openset.store.now import LaterStamps, NowStamps
from openset.store.schema import TableSchema
from openset_format.decoding import msgpack_decoder

PARTITIONS = 4
TABLE = TableSchema(1, "t", ())


class Place:
    """Two nodes. owner: by partition; terms: likewise. unsure: nodes that do not know that they own anything."""

    def __init__(self) -> None:
        self.owner = {number: "ab"[number % 2] for number in range(PARTITIONS)}
        self.terms = dict.fromkeys(range(PARTITIONS), 1)
        self.unsure: set[str] = set()
        self.doubted: set[int] = set()
        self.dropped = False
        self.nodes = {name: Stamping(_Fellow(self, name), _Replication(self, name)) for name in "ab"}  # type: ignore[arg-type]

    def give(self, partition: int, name: str) -> None:
        self.owner[partition] = name
        self.terms[partition] += 1

    async def stamps(self, node: str, events: list[dict[str, Any]]) -> list[tuple[Any, str, int]]:
        """Person, action and stamp of each event of a request."""
        insert = prepare_insert(json.dumps(events).encode(), TABLE, PARTITIONS, 0, now_stamps=LaterStamps())
        return named(await self.nodes[node].stamped(insert))


def named(insert: Insert) -> list[tuple[Any, str, int]]:
    batch = insert.batch
    assert batch is not None
    people = [batch.persons[one] for one in batch.person.tolist()]
    actions = [batch.actions[one] for one in batch.action.tolist()]
    return list(zip(people, actions, batch.stamp.tolist(), strict=True))


class _Fellow:
    def __init__(self, place: Place, node: str):
        self._place, self.node, self.peers = place, node, self

    @property
    def view(self) -> Any:
        placements: Mapping[int, Placed] = {
            number: Placed(1, Placement(self._place.terms[number], owner, (owner,)))
            for number, owner in self._place.owner.items()
        }
        return SimpleNamespace(placements=placements)

    async def call(self, node: str, route: str, body: bytes, *, timeout_ms: int) -> bytes:
        assert route == STAMPS_ROUTE and node != self.node
        await asyncio.sleep(0)
        return self._place.nodes[node].answer(msgpack_decoder(Ask).decode(body))

    async def changed(self, seconds: float) -> bool:
        await asyncio.sleep(0.01)
        return True


class _Replication:
    def __init__(self, place: Place, node: str):
        self._place, self._node, self.store, self._stamps = place, node, self, NowStamps()

    def may_answer(self, partition: int) -> bool:
        is_sure = self._node not in self._place.unsure and partition not in self._place.doubted
        return self._place.owner[partition] == self._node and is_sure

    def owned_term(self, partition: int) -> int | None:
        return self._place.terms[partition] if self._place.owner[partition] == self._node else None

    def has_table(self, table_id: int) -> bool:
        return not self._place.dropped

    def now_stamps(self, table_id: int) -> NowStamps:
        return self._stamps


def ticks(count: int, person: Any = "p") -> list[dict[str, Any]]:
    return [{"person": person, "action": "tick"} for _ in range(count)]


async def test_each_stamp_is_given_once_through_all_nodes() -> None:
    place, began_ms = Place(), time.time_ns() // 1_000_000
    events = [one for person in ("p", 7, "7", "q") for one in ticks(5, person)]
    given = {"person": "p", "action": "tick", "stamp": 10**12}
    found = await asyncio.gather(*(place.stamps("ab"[number % 2], [*events, given]) for number in range(20)))
    asked = [one for request in found for one in request if one[2] != 10**12]
    assert len(asked) == len(set(asked)) == 20 * 20 and min(stamp for _, _, stamp in asked) >= began_ms
    assert [one for request in found for one in request if one[2] == 10**12] == [("p", "tick", 10**12)] * 20
    for request in found:
        for person in ("p", 7, "7", "q"):
            own = [stamp for who, _, stamp in request if who == person and type(who) is type(person)]
            own = [stamp for stamp in own if stamp != 10**12]
            assert own == list(range(own[0], own[0] + 5)), "in the order of the request"


async def test_the_next_owner_gives_nothing_that_the_one_before_may_have_given() -> None:
    place = Place()
    before = time.time_ns() // 1_000_000 - 5_000
    wanted = [Wanted(number, "p", "tick", 3) for number in range(PARTITIONS)]
    ask = Ask(TABLE.id, before, [one for one in wanted if one.partition % 2 == 0])
    first = msgpack_decoder(list[int]).decode(place.nodes["a"].answer(ask))
    assert min(first) > before, "it may have begun to own a moment ago"
    time.sleep(0.01)
    place.give(0, "b")
    (second,) = msgpack_decoder(list[int]).decode(place.nodes["b"].answer(Ask(TABLE.id, before, [wanted[0]])))
    assert second >= first[0] + 3
    place.give(0, "a")
    time.sleep(0.01)
    (third,) = msgpack_decoder(list[int]).decode(place.nodes["a"].answer(Ask(TABLE.id, before, [wanted[0]])))
    assert third >= second + 3


async def test_an_owner_that_is_not_sure_is_waited_for() -> None:
    place = Place()
    place.unsure = {"a", "b"}
    waiting = asyncio.create_task(place.stamps("a", ticks(3)))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    place.unsure = set()
    assert len({stamp for _, _, stamp in await waiting}) == 3
    answer = place.nodes["a"].answer(Ask(TABLE.id, 0, [Wanted(number, "p", "tick", 1) for number in (1, 2)]))
    assert [stamp is None for stamp in msgpack_decoder(list[int | None]).decode(answer)] == [True, False]


async def test_partitions_whose_owners_do_not_answer_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stamping, "_PATIENCE_SECONDS", 0.2)
    place = Place()
    place.doubted = {1}
    events = [one for person in range(40) for one in ticks(1, person)]
    with pytest.raises(UnreachableError, match=r"partition 1: b is not sure to own it; it may be sent"):
        await place.stamps("a", events)


async def test_a_table_that_was_dropped_is_an_error_at_once() -> None:
    place = Place()
    place.dropped = True
    with pytest.raises(QueryError, match="dropped"):
        async with asyncio.timeout(2):
            await place.stamps("a", ticks(1))
    insert = prepare_insert(b"[]", TABLE, PARTITIONS, 0, now_stamps=LaterStamps())
    assert await place.nodes["a"].stamped(insert) is insert
    assert issubclass(QueryError, OpenSetError)
