"""Runs of rows: together everything a Block answers for, cut between events only."""

from __future__ import annotations

import numpy as np
import pytest

from openset.store.rows import rows_of
from openset_format.block import Block, Column, PersonIds, TextDictionary


def block(counts: list[list[int]], include: list[bool] | None = None) -> Block:
    """People with events of so many rows each. The stamp of a row is its number."""
    rows = [sum(events) for events in counts]
    starts = [start for events in counts for count in events for start in [True, *[False] * (count - 1)]]
    total = sum(rows)
    return Block(
        PersonIds.of([f"p{number}" for number in range(len(counts))]),
        np.cumsum([0, *rows]).astype(np.int64),
        np.arange(total, dtype=np.int64),
        None if all(starts) else np.array(starts, np.bool_),
        {"action": Column("text", np.zeros(total, np.uint8), None, TextDictionary(["a"]))},
        None if include is None else np.array(include),
    )


@pytest.mark.parametrize("seed", range(25))
def test_runs_are_whole_events_and_together_everything(seed: int) -> None:
    chance = np.random.default_rng(seed)
    people = int(chance.integers(0, 8))
    counts = [
        [int(count) for count in chance.integers(1, 1 + int(chance.integers(1, 5)), int(chance.integers(0, 9)))]
        for _ in range(people)
    ]
    include = [bool(flag) for flag in chance.integers(0, 2, people)] if seed % 2 else None
    of = block(counts, include)
    wanted = [
        (person, number, row)
        for person, events in enumerate(counts)
        for number, count in enumerate(events)
        for row in range(count)
        if include is None or include[person]
    ]
    for most in (None, 1, 2, 3, 7, 100):
        runs = list(rows_of(of, most))
        found = [entry for run in runs for entry in zip(run.person.tolist(), run.event.tolist(), strict=True)]
        assert found == [(person, number) for person, number, _ in wanted]
        assert all(len(run) for run in runs)
        for run in runs:
            # An event begins at its first row, wherever it stands, and is in one run.
            lengths = np.diff(run.first_rows()).tolist()
            firsts = run.first_rows()[:-1].tolist()
            whole = [counts[run.person[at]][run.event[at]] for at in firsts]
            assert lengths == whole
            assert most is None or len(run) <= most or len(lengths) == 1
            assert run.stamp.tolist() == sorted(run.stamp.tolist())
