"""The embedded coordinator: restarts, disks that refuse, hostile requests, time that stands still."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path

import msgspec
import pytest
from support.coordinators import EmbeddedPlace, elected, initialised
from support.simulated_disk import Fault, SimulatedDisk

from openset.cluster import embedded_messages as messages
from openset.cluster import embedded_state
from openset.cluster.coordinator import Coordinator
from openset.cluster.embedded import STATE_FILE, EmbeddedServer
from openset.cluster.embedded_client import EmbeddedKeeper
from openset.cluster.keeper import Change, CompactedError, commit_of
from openset.cluster.map import Member, changed
from openset.errors import ConfigError, ConflictError, InternalError, LeaseLostError, UnreachableError
from openset.store.sealed_json import encode_sealed


class Clock:
    """Time that goes when it is told to."""

    def __init__(self) -> None:
        self.now_ms = 1_000_000

    def __call__(self) -> int:
        return self.now_ms


async def ask(server: EmbeddedServer, request: messages.Request) -> messages.Answer:
    return messages.decode_answer(await server.answer(messages.encode(request)))


def on_simulated_disk(directory: Path) -> tuple[SimulatedDisk, EmbeddedPlace]:
    disk = SimulatedDisk(directory)
    place = EmbeddedPlace(directory / "coordinator")
    place.server = EmbeddedServer.open(directory / "coordinator", create=True, files=disk)
    return disk, place


async def leases_after(server: EmbeddedServer, clock: Clock, step_ms: int, steps: int) -> set[int]:
    """Which leases are left after some time, in steps at each of which the server looks at the clock."""
    for _ in range(steps):
        clock.now_ms += step_ms
        await ask(server, messages.DoCommit(commit_of([], [Change("tick", b"")])))
    return set(server._state.leases)


async def test_a_restart_forgets_nothing_and_every_lease_begins_again(tmp_path: Path) -> None:
    place = EmbeddedPlace(tmp_path / "coordinator")
    session, sentinel = await initialised(place.coordinator())
    before = await place.coordinator().read()
    await place.close()
    clock = Clock()
    server = EmbeddedServer.open(tmp_path / "coordinator", clock=clock)
    place.server = server
    coordinator = place.coordinator()
    assert await coordinator.read() == before
    assert await leases_after(server, clock, 900, 11) == {session.lease}
    assert (await coordinator.renew(session)).revision == session.since
    placed = before.placements[0]
    await coordinator.swap(0, placed.revision, changed(placed.placement, "later"), sentinel=sentinel)
    assert await leases_after(server, clock, 900, 12) == set()
    with pytest.raises(LeaseLostError):
        await coordinator.renew(session)
    await place.close()


async def test_time_in_which_nobody_could_renew_ends_no_lease(tmp_path: Path) -> None:
    clock = Clock()
    server = EmbeddedServer.open(tmp_path / "coordinator", create=True, clock=clock)
    granted = await ask(server, messages.Grant(3_000))
    assert isinstance(granted, messages.Granted)
    assert await leases_after(server, clock, 60_000, 1) == {granted.lease}, "the process was stopped"
    assert await leases_after(server, clock, 900, 3) == {granted.lease}
    assert await leases_after(server, clock, 900, 1) == set()
    await server.close()


async def test_other_nodes_never_lead(tmp_path: Path) -> None:
    place = EmbeddedPlace(tmp_path / "coordinator")
    remote = Coordinator(EmbeddedKeeper(place.send, may_lead=False))
    session = await remote.open_session("n2")
    assert await remote.campaign(session) is None
    assert (await remote.read()).sentinel is None
    await elected(place.coordinator())
    await place.close()


async def test_a_disk_that_refuses_changes_nothing_and_leases_go_on(tmp_path: Path) -> None:
    disk, place = on_simulated_disk(tmp_path)
    coordinator = place.coordinator()
    session, _ = await initialised(coordinator)
    before = await coordinator.read()
    for kind in ("create", "write", "sync", "rename"):
        disk.faults.append(Fault(kind, times=1, number=errno.ENOSPC))
        with pytest.raises(UnreachableError, match="cannot write: No space left"):
            await coordinator.add_member(Member("n2", "host-2", 1))
        assert await coordinator.read() == before
        await coordinator.renew(session)
    await coordinator.add_member(Member("n2", "host-2", 1))
    after = await coordinator.read()
    await place.close()
    assert [path.name for path in (tmp_path / "coordinator").iterdir()] == [STATE_FILE]
    place.server = EmbeddedServer.open(tmp_path / "coordinator")
    assert await place.coordinator().read() == after
    await place.close()


async def test_nobody_sees_a_change_before_it_is_durable(tmp_path: Path) -> None:
    disk, place = on_simulated_disk(tmp_path)
    keeper = place.keeper()
    before = await keeper.read()
    watching = asyncio.ensure_future(anext(keeper.watch(before.revision)))
    await asyncio.sleep(0.01)
    with disk.lock:  # every step waits for it
        commits = [
            asyncio.ensure_future(keeper.commit(commit_of([], [Change(f"k{number}", b"")]))) for number in range(50)
        ]
        await asyncio.sleep(0.05)
        assert await keeper.read() == before
        assert not watching.done() and not any(commit.done() for commit in commits)
        writes = disk.kinds.count("rename")
    revisions = await asyncio.gather(*commits)
    assert len(set(revisions)) == 50 and (await watching).items
    assert disk.kinds.count("rename") - writes <= 3, "what waits is written together"
    await place.close()


async def test_a_watch_that_is_too_far_behind_reads_again(tmp_path: Path) -> None:
    place = EmbeddedPlace(tmp_path / "coordinator")
    keeper = place.keeper()
    first = (await keeper.read()).revision
    for _ in range(11):
        await asyncio.gather(*(keeper.commit(commit_of([], [Change("k", b"")])) for _ in range(100)))
    with pytest.raises(CompactedError):
        await anext(keeper.watch(first))
    last = (await keeper.read()).revision
    assert (await anext(keeper.watch(last - 900))).revision == last
    with pytest.raises(CompactedError):  # of a coordinator that knew more
        await anext(keeper.watch(last + 1))
    await place.close()


async def test_what_is_no_request_is_refused(tmp_path: Path) -> None:
    server = EmbeddedServer.open(tmp_path / "coordinator", create=True)
    encode = msgspec.msgpack.encode
    commit = {"type": "DoCommit"}
    requests = [
        b"",
        b"\xc1",
        b"\x91" * 100_000,
        encode({"type": "Renew", "lease": 1, "key": "x"}).replace(b"\xa1x", b"\xa1\xff"),
        encode({}),
        encode({"type": "Drop"}),
        encode({"type": "Grant", "ttl_ms": 1}),
        encode({"type": "Grant", "ttl_ms": 10**30 % 2**63}),
        encode({"type": "Wait", "after": 0, "patience_ms": 10**9}),
        encode({**commit, "commit": [[], []]}),
        encode({**commit, "commit": [[], [["/x", b"", 0]]]}),
        encode({**commit, "commit": [[["a//b", 1, 1]], [["x", b"", 0]]]}),
        encode({**commit, "commit": [[], [["x", b"", 0], ["x", b"", 0]]]}),
        encode({**commit, "commit": [[], [[f"k{number}", b"", 0] for number in range(129)]]}),
        encode({**commit, "commit": [[], [["x", bytes(2 << 20), 0]]]}),
        encode({**commit, "commit": [[], [["x", 5, 0]]]}),
    ]
    for request in requests:
        answer = messages.decode_answer(await server.answer(request))
        assert isinstance(answer, messages.Failed) and answer.kind == "bad_request", request[:50]
    assert await ask(server, messages.Read()) == messages.Kept(1, {})
    await server.close()


async def test_answers_that_are_none_are_errors() -> None:
    answers = [b"", b"<html>", messages.encode(messages.Ended()), messages.encode(messages.Compacted())]
    for answer in answers:

        async def send(_: bytes, answer: bytes = answer) -> bytes:
            return answer

        keeper = EmbeddedKeeper(send, may_lead=False)
        with pytest.raises(UnreachableError):
            await keeper.read()
        with pytest.raises(UnreachableError):
            await keeper.commit(commit_of([], [Change("a", b"")]))

    async def never(_: bytes) -> bytes:
        await asyncio.sleep(60)
        return b""

    with pytest.raises(UnreachableError, match="in time"):
        await EmbeddedKeeper(never, may_lead=False, patience_ms=50).read()


async def test_a_defect_leaves_nobody_without_an_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = EmbeddedPlace(tmp_path / "coordinator")
    keeper = place.keeper()
    waiting = asyncio.ensure_future(anext(keeper.watch((await keeper.read()).revision)))

    def defect(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(embedded_state, "commit", defect)
    for _ in range(2):
        async with asyncio.timeout(1):
            with pytest.raises(UnreachableError, match="does not answer any more"):
                await keeper.commit(commit_of([], [Change("a", b"")]))
    with pytest.raises(UnreachableError):
        await waiting
    with pytest.raises(ZeroDivisionError):
        await place.close()


async def test_closing_tells_whoever_waits(tmp_path: Path) -> None:
    place = EmbeddedPlace(tmp_path / "coordinator")
    keeper = place.keeper()
    waiting = asyncio.ensure_future(anext(keeper.watch((await keeper.read()).revision)))
    await asyncio.sleep(0.01)
    server = place.server
    assert server is not None
    await place.close()
    with pytest.raises(UnreachableError, match="it is closed"):
        await waiting
    assert isinstance(await ask(server, messages.Grant(1_000)), messages.Failed)


async def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no coordinator"):
        EmbeddedServer.open(tmp_path / "coordinator")
    await EmbeddedServer.open(tmp_path / "coordinator", create=True).close()
    path = tmp_path / "coordinator" / STATE_FILE
    whole = path.read_bytes()
    for damaged in (whole.replace(b'"revision":1', b'"revision":2'), whole[:-10], b"", b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(InternalError, match="is damaged"):
            EmbeddedServer.open(tmp_path / "coordinator", create=True)
    newer = msgspec.json.decode(whole)["coordinator"] | {"format_version": 2}
    path.write_bytes(encode_sealed("coordinator", newer))
    with pytest.raises(ConfigError, match="format version 2"):
        EmbeddedServer.open(tmp_path / "coordinator")
    path.unlink()
    path.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        EmbeddedServer.open(tmp_path / "coordinator")


async def test_what_cannot_be_understood_in_the_coordinator_is_a_defect(tmp_path: Path) -> None:
    place = EmbeddedPlace(tmp_path / "coordinator")
    keeper, coordinator = place.keeper(), place.coordinator()
    for key, value in (
        ("cluster", b"{}"),
        ("members/n1", b'{"node": 5}'),
        ("placements/0001", json.dumps({"term": 1, "owner": "a", "in_sync": ["b"]}).encode()),
        ("placements/one", b"{}"),
        ("sentinel", b"\xff"),
    ):
        await keeper.commit(commit_of([], [Change(key, value)]))
        with pytest.raises(InternalError):
            await coordinator.read()
        await keeper.commit(commit_of([], [Change(key, None)]))
    await keeper.commit(commit_of([], [Change("a-newer-version/keeps", b"more")]))
    assert (await coordinator.read()).map is None
    await place.close()


async def test_a_name_that_two_nodes_have_is_said(tmp_path: Path) -> None:
    place = EmbeddedPlace(tmp_path / "coordinator")
    keeper, number = place.keeper(), 0

    async def send(request: bytes) -> bytes:
        nonlocal number
        if isinstance(messages.decode_request(request), messages.DoCommit):
            number += 1
            await keeper.commit(commit_of([], [Change("alive/n1", f'{{"life": "{number}"}}'.encode())]))
        return await place.send(request)

    with pytest.raises(ConflictError, match="keeps saying that it is n1"):
        await Coordinator(EmbeddedKeeper(send, may_lead=False)).open_session("n1")
    await place.close()
