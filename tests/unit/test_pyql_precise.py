"""Sums of doubles: right to the last digit, and the same however rows are ordered and cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from openset.pyql import precise
from openset.pyql.states import ExtremeState, SumState

PRICES = st.integers(-10_000_000, 10_000_000).map(lambda cents: cents / 100)
NUMBERS = st.one_of(PRICES, st.floats(-1e15, 1e15, allow_subnormal=False), st.sampled_from([0.1, 1e15, -1e15, 1e-9]))
NODE = np.zeros(1, np.int64)


def pieces_summed(data: NDArray[np.float64], cuts: list[int]) -> float:
    """The sum of data when it is added Block by Block."""
    state = SumState()
    for part in np.split(data, sorted(cuts)):
        totals, rests = precise.group_sums(np.zeros(len(part), np.int64), 1, part)
        state.add_doubles(NODE, totals, rests, np.array([len(part)]))
    return float(state.totals[0])


@given(st.lists(PRICES, max_size=60), st.randoms(use_true_random=False))
def test_order_and_blocks_do_not_show(numbers: list[float], random: object) -> None:
    shuffled = list(numbers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    cuts = [random.randint(0, len(numbers)) for _ in range(3)]  # type: ignore[attr-defined]
    assert pieces_summed(np.array(numbers), []) == pieces_summed(np.array(shuffled), cuts) == math.fsum(numbers)


@given(st.lists(NUMBERS, max_size=60))
def test_numbers_of_very_different_size(numbers: list[float]) -> None:
    assert pieces_summed(np.array(numbers), [len(numbers) // 2]) == pytest.approx(
        math.fsum(numbers), rel=1e-15, abs=1e-18
    )


def test_groups_of_many_rows() -> None:
    random = np.random.default_rng(7)
    groups = random.integers(0, 50, 20_000)
    data = np.round(random.lognormal(3, 2, 20_000), 2)
    totals, _ = precise.group_sums(groups, 50, data)
    assert totals.tolist() == [math.fsum(data[groups == group].tolist()) for group in range(50)]


def test_one_by_one_is_the_same() -> None:
    state = SumState()
    for number in [0.1] * 10 + [1e16, 1.0, -1e16]:
        state.add_value(0, number)
    assert state.value(0) == 2.0


def test_no_rows_and_groups_without_rows() -> None:
    totals, rests = precise.group_sums(np.zeros(0, np.int64), 2, np.zeros(0))
    assert (totals.tolist(), rests.tolist()) == ([0.0, 0.0], [0.0, 0.0])
    totals, _ = precise.group_sums(np.array([2]), 4, np.array([2.5]))
    assert totals.tolist() == [0.0, 0.0, 2.5, 0.0]


def test_sums_beyond_the_range_of_a_double_are_none() -> None:
    state = SumState()
    totals, rests = precise.group_sums(np.zeros(3, np.int64), 1, np.array([1.7e308] * 3))
    state.add_doubles(NODE, totals, rests, np.array([3]))
    assert state.value(0) is None
    state.add_value(0, 1.0)
    assert state.value(0) is None


def test_the_least_and_greatest_zero_has_no_sign() -> None:
    state = ExtremeState(greatest=False)
    state.add_value(0, -0.0)
    assert str(state.value(0)) == "0.0"
