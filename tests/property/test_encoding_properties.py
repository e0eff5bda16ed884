"""Columns come back from how they are stored, bit for bit, whatever their values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset_format.block import Column
from openset_format.encoding import INT_TYPES, DecodedColumns, encode_column

bounds = st.sampled_from([0, 2**7, 2**8, 2**15, 2**16, 2**31, 2**32, 2**63])
near_bounds = st.builds(
    lambda bound, step, sign: sign * bound + step, bounds, st.integers(-2, 2), st.sampled_from([1, -1])
)
ints = st.one_of(near_bounds, st.integers(-300, 300)).filter(lambda value: -(2**63) <= value < 2**63)
decimals = st.builds(lambda whole, places: whole / 10**places, st.integers(-(2**33), 2**33), st.integers(0, 6))
doubles = st.one_of(decimals, st.floats(), st.sampled_from([0.0, -0.0, 0.1 + 0.2, 1e300, 2.0**31, -(2.0**31)]))


@given(st.lists(ints, min_size=1, max_size=30))
def test_ints_are_stored_in_the_narrowest_type(values: list[int]) -> None:
    stored = encode_column(Column("int", np.array(values, np.int64)))
    decoded = stored[:]
    assert decoded.values.dtype == np.int64 and decoded.values.tolist() == values
    assert [stored.value(row) for row in range(len(values))] == values
    fitting = [one for one in INT_TYPES if np.iinfo(one).min <= min(values) and max(values) <= np.iinfo(one).max]
    assert stored.values.dtype.itemsize == min(one.itemsize for one in fitting)
    assert stored.is_narrow == (stored.values.dtype.itemsize < 8)


@given(st.lists(doubles, min_size=1, max_size=30))
def test_doubles_come_back_bit_for_bit(values: list[float]) -> None:
    column = Column("double", np.array(values, np.float64))
    stored = encode_column(column)
    assert stored[:].values.tobytes() == column.values.tobytes()
    assert stored[:].values.dtype == np.float64
    places = np.arange(len(values))[::-2]
    assert stored[places].values.tobytes() == column.values[places].tobytes()
    assert stored.is_narrow == (stored.scale is not None) == (stored.values.dtype.kind in "iu")


@given(st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=1, max_size=30), st.integers(0, 4))
def test_short_decimals_are_stored_as_ints(wholes: list[int], places: int) -> None:
    values = np.array(wholes) / 10**places
    stored = encode_column(Column("double", values))
    assert stored.scale is not None and stored.scale <= 10**places
    assert stored.values.dtype.itemsize <= 4
    assert stored[:].values.tobytes() == values.tobytes()


@pytest.mark.parametrize("late", [0.001, 1 / 3, float("nan"), -0.0, 1e10])
def test_one_value_at_the_end_decides_for_all_rows(late: float) -> None:
    values = np.round(np.random.default_rng(4).random(200_000) * 100, 2)
    assert encode_column(Column("double", values)).scale == 100
    values[-1] = late
    stored = encode_column(Column("double", values))
    assert stored.scale == (1_000 if late == 0.001 else None)
    assert stored[:].values.tobytes() == values.tobytes()


def test_rows_without_a_value_stay_zero_and_wide_ranges_share_memory() -> None:
    valid = np.array([True, False, True])
    stored = encode_column(Column("double", np.array([-2.5, 0, 4]), valid))
    assert (stored.scale, stored.values.tolist()) == (10, [-25, 0, 40])
    assert [stored.value(row) for row in range(3)] == [-2.5, None, 4.0]
    wide = encode_column(Column("int", np.array([2**40, 0, 1]), valid))
    assert np.shares_memory(wide[1:].values, wide.values) and not wide.is_narrow
    both = DecodedColumns({1: stored, 2: wide})
    assert list(both) == [1, 2] and both[2].value(0) == 2**40
