"""Stamps of events that come without one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from openset.store.now import Name, NowStamps


def test_events_of_a_person_and_action_get_one_millisecond_each() -> None:
    names: list[Name] = [("ann", "view"), (7, "view"), ("ann", "view"), ("ann", "buy"), ("7", "view"), (7, "view")]
    assert NowStamps().take(names, 1_000).tolist() == [1_000, 1_000, 1_001, 1_000, 1_000, 1_001]


def test_later_requests_go_on_where_earlier_ones_ended() -> None:
    stamps = NowStamps()
    assert stamps.take([("ann", "view")] * 3, 1_000).tolist() == [1_000, 1_001, 1_002]
    assert stamps.take([("ann", "view"), ("ben", "view")], 1_001).tolist() == [1_003, 1_001]
    assert stamps.take([("ann", "view")], 1_004).tolist() == [1_004]
    assert stamps.take([("ann", "view")], 5_000).tolist() == [5_000]


def test_a_clock_that_goes_back_repeats_nothing() -> None:
    stamps = NowStamps()
    assert stamps.take([("ann", "view")], 1_000).tolist() == [1_000]
    assert stamps.take([("ann", "view")], 400).tolist() == [1_001]


def test_what_is_past_is_forgotten() -> None:
    stamps = NowStamps()
    for now_ms in range(1_000, 1_100):
        stamps.take([(person, "view") for person in range(now_ms * 1_000, now_ms * 1_000 + 500)], now_ms)
    assert len(stamps._next_free) < 10_000


def test_threads_never_get_the_same_stamp() -> None:
    stamps = NowStamps()
    with ThreadPoolExecutor(8) as threads:
        given = list(threads.map(lambda _: stamps.take([("ann", "view")] * 5, 1_000).tolist(), range(200)))
    assert sorted(stamp for part in given for stamp in part) == list(range(1_000, 2_000))
