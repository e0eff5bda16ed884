"""The minute of what `make chaos` does for ten: a cluster of five nodes under faults, every answer checked."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.chaos.plan import plan
from support.chaos.run import run

SEED = 20261127


@pytest.mark.timeout(400)
def test_a_minute_of_chaos(tmp_path: Path) -> None:
    tally = run(tmp_path, SEED, seconds=40)
    print(tally)
    _, acknowledged, _ = tally.requests
    assert acknowledged > 50
    assert tally.answers["events answered"] > 20 and tally.answers["person answered"] > 5
    assert sum(tally.faults.values()) == len(plan(SEED, 40))


def test_a_seed_says_what_goes_wrong() -> None:
    faults = plan(1, 600)
    assert faults == plan(1, 600) != plan(2, 600)
    assert len({fault.kind for fault in faults}) == 11, "everything that can go wrong does"
    for fault in faults:
        disturbed = {
            node
            for other in faults
            if other.at <= fault.at < other.until and not (other.kind.endswith("etcd") and not other.ways)
            for node in other.nodes
        }
        assert len(disturbed) <= 2
