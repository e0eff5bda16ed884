"""Triggers of members: every insert is evaluated once, whoever owns its partition, and copies have the same state."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.replicated_triggers import TriggerCluster, cluster_of

from openset.cluster.routing import WRITE_ROUTE
from openset.errors import OpenSetError

EACH = "def on_insert():\n    match where is_new:\n        emit('seen', units)\n"
THIRD = (
    "def on_insert():\n    seen = 0\n    match:\n        seen = seen + 1\n    if seen >= 3:\n        emit('third')\n"
)
LATER = "def on_insert():\n    schedule(1, 'later')\n\ndef later():\n    emit('later')\n"


def event(person: str, number: int) -> dict[str, Any]:
    return {"person": person, "stamp": 10**12 + number, "action": "view", "attr": {"units": number}}


def batch(first: int, count: int = 17) -> list[dict[str, Any]]:
    """Nobody twice, so that a request is one run for each."""
    return [event(f"p{number % 17}", number) for number in range(first, first + count)]


async def owners(cluster: TriggerCluster) -> dict[int, str]:
    return {number: placed.placement.owner for number, placed in (await cluster.view()).placements.items()}


async def copies_agree(cluster: TriggerCluster) -> None:
    """Until all copies in sync have one state, for copies hear what is agreed with the next sign of life."""
    for _ in range(200):
        view = await cluster.view()
        found = {
            number: {cluster.nodes[name].state(number) for name in placed.placement.in_sync}
            for number, placed in view.placements.items()
        }
        if all(len(states) == 1 for states in found.values()):
            return
        await asyncio.sleep(0.05)
    raise AssertionError([number for number, states in found.items() if len(states) > 1])


async def test_a_trigger_runs_wherever_it_was_saved_and_copies_have_what_it_did(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "a", "b", "c", partitions=4) as cluster:
        await cluster.settled()
        await cluster.insert("a", batch(0))
        await cluster.save("b", "each", EACH, once=False)
        await cluster.save("c", "third", THIRD)
        for number, node in enumerate("abc"):
            await cluster.insert(node, batch(17 + 17 * number))
        emitted = [one.value for one in await cluster.messages()]
        assert sorted(emitted) == list(range(17, 68)), "what was there before it was saved is not evaluated"
        thirds = [one.person for one in await cluster.messages(2)]
        assert sorted(thirds) == sorted(f"p{number}" for number in range(17))
        await copies_agree(cluster)


async def test_what_was_switched_off_meanwhile_is_not_evaluated(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "a", "b", partitions=2) as cluster:
        await cluster.settled()
        await cluster.save("a", "each", EACH, once=False)
        await cluster.insert("a", batch(0))
        await cluster.messages()
        await cluster.save("b", "each", "", enabled=False)
        await cluster.insert("b", batch(17))
        await cluster.save("a", "each", "", enabled=True)
        await cluster.insert("a", batch(34))
        assert sorted(one.value for one in await cluster.messages()) == [*range(17), *range(34, 51)]
        await copies_agree(cluster)


async def test_owners_hand_over_without_evaluating_anything_twice(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "a", "b", "c", partitions=3) as cluster:
        await cluster.settled()
        await cluster.save("a", "all", "def on_insert():\n    emit('seen')\n", once=False)
        await cluster.messages()
        terms = {number: placed.placement.term for number, placed in (await cluster.view()).placements.items()}
        inserted = 0

        async def insert(node: str) -> None:
            nonlocal inserted
            for _ in range(25):
                inserted += 1
                await cluster.insert(node, batch(17 * inserted))

        inserts = asyncio.gather(*(insert(node) for node in "abc"))
        for number in range(3):
            await cluster.hand_over(number)
        await inserts
        view = await cluster.view()
        assert all(placed.placement.term > terms[number] for number, placed in view.placements.items())
        counts = Counter(one.person for one in await cluster.messages())
        assert counts == {f"p{number}": inserted for number in range(17)}
        await copies_agree(cluster)


@pytest.mark.parametrize("is_stopped", [False, True])
async def test_a_write_that_is_sent_again_is_evaluated_once(tmp_path: Path, is_stopped: bool) -> None:
    """The answer of the owner is lost, and maybe the owner: the next one has the record already."""
    async with cluster_of(tmp_path, "a", "b", "c", partitions=3) as cluster:
        await cluster.settled()
        await cluster.save("a", "all", "def on_insert():\n    emit('seen')\n", once=False)
        owners = {number: placed.placement.owner for number, placed in (await cluster.view()).placements.items()}
        owner = next(name for name in owners.values() if name != "a")
        asked = next(name for name in "abc" if name != owner)
        cluster.network.lost.append(WRITE_ROUTE)
        if is_stopped:
            cluster.network.on_lost = lambda name: cluster.nodes[name].stop()
        events = batch(0)
        await cluster.insert(asked, events)
        assert not cluster.network.lost
        for node in cluster.nodes.values():
            if node.replication is None:
                await node.start()
        await cluster.settled()
        await cluster.insert(asked, events)  # another request with the same events
        counts = Counter(one.person for one in await cluster.messages())
        assert counts == dict.fromkeys((one["person"] for one in events), 2)
        await copies_agree(cluster)


async def test_schedules_run_at_the_next_owner(tmp_path: Path) -> None:
    async with cluster_of(tmp_path, "a", "b", "c", partitions=3) as cluster:
        await cluster.settled()
        await cluster.save("a", "later", LATER, once=False)
        await cluster.insert("a", batch(0))
        await cluster.messages()
        victim = (await cluster.view()).placements[0].placement.owner
        await cluster.nodes[victim].stop()
        await cluster.settled()
        for _ in range(200):
            people = Counter(one.person for one in await cluster.messages())
            if len(people) == 17:
                break
            await asyncio.sleep(0.05)
        assert people == Counter(f"p{number}" for number in range(17))
        await cluster.nodes[victim].start()
        await cluster.settled()
        await copies_agree(cluster)


async def test_a_trigger_whose_saver_dies_begins_at_the_owners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster_of(tmp_path, "a", "b", partitions=2) as cluster:
        await cluster.settled()

        async def dies(*arguments: object) -> None:
            raise OpenSetError("the node dies")

        with monkeypatch.context() as patched:
            for node in cluster.nodes.values():
                patched.setattr(node.changes, "begin", dies)
            with pytest.raises(OpenSetError, match="the node dies"):
                await cluster.save("a", "each", EACH, once=False)
        for _ in range(200):
            if all(cluster.nodes[name].has_begun(number) for number, name in (await owners(cluster)).items()):
                break
            await asyncio.sleep(0.05)
        await cluster.insert("b", batch(0))
        assert sorted(one.value for one in await cluster.messages()) == list(range(17))


@pytest.mark.parametrize("seed", range(6))
async def test_every_insert_is_evaluated_once_whatever_happens(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged: set[int] = set()
    next_number = 0
    async with cluster_of(tmp_path, "a", "b", "c", partitions=3) as cluster:
        await cluster.settled()
        await cluster.save("a", "each", EACH, once=False)
        for _ in range(12):
            stopped = [node for node in cluster.nodes.values() if node.replication is None]
            step = chance.choice(("insert", "insert", "insert", "stop", "start", "cut", "mend", "move", "compact"))
            if step == "insert":
                events = batch(next_number, chance.randint(1, 17))
                next_number += len(events)
                try:
                    await cluster.insert(chance.choice(cluster.living()).node, events, 4_000)
                    acknowledged.update(one["attr"]["units"] for one in events)
                except OpenSetError:
                    pass
            elif step == "stop" and not stopped:
                await chance.choice(cluster.living()).stop()
            elif step == "start" and stopped:
                await stopped[0].start()
            elif step == "cut":
                cluster.network.cut.add(frozenset(chance.sample("abc", 2)))
            elif step == "mend":
                cluster.network.cut.clear()
            elif step == "move":
                with suppress(AssertionError):  # those that are cut off cannot
                    await cluster.hand_over(chance.randrange(3), 1.0)
            elif step == "compact":
                node = chance.choice(cluster.living())
                assert node.store is not None
                await asyncio.to_thread(node.store.compact_all)
            await asyncio.sleep(chance.choice((0.0, 0.05, 0.5)))
        cluster.network.cut.clear()
        for node in cluster.nodes.values():
            if node.replication is None:
                await node.start()
        await cluster.settled()
        counts = Counter(one.value for one in await cluster.messages())
        assert acknowledged <= counts.keys()
        assert max(counts.values(), default=1) == 1, "some inserts were evaluated twice"
        await copies_agree(cluster)
