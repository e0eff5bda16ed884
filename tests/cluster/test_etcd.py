"""The coordinator on etcd: members that die, hang and come back, passwords, certificates, several clusters."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from support.certificates import make_certificates
from support.coordinators import FAST, EtcdPlace, elected, initialised
from support.etcd import Certificates, Etcd, text

from openset.cluster.coordinator import Coordinator
from openset.cluster.etcd import EtcdKeeper
from openset.cluster.etcd_address import parse_address
from openset.cluster.keeper import Change, commit_of
from openset.cluster.map import changed
from openset.cluster.messages import LeaseRenewed
from openset.cluster.presence import Presence
from openset.errors import ConfigError, ConflictError, UnreachableError

SOON_SECONDS = 15.0
PASSWORD = "right/pass:word"


async def swapped_soon(coordinator: Coordinator, partition: int, reason: str) -> None:
    """Tries to change a placement until that is known to be done."""
    async with asyncio.timeout(SOON_SECONDS):
        while True:
            try:
                placed = (await coordinator.read()).placements[partition]
                if placed.placement.reason == reason:
                    return
                await coordinator.swap(partition, placed.revision, changed(placed.placement, reason))
            except (UnreachableError, ConflictError):
                await asyncio.sleep(0.05)


# ---------------------------------------------------------------- members that fail


@pytest.mark.parametrize("how", ["killed", "paused"])
@pytest.mark.parametrize("who", ["the one that is asked", "the leader"])
async def test_a_member_less_changes_nothing(etcd: Etcd, how: str, who: str) -> None:
    place = EtcdPlace(etcd)
    leader = await asyncio.to_thread(etcd.leader)
    others = [member for member in etcd.members if member is not leader]
    asked, victim = (others[0], others[0]) if who == "the one that is asked" else (others[0], leader)
    hosts = ",".join(f"127.0.0.1:{member.client_port}" for member in [asked, leader, others[1]])
    coordinator = Coordinator(EtcdKeeper(parse_address(f"etcd://{hosts}/{place.prefix}"), FAST))
    await initialised(coordinator)
    renewals: list[LeaseRenewed] = []
    presence = Presence(coordinator, "n2", renewals.append)
    running = asyncio.create_task(presence.run())
    async with aclosing(coordinator.views()) as views:
        await anext(views)
        (victim.kill if how == "killed" else victim.pause)()
        try:
            began = time.monotonic()
            await swapped_soon(coordinator, 1, "with a member less")
            assert time.monotonic() - began < SOON_SECONDS
            async with asyncio.timeout(SOON_SECONDS):
                async for view in views:
                    if view.placements[1].placement.reason == "with a member less":
                        break
                renewed = len(renewals)
                while len(renewals) < renewed + 1:
                    await asyncio.sleep(0.02)
        finally:
            (victim.start if how == "killed" else victim.go_on)()
            await asyncio.to_thread(etcd.wait_until_ready)
    running.cancel()
    assert len({renewed.revision for renewed in renewals}) == 1, "the lease was kept"
    assert (await coordinator.read()).placements[1].placement.reason == "with a member less"


async def test_without_a_majority_nothing_is_changed_and_watches_say_so(etcd: Etcd) -> None:
    place = EtcdPlace(etcd)
    coordinator = place.coordinator()
    await initialised(coordinator)
    view = await coordinator.read()
    troubles: list[UnreachableError] = []
    async with aclosing(coordinator.views(troubles.append)) as views:
        await anext(views)
        following = asyncio.ensure_future(anext(views))
        for member in etcd.members[1:]:
            member.kill()
        try:
            with pytest.raises(UnreachableError):
                await coordinator.swap(0, view.placements[0].revision, view.placements[0].placement)
            async with asyncio.timeout(SOON_SECONDS):
                while not troubles:
                    await asyncio.sleep(0.02)
        finally:
            for member in etcd.members[1:]:
                member.start()
            await asyncio.to_thread(etcd.wait_until_ready)
        await swapped_soon(coordinator, 0, "afterwards")
        async with asyncio.timeout(SOON_SECONDS):
            await following


async def test_a_commit_that_a_hanging_member_may_have_taken_is_not_sent_twice(etcd: Etcd) -> None:
    leader = await asyncio.to_thread(etcd.leader)
    hanging, sound = [member for member in etcd.members if member is not leader]
    prefix = EtcdPlace(etcd).prefix
    hosts = f"127.0.0.1:{hanging.client_port},127.0.0.1:{sound.client_port}"
    keeper = EtcdKeeper(parse_address(f"etcd://{hosts}/{prefix}"), FAST)
    hanging.pause()
    try:
        with pytest.raises(UnreachableError, match="no answer in time"):
            await keeper.commit(commit_of([], [Change("a", b"1")]))
        # The next one goes to another member.
        await keeper.commit(commit_of([], [Change("b", b"2")]))
        assert "a" not in (await keeper.read()).items
    finally:
        hanging.go_on()
        await asyncio.to_thread(etcd.wait_until_ready)


async def test_a_commit_goes_on_to_the_next_member_when_nobody_was_there(etcd: Etcd) -> None:
    place = EtcdPlace(etcd)
    address = parse_address(f"etcd://127.0.0.1:1,{etcd.hosts}/{place.prefix}")
    keeper = EtcdKeeper(address, FAST)
    await keeper.commit(commit_of([], [Change("a", b"1")]))
    assert (await keeper.read()).items["a"].value == b"1"


async def test_nobody_there_names_every_member() -> None:
    keeper = EtcdKeeper(parse_address("etcd://127.0.0.1:1,localhost:2,no-such-host.invalid"), FAST)
    with pytest.raises(UnreachableError) as caught:
        await keeper.read()
    for host in ("127.0.0.1:1", "localhost:2", "no-such-host.invalid:2379"):
        assert host in caught.value.message
    with pytest.raises(UnreachableError):
        await anext(keeper.watch(1))


async def test_what_is_no_etcd_is_unreachable() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop())
        writer.close()

    answers = [
        b"",
        b"SSH-2.0-server\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n<html>",
        b"HTTP/1.0 502 Bad Gateway\r\n\r\n<html>",
        b"HTTP/1.0 200 OK\r\n\r\n" + b'{"header":{"revision":"5"},"kvs":[{"key":"b3RoZXI="}]}',
        b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\n" + b'{"header":{"rev',
    ]
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    keeper = EtcdKeeper(parse_address(f"etcd://127.0.0.1:{port}"), FAST)
    async with server:
        while len(answers) > 1:
            left = len(answers)
            with pytest.raises(UnreachableError):
                await keeper.read()
            assert len(answers) < left


async def test_clusters_share_an_etcd(etcd: Etcd) -> None:
    places = [EtcdPlace(etcd), EtcdPlace(etcd)]
    places[1].prefix = f"{places[0].prefix}0"  # what is next to it in the order of keys
    (_, first), (_, second) = [await initialised(each.coordinator()) for each in places]
    views = [await each.coordinator().read() for each in places]
    assert views[0].sentinel == first and views[1].sentinel == second and first != second
    assert views[0].settings != views[1].settings


# ---------------------------------------------------------------- passwords and certificates


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Certificates]:
    directory = tmp_path_factory.mktemp("certificates")
    make_certificates(directory, "right")
    make_certificates(directory, "other")
    yield Certificates(directory / "right-ca.pem", directory / "right-cert.pem", directory / "right-key.pem")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Etcd]:
    """One member with TLS that wants a password; user `openset` may write below `openset/`."""
    etcd = Etcd(tmp_path_factory.mktemp("secured"), 1, certificates)
    permission = {"permType": "READWRITE", "key": text("openset/"), "range_end": text("openset0")}
    etcd.post("/v3/auth/role/add", {"name": "root"})
    etcd.post("/v3/auth/role/add", {"name": "openset"})
    etcd.post("/v3/auth/role/grant", {"name": "openset", "perm": permission})
    for user in ("root", "openset"):
        etcd.post("/v3/auth/user/add", {"name": user, "password": PASSWORD})
        etcd.post("/v3/auth/user/grant", {"user": user, "role": user})
    etcd.post("/v3/auth/enable", {})
    yield etcd
    etcd.close()


@pytest.fixture(scope="module")
def certified(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Etcd]:
    """One member that wants certificates of its clients."""
    asking = replace(certificates, asks_clients=True)
    etcd = Etcd(tmp_path_factory.mktemp("certified"), 1, asking)
    yield etcd
    etcd.close()


def address(etcd: Etcd, user: str, prefix: str = "openset", more: str = "") -> str:
    assert etcd.certificates is not None
    return f"etcd://{user}@{etcd.hosts}/{prefix}?ca={etcd.certificates.ca}{more}"


QUOTED = PASSWORD.replace("/", "%2F").replace(":", "%3A")


async def test_with_passwords_and_certificates_all_is_as_without(
    secured: Etcd, certified: Etcd, tmp_path: Path
) -> None:
    password_file = tmp_path / "password"
    password_file.write_text(f"{PASSWORD}\n")
    assert certified.certificates is not None
    own = f"ca={certified.certificates.ca}&cert={certified.certificates.cert}&key={certified.certificates.key}"
    for number, url in enumerate(
        (
            address(secured, f"openset:{QUOTED}", "openset/0"),
            address(secured, "openset", "openset/1", more=f"&password_file={password_file}"),
            f"etcd://{certified.hosts}/openset?{own}",
        )
    ):
        coordinator = Coordinator(EtcdKeeper(parse_address(url), FAST))
        session, sentinel = await initialised(coordinator)
        placed = (await coordinator.read()).placements[0]
        async with aclosing(coordinator.views()) as views:
            await anext(views)
            await coordinator.swap(0, placed.revision, changed(placed.placement, "seen"), sentinel=sentinel)
            assert (await anext(views)).placements[0].placement.reason == "seen", number
        await coordinator.renew(session)


async def test_a_token_that_is_not_valid_any_more_is_renewed(secured: Etcd) -> None:
    url = address(secured, f"openset:{QUOTED}", "openset/tokens")
    coordinator = Coordinator(EtcdKeeper(parse_address(url), FAST))
    _, sentinel = await initialised(coordinator)
    root = secured.post("/v3/auth/authenticate", {"name": "root", "password": PASSWORD})["token"]
    async with aclosing(coordinator.views()) as views:
        first = await anext(views)
        # A password that is set again, and any change of users, end the tokens given before.
        secured.post("/v3/auth/user/changepw", {"name": "openset", "password": PASSWORD}, token=root)
        placed = first.placements[0]
        await coordinator.swap(0, placed.revision, changed(placed.placement, "seen"), sentinel=sentinel)
        async with asyncio.timeout(SOON_SECONDS):
            assert (await anext(views)).placements[0].placement.reason == "seen"
        secured.members[0].kill()
        secured.members[0].start()
        await asyncio.to_thread(secured.wait_until_ready)
        async with asyncio.timeout(SOON_SECONDS):
            await swapped_soon(coordinator, 1, "after a restart")
            assert (await anext(views)).placements[1].placement.reason == "after a restart"


@pytest.mark.parametrize("user", ["openset:wrong", "nobody:wrong", "openset:"])
async def test_a_wrong_password_is_said_and_not_shown(secured: Etcd, user: str) -> None:
    keeper = EtcdKeeper(parse_address(address(secured, user)), FAST)
    with pytest.raises(ConfigError, match="refuses the user or the password") as caught:
        await keeper.read()
    assert "wrong" not in caught.value.message
    with pytest.raises(ConfigError, match="refuses the user or the password"):
        await anext(keeper.watch(1))


async def test_what_a_user_may_not_do_is_said(secured: Etcd) -> None:
    keeper = EtcdKeeper(parse_address(address(secured, f"openset:{QUOTED}", "elsewhere")), FAST)
    for request in (keeper.read(), keeper.commit(commit_of([], [Change("a", b"")])), anext(keeper.watch(1))):
        with pytest.raises(ConfigError, match="permission denied"):
            await request


async def test_without_a_user_one_is_asked_for(secured: Etcd) -> None:
    url = address(secured, "x:y").replace("x:y@", "")
    with pytest.raises(ConfigError, match="wants a user and a password"):
        await EtcdKeeper(parse_address(url), FAST).read()


async def test_a_password_where_etcd_has_none_is_not_in_the_way(etcd: Etcd) -> None:
    place = EtcdPlace(etcd)
    keeper = EtcdKeeper(parse_address(f"etcd://someone:secret@{etcd.hosts}/{place.prefix}"), FAST)
    coordinator = Coordinator(keeper)
    _, sentinel = await elected(coordinator)
    assert (await coordinator.read()).sentinel == sentinel


async def test_certificates_have_to_fit(secured: Etcd, certified: Etcd, certificates: Certificates) -> None:
    other = certificates.ca.parent / "other"
    for url, reason in (
        (f"etcd://{secured.hosts}?ca={other}-ca.pem", "certificate is refused"),
        (f"etcd://{secured.hosts}?tls=true", "certificate is refused"),
        (f"etcd://{secured.hosts}", "wants TLS"),
        (f"etcd://{certified.hosts}?ca={certificates.ca}", "alert|bad certificate"),
        (f"etcd://{certified.hosts}?ca={certificates.ca}&cert={other}-cert.pem&key={other}-key.pem", "alert"),
    ):
        with pytest.raises(UnreachableError, match=reason):
            await EtcdKeeper(parse_address(url), FAST).read()
    with pytest.raises(ConfigError, match=r"nowhere\.pem"):
        EtcdKeeper(parse_address("etcd://127.0.0.1?ca=/nowhere.pem"), FAST)
