"""Histories of a cluster, each from a seed: `python tests/cluster/replay.py SEED` replays a failing one."""

from __future__ import annotations

import pytest
from support.cluster_simulator import Simulation, simulation_of

SEEDS_PER_TEST = 250


@pytest.mark.parametrize("first_seed", range(0, 1_000, SEEDS_PER_TEST))
def test_no_schedule_breaks_an_invariant(first_seed: int) -> None:
    acknowledged = 0
    for seed in range(first_seed, first_seed + SEEDS_PER_TEST):
        simulation = simulation_of(seed)
        simulation.run(faulty_ms=4_000, healing_ms=9_000)
        acknowledged += simulation.acknowledged
    assert acknowledged > SEEDS_PER_TEST * 50, "writes go on in spite of all faults"


def test_a_seed_is_a_history() -> None:
    first, second = Simulation(7), Simulation(7)
    for simulation in (first, second):
        simulation.run(faulty_ms=3_000, healing_ms=9_000)
    assert first.agreed == second.agreed
    assert first.coordinator.read() == second.coordinator.read()


def test_without_faults_every_write_is_acknowledged_and_nothing_moves_twice() -> None:
    simulation = Simulation(1, nodes=3, partitions=6, replicas=2, faults=0.0)
    simulation.run(faulty_ms=6_000, healing_ms=6_000)
    refused = simulation.next_request - 1 - simulation.acknowledged
    # Those that came while an owner handed over, and the last ones, which are still on their way.
    assert refused <= 8
    copies_made = sum(placed.placement.tickets for placed in simulation.coordinator.placements.values())
    # Six partitions of one node become twelve copies, four on each node: the first node keeps four of its six.
    assert copies_made == 8


def test_owners_go_on_without_the_coordinator() -> None:
    """Their leases end; that all copies answer them is enough, and what they write is agreed."""
    simulation = Simulation(7, nodes=3, partitions=3, replicas=2, faults=0.0)
    simulation.run(2_000, 8_000)
    simulation.coordinator_down = True
    acknowledged = simulation.acknowledged
    for moment in range(10_000, 40_000, 500):
        simulation._until(moment)
        for partition, placed in simulation.coordinator.placements.items():
            node = simulation.nodes[placed.placement.owner]
            assert node.state is not None
            assert node.state.may_answer(partition, node.now_ms(simulation.time)), (moment, partition)
    assert simulation.acknowledged > acknowledged + 100
