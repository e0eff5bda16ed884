"""What the sentinel decides about nodes whose disk is full; the rest is in the simulations."""

from __future__ import annotations

import pytest

from openset.cluster.map import ClusterMap, Member, Placed, Placement
from openset.cluster.sentinel import Health, decide

NODES = ("a", "b", "c")


def decided(placement: Placement, full: str = "", dead: str = "", replicas: int = 2) -> Placement | None:
    """The placement that the only partition is to have next; None when it is to stay as it is."""
    members = {node: Member(node, "here", 1, full=node in full) for node in NODES}
    cluster = ClusterMap(7, replicas, members, {0: Placed(3, placement)})
    changes = decide(cluster, Health(frozenset(set(NODES) - set(dead)), frozenset(dead)))
    assert len(changes) <= 1
    return changes[0].placement if changes else None


def test_a_full_owner_is_asked_to_hand_over_to_who_has_room() -> None:
    asked = decided(Placement(1, "a", ("a", "b")), full="a")
    assert asked is not None
    assert (asked.owner, asked.successor, asked.reason) == ("a", "b", "the disk of the owner a is full")
    assert decided(asked, full="a") is None, "it has been asked"
    assert decided(Placement(1, "a", ("a", "b")), full="ab") is None, "nobody has room"
    taken_back = decided(asked, full="ab")
    assert taken_back is None or taken_back.successor is None


def test_a_full_node_gets_no_copies_and_the_ones_it_has_count() -> None:
    assert decided(Placement(1, "b", ("a", "b")), full="a") is None
    more = decided(Placement(1, "b", ("b",)), full="a")
    assert more is not None and set(more.filling) == {"c"}
    assert decided(Placement(1, "b", ("b",)), full="ac") is None
    stopped = decided(Placement(1, "b", ("b",), {"a": 1}, 1), full="a")
    assert stopped is not None and not stopped.filling


@pytest.mark.parametrize("full", ["", "a", "b", "ab", "abc"])
def test_a_dead_owner_is_replaced_whoever_is_full(full: str) -> None:
    replaced = decided(Placement(1, "a", ("a", "b", "c")), full=full, dead="a")
    assert replaced is not None and replaced.term == 2
    assert replaced.owner == ("c" if full in ("b", "ab") else "b")
