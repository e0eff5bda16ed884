"""Stored segments of several nodes: all have all of them, whoever computes, compares, removes or was away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyroaring import BitMap
from support.nodes import Member, Nodes

from openset.errors import InternalError, InternodeError, OpenSetError, QueryError, ReadOnlyError
from openset.query.refresher import Refresher
from openset.query.remote import answer_remote
from openset.query.shared_segments import (
    FetchSegment,
    ForgetPerson,
    ListSegments,
    PutSegments,
    RefreshFailed,
    RemovedSegment,
    RemoveSegments,
    SegmentList,
    SentSegment,
    catch_up,
    is_refreshed_here,
)
from openset.query.stored_segments import list_segments, remove_segment
from openset.query.wire.codec import decoded, encoded
from openset.store.segment import Computed, Segment, StoredSegment
from openset.store.segments import Segments
from openset.store.store import Store
from openset_format.membership import serialized

PEOPLE = list(range(60))
PARTITIONS = 6
EVENTS = [
    {"person": person, "stamp": 1_700_000_000_000 + number, "action": action}
    for person in PEOPLE
    for number, action in enumerate(["view", "cart", "buy"][: 1 + person % 3])
]
BUYERS = "@segment buyers{options}:\n    match where action is 'buy':\n        tally\n"
SECTIONS = BUYERS.format(options="") + "@segment others:\n    complement(buyers)\n"
COMPARE = "match:\n    tally(action)\n"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    made = Nodes.of(tmp_path, 3, PARTITIONS)
    made.create_table("t", [("n", "int")])
    made.insert("t", EVENTS)
    yield made
    made.close()


async def counted(member: Member, script: str = SECTIONS, **parameters: str) -> Any:
    return (await member.query("t", "counts", script, **parameters)).body


async def compared(member: Member, names: str = "buyers,others") -> Any:
    body = (await member.query("t", "events", COMPARE, segments=names, timeout="2000")).body
    return {node["g"]: (node["c"][0], node["c2"][0]) for node in body["_"]}


def stored(member: Member, name: str = "buyers") -> StoredSegment | None:
    segments = member.tools.store.segments
    with segments.pinned(member.tools.store.table("t").id, [name], 0) as found:
        return found.get(name)


def edition(member: Member, name: str = "buyers") -> Any:
    found = stored(member, name)
    return None if found is None else found.segment.edition


COUNTED = {"_": [{"g": "buyers", "c": [20]}, {"g": "others", "c": [40]}]}
COMPARED = {"view": (20, 40), "cart": (20, 20), "buy": (20, 0)}


def test_what_one_node_computes_all_have(nodes: Nodes) -> None:
    async def run() -> None:
        assert await counted(nodes.members["b"]) == COUNTED
        for member in nodes.members.values():
            assert await compared(member) == COMPARED
            assert await counted(member, "@segment both:\n    intersection(buyers, others)\n") == {
                "_": [{"g": "both", "c": [0]}]
            }
        assert len({edition(member) for member in nodes.members.values()}) == 1
        listings = [await list_segments(one.tools.store, one.tools.plans, "t") for one in nodes.members.values()]
        assert [[(each["name"], each["people"]) for each in listing["segments"]] for listing in listings] == [
            [("both", 0), ("buyers", 20), ("others", 40)]
        ] * 3

    asyncio.run(run())


def test_a_computation_is_used_again_on_every_node(nodes: Nodes) -> None:
    cached = BUYERS.format(options=" ttl=1h use_cached")

    async def run() -> None:
        for name in ("a", "b", "c"):
            await counted(nodes.members[name], cached)
            assert len({edition(member) for member in nodes.members.values()}) == 1
        first = edition(nodes.members["a"])
        await counted(nodes.members["c"], cached.replace("1h", "2h"))
        editions = {edition(member) for member in nodes.members.values()}
        assert len(editions) == 1 and editions != {first}
        found = stored(nodes.members["a"])
        assert found is not None and found.segment.ttl_seconds == 7200

    asyncio.run(run())


def test_a_node_that_was_away_is_given_what_it_lacks(nodes: Nodes) -> None:
    async def run() -> None:
        owned = dict(nodes.owners)
        for number, owner in owned.items():
            nodes.owners[number] = "a" if owner == "b" else owner
        nodes.down.add("b")
        await counted(nodes.members["a"])
        nodes.down.clear()
        nodes.owners.update(owned)
        assert stored(nodes.members["b"]) is None
        await compared(nodes.members["c"])
        assert edition(nodes.members["b"]) == edition(nodes.members["c"]) is not None

    asyncio.run(run())


def test_who_has_an_older_computation_takes_over_the_later_one(nodes: Nodes) -> None:
    """Where it coordinates a query, and where others do."""

    async def run() -> None:
        await counted(nodes.members["a"])
        for number in range(1, 3):
            nodes.insert("t", [{"person": 0, "stamp": number, "action": "buy"}])
            nodes.before_answer = refuse_segments(nodes, "a")
            assert (await counted(nodes.members["b"]))["_"][0]["c"] == [21]
            nodes.before_answer = None
            assert edition(nodes.members["a"]) < edition(nodes.members["b"])
            assert (await compared(nodes.members["a" if number == 1 else "c"]))["buy"] == (21, 0)
            assert len({edition(member) for member in nodes.members.values()}) == 1

    asyncio.run(run())


def refuse_segments(nodes: Nodes, name: str) -> Any:
    """A node does not hear of segments."""

    async def refuse(node: str, body: bytes) -> bytes | None:
        if node == name and b"put segments" in body:
            raise InternodeError("it is cut off")
        return None

    return refuse


def test_removing_and_coming_back(nodes: Nodes) -> None:
    async def run() -> None:
        await counted(nodes.members["a"])
        late = encoded(FetchSegment(nodes.members["a"].tools.store.table("t").id, "buyers"))
        (sent,) = decoded(await ask(nodes.members["a"], late), list[SentSegment])
        nodes.down.add("c")
        assert await remove_segment(nodes.members["b"].tools, "t", "buyers") == {"deleted": "buyers"}
        nodes.down.clear()
        assert [stored(nodes.members[name]) is None for name in "abc"] == [True, True, False]
        # What was under way when it was removed does not bring it back.
        table_id = nodes.members["a"].tools.store.table("t").id
        assert decoded(await ask(nodes.members["a"], encoded(PutSegments(table_id, [sent]))), list[str]) == ["buyers"]
        assert stored(nodes.members["a"]) is None
        spread = nodes.members["c"].tools.spread
        assert spread is not None
        await catch_up(nodes.members["c"].tools.store, spread, "a")
        assert stored(nodes.members["c"]) is None and stored(nodes.members["c"], "others") is not None
        with pytest.raises(QueryError, match="there is no segment 'buyers'"):
            await compared(nodes.members["c"])
        await counted(nodes.members["c"])
        assert await compared(nodes.members["a"]) == COMPARED

    asyncio.run(run())


def test_who_was_erased_leaves_everywhere_whoever_was_away(nodes: Nodes) -> None:
    """Two nodes hear of one erasure each; whoever catches up, both have neither of the two people then."""

    async def run() -> None:
        await counted(nodes.members["a"])
        table_id = nodes.members["a"].tools.store.table("t").id
        found = stored(nodes.members["a"])
        assert found is not None
        members = nodes.members["a"].tools.store.segments.read(found).members
        partition, ordinals = next(
            (number, sorted(BitMap.deserialize(data)))
            for number, data in members.items()
            if len(BitMap.deserialize(data)) > 1
        )
        for name, ordinal in zip("ab", ordinals, strict=False):
            message = ForgetPerson(table_id, partition, "whoever", [ordinal])
            for _ in range(2):
                await ask(nodes.members[name], encoded(message))
        assert [people(nodes.members[name]) for name in "abc"] == [19, 19, 20]
        for name, other in (("b", "a"), ("c", "b")):
            member = nodes.members[name]
            assert member.tools.spread is not None
            await catch_up(member.tools.store, member.tools.spread, other)
        assert [people(member) for member in nodes.members.values()] == [18] * 3
        assert len({edition(member) for member in nodes.members.values()}) == 1
        assert await counted(nodes.members["c"], "@segment same:\n    union(buyers, buyers)\n") == {
            "_": [{"g": "same", "c": [18]}]
        }

    asyncio.run(run())


def restarted(nodes: Nodes, name: str) -> None:
    """A node that has in memory what it finds on its disk."""
    member = nodes.members[name]
    member.tools.store.close()
    member.tools = replace(member.tools, store=Store.open(member.tools.store.data_dir))


@pytest.mark.parametrize(("name", "other"), [("c", "a"), ("b", "c")])
def test_removals_outlast_restarts_of_all_who_know(nodes: Nodes, name: str, other: str) -> None:
    """Whoever asks first: the one that was away, or one that knows."""

    async def run() -> None:
        await counted(nodes.members["a"])
        nodes.down.add("c")
        await remove_segment(nodes.members["a"].tools, "t", "buyers")
        nodes.down.clear()
        for each in "ab":
            restarted(nodes, each)
        for each, asked in ((name, other), (other, name)):
            member = nodes.members[each]
            assert member.tools.spread is not None
            before = len(nodes.asked)
            await catch_up(member.tools.store, member.tools.spread, asked)
            assert len(nodes.asked) == before + 1, "nothing that was removed is fetched"
        for each in (name, other):
            assert stored(nodes.members[each]) is None and stored(nodes.members[each], "others") is not None
            restarted(nodes, each)
            assert stored(nodes.members[each]) is None

    asyncio.run(run())


def test_a_refresh_that_overtakes_a_removal_is_removed_too(nodes: Nodes) -> None:
    """A node has computed a segment again, and the one that removes it has not heard of that yet."""

    async def run() -> None:
        await counted(nodes.members["a"])
        held = asyncio.Event()

        async def slowly(node: str, body: bytes) -> bytes | None:
            if node == "a" and b"put segments" in body:
                await held.wait()
            return None

        nodes.before_answer = slowly
        refreshing = asyncio.create_task(counted(nodes.members["b"]))
        await until(lambda: edition(nodes.members["c"]) != edition(nodes.members["a"]))
        assert await remove_segment(nodes.members["a"].tools, "t", "buyers") == {"deleted": "buyers"}
        held.set()
        await refreshing
        for name in "abc":
            assert stored(nodes.members[name]) is None
            restarted(nodes, name)
            assert stored(nodes.members[name]) is None

    asyncio.run(run())


def test_nothing_is_refreshed_before_a_node_has_heard_what_it_missed(nodes: Nodes) -> None:
    async def run() -> None:
        await counted(nodes.members["a"], BUYERS.format(options=" refresh=1s"))
        first = edition(nodes.members["a"])
        heard = asyncio.Event()
        refreshers = [
            Refresher(lambda member=member: member.tools, heard.is_set)  # type: ignore[misc]
            for member in nodes.members.values()
        ]
        try:
            await asyncio.sleep(1.5)
            assert [edition(member) for member in nodes.members.values()] == [first] * 3
            heard.set()
            await until(lambda: all(edition(member) != first for member in nodes.members.values()))
        finally:
            for refresher in refreshers:
                await refresher.close()

    asyncio.run(run())


async def ask(member: Member, body: bytes) -> bytes:
    return await answer_remote(member.tools, body, member.may_answer)


def test_catching_up_brings_everything(nodes: Nodes) -> None:
    async def run() -> None:
        nodes.before_answer = refuse_segments(nodes, "c")
        await counted(nodes.members["a"])
        nodes.before_answer = None
        spread = nodes.members["c"].tools.spread
        assert spread is not None
        await catch_up(nodes.members["c"].tools.store, spread, "b")
        assert {edition(nodes.members["c"], name) for name in ("buyers", "others")} == {
            edition(nodes.members["b"], name) for name in ("buyers", "others")
        }

    asyncio.run(run())


def test_what_lacks_partitions_is_counted_and_not_stored(nodes: Nodes) -> None:
    async def run() -> None:
        nodes.lose("b", None)
        with pytest.raises(OpenSetError, match="no node owns them"):
            await counted(nodes.members["a"], timeout="100")
        answer = await counted(nodes.members["a"], timeout="100", partial="true")
        assert answer["missing_partitions"] == [1, 4]
        assert 0 < answer["_"][0]["c"][0] < 20
        assert stored(nodes.members["a"]) is None

    asyncio.run(run())


def test_a_member_that_cannot_store_fails_the_request(nodes: Nodes) -> None:
    async def run() -> None:
        async def full(node: str, body: bytes) -> bytes | None:
            if node == "b" and b"put segments" in body:
                raise ReadOnlyError("the disk is full")
            return None

        nodes.before_answer = full
        with pytest.raises(ReadOnlyError):
            await counted(nodes.members["a"])

    asyncio.run(run())


def test_one_node_refreshes_and_tells_of_failures(nodes: Nodes) -> None:
    async def run() -> None:
        await counted(nodes.members["a"], BUYERS.format(options=" ttl=1s refresh=1s"))
        first = edition(nodes.members["a"])
        members = list(nodes.members.values())
        found = stored(members[0])
        assert found is not None
        spreads = [member.tools.spread for member in members]
        assert [spread is not None and is_refreshed_here(spread, PARTITIONS, found) for spread in spreads].count(
            True
        ) == 1
        refreshers = [Refresher(lambda member=member: member.tools) for member in members]  # type: ignore[misc]
        try:
            await until(lambda: all(edition(member) != first for member in members))
            assert len({edition(member) for member in members}) == 1
            nodes.insert("t", [{"person": 0, "stamp": 1, "action": "buy"}])
            await until(lambda: all(people(member) == 21 for member in members))
            broken = nodes.owners.copy()
            nodes.before_answer = failing_queries
            await until(lambda: all(failure(member) is not None for member in members))
            assert nodes.owners == broken
        finally:
            for refresher in refreshers:
                await refresher.close()

    asyncio.run(run())


async def failing_queries(node: str, body: bytes) -> bytes | None:
    if b"\xa5query" in body:
        raise QueryError("it fails")
    return None


def people(member: Member) -> int:
    found = stored(member)
    return 0 if found is None else found.segment.people


def failure(member: Member) -> str | None:
    found = stored(member)
    # A failed refresh ends what the ttl does not: the segment is gone where it was told.
    return "gone" if found is None else member.tools.store.segments.failure(found)


async def until(true: Any) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.05)


def test_people_who_are_erased_leave_by_the_sequence_of_their_partition(tmp_path: Path) -> None:
    """A computation loses them, also when it comes late, unless it knew the record that erased them."""
    segments = Segments(tmp_path, [1], "", None)
    made = Segment("x", "", None, None, 5, 6, {}, 0, 0, (), "", 0, "UTC", {0: 7, 1: 2}, 5, "one")
    members = {0: serialized(BitMap([1, 2, 3])), 1: serialized(BitMap([1, 2, 3]))}
    segments.put(1, [Computed(made, members)])
    segments.forget_people(1, 0, [1], 7)
    segments.forget_people(1, 1, [1, 9], 3)

    def shown() -> tuple[int, list[list[int]]]:
        (found,) = segments.all(1, 0)
        bitmaps = segments.read(found).members.values()
        return found.segment.people, [sorted(BitMap.deserialize(data)) for data in bitmaps]

    assert shown() == (5, [[1, 2, 3], [2, 3]])
    late = msgspec.structs.replace(made, published_at_ms=6, computation="two")
    assert segments.receive(1, [Computed(late, members)]) == []
    assert shown() == (5, [[1, 2, 3], [2, 3]])
    again = Segments(tmp_path, [1], "", None)
    assert again.all(1, 0)[0].segment == segments.all(1, 0)[0].segment


@pytest.mark.parametrize(
    "message",
    [
        PutSegments(99, []),
        ForgetPerson(1, PARTITIONS, "somebody", [1]),
        ForgetPerson(1, 0, "somebody", [1 << 32]),
        ForgetPerson(1, 0, "somebody", [-1]),
        PutSegments(1, [SentSegment(Segment("x", "", None, None, 0, 0, {}, 0, 0, (), "", 0), {0: b"no bitmap"})]),
        PutSegments(1, [SentSegment(Segment("x", "", None, None, 0, 0, {}, 0, 0, (), "", 0), {9: b""})]),
    ],
)
def test_messages_that_make_no_sense_are_refused(nodes: Nodes, message: Any) -> None:
    with pytest.raises(InternalError):
        asyncio.run(ask(nodes.members["a"], encoded(message)))
    assert stored(nodes.members["a"], "x") is None


def test_messages_about_what_is_not_there_do_nothing(nodes: Nodes) -> None:
    for message in (
        RemoveSegments([RemovedSegment(1, "none", (1, ""), 2), RemovedSegment(99, "none", (1, ""), 1 << 50)]),
        RefreshFailed(1, "none", (1, ""), "so"),
    ):
        asyncio.run(ask(nodes.members["a"], encoded(message)))
    assert decoded(asyncio.run(ask(nodes.members["a"], encoded(FetchSegment(1, "none")))), list[SentSegment]) == []
    assert decoded(asyncio.run(ask(nodes.members["a"], encoded(ListSegments()))), SegmentList).stored == []
    with pytest.raises(InternalError):
        asyncio.run(ask(nodes.members["a"], msgspec.msgpack.encode({"type": "put segments", "table_id": "x"})))
    assert json.loads(asyncio.run(nodes.members["a"].body("t", "column/n"))) == {"_": [{"g": "n", "c": [0], "_": []}]}
