"""What partitions weigh, and that the sentinel evens it out in few steps and then leaves everything where it is."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from openset.cluster.loads import BASE_ROWS, Loads
from openset.cluster.map import ClusterMap, Member, NodeName, Placed, Placement, changed
from openset.cluster.sentinel import Health, decide

NODES = ("a", "b", "c")


def told(rows: Mapping[int, int]) -> Loads:
    loads = Loads()
    loads.told({"a": rows}, dict.fromkeys(rows, "a"))
    return loads


def test_the_owner_says_how_many_rows_a_partition_has() -> None:
    loads = Loads()
    assert not loads.complete and loads.weights([0, 1]) == {0: 1.0, 1: 1.0}
    loads.told({"a": {0: BASE_ROWS, 1: 7 * BASE_ROWS}, "b": {0: 9 * BASE_ROWS}}, {0: "a", 1: "b", 2: "c"})
    assert loads.complete and loads.rows == {0: BASE_ROWS, 1: 0}, "b owns 1 and has no records of it"
    assert loads.weights([0, 1, 2]) == {0: 2.0, 1: 1.0, 2: 1.5}, "nothing is known of the last: as much as usual"
    loads.told({"b": {1: 5 * BASE_ROWS}}, {0: "a", 1: "b"})
    assert loads.weights([0, 1]) == {0: 2.0, 1: 6.0}, "who does not answer keeps what was told last"


def test_growth_of_all_alike_changes_no_weight() -> None:
    loads = told(dict.fromkeys(range(8), 20 * BASE_ROWS))
    before = dict(loads.weights(range(8)))
    loads.told({"a": {number: (200 + number % 3) * BASE_ROWS for number in range(8)}}, dict.fromkeys(range(8), "a"))
    assert loads.weights(range(8)) == before
    loads.told({"a": {0: 400 * BASE_ROWS}}, {0: "a"})
    assert loads.weights(range(8))[0] == 401


def balanced(weights: Mapping[int, float], placements: dict[int, Placement], replicas: int) -> int:
    """Carries out what the sentinel decides until it decides nothing more; how many copies were made."""
    members = {node: Member(node, "here", 1) for node in NODES}
    made = 0
    asked: set[int] = set()
    for revision in range(1, 300):
        cluster = ClusterMap(revision, replicas, members, {n: Placed(1, one) for n, one in placements.items()})
        changes = decide(cluster, Health(frozenset(NODES), frozenset(), weights))
        # Who was asked to hand over does so a round later.
        for number in asked:
            heir = placements[number].successor
            if heir is not None:
                placements[number] = changed(placements[number], "handed over", owner=heir, handed_over=True)
        if not changes and not asked:
            return made
        asked = {change.partition for change in changes if change.placement.successor is not None}
        for change in changes:
            made += len(change.placement.filling)
            placements[change.partition] = filled(change.placement)
    raise AssertionError("it never ends")


def filled(placement: Placement) -> Placement:
    """Copies that are filled are in sync at once."""
    if not placement.filling:
        return placement
    new = frozenset(placement.filling)
    return changed(placement, "filled", in_sync=frozenset(placement.in_sync) | new, stop_filling=new)


def held(weights: Mapping[int, float], placements: Mapping[int, Placement]) -> dict[NodeName, float]:
    return {node: sum(weights[n] for n, one in placements.items() if node in one.in_sync) for node in NODES}


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([1.0, 1.1, 2.5, 7.0, 40.0]) | st.floats(1, 100), min_size=1, max_size=24),
    st.integers(1, 2),
    st.data(),
)
def test_what_partitions_weigh_is_evened_out(sizes: list[float], replicas: int, data: st.DataObject) -> None:
    weights = dict(enumerate(sizes))
    placements = {}
    for number in weights:
        nodes = data.draw(st.permutations(NODES))[:replicas]
        placements[number] = Placement(1, nodes[0], tuple(sorted(nodes)))
    balanced(weights, placements, replicas)
    loads = held(weights, placements)
    for number, placement in placements.items():
        assert len(placement.in_sync) == replicas and placement.owner in placement.in_sync
        for node in placement.in_sync:
            for other in set(NODES) - set(placement.in_sync):
                # Who holds least is where it would go.
                if loads[other] == min(loads.values()):
                    assert loads[node] - loads[other] < 1.25 * weights[number] + 1e-6
    before = dict(placements)
    assert balanced(weights, placements, replicas) == 0 and placements == before


def test_heavy_partitions_are_parted_although_there_are_as_many_of_each() -> None:
    weights = {0: 8.5, 1: 8.5, 2: 1.0, 3: 1.0}
    placements = {n: Placement(1, "b" if n < 2 else "a", ("b",) if n < 2 else ("a",)) for n in weights}
    balanced(weights, placements, 1)
    assert max(held(weights, placements).values()) < 10


def test_nothing_is_moved_before_it_is_known_what_partitions_weigh() -> None:
    cluster = ClusterMap(
        1, 1, {node: Member(node, "here", 1) for node in NODES},
        {number: Placed(1, Placement(1, "a", ("a",))) for number in range(6)},
    )  # fmt: skip
    assert decide(cluster, Health(frozenset(NODES)))
    assert not decide(cluster, Health(frozenset(NODES), weighed=False))


def test_a_third_node_gets_no_copy_more_than_its_share() -> None:
    placements = {number: Placement(1, "a", ("a", "b")) for number in range(4)}
    assert balanced(dict.fromkeys(range(4), 1.0), placements, 2) == 2
