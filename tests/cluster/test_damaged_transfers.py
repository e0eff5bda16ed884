"""Owners whose files are damaged: what is sent shows it, a sound copy takes over, and nothing is sent for ever."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import store_model as model
from support.damage import flip, flip_a_row
from support.replicated import LocalCluster, LocalNode
from support.replicated_triggers import TriggerCluster, cluster_of
from support.transfer_pair import Pair, pair_of

from openset.cluster import transfers
from openset.cluster.transfer_messages import BEGIN_ROUTE, END_ROUTE
from openset.cluster.transfers import Attempts, Rate, Transfers
from openset.errors import InternalError, UnreachableError
from openset.store.copies import Copies
from openset.store.scrub import Throttle
from openset.store.snapshot import partition_path
from openset.store.trigger_state import TriggerState
from openset.store.trigger_store import revent_path
from openset_format.revent_file import read_revent_file
from openset_format.verify import verify_partition


def batch(first: int, count: int = 40) -> list[dict[str, Any]]:
    return [
        {"person": f"p{number % 17}", "stamp": 10**12 + number, "action": "view", "attr": {"units": number}}
        for number in range(first, first + count)
    ]


async def until(what: str, holds: Callable[[], Any], seconds: float = 30.0) -> None:
    try:
        async with asyncio.timeout(seconds):
            while not holds():
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise AssertionError(f"not in time: {what}") from error


async def keep_files_only(cluster: LocalCluster) -> None:
    """Whoever gets a copy has to get files: the records in them are in no journal any more."""
    await asyncio.sleep(0.3)  # copies hear what is agreed with the next sign of life
    for node in cluster.nodes.values():
        assert node.store is not None
        await asyncio.to_thread(node.store.compact_all)
        node.store._journals.rotate()
        node.store.compactions.drop_segments()


async def owner_and_copy(cluster: LocalCluster) -> tuple[LocalNode, LocalNode]:
    placement = (await cluster.view()).placements[0].placement
    (other,) = set(placement.in_sync) - {placement.owner}
    return cluster.nodes[placement.owner], cluster.nodes[other]


async def left(cluster: LocalCluster, node: LocalNode, seconds: float = 30.0) -> None:
    """Asks for a leave, and returns when the copies of the partition are two others, in sync."""
    await cluster.leave(node.node)
    async with asyncio.timeout(seconds):
        while True:
            placement = (await cluster.view()).placements[0].placement
            if node.node not in placement.copies and len(placement.in_sync) == 2 and not placement.filling:
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("harm", [flip_a_row, Path.unlink])
async def test_a_damaged_owner_hands_over_to_the_sound_copy(harm: Callable[[Path], None], tmp_path: Path) -> None:
    """Also to one that leaves: nobody else has what is damaged."""
    expected = model.Model()
    async with LocalCluster(tmp_path, ["a", "b", "c"], partitions=1) as cluster:
        await cluster.settled()
        await cluster.insert("a", batch(0))
        expected.insert(batch(0))
        await keep_files_only(cluster)
        owner, other = await owner_and_copy(cluster)
        harm(owner.directory / partition_path(1, 0))
        await left(cluster, other)
        ends = [to for sender, to, route in cluster.network.calls if route == END_ROUTE and sender == owner.node]
        assert len(ends) <= 1, "what is known to be damaged is not sent"
        holders = set((await cluster.view()).placements[0].placement.in_sync)
        for node in (cluster.nodes[name] for name in holders):
            assert verify_partition(node.directory / partition_path(1, 0)) == []
            assert node.store is not None and node.store.copies is not None and node.store.copies.damaged() == ()
        assert owner.node in holders, "it got another copy"
        await until("the cluster knows", lambda: not owner.view.members[owner.node].member.damaged)
        await cluster.insert(owner.node, batch(40))
        expected.insert(batch(40))
        assert await cluster.contents() == expected.contents()


async def test_what_nobody_has_sound_stays_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_FIRST_PAUSE_SECONDS", 0.2)
    async with LocalCluster(tmp_path, ["a", "b"], partitions=1, replicas=1) as cluster:
        await cluster.settled()
        await cluster.insert("a", batch(0))
        await keep_files_only(cluster)
        name = (await cluster.view()).placements[0].placement.owner
        owner = cluster.nodes[name]
        flip_a_row(owner.directory / partition_path(1, 0))
        await cluster.leave(name)

        def shown() -> dict[str, Any]:
            assert owner.replication is not None
            return next(iter(owner.replication.transfers()), {"attempts": 0})  # type: ignore[return-value]

        await until("it is tried again", lambda: shown()["attempts"] >= 3)
        assert shown()["error"] == "files of partition 0 are damaged"
        assert sum(route == END_ROUTE for _, _, route in cluster.network.calls) == 1
        assert owner.store is not None and owner.store.copies is not None and owner.store.copies.damaged() == (0,)
        assert (await cluster.view()).placements[0].placement.owner == name
        (problem,) = owner.store.damage.all()
        assert (problem.file, problem.dataset) == (str(owner.directory / partition_path(1, 0)), "/events/stamp")


async def test_a_damaged_state_of_triggers_is_written_again(tmp_path: Path) -> None:
    """The owner has it in memory, so that it need not hand over."""
    cluster: TriggerCluster
    async with cluster_of(tmp_path, "a", "b", "c", partitions=1) as cluster:
        await cluster.settled()
        await cluster.save("a", "each", "def on_insert():\n    match where is_new:\n        emit('seen', units)\n")
        await cluster.insert("a", batch(0, 17))
        emitted = await cluster.messages()
        assert len(emitted) == 17
        await keep_files_only(cluster)
        owner, other = await owner_and_copy(cluster)
        path = owner.directory / revent_path(1, 0)
        flip(path, path.stat().st_size - 5)
        await left(cluster, other)
        assert owner.store is not None and owner.store.copies is not None and owner.store.copies.damaged() == ()
        TriggerState.decode(read_revent_file(path).body)
        placement = (await cluster.view()).placements[0].placement
        assert placement.owner == owner.node
        for name in placement.in_sync:
            node = cluster.nodes[name]
            assert node.messages(0) == emitted  # type: ignore[attr-defined]


def transfers_of(pair: Pair) -> Transfers:
    assert pair.source.store is not None and pair.source.store.copies is not None
    return Transfers(pair.source.store.copies, pair.line, Rate())


async def test_the_pause_between_attempts_grows_until_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfers, "_FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(transfers, "_LONGEST_PAUSE_SECONDS", 0.5)
    looked: list[int] = []
    monkeypatch.setattr(Copies, "look_for_damage", lambda copies, partition, throttle: looked.append(partition))
    async with pair_of(tmp_path) as pair:
        sends, loop, begun = transfers_of(pair), asyncio.get_running_loop(), list[float]()
        seen: list[list[dict[str, Any]]] = []

        def refuse(route: str) -> None:
            begun.append(loop.time())
            seen.append(sends.shown())
            raise InternalError(f"no room for the {len(begun)}th")

        pair.line.before = refuse
        for _ in range(5):
            assert await sends.send("b", 0, 2, 0)
            assert sends.shown() == []
        begun.append(loop.time())
        pauses = [after - before for before, after in itertools.pairwise(begun)]
        for pause, least in zip(pauses, [0.1, 0.2, 0.4, 0.5, 0.5], strict=True):
            assert pause >= least - 0.01
        told = [(one["attempts"], one["error"]) for (one,) in seen]
        assert told == [(1, None), *((number + 1, f"no room for the {number}th") for number in range(1, 5))]
        assert not looked, "nothing says that the files here are damaged"

        pair.line.before = lambda route: None
        started = loop.time()
        assert await sends.send("b", 0, 2, 0)
        assert len(pair.taken) == 1
        pair.line.before = refuse
        sending = asyncio.create_task(sends.send("b", 0, 2, 0))
        await until("it failed", lambda: sends.shown() and sends.shown()[0]["error"])
        assert sends.shown()[0]["attempts"] == 1, "it begins from the first"
        await sending
        assert loop.time() - started >= 0.1


def test_the_pause_is_from_one_second_to_thirty() -> None:
    assert [Attempts(made).pause_seconds for made in (1, 2, 3, 4, 5, 6, 7, 5_000)] == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_broken_connection_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "_PAUSE_SECONDS", 0.01)
    async with pair_of(tmp_path) as pair:
        sends, seen = transfers_of(pair), list[Any]()

        def breaks(route: str) -> None:
            if route == BEGIN_ROUTE:
                seen.append(sends.shown()[0]["error"])
                if len(seen) == 1:
                    raise UnreachableError("the connection broke")

        pair.line.before = breaks
        assert await sends.send("b", 0, 2, 0)
        assert seen == [None, "the connection broke"] and len(pair.taken) == 1


async def test_nobody_waits_to_send_what_is_not_wanted_any_more(tmp_path: Path) -> None:
    async with pair_of(tmp_path) as pair:
        sends = transfers_of(pair)

        def refuse(route: str) -> None:
            raise InternalError("no room")

        pair.line.before = refuse
        sends._attempts[0, "b"] = Attempts(9)  # the next pause takes 30 s
        sending = asyncio.create_task(sends.send("b", 0, 2, 0))
        await until("it failed", lambda: sends.shown() and sends.shown()[0]["error"])
        sends.keep(lambda partition, to: (partition, to) == (0, "b"))
        await asyncio.sleep(0.1)
        assert [one["attempts"] for one in sends.shown()] == [10] and not sending.done()
        sends.keep(lambda partition, to: False)
        assert await asyncio.wait_for(sending, 5)
        assert not sends.shown()
        again = asyncio.create_task(sends.send("b", 0, 3, 0))
        await until("it failed", lambda: sends.shown() and sends.shown()[0]["error"])
        assert sends.shown()[0]["attempts"] == 1
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        assert not sends.shown()


async def test_only_the_last_transfer_of_a_partition_to_a_node_counts(tmp_path: Path) -> None:
    """A later term, or a later request, begins another one while the one before still waits."""
    async with pair_of(tmp_path) as pair:
        sends, go_on = transfers_of(pair), asyncio.Event()
        pair.line.before = lambda route: go_on.wait()
        first = asyncio.create_task(sends.send("b", 0, 2, 0))
        await until("it has begun", lambda: pair.line.calls)
        pair.line.before = lambda route: None
        assert await sends.send("b", 0, 2, 0)
        assert len(pair.taken) == 1
        go_on.set()
        assert not await first


async def test_files_are_verified_beside_the_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no longer than somebody wants to know."""
    reached, ended = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def look(copies: Copies, partition: int, throttle: Throttle) -> None:
        threads.append(threading.current_thread())
        reached.set()
        for _ in range(1_000):
            if throttle.stopped:
                ended.set()
                return
            threading.Event().wait(0.01)

    monkeypatch.setattr(Copies, "look_for_damage", look)
    async with pair_of(tmp_path) as pair:
        flip_a_row(pair.source.directory / partition_path(1, 0))
        sending = asyncio.create_task(transfers_of(pair).send("b", 0, 2, 0))
        await until("files are verified", reached.is_set)
        assert threads[0] is not threading.main_thread()
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        assert await asyncio.to_thread(ended.wait, 5)
        assert not pair.taken
