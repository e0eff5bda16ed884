"""Partitions that are sent as files: what arrives is what was sent, whatever breaks, and nothing else counts."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.transfer_pair import pair_of

from openset.cluster import transfers
from openset.cluster.arrivals import Arrivals, ArrivingFile
from openset.cluster.map import Position
from openset.cluster.transfer_messages import BEGIN_ROUTE, END_ROUTE, PIECE_ROUTE, Begin, Piece
from openset.errors import InternalError, InternodeError, UnreachableError
from openset.store.copies import FileName
from openset_format.hashing import checksum

EVENTS = FileName(1, False)


async def test_transfers_keep_to_their_rate(tmp_path: Path) -> None:
    async with pair_of(tmp_path) as pair:
        started = asyncio.get_running_loop().time()
        await pair.send(rate=2 * len(pair.file())).run()
        assert asyncio.get_running_loop().time() - started >= 0.5
        assert pair.taken == [{EVENTS: pair.file()}]


async def test_what_nobody_wants_is_removed(tmp_path: Path) -> None:
    async with pair_of(tmp_path) as pair:
        assert pair.other.store is not None and pair.other.replication is not None
        pair.other.replication.arrivals = Arrivals(pair.other.store, lambda arrived: None)
        await pair.send().run()
        assert pair.arrivals.shown() == []
        assert not pair.leftovers()


@pytest.mark.parametrize("every", [2, 4, 10])
async def test_a_transfer_goes_on_where_it_was(every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are lost, or their answers; what has arrived is not sent again."""
    monkeypatch.setattr(transfers, "PIECE_BYTES", 512)
    monkeypatch.setattr(transfers, "_PAUSE_SECONDS", 0.01)
    async with pair_of(tmp_path) as pair:
        rng = random.Random(every)

        def breaks(route: str) -> None:
            if rng.randrange(2 * every) == 0:
                raise UnreachableError("the connection broke")

        pair.line.before = pair.line.after = breaks
        await pair.send().run()
        assert pair.taken == [{EVENTS: pair.file()}]
        pieces = -(-len(pair.file()) // 512)
        attempts = pair.line.count(BEGIN_ROUTE)
        assert attempts > 1
        # Of the pieces under way when it breaks each may have to come again.
        assert pieces <= pair.line.count(PIECE_ROUTE) <= pieces + 2 * attempts
        assert not pair.arrivals.shown()


async def test_an_answer_that_is_lost_at_the_end_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(transfers, "_PAUSE_SECONDS", 0.01)
    async with pair_of(tmp_path) as pair:

        def after(route: str) -> None:
            if route == END_ROUTE and pair.line.count(END_ROUTE) == 1:
                raise UnreachableError("the connection broke")

        pair.line.after = after
        await pair.send().run()
        assert pair.line.count(END_ROUTE) == 2 and pair.line.count(PIECE_ROUTE) == 1
        assert len(pair.taken) == 1


async def test_one_partition_is_verified_while_the_next_ones_come(tmp_path: Path) -> None:
    """A few at one time, and whoever is being verified does not count."""
    async with pair_of(tmp_path, partitions=4) as pair:
        turns, held, go_on = asyncio.Semaphore(2), asyncio.Event(), asyncio.Event()
        sends = [pair.send(number, turns=turns) for number in range(4)]
        pair.line.before = lambda route: held.wait() if route.startswith(PIECE_ROUTE + "?") else None
        running = [asyncio.create_task(send.run()) for send in sends]
        async with asyncio.timeout(10):
            while pair.line.count(PIECE_ROUTE) < 2:
                await asyncio.sleep(0.01)
        assert pair.line.count(BEGIN_ROUTE) == 2
        assert sorted(send.shown("b")["total_bytes"] > 0 for send in sends) == [False, False, True, True]
        pair.line.before = lambda route: go_on.wait() if route == END_ROUTE else None
        held.set()
        async with asyncio.timeout(10):
            while pair.line.count(END_ROUTE) < 4:
                await asyncio.sleep(0.01)
        assert not pair.taken and len(pair.arrivals.shown()) == 4
        go_on.set()
        await asyncio.gather(*running)
        assert len(pair.taken) == 4


async def test_pieces_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    async with pair_of(tmp_path) as pair:
        arrivals, begin, data = pair.arrivals, pair.begin("x"), pair.file()
        size, half = len(data), len(data) // 2
        assert (await arrivals.begin("a", begin)).received_bytes == [0]

        async def send(first: int, last: int, transfer: str = "x", name: FileName = EVENTS, wrong: int = 0) -> None:
            part = data[first:last]
            await arrivals.piece(Piece(transfer, 0, name, first, checksum(part) ^ wrong), [part[:100], part[100:]])

        with pytest.raises(UnreachableError, match="not known"):
            await send(0, half, transfer="y")
        with pytest.raises(InternodeError, match="no such file of table 7"):
            await send(0, half, name=FileName(7, False))
        with pytest.raises(InternodeError, match="no such file of table 1"):
            await send(0, half, name=FileName(1, True))
        with pytest.raises(UnreachableError, match="checksum"):
            await send(0, half, wrong=1)
        with pytest.raises(UnreachableError, match="does not fit"):
            await arrivals.piece(Piece("x", 0, EVENTS, half, checksum(data)), [data])
        with pytest.raises(UnreachableError, match="does not fit"):
            await arrivals.piece(Piece("x", 0, EVENTS, 0, checksum(b"")), [])
        with pytest.raises(UnreachableError, match="under way"):
            await arrivals.begin("a", pair.begin("y"))
        assert arrivals.shown()[0]["received_bytes"] == 0

        await send(half, size)
        assert arrivals.shown()[0]["received_bytes"] == size - half
        assert (await arrivals.begin("a", begin)).received_bytes == [0], "there is a gap"
        with pytest.raises(UnreachableError, match="not complete"):
            await arrivals.end(0, "x")
        await send(0, half)
        assert (await arrivals.begin("a", begin)).received_bytes == [size]
        await arrivals.end(0, "x")
        assert pair.taken == [{EVENTS: data}]
        with pytest.raises(UnreachableError, match="not known"):
            await send(0, half)


@pytest.mark.parametrize("where", [0, 1, 2])
async def test_a_damaged_file_is_not_taken(where: int, tmp_path: Path) -> None:
    """Wherever it is damaged: the sender may have read it so."""
    async with pair_of(tmp_path) as pair:
        data = bytearray(pair.file())
        data[where * (len(data) - 1) // 2] ^= 1
        await pair.arrivals.begin("a", pair.begin("x"))
        await pair.arrivals.piece(Piece("x", 0, EVENTS, 0, checksum(bytes(data))), [bytes(data)])
        with pytest.raises(InternodeError, match="damaged"):
            await pair.arrivals.end(0, "x")
        assert not pair.taken and not pair.leftovers() and not pair.arrivals.shown()


async def test_nothing_is_written_to_what_is_being_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it give way to another transfer, however long that takes."""
    async with pair_of(tmp_path) as pair:
        assert pair.other.store is not None and pair.other.store.copies is not None
        copies, reached, go_on = pair.other.store.copies, threading.Event(), threading.Event()
        synced = copies.sync_staged

        def sync_staged(path: Path) -> None:
            reached.set()
            assert go_on.wait(10)
            synced(path)

        monkeypatch.setattr(copies, "sync_staged", sync_staged)
        data, begin = pair.file(), pair.begin("x")
        await pair.arrivals.begin("a", begin)
        await pair.arrivals.piece(Piece("x", 0, EVENTS, 0, checksum(data)), [data])
        ending = asyncio.create_task(pair.arrivals.end(0, "x"))
        await asyncio.to_thread(reached.wait, 10)
        with pytest.raises(UnreachableError, match="does not fit"):
            await pair.arrivals.piece(Piece("x", 0, EVENTS, 0, checksum(b"!")), [b"!"])
        pair.arrivals._arriving[0].heard = 0.0
        with pytest.raises(UnreachableError, match="under way"):
            await pair.arrivals.begin("a", pair.begin("y"))
        go_on.set()
        await ending
        assert pair.taken == [{EVENTS: data}]


async def test_room_is_kept_for_what_is_still_to_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with pair_of(tmp_path, partitions=2) as pair:
        assert pair.other.store is not None
        size = len(pair.file())
        monkeypatch.setattr(pair.other.store, "free_bytes", lambda: size + size // 2)
        await pair.arrivals.begin("a", pair.begin("x"))
        begin = pair.begin("y")
        second = Begin("y", 1, 2, begin.position_term, begin.position_index, begin.covers, 0, begin.files)
        with pytest.raises(InternalError, match="is not received"):
            await pair.arrivals.begin("a", second)
        assert [one["partition"] for one in pair.arrivals.shown()] == [0]


async def test_a_silent_transfer_gives_way_to_another_one(tmp_path: Path) -> None:
    async with pair_of(tmp_path) as pair:
        data = pair.file()
        await pair.arrivals.begin("a", pair.begin("x"))
        await pair.arrivals.piece(Piece("x", 0, EVENTS, 0, checksum(data)), [data])
        pair.arrivals._arriving[0].heard = 0.0
        assert (await pair.arrivals.begin("a", pair.begin("y"))).received_bytes == [0]
        with pytest.raises(UnreachableError, match="not known"):
            await pair.arrivals.end(0, "x")
        await pair.arrivals.piece(Piece("y", 0, EVENTS, 0, checksum(data)), [data])
        assert pair.arrivals.take(0, Position(1, 1)) is None, "it is not verified"
        await pair.arrivals.end(0, "y")
        assert pair.taken == [{EVENTS: data}]


@given(st.data())
def test_pieces_are_noted_in_any_order(data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(1, 199), max_size=12)))
    pieces = list(zip([0, *cuts], [*cuts, 200], strict=True))
    file = ArrivingFile(Path("f"), 200)
    here: set[int] = set()
    order: Sequence[tuple[int, int]] = data.draw(st.permutations(pieces + pieces[:3]))
    for first, last in order:
        assert file.takes(first, last - first)
        file.note(first, last - first)
        here |= set(range(first, last))
        whole = next((place for place in range(201) if place not in here), 200)
        assert (file.whole_bytes, file.received_bytes) == (whole, len(here))
    assert not file.takes(200, 1) and not file.takes(199, 2) and not file.takes(0, 0)
