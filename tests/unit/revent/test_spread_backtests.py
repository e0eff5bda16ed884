"""What nodes send each other of backtests comes back as it was, and nothing else is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset.errors import WireError
from openset.revent.replay import Replay, Replayed
from openset.revent.spread_backtests import ReplayCodec

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
people = st.integers(-(2**63), 2**63 - 1) | st.text(min_size=1, max_size=4)
emissions = st.builds(Replayed, st.integers(0, 2**62), people, st.text(max_size=4), values)
moments = st.lists(st.integers(0, 2**62), max_size=5)


@given(st.lists(emissions, max_size=5), st.integers(0, 99), st.lists(moments, max_size=3), st.booleans())
def test_a_replay_comes_back(emitted: list[Any], people_: int, failed: list[list[int]], told: bool) -> None:
    count = sum(map(len, failed))
    replay = Replay(
        emitted, people_, 2 * people_, [np.array(one, np.int64) for one in failed],
        (5, "why") if count else None, np.array([True, False]) if told else None,
    )  # fmt: skip
    codec = ReplayCodec(2)
    again = codec.decode(codec.encode(replay))
    assert again.emissions == emitted and [type(one.person) for one in again.emissions] == [
        type(one.person) for one in emitted
    ]
    assert (again.people, again.runs, again.errors) == (people_, 2 * people_, count)
    assert np.concatenate([np.zeros(0, np.int64), *again.failed]).tolist() == [m for one in failed for m in one]
    assert again.last_failure == replay.last_failure
    assert (again.successes is None) == (not told) and (not told or again.successes.tolist() == [True, False])


@given(st.binary(max_size=60))
def test_hostile_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        ReplayCodec(None).decode(data)
