"""Faults that follow from a seed."""

from __future__ import annotations

from support.chaos.plan import plan


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
