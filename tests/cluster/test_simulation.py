"""Histories of a cluster, each from a seed: `python tests/cluster/replay.py SEED` replays a failing one."""

from __future__ import annotations

import pytest
from support.cluster_simulator import Simulation, simulation_of

SEEDS_PER_TEST = 250


@pytest.mark.parametrize("first_seed", range(0, 1_000, SEEDS_PER_TEST))
def test_no_schedule_breaks_an_invariant(first_seed: int) -> None:
    acknowledged = came_back = restarted = 0
    for seed in range(first_seed, first_seed + SEEDS_PER_TEST):
        simulation = simulation_of(seed)
        simulation.run(faulty_ms=4_000, healing_ms=9_000)
        acknowledged += simulation.acknowledged
        came_back += simulation.came_back
        restarted += simulation.came_back_restarted
    assert acknowledged > SEEDS_PER_TEST * 50, "writes go on in spite of all faults"
    assert came_back > SEEDS_PER_TEST / 4, "nodes were away and came back with what they had"
    assert restarted > SEEDS_PER_TEST / 20, "also after they had started again"


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


@pytest.mark.parametrize("victim", ["n0", "n1", "n2", "n3"])
def test_a_node_that_is_away_for_a_while_gets_only_what_it_lacks(victim: str) -> None:
    simulation = Simulation(3, nodes=4, partitions=8, replicas=2, faults=0.0)
    simulation.compacts = False
    simulation.run(2_000, 8_000)
    held = {p: one.placement for p, one in simulation.coordinator.placements.items() if victim in one.placement.copies}
    assert len(held) == 4
    moved = simulation.transfers, simulation.given_up
    tickets = tickets_given(simulation)
    simulation._crash(victim)
    simulation._until(12_800)
    now = {p: one.placement for p, one in simulation.coordinator.placements.items()}
    assert not any(victim in placement.in_sync for placement in now.values())
    assert any(victim in placement.away for placement in now.values())
    # Some are being filled again: the sentinel held it for alive when it was taken out.
    assert all(victim in {*now[p].away, *now[p].filling} and len(now[p].copies) <= 2 for p in held)
    kept = records_held(simulation, victim)
    simulation.records_sent[victim] = 0
    simulation._start(victim)
    simulation._until(20_000)
    simulation._check_converged()
    assert 0 < simulation.records_sent[victim] <= records_held(simulation, victim) - kept, "nothing is sent twice"
    assert (simulation.transfers, simulation.given_up) == moved
    assert tickets_given(simulation) == tickets + len(held)
    assert all(victim in simulation.coordinator.placements[p].placement.in_sync for p in held)


def test_a_node_that_is_away_for_long_is_replaced_and_gives_up_what_it_had() -> None:
    simulation = Simulation(3, nodes=4, partitions=8, replicas=2, faults=0.0)
    simulation.run(2_000, 8_000)
    held = [p for p, one in simulation.coordinator.placements.items() if "n1" in one.placement.copies]
    simulation._crash("n1")
    simulation._until(18_000)
    simulation._check_converged()
    assert all("n1" not in one.placement.copies for one in simulation.coordinator.placements.values())
    given_up = simulation.given_up
    simulation._start("n1")
    simulation._until(30_000)
    simulation._check_converged()
    assert simulation.given_up >= given_up + len(held)


def records_held(simulation: Simulation, node: str) -> int:
    return sum(len(records.entries) for records in simulation.nodes[node].disk.durable.values())


def tickets_given(simulation: Simulation) -> int:
    return sum(one.placement.tickets for one in simulation.coordinator.placements.values())


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
