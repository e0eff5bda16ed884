"""A few rounds of the loop that `make crash` runs a hundred times: a daemon killed under everything at once."""

from __future__ import annotations

from pathlib import Path

from support.kill_loop import run


def test_killed_under_inserts_compactions_columns_and_segments(tmp_path: Path) -> None:
    tally = run(tmp_path, rounds=4, seed=20261126, verify_every=2)
    print(tally)
    assert tally.rounds == 4 and tally.acknowledged and tally.segments and tally.columns and tally.compactions
