"""What holds for every coordinator, embedded or on etcd."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, suppress
from dataclasses import replace

import pytest
from support.coordinators import EmbeddedPlace, EtcdPlace, Place, elected, initialised
from support.etcd import Etcd

from openset.cluster.coordinator import Coordinator
from openset.cluster.embedded import EmbeddedServer
from openset.cluster.keeper import Change, CompactedError, Expected, Keeper, Refused, commit_of
from openset.cluster.map import Member, Placement, changed
from openset.cluster.messages import LeaseRenewed
from openset.cluster.presence import Presence
from openset.cluster.view import View
from openset.errors import ConfigError, ConflictError, LeaseLostError, OpenSetError, UnreachableError

SOON_SECONDS = 15.0


async def until(views: AsyncIterator[View], wanted: Callable[[View], bool]) -> View:
    """The first of some views that is as it should be."""
    async with asyncio.timeout(SOON_SECONDS):
        async for view in views:
            if wanted(view):
                return view
    raise AssertionError("views end")


async def another_placement(coordinator: Coordinator, partition: int, reason: str) -> tuple[int, Placement]:
    """The revision of a partition's placement, and one to put in its place."""
    placed = (await coordinator.read()).placements[partition]
    return placed.revision, changed(placed.placement, reason)


# ---------------------------------------------------------------- initialising


async def test_there_is_nothing_before_a_cluster_is_initialised(place: Place) -> None:
    coordinator = place.coordinator()
    view = await coordinator.read()
    assert view.map is None and view.settings is None and view.sentinel is None
    assert not view.members and not view.placements and not view.alive
    with pytest.raises(ConflictError, match="not initialised"):
        await coordinator.add_member(Member("n2", "host-2", 8080))


async def test_a_cluster_of_one_node_is_initialised_once(place: Place) -> None:
    coordinator = place.coordinator()
    # More partitions than etcd takes in one commit.
    session, sentinel = await initialised(coordinator, "n1", 300)
    view = await place.coordinator().read()
    assert view.map is not None and view.settings is not None
    assert view.map.revision == view.revision and view.map.replicas == 2
    assert view.map.members == {"n1": Member("n1", "host-1", 8080)}
    assert view.settings.partitions == 300 and sorted(view.placements) == list(range(300))
    assert all(placed.placement.owner == "n1" and placed.revision > 0 for placed in view.placements.values())
    assert view.alive == {"n1": session.since} and view.sentinel == sentinel
    with pytest.raises(ConflictError, match="initialised already"):
        await coordinator.initialise(sentinel, Member("n1", "elsewhere", 1), 4, 1)
    assert await coordinator.read() == view


async def test_an_initialisation_that_was_broken_off_leaves_nothing(place: Place) -> None:
    coordinator, keeper = place.coordinator(), place.keeper()
    _, sentinel = await elected(coordinator)
    for partition in (2, 7):
        await keeper.commit(commit_of([], [Change(f"placements/{partition:04d}", b'{"of": "an attempt"}')]))
    await coordinator.initialise(sentinel, Member("n1", "host-1", 8080), 4, 1)
    assert sorted((await coordinator.read()).placements) == [0, 1, 2, 3]


# ---------------------------------------------------------------- changing


async def test_a_swap_has_to_name_what_it_replaces(place: Place) -> None:
    coordinator, other = place.coordinator(), place.coordinator()
    await initialised(coordinator)
    revision, placement = await another_placement(coordinator, 1, "first")
    swapped = await coordinator.swap(1, revision, placement)
    assert swapped > revision
    view = await other.read()
    assert view.placements[1] == (swapped, placement) and view.revision >= swapped
    with pytest.raises(ConflictError, match="partition 1 has been changed"):
        await other.swap(1, revision, changed(placement, "second"))
    assert (await other.read()).placements == view.placements
    assert await other.swap(1, swapped, changed(placement, "third")) > swapped


async def test_of_swaps_at_the_same_time_one_is_made(place: Place) -> None:
    coordinators = [place.coordinator() for _ in range(6)]
    await initialised(coordinators[0])
    revision, placement = await another_placement(coordinators[0], 0, "")
    outcomes = await asyncio.gather(
        *(each.swap(0, revision, changed(placement, f"by {number}")) for number, each in enumerate(coordinators)),
        return_exceptions=True,
    )
    won = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
    assert len(won) == 1
    assert all(isinstance(outcome, int | ConflictError) for outcome in outcomes)
    assert (await coordinators[0].read()).placements[0].placement.reason == f"by {won[0]}"


async def test_an_owner_that_lives_is_not_deposed(place: Place) -> None:
    coordinator, other = place.coordinator(), place.coordinator()
    await initialised(coordinator)
    session = await other.open_session("n2")
    revision, placement = await another_placement(coordinator, 0, "n2 is dead")
    with pytest.raises(ConflictError, match="n2 is alive"):
        await coordinator.swap(0, revision, placement, while_dead="n2")
    await other.end_session(session)
    await coordinator.swap(0, revision, placement, while_dead="n2")


async def test_members_come_change_and_go(place: Place) -> None:
    coordinator = place.coordinator()
    _, sentinel = await initialised(coordinator)
    member = Member("n2", "host-2", 8080)
    added = await coordinator.add_member(member)
    with pytest.raises(ConflictError, match="n2 is a member already"):
        await coordinator.add_member(Member("n2", "other", 1))
    assert (await coordinator.read()).members["n2"] == (added, member)
    leaving = Member("n2", "host-2", 8080, leaving=True)
    changed_at = await coordinator.change_member(leaving, added)
    with pytest.raises(ConflictError, match="n2 was changed meanwhile"):
        await coordinator.change_member(member, added)
    with pytest.raises(ConflictError, match="n2 was changed meanwhile"):
        await coordinator.remove_member("n2", added, sentinel)
    await coordinator.remove_member("n2", changed_at, sentinel)
    with pytest.raises(ConflictError, match="n2 was removed meanwhile"):
        await coordinator.change_member(leaving, changed_at)
    assert list((await coordinator.read()).members) == ["n1"]


async def test_the_number_of_copies_is_changed(place: Place) -> None:
    coordinator = place.coordinator()
    await initialised(coordinator)
    before = await coordinator.read()
    await coordinator.change_replicas(3, before.settings_revision)
    after = await coordinator.read()
    assert after.map is not None and after.map.replicas == 3
    assert before.settings is not None and after.settings is not None
    assert after.settings.cluster == before.settings.cluster
    with pytest.raises(ConflictError, match="settings of the cluster"):
        await coordinator.change_replicas(2, before.settings_revision)


@pytest.mark.parametrize("name", ["", "a/b", "ü", "a b", "x" * 101, "a\n"])
async def test_what_cannot_be_a_node_is_refused(place: Place, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be the name of a node"):
        await place.coordinator().open_session(name)


# ---------------------------------------------------------------- living


async def test_a_node_lives_as_long_as_it_renews(place: Place) -> None:
    coordinator = place.coordinator(ttl_ms=2_000)
    renewals: list[LeaseRenewed] = []
    presence = Presence(coordinator, "n1", renewals.append)
    running = asyncio.create_task(presence.run())
    lost = await place.coordinator(ttl_ms=1_000).open_session("n2")
    seen = []
    async with aclosing(coordinator.views()) as views:
        await until(views, lambda view: {"n1", "n2"} <= view.alive.keys())
        began = time.monotonic()
        last = await until(views, lambda view: seen.append(set(view.alive)) or "n2" not in view.alive)
    assert 0.5 < time.monotonic() - began < SOON_SECONDS
    await asyncio.sleep(max(0.0, 2.5 - (time.monotonic() - began)))
    assert all("n1" in alive for alive in seen) and "n1" in (await coordinator.read()).alive
    assert len({renewed.revision for renewed in renewals}) == 1, "without a gap"
    assert last.revision > renewals[0].revision and len(renewals) >= 4
    assert [renewed.until_ms for renewed in renewals] == sorted({renewed.until_ms for renewed in renewals})
    with pytest.raises(LeaseLostError):
        await coordinator.renew(lost)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    await presence.end()
    assert not (await coordinator.read()).alive


async def test_a_node_that_was_held_for_dead_begins_anew(place: Place) -> None:
    coordinator = place.coordinator(ttl_ms=2_000)
    renewals: list[LeaseRenewed] = []
    presence = Presence(coordinator, "n1", renewals.append)
    running = asyncio.create_task(presence.run())
    async with aclosing(coordinator.views()) as views, asyncio.timeout(SOON_SECONDS):
        first = await until(views, lambda view: "n1" in view.alive)
        while presence.session is None:
            await asyncio.sleep(0.01)
        await coordinator.end_session(presence.session)
        await until(views, lambda view: "n1" not in view.alive)
        second = await until(views, lambda view: "n1" in view.alive)
        while renewals[-1].revision == first.alive["n1"]:
            await asyncio.sleep(0.01)
    assert second.alive["n1"] > first.alive["n1"], "there was a gap"
    assert renewals[-1].revision == second.alive["n1"]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running


async def test_a_later_session_of_a_node_ends_the_one_before(place: Place) -> None:
    coordinator, restarted = place.coordinator(), place.coordinator()
    first, sentinel = await initialised(coordinator)
    second = await restarted.open_session("n1")
    assert second.since > first.since
    with pytest.raises(LeaseLostError):
        await coordinator.renew(first)
    with pytest.raises(LeaseLostError):
        await coordinator.campaign(first)
    revision, placement = await another_placement(coordinator, 0, "late")
    with pytest.raises(LeaseLostError, match="not the sentinel any more"):
        await coordinator.swap(0, revision, placement, sentinel=sentinel)
    again = await restarted.campaign(second)
    assert again is not None and again.term > sentinel.term
    assert (await restarted.renew(second)).revision == second.since


async def test_a_lease_that_lasts_is_not_enough_when_another_one_has_the_node(place: Place) -> None:
    coordinator, keeper = place.coordinator(), place.keeper()
    session = await coordinator.open_session("n1")
    other = await keeper.grant(10_000)
    await keeper.commit(commit_of([], [Change("alive/n1", b'{"life": "another"}', other.lease)]))
    with pytest.raises(LeaseLostError, match="a later session"):
        await coordinator.renew(session)


# ---------------------------------------------------------------- the sentinel


async def test_there_is_one_sentinel(place: Place) -> None:
    coordinators = {f"n{number}": place.coordinator() for number in range(1, 5)}
    sessions = {node: await each.open_session(node) for node, each in coordinators.items()}
    outcomes = await asyncio.gather(*(each.campaign(sessions[node]) for node, each in coordinators.items()))
    (won,) = [outcome for outcome in outcomes if outcome is not None]
    assert (await coordinators["n1"].read()).sentinel == won
    assert await coordinators[won.node].campaign(sessions[won.node]) == won
    for node in coordinators.keys() - {won.node}:
        assert await coordinators[node].campaign(sessions[node]) is None


async def test_a_sentinel_whose_lease_ended_changes_nothing(place: Place) -> None:
    coordinator, other = place.coordinator(ttl_ms=1_000), place.coordinator()
    session, sentinel = await initialised(coordinator)
    member = await coordinator.add_member(Member("n2", "host-2", 8080))
    heir = await other.open_session("n2")
    async with aclosing(other.views()) as views:
        await until(views, lambda view: view.sentinel is None)
    revision, placement = await another_placement(coordinator, 0, "too late")
    for _ in range(2):  # without a sentinel, then with another one
        for late in (
            coordinator.swap(0, revision, placement, sentinel=sentinel),
            coordinator.remove_member("n2", member, sentinel),
            coordinator.initialise(sentinel, Member("n1", "h", 1), 2, 1),
        ):
            with pytest.raises(LeaseLostError, match="not the sentinel any more"):
                await late
        follower = await other.campaign(heir)
        assert follower is not None and follower.term > sentinel.term
    with pytest.raises(LeaseLostError):
        await coordinator.campaign(session)
    assert (await other.read()).placements[0].revision == revision
    await other.swap(0, revision, placement, sentinel=follower)


# ---------------------------------------------------------------- watching


async def test_views_follow_every_change(place: Place) -> None:
    coordinator, writer = place.coordinator(), place.coordinator()
    await initialised(writer)
    async with aclosing(coordinator.views()) as views:
        seen = [await anext(views)]
        assert seen[0] == await writer.read()

        async def write() -> View:
            for number in range(20):
                revision, placement = await another_placement(writer, number % 4, f"change {number}")
                await writer.swap(number % 4, revision, placement)
            await writer.add_member(Member("n2", "host-2", 1))
            await writer.open_session("n2")
            return await writer.read()

        writing = asyncio.create_task(write())
        await until(views, lambda view: seen.append(view) or "n2" in view.alive)
        last = await writing
        # A later request of the watch goes on where this one has ended.
        following = asyncio.ensure_future(anext(views))
        await asyncio.sleep(1.0)
        assert not following.done()
        await writer.add_member(Member("n3", "host-3", 1))
        async with asyncio.timeout(SOON_SECONDS):
            assert (await following).members.keys() == {"n1", "n2", "n3"}
    assert replace(seen[-1], revision=0) == replace(last, revision=0)
    revisions = [view.revision for view in seen]
    assert revisions == sorted(set(revisions))
    for view in seen:  # a view has nothing from behind its revision
        assert all(placed.revision <= view.revision for placed in view.placements.values())


async def test_views_go_on_where_changes_were_compacted_meanwhile(place: Place) -> None:
    coordinator, writer = place.coordinator(), place.coordinator()
    _, sentinel = await initialised(writer)
    added = await writer.add_member(Member("n2", "host-2", 1))
    async with aclosing(coordinator.views()) as views:
        before = await anext(views)
        await writer.remove_member("n2", added, sentinel)
        for number in range(5):
            revision, placement = await another_placement(writer, 0, f"change {number}")
            last = await writer.swap(0, revision, placement)
        await place.compact()
        with pytest.raises(CompactedError):
            await anext(place.keeper().watch(before.revision))
        after = await until(views, lambda view: True)
        assert after.placements[0].revision == last and "n2" not in after.members
        revision, placement = await another_placement(writer, 1, "later")
        await writer.swap(1, revision, placement)
        assert (await until(views, lambda view: True)).placements[1].placement.reason == "later"


async def test_while_nothing_answers_everybody_is_told_and_goes_on_afterwards(place: Place) -> None:
    coordinator, writer = place.coordinator(), place.coordinator(ttl_ms=10_000)
    session, _ = await initialised(writer)
    troubles: list[UnreachableError] = []
    async with aclosing(coordinator.views(troubles.append)) as views:
        first = await anext(views)
        following = asyncio.ensure_future(anext(views))
        place.go_down()
        try:
            began = time.monotonic()
            refused = await asyncio.gather(
                writer.read(),
                writer.renew(session),
                writer.open_session("n2"),
                writer.swap(0, first.placements[0].revision, first.placements[0].placement),
                return_exceptions=True,
            )
            assert [type(each) for each in refused] == [UnreachableError] * 4
            assert time.monotonic() - began < SOON_SECONDS
            async with asyncio.timeout(SOON_SECONDS):
                while not troubles:
                    await asyncio.sleep(0.02)
            assert not following.done()
        finally:
            place.come_up()
        async with asyncio.timeout(SOON_SECONDS):
            while True:
                with suppress(UnreachableError, ConflictError):
                    revision, placement = await another_placement(writer, 3, "afterwards")
                    await writer.swap(3, revision, placement)
                    break
            view = await following
        if view.placements[3].placement.reason != "afterwards":
            view = await until(views, lambda view: view.placements[3].placement.reason == "afterwards")


# ---------------------------------------------------------------- the two are alike


async def outcome_of(keeper: Keeper, conditions: list[Expected], changes: list[Change]) -> object:
    try:
        outcome = await keeper.commit(commit_of(conditions, changes))
    except OpenSetError as error:
        return type(error)
    return "refused" if isinstance(outcome, Refused) else "made"


async def test_random_commits_have_the_same_outcome_on_both(etcd: Etcd, tmp_path: object) -> None:
    chance = random.Random(7)
    places = [EmbeddedPlace(tmp_path / "coordinator"), EtcdPlace(etcd)]  # type: ignore[operator]
    keepers = [each.keeper() for each in places]
    leases = [[await keeper.grant(60_000) for _ in range(3)] for keeper in keepers]
    ended: set[int] = set()
    keys = ["a", "b", "c/1", "c/2"]
    for step in range(150):
        if step in (60, 110):
            number = chance.choice([each for each in range(3) if each not in ended])
            ended.add(number)
            for keeper, granted in zip(keepers, leases, strict=True):
                await keeper.revoke(granted[number].lease)
        contents = [await keeper.read() for keeper in keepers]
        shapes = [
            {
                key: (item.value, item.created == item.revision, [lease.lease for lease in granted].index(item.lease))
                if item.lease
                else (item.value, item.created == item.revision, None)
                for key, item in each.items.items()
            }
            for each, granted in zip(contents, leases, strict=True)
        ]
        assert shapes[0] == shapes[1], step
        tried = [
            (key, chance.choice(["revision", "created"]), chance.choice(["right", "right", "absent", "wrong"]))
            for key in chance.sample(keys, chance.randint(0, 2))
        ]
        made = [
            (key, chance.choice([None, b"", str(step).encode()]), chance.choice([None, None, 0, 1, 2]))
            for key in chance.sample(keys, chance.randint(1, 3))
        ]
        outcomes = []
        for keeper, each, granted in zip(keepers, contents, leases, strict=True):
            conditions = []
            for key, what, how in tried:
                item = each.items.get(key)
                right = 0 if item is None else getattr(item, what)
                conditions.append(Expected(key, **{what: {"right": right, "absent": 0, "wrong": 1 << 40}[how]}))
            changes = [
                Change(key, value, 0 if lease is None or value is None else granted[lease].lease)
                for key, value, lease in made
            ]
            outcomes.append(await outcome_of(keeper, conditions, changes))
        assert outcomes[0] == outcomes[1], (step, tried, made)
    assert isinstance(places[0].server, EmbeddedServer)
    await places[0].close()
