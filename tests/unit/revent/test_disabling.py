"""Errors in a row, put together from people who were replayed apart from one another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from openset.revent.disabling import Failures

runs = st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=40)


def disabled_at(happened: list[tuple[int, bool]], limit: int) -> int | None:
    """One moment after the other; those with an error count all their errors."""
    in_a_row = 0
    for moment in sorted({moment for moment, _ in happened}):
        errors = sum(failed for at, failed in happened if at == moment)
        in_a_row = in_a_row + errors if errors else 0
        if in_a_row >= limit:
            return moment
    return None


@given(runs, st.integers(1, 4), st.integers(1, 6))
def test_it_is_when_the_runner_says(happened: list[tuple[int, bool]], shares: int, limit: int) -> None:
    failures = Failures.of(np.array([moment for moment, failed in happened if failed], np.int64))
    gaps = np.zeros(len(failures.moments), np.bool_)
    for share in range(shares):
        succeeded = [moment for moment, failed in happened[share::shares] if not failed]
        if len(gaps):
            gaps |= failures.gaps_with_success(np.array(succeeded, np.int64))
    assert failures.disabled_at(gaps, limit) == disabled_at(happened, limit)
