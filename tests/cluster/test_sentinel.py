"""What the sentinel decides about full disks and damaged copies; the rest is in the simulations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from openset.cluster.map import ClusterMap, Member, Placed, Placement
from openset.cluster.sentinel import Health, decide

NODES = ("a", "b", "c")


def decided(
    placement: Placement,
    full: str = "",
    dead: str = "",
    replicas: int = 2,
    damaged: str = "",
    leaving: str = "",
    nodes: Sequence[str] = NODES,
) -> Placement | None:
    """The placement that the only partition is to have next; None when it is to stay as it is."""
    members = {
        node: Member(node, "here", 1, node in leaving, node in full, (0,) if node in damaged else ()) for node in nodes
    }
    cluster = ClusterMap(7, replicas, members, {0: Placed(3, placement)})
    changes = decide(cluster, Health(frozenset(set(nodes) - set(dead)), frozenset(dead)))
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


def test_a_damaged_copy_goes_when_another_node_has_one_instead() -> None:
    filled = decided(Placement(1, "a", ("a", "b")), damaged="b")
    assert filled is not None and set(filled.filling) == {"c"} and filled.in_sync == ("a", "b")
    assert decided(filled, damaged="b") is None, "it waits for the other one"
    dropped = decided(Placement(1, "a", ("a", "b", "c")), damaged="b")
    assert dropped is not None and dropped.in_sync == ("a", "c")
    assert dropped.reason == "b is damaged, and 2 copies are in sync"


def test_a_damaged_copy_goes_at_once_where_nobody_else_could_have_one() -> None:
    dropped = decided(Placement(1, "a", ("a", "b")), damaged="b", nodes="ab")
    assert dropped is not None and dropped.in_sync == ("a",)
    assert dropped.reason == "the copy of b is damaged, and it is to get another one"
    assert decided(dropped, damaged="b", nodes="ab") is None, "what is there has to be removed first"
    filled = decided(dropped, nodes="ab")
    assert filled is not None and set(filled.filling) == {"b"}
    assert decided(Placement(1, "a", ("a", "b")), damaged="b", full="b", nodes="ab") is None, "it could not get one"


def test_a_damaged_owner_hands_over_before() -> None:
    asked = decided(Placement(1, "a", ("a", "b")), damaged="a")
    assert asked is not None and (asked.owner, asked.successor, asked.in_sync) == ("a", "b", ("a", "b"))
    assert asked.reason == "the copy of the owner a is damaged"
    assert decided(asked, damaged="a") is None, "it has been asked"
    other = decided(Placement(1, "a", ("a", "b", "c"), successor="b"), damaged="ab", replicas=3)
    assert other is not None and other.successor == "c"


@pytest.mark.parametrize("damaged", ["a", "ab"])
def test_what_is_damaged_everywhere_stays(damaged: str) -> None:
    in_sync = tuple(damaged)
    for replicas in (1, len(in_sync)):
        assert decided(Placement(1, "a", in_sync), damaged=damaged, replicas=replicas) is None


@pytest.mark.parametrize("owner", ["a", "b"])
def test_the_last_sound_copy_stays_when_its_node_leaves(owner: str) -> None:
    """a leaves, and b is damaged: a owns until b, or another node, has a sound copy."""
    placement = Placement(1, owner, ("a", "b"))
    if owner == "b":
        asked = decided(placement, damaged="b", leaving="a", nodes="ab")
        assert asked is not None and asked.successor == "a"
        assert decided(asked, damaged="b", leaving="a", nodes="ab") is None, "it has been asked"
        placement = Placement(2, "a", ("a", "b"))
    again = decided(placement, damaged="b", leaving="a", nodes="ab")
    assert again is not None and again.in_sync == ("a",)
    filled = decided(Placement(2, "a", ("a",)), leaving="a", nodes="ab")
    assert filled is not None and set(filled.filling) == {"b"}
    elsewhere = decided(placement, damaged="b", leaving="a")
    assert elsewhere is not None and set(elsewhere.filling) == {"c"}


def test_a_dead_owner_is_replaced_by_a_sound_copy_if_there_is_one() -> None:
    for damaged, heir in (("b", "c"), ("c", "b"), ("bc", "b")):
        replaced = decided(Placement(1, "a", ("a", "b", "c")), dead="a", damaged=damaged)
        assert replaced is not None and replaced.owner == heir
