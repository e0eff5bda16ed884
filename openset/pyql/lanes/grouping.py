"""Aggregates of rows by group: the arithmetic behind tallies and inline aggregations.

Groups are small integers (nodes of a result tree, lanes, people). Distinctness is by (group, event, key), where the
first row in the given order wins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.pyql.lanes.vectors import (
    Positions,
    Value,
    Vec,
    dense,
    distinct_values,
    factorise,
    fits_table,
    one_zero,
    unique_codes,
)

Groups = NDArray[np.int64]
_EXACT_IN_DOUBLE = 1 << 53


@dataclass(frozen=True, slots=True)
class Sums:
    """Per group: the wrapping int64 sum, the sum as a double, how many values; `doubles`: the values are doubles."""

    ints: NDArray[np.int64]
    totals: NDArray[np.float64]
    counted: NDArray[np.int64]
    doubles: bool


def counts(groups: Groups, size: int) -> NDArray[np.int64]:
    """How many rows per group."""
    return np.bincount(groups, minlength=size)


def sums(groups: Groups, size: int, data: NDArray[Any]) -> Sums:
    """Sums of numbers per group (bools as 0 and 1)."""
    counted = np.bincount(groups, minlength=size)
    if data.dtype == np.float64:
        with np.errstate(over="ignore", invalid="ignore"):
            totals = _weighted(groups, data, size)
        return Sums(np.zeros(size, np.int64), totals, counted, True)
    bound = max(abs(int(data.max())), abs(int(data.min()))) * len(data) if len(data) else 0
    if bound <= _EXACT_IN_DOUBLE:
        totals = _weighted(groups, data, size)
        return Sums(totals.astype(np.int64), totals, counted, False)
    # The halves of the numbers are added up exactly, so that the double sum is rounded once.
    data = data.astype(np.int64)
    high, low = np.zeros(size, np.int64), np.zeros(size, np.int64)
    np.add.at(high, groups, data >> 32)
    np.add.at(low, groups, data & 0xFFFFFFFF)
    totals = np.asarray(high * float(1 << 32) + low, np.float64)
    return Sums((high << 32) + low, totals, counted, False)


def _weighted(groups: Groups, data: NDArray[Any], size: int) -> NDArray[np.float64]:
    return np.bincount(groups, weights=data, minlength=size).astype(np.float64, copy=False)


def distinct_pairs(groups: Groups, size: int, others: NDArray[Any], other_size: int) -> NDArray[np.int64]:
    """How many distinct `others` (below other_size) per group: people per node, say."""
    return np.bincount(_distinct(groups, size, others, other_size) // other_size, minlength=size)


def _distinct(groups: Groups, size: int, others: NDArray[Any], other_size: int) -> NDArray[np.int64]:
    codes = groups * np.int64(other_size) + others
    if fits_table(size * other_size, len(codes), per_value=8, always=1 << 22):
        present = np.zeros(size * other_size, np.bool_)
        present[codes] = True
        return np.flatnonzero(present)
    return distinct_values(codes)


def first_per_key(groups: Groups, size: int, events: NDArray[Any], keys: Value | None) -> Positions:
    """Positions of the first row of each (group, event, key), in no particular order. keys None: of each event."""
    codes, codes_size = dense(events)
    codes = codes * size + groups
    codes_size *= size
    if isinstance(keys, Vec):
        key_codes, key_size = factorise(one_zero(keys))
        if codes_size * key_size > 1 << 62:
            distinct, codes = unique_codes(codes, codes_size)
            codes_size = len(distinct)
            found, key_codes = unique_codes(key_codes, key_size)
            key_size = len(found)
        codes = codes * key_size + key_codes
        codes_size *= key_size
    if fits_table(codes_size, len(codes), always=0):
        first = np.full(codes_size, -1, np.int64)
        first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
        return first[first >= 0]
    return np.unique(codes, return_index=True)[1]


def extremes(groups: Groups, size: int, data: NDArray[Any], greatest: bool) -> NDArray[Any]:
    """The least or greatest number per group; groups without a row hold the identity."""
    if data.dtype == np.float64:
        identity: Any = -np.inf if greatest else np.inf
    else:
        data = data.astype(np.int64, copy=False)
        identity = np.iinfo(np.int64).min if greatest else np.iinfo(np.int64).max
    result = np.full(size, identity, data.dtype)
    (np.maximum if greatest else np.minimum).at(result, groups, data)
    return result
