"""What the sentinel decides about full disks, damaged copies and who was away; the rest is in the simulations."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from openset.cluster.map import ClusterMap, Member, Placed, Placement, changed, decode_placement, encode_placement
from openset.cluster.sentinel import FILLING_AT_ONCE, Health, decide, first_placements, unplaced
from openset.errors import InternalError

NODES = ("a", "b", "c")


def decided(
    placement: Placement,
    full: str = "",
    dead: str = "",
    replicas: int = 2,
    damaged: str = "",
    leaving: str = "",
    nodes: Sequence[str] = NODES,
    down: str = "",
) -> Placement | None:
    """The placement that the only partition is to have next; None when it is to stay as it is.

    dead: for so long that others take over; down: not for so long.
    """
    members = {
        node: Member(node, "here", 1, node in leaving, node in full, (0,) if node in damaged else ()) for node in nodes
    }
    cluster = ClusterMap(7, replicas, members, {0: Placed(3, placement)})
    changes = decide(cluster, Health(frozenset(set(nodes) - set(dead) - set(down)), frozenset(dead)))
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


def away(*nodes: str, in_sync: Sequence[str] = ("a",), filling: str = "", successor: str | None = None) -> Placement:
    """Owned by a; nodes are away."""
    return Placement(
        3, "a", tuple(in_sync), dict.fromkeys(filling, 4), 4, successor=successor, away=tuple(sorted(nodes))
    )


def test_a_dead_owner_is_away_and_comes_back_as_the_copy_that_is_missing() -> None:
    replaced = decided(Placement(1, "b", ("a", "b"), tickets=4), down="b")
    assert replaced is not None and (replaced.owner, replaced.in_sync, replaced.away) == ("a", ("a",), ("b",))
    assert replaced.copies == {"a"}
    assert decided(replaced, down="b") is None, "c gets nothing while b may come back"
    filled = decided(replaced)
    assert filled is not None and (filled.in_sync, filled.filling, filled.away) == (("a",), {"b": 5}, ())
    assert filled.reason == "1 of 2 copies, b was away and gets what it lacks"


def test_who_is_gone_is_replaced_and_forgotten_when_that_is_done() -> None:
    replaced = decided(away("b"), dead="b")
    assert replaced is not None and (set(replaced.filling), replaced.away) == ({"c"}, ("b",))
    assert replaced.reason == "1 of 2 copies, c gets one"
    assert decided(replaced, dead="b") is None
    assert decided(replaced) is None, "it is back, and another one is being filled"
    stopped = decided(replaced, dead="c")
    assert stopped is not None and (stopped.filling, stopped.away) == ({}, ("b", "c"))
    again = decided(stopped, dead="c")
    assert again is not None and (set(again.filling), again.away) == ({"b"}, ("c",)), "it still has what it had"
    forgotten = decided(away("b", in_sync="ac"), dead="b")
    assert forgotten is not None and (forgotten.in_sync, forgotten.away) == (("a", "c"), ())
    assert forgotten.reason == "b was away and is not needed: 2 copies are in sync"
    assert decided(forgotten) is None


def test_who_is_gone_keeps_what_it_has_where_nobody_can_take_its_place() -> None:
    for full in ("", "c"):
        nodes = "abc" if full else "ab"
        assert decided(away("b"), dead="b", nodes=nodes, full=full) is None
        filled = decided(away("b"), nodes=nodes, full=full)
        assert filled is not None and set(filled.filling) == {"b"}


def test_who_is_away_is_needed_until_all_copies_are_in_sync() -> None:
    assert decided(away("b", in_sync="ac"), replicas=3, down="b") is None
    assert decided(away("b", in_sync="ac"), replicas=3, dead="b") is None
    assert decided(away("b", in_sync="ac", filling="d"), down="b", nodes="abcd") is None
    assert decided(away("b", in_sync="ac"), down="bc") is None, "c may be taken out of those in sync next"
    fewer = decided(away("b"), replicas=1, down="b")
    assert fewer is not None and fewer.away == ()


def test_nodes_that_are_away_make_up_for_copies_one_by_one() -> None:
    assert decided(away("b", "c"), replicas=3, down="bc", nodes="abcd") is None
    one = decided(away("b", "c"), replicas=3, down="b", dead="c", nodes="abcd")
    assert one is not None and (set(one.filling), one.away) == ({"d"}, ("b", "c"))
    back = decided(away("b", "c"), replicas=3, down="c", nodes="abcd")
    assert back is not None and (set(back.filling), back.away) == ({"b"}, ("c",))
    other = decided(away("b"), replicas=3, down="b", nodes="abcd")
    assert other is not None and set(other.filling) == {"c"}, "one more is missing than b makes up for"


def test_who_is_away_and_leaves_is_forgotten_and_may_then_be_removed() -> None:
    filled = decided(away("b"), down="b", leaving="b")
    assert filled is not None and set(filled.filling) == {"c"}
    forgotten = decided(filled, down="b", leaving="b")
    assert forgotten is not None and (forgotten.filling, forgotten.away) == (filled.filling, ())
    assert forgotten.reason == "b was away and leaves"
    assert not unplaced({0: Placed(1, filled)}, "b") and unplaced({0: Placed(1, forgotten)}, "b")
    dead_owner = decided(away("b"), down="a", leaving="b")
    assert dead_owner is not None and dead_owner.away == ()


def test_who_is_no_member_any_more_is_forgotten() -> None:
    forgotten = decided(away("z", filling="b"))
    assert forgotten is not None and (set(forgotten.filling), forgotten.away) == ({"b"}, ())
    assert forgotten.reason == "z was away and is no member any more"


def test_who_is_away_and_full_is_not_waited_for_and_gets_what_it_lacks_when_it_has_room() -> None:
    filled = decided(away("b"), full="b")
    assert filled is not None and (set(filled.filling), filled.away) == ({"c"}, ("b",))
    assert decided(away("b"), full="b", nodes="ab") is None
    again = decided(away("b"), nodes="ab")
    assert again is not None and set(again.filling) == {"b"}


def test_a_damaged_copy_that_was_away_is_given_up() -> None:
    filled = decided(away("b"), damaged="b")
    assert filled is not None and (set(filled.filling), filled.away) == ({"c"}, ("b",))
    forgotten = decided(away("b"), damaged="b", nodes="ab")
    assert forgotten is not None and (forgotten.filling, forgotten.away) == ({}, ())
    assert forgotten.reason == "b was away and is damaged"
    assert decided(away("b"), damaged="ab", nodes="ab") is None, "what is damaged everywhere stays"


def test_a_damaged_copy_stays_while_another_node_may_come_back() -> None:
    placement = away("c", in_sync="ab")
    assert decided(placement, damaged="b", down="c") is None
    filled = decided(placement, damaged="b")
    assert filled is not None and set(filled.filling) == {"c"}
    dropped = decided(placement, damaged="b", dead="c")
    assert dropped is not None and (dropped.in_sync, dropped.away) == (("a",), ("c",))


def test_nobody_is_filled_while_the_owner_is_dead() -> None:
    assert decided(away("b"), down="a") is None
    assert decided(away("b"), dead="a") is None, "who is away never owns"


def test_who_is_asked_to_take_over_is_not_forgotten_with_who_was_away() -> None:
    forgotten = decided(away("c", in_sync="ab", successor="b"))
    assert forgotten is not None and (forgotten.successor, forgotten.away) == ("b", ())


def members_of(nodes: str) -> dict[str, Member]:
    return {node: Member(node, "here", 1) for node in nodes}


def test_who_comes_back_gets_some_partitions_at_a_time_and_the_others_wait_for_it() -> None:
    count = FILLING_AT_ONCE + 3
    cluster = ClusterMap(7, 2, members_of("abc"), {number: Placed(3, away("b")) for number in range(count)})
    changes = decide(cluster, Health(frozenset("abc")))
    assert len(changes) == FILLING_AT_ONCE
    assert all(set(change.placement.filling) == {"b"} for change in changes)


def test_nothing_is_balanced_while_somebody_may_come_back() -> None:
    """c has nothing. What b has counts as its own, also for where other copies go."""
    others = {number: Placed(3, Placement(1, "a", ("a",))) for number in range(1, 9)}
    waits = Placement(1, "a", ("a",), away=("b",))
    for gone, moves in ((frozenset[str](), False), (frozenset("b"), True)):
        cluster = ClusterMap(7, 1, members_of("abc"), {**others, 0: Placed(3, waits)})
        assert decide(cluster, Health(frozenset("ac"), gone)), "b is not needed"
        needed = ClusterMap(7, 2, members_of("abc"), {0: Placed(3, waits), **whole(range(1, 9), "ab")})
        found = decide(needed, Health(frozenset("ac"), gone))
        assert bool(found) == moves


def whole(numbers: range, nodes: str) -> dict[int, Placed]:
    return {number: Placed(3, Placement(1, nodes[0], tuple(nodes))) for number in numbers}


def test_what_is_kept_by_who_was_away_counts_as_held() -> None:
    """b, just back, is about to get the first ones; a copy of another partition goes to c, which holds less."""
    placements = {number: Placed(3, away("b")) for number in range(FILLING_AT_ONCE)}
    placements |= {FILLING_AT_ONCE: Placed(3, Placement(1, "a", ("a",)))}
    changes = decide(ClusterMap(7, 2, members_of("abc"), placements), Health(frozenset("abc")))
    assert set(changes[-1].placement.filling) == {"c"}


def test_a_placement_of_before_is_read_and_one_that_makes_no_sense_is_not() -> None:
    before = b'{"term":2,"owner":"a","in_sync":["a"],"filling":{"b":3},"tickets":3,"successor":null,"reason":"x"}'
    read = decode_placement(before)
    assert read.away == () and read.filling == {"b": 3}
    for placement in (away("b", "c"), *first_placements(1, "a").values()):
        assert decode_placement(encode_placement(placement)) == placement
    for wrong in (b'["a"]', b'["b"]', b'["d","c"]'):
        with pytest.raises(InternalError):
            decode_placement(before.replace(b'"reason":"x"', b'"away":' + wrong))


def test_who_is_away_stays_so_until_it_is_a_copy() -> None:
    placement = away("b", "c")
    assert changed(placement, "x", owner="a").away == ("b", "c")
    assert changed(placement, "x", fill="b").away == ("c",)
    assert changed(placement, "x", in_sync=frozenset("ac")).away == ("b",)
    assert changed(placement, "x", away=frozenset("ad")).away == ("d",)


def test_who_dies_while_it_is_filled_keeps_what_it_got() -> None:
    """As does who was taken out of those in sync just before its lease ended, and was to be filled for that moment."""
    assert decided(away(filling="b"), down="b") is None
    stopped = decided(away(filling="b"), dead="b")
    assert stopped is not None and (stopped.filling, stopped.away) == ({}, ("b",))
    assert stopped.reason == "b went away, or has no room, before it had caught up"
    full = decided(away(filling="b"), full="b", nodes="ab")
    assert full is not None and (full.filling, full.away) == ({}, ("b",))
    leaves = decided(away(filling="b"), leaving="b", nodes="ab")
    assert leaves is not None and leaves.filling == {}
    forgotten = decided(leaves, leaving="b", nodes="ab")
    assert forgotten is not None and forgotten.away == ()


def test_the_copy_that_was_made_last_is_not_what_goes() -> None:
    filled = changed(Placement(1, "a", ("a", "b")), "somebody asked", fill="c")
    taken_in = changed(filled, "c has caught up", in_sync=frozenset("abc"), stop_filling=frozenset("c"))
    assert taken_in.newest == "c" and decode_placement(encode_placement(taken_in)) == taken_in
    dropped = decided(taken_in)
    assert dropped is not None and dropped.in_sync == ("a", "c")


def placed(placements: Sequence[Placement], damaged: str = "", replicas: int = 2) -> ClusterMap:
    """A map of nodes that live. damaged: those whose copy of partition 0 is."""
    members = {node: Member(node, "here", 1, damaged=(0,) if node in damaged else ()) for node in NODES}
    return ClusterMap(7, replicas, members, {number: Placed(3, one) for number, one in enumerate(placements)})


def test_what_somebody_had_moved_is_not_what_balance_moves_back() -> None:
    # c holds three partitions and a holds one: one goes back, another one than the one that c got last.
    moved = Placement(1, "c", ("c",), newest="c")
    others = [Placement(1, node, (node,)) for node in "ccabb"]
    changes = decide(placed([moved, *others], replicas=1), Health(frozenset(NODES)))
    assert [one.partition for one in changes] == [1] and set(changes[0].placement.filling) == {"a"}


def test_a_partition_that_is_damaged_everywhere_does_not_hold_up_the_balance_of_others() -> None:
    lost = Placement(1, "a", ("a", "b"), {"c": 1}, 1)
    others = [Placement(1, "a", ("a", "b"))] * 6
    assert decide(placed([lost, *others]), Health(frozenset(NODES))) == [], "it may still be filled"
    changes = decide(placed([lost, *others], damaged="ab"), Health(frozenset(NODES)))
    assert changes and all(set(one.placement.filling) == {"c"} and one.partition for one in changes)


def test_who_leaves_keeps_its_copy_while_the_one_that_should_have_it_is_away() -> None:
    both = Placement(1, "a", ("a", "b"))
    away = changed(both, "", away=frozenset("c"))
    assert decided(away, leaving="b", down="c") is None
    assert decided(both, leaving="b", dead="c") is None, "it may be back; who knows better lets it leave too"
    alone = decided(both, leaving="bc", dead="c")
    assert alone is not None and alone.in_sync == ("a",)
    filled = decided(away, leaving="b")
    assert filled is not None and set(filled.filling) == {"c"}
    done = decided(Placement(1, "a", ("a", "b", "c")), leaving="b")
    assert done is not None and done.in_sync == ("a", "c")
