"""A cluster in one process: node states, their disks, a coordinator and a network, all driven by one seed.

Messages are dropped, delayed, doubled and overtake each other; nodes crash with what was not synced, and start again;
the network falls apart and heals; clocks differ; leases run out. After every step the invariants are checked. One
seed, one history: `Simulation(seed).run()` replays a failure.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
from support.simulated_nodes import LEASE_BELIEVED_MS, TIMING, Coordinator, Node, Records

from openset.cluster.log import PartitionLog
from openset.cluster.map import Member, Placement
from openset.cluster.messages import (
    Answer,
    Append,
    Compacted,
    Cut,
    Discard,
    Event,
    Install,
    Instruction,
    Keep,
    LeaseRenewed,
    MapRead,
    Propose,
    Received,
    Send,
    Show,
    Synced,
    Tick,
    Transfer,
    TransferArrived,
    TransferClosed,
    Transmit,
    Write,
)
from openset.cluster.sentinel import decide
from openset.cluster.state import NodeState

TICK_MS = 50
# Of the records that are shown again and again, how many are compared each time.
_COMPARED_EACH_TIME = 50


class InvariantBroken(AssertionError):
    """What must never happen, with the seed that made it happen."""


class Simulation:
    """One history. faults: how much goes wrong, 0 to 1."""

    def __init__(self, seed: int, nodes: int = 4, partitions: int = 3, replicas: int = 2, faults: float = 1.0):
        self.seed = seed
        self.rng = random.Random(seed)
        self.faults = faults
        self.time = 0.0
        self.partitions = partitions
        self.nodes = {name: Node(name, self.rng) for name in (f"n{number}" for number in range(nodes))}
        members = {name: Member(name, "sim", 0) for name in self.nodes}
        self.coordinator = Coordinator(partitions, members, replicas, "n0")
        self.owners: dict[tuple[int, int], tuple[str, int]] = {}
        self.agreed: dict[int, list[Any]] = {p: [] for p in range(partitions)}
        self.places: dict[Any, int] = {}  # where an agreed payload stands, from 1
        self.acknowledged = 0
        self.latest = dict.fromkeys(range(partitions), 0)  # the greatest acknowledged place
        self.requests: dict[int, tuple[int, Any]] = {}
        self.next_request = 1
        self.cut_off: set[frozenset[str]] = set()
        self.coordinator_down = False
        self.quiet = False
        self.trace = False
        self.compacts = True
        # Files that were sent, partitions that were given up; nodes that were away and were filled with what they had,
        # and those of them that had started again meanwhile.
        self.transfers = self.given_up = self.came_back = self.came_back_restarted = 0
        self.records_sent = dict.fromkeys(self.nodes, 0)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    # ---------------------------------------------------------------- running

    def run(self, faulty_ms: float = 20_000, healing_ms: float = 30_000) -> None:
        """Faults for a while, then none; afterwards everything must be as it should be."""
        for name in self.nodes:
            self._start(name)
        self._every(TICK_MS, self._tick_nodes)
        self._every(150, self._sentinels)
        self._every(300, self._renew_leases)
        self._every(40, self._client)
        self._every(400, self._compact)
        self._every(500, self._tell_of_damage)
        self._every(700, self._something_breaks)
        self._until(faulty_ms)
        self._heal()
        self._until(faulty_ms + healing_ms)
        self._check_converged()

    def _until(self, end_ms: float) -> None:
        while self._queue and self._queue[0][0] <= end_ms:
            self.time, _, action = heapq.heappop(self._queue)
            action()
            self._check_answers()
        self.time = end_ms

    def _after(self, delay_ms: float, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._queue, (self.time + delay_ms, self._order, action))

    def _every(self, period_ms: float, action: Callable[[], None]) -> None:
        def again() -> None:
            action()
            self._after(period_ms * self.rng.uniform(0.8, 1.2), again)

        self._after(period_ms, again)

    def _chance(self, probability: float) -> bool:
        return not self.quiet and self.rng.random() < probability * self.faults

    # ---------------------------------------------------------------- nodes

    def _start(self, name: str) -> None:
        node = self.nodes[name]
        node.life += 1
        node.arrived = {}
        node.seen = {p: list(records.entries) for p, records in node.disk.durable.items()}
        logs = {p: PartitionLog(r.base, r.terms_behind_base()) for p, r in node.disk.durable.items()}
        node.state = NodeState(name, logs, TIMING)
        self._renew(name)
        self._read_map(name)

    def _crash(self, name: str) -> None:
        """The steps that were not synced are lost, but for a beginning."""
        node = self.nodes[name]
        for step in node.disk.steps[: self.rng.randint(0, len(node.disk.steps))]:
            step()
        node.disk.steps = []
        node.state = None

    def handle(self, name: str, event: Event, life: int | None = None) -> None:
        node = self.nodes[name]
        if node.state is None or (life is not None and life != node.life):
            return
        instructions = node.state.handle(event, node.now_ms(self.time))
        if self.trace and not isinstance(event, Tick | MapRead | LeaseRenewed):
            print(f"{self.time:9.1f} {name} gets {event}")
        for instruction in instructions if self.trace else ():
            print(f"{self.time:9.1f} {name} does {instruction}")
        self._check_owners(node)
        for instruction in instructions:
            self._carry_out(node, instruction)

    def _carry_out(self, node: Node, instruction: Instruction) -> None:
        match instruction:
            case Keep():
                self._keep(node, instruction)
            case Cut(partition, after):
                del node.seen.setdefault(partition, [])[after:]
                node.disk.steps.append(lambda: self._cut_durable(node, partition, after))
                self._sync_later(node, None)
            case Install(partition, position, epoch):
                records = node.arrived.pop(partition)
                assert records.base == position
                node.seen[partition] = list(records.entries)
                node.disk.steps.append(lambda: self._install_durable(node, partition, records))
                self._sync_later(node, Synced(partition, position.index, epoch))
            case Discard(partition):
                self._check_unwanted(node, partition)
                self.given_up += 1
                node.seen.pop(partition, None)
                node.disk.steps.append(lambda: self._discard_durable(node, partition))
                self._sync_later(node, None)
            case Show(partition, committed):
                self._agree(node, partition, committed)
            case Send(to, message):
                self._deliver(node.name, to, message)
            case Transmit():
                entries = tuple(node.seen.get(instruction.partition, [])[instruction.first - 1 : instruction.last])
                append = Append(instruction.partition, instruction.term, instruction.previous, entries,
                                instruction.committed, instruction.complete, instruction.sent_ms)  # fmt: skip
                self.records_sent[instruction.to] += len(entries)
                self._deliver(node.name, instruction.to, append)
            case Transfer():
                self._transfer(node, instruction)
            case Propose():
                self._propose(node, instruction)
            case Answer(request, done, _):
                if done:
                    self._acknowledge(request)

    def _keep(self, node: Node, keep: Keep) -> None:
        seen = node.seen.setdefault(keep.partition, [])
        assert len(seen) == keep.first - 1, "records are kept one behind the other"
        seen.extend(keep.entries)
        node.disk.steps.append(lambda: node.disk.written(keep.partition).entries.extend(keep.entries))
        self._sync_later(node, Synced(keep.partition, keep.first + len(keep.entries) - 1, keep.epoch))

    def _sync_later(self, node: Node, told: Synced | None) -> None:
        life = node.life

        def sync() -> None:
            if node.life != life or node.state is None:
                return
            for step in node.disk.steps:
                step()
            node.disk.steps = []
            if told is not None:
                self.handle(node.name, told, life)

        self._after(self.rng.uniform(0.2, 30 if self._chance(0.1) else 3), sync)

    def _cut_durable(self, node: Node, partition: int, after: int) -> None:
        records = node.disk.written(partition)
        assert after >= records.base.index
        del records.entries[after:]

    def _install_durable(self, node: Node, partition: int, records: Records) -> None:
        node.disk.durable[partition] = records
        node.disk.damaged.discard(partition)

    def _discard_durable(self, node: Node, partition: int) -> None:
        node.disk.durable.pop(partition, None)
        node.disk.damaged.discard(partition)

    def _deliver(self, sender: str, to: str, message: Any) -> None:
        if self._chance(0.05) or frozenset((sender, to)) in self.cut_off:
            return
        for _ in range(2 if self._chance(0.05) else 1):
            delay = self.rng.uniform(1, 400 if self._chance(0.05) else 12)
            self._after(delay, lambda: self.handle(to, Received(sender, message)))

    def _transfer(self, owner: Node, transfer: Transfer) -> None:
        state, life = owner.state, owner.life
        assert state is not None
        self.transfers += 1
        records = owner.disk.durable.get(transfer.partition, Records())
        base, entries = records.base, list(records.entries[: records.base.index])
        committed = state.committed(transfer.partition)
        target = self.nodes[transfer.to]
        target_life = target.life

        def arrive() -> None:
            broken = self._chance(0.3) or frozenset((owner.name, transfer.to)) in self.cut_off
            broken = broken or transfer.partition in owner.disk.damaged
            if not broken and target.life == target_life and target.state is not None:
                target.arrived[transfer.partition] = Records(base, list(entries))
                event = TransferArrived(transfer.partition, owner.name, transfer.term, base, min(committed, base.index))
                self.handle(transfer.to, event, target_life)
            self.handle(owner.name, TransferClosed(transfer.partition, transfer.to), life)

        self._after(self.rng.uniform(20, 300), arrive)

    # ---------------------------------------------------------------- coordinator

    def _reachable(self, name: str) -> bool:
        return not self.coordinator_down and frozenset((name, "coordinator")) not in self.cut_off

    def _read_map(self, name: str) -> None:
        if self._reachable(name):
            life = self.nodes[name].life
            known = self.coordinator.read()
            self._after(self.rng.uniform(1, 60), lambda: self.handle(name, MapRead(known), life))

    def _changed(self) -> None:
        for name in self.nodes:
            if not self._chance(0.1):
                self._after(self.rng.uniform(0, 40), partial(self._read_map, name))

    def _propose(self, node: Node, propose: Propose) -> None:
        life = node.life

        def arrive() -> None:
            if not self._reachable(node.name):
                return  # nobody learns what became of it
            if self._swapped(propose.partition, propose.expected_revision, propose.placement, None):
                self._changed()
            if not self._chance(0.2) and node.life == life:
                self._read_map(node.name)

        self._after(self.rng.uniform(1, 300 if self._chance(0.1) else 20), arrive)

    def _renew(self, name: str) -> None:
        node, sent = self.nodes[name], self.time
        if self._reachable(name) and not self._chance(0.1):
            since = self.coordinator.renew(name, self.time)
            event = LeaseRenewed(node.now_ms(sent) + LEASE_BELIEVED_MS, since)
            life = node.life
            self._after(self.rng.uniform(1, 40), lambda: self.handle(name, event, life))

    def _renew_leases(self) -> None:
        for name, node in self.nodes.items():
            if node.state is not None:
                self._renew(name)
                self._read_map(name)

    def _sentinels(self) -> None:
        """Whoever reaches the coordinator may hold itself for the sentinel: swaps keep two of them apart."""
        cluster, health = self.coordinator.read(), self.coordinator.health(self.time)
        for _ in range(2 if self._chance(0.2) else 1):
            for change in decide(cluster, health):
                self._after(self.rng.uniform(1, 200 if self._chance(0.2) else 20), partial(self._swap, change))

    def _swap(self, change: Any) -> None:
        if self.coordinator_down:
            return
        if self._swapped(change.partition, change.expected_revision, change.placement, change.while_dead):
            self._changed()

    def _swapped(self, partition: int, expected: int, placement: Placement, while_dead: str | None) -> bool:
        before = self.coordinator.placements[partition].placement
        if not self.coordinator.swap(partition, expected, placement, self.time, while_dead):
            return False
        self._check_agreed_everywhere(partition)
        for name in set(placement.away) - set(before.away):
            self.nodes[name].left_in[partition] = self.nodes[name].life
        for name in set(before.away) & placement.filling.keys():
            node = self.nodes[name]
            if node.disk.durable.get(partition, Records()).entries:
                self.came_back += 1
                self.came_back_restarted += node.left_in[partition] != node.life
        return True

    # ---------------------------------------------------------------- what happens

    def _tick_nodes(self) -> None:
        for name in self.nodes:
            self.handle(name, Tick())

    def _client(self) -> None:
        partition = self.rng.randrange(self.partitions)
        owner = self.coordinator.placements[partition].placement.owner
        name = self.rng.choice(list(self.nodes)) if self._chance(0.2) else owner
        request = self.next_request
        self.next_request += 1
        payload = f"r{request}"
        self.requests[request] = (partition, payload)
        self.handle(name, Write(request, partition, payload))

    def _compact(self) -> None:
        if not self.compacts:
            return
        for name, node in self.nodes.items():
            for partition in range(self.partitions):
                if node.state is None or node.disk.steps or self.rng.random() > 0.3:
                    continue
                if partition in node.disk.damaged:
                    continue
                log, records = node.state.log(partition), node.disk.durable.get(partition)
                committed = node.state.committed(partition)
                if log is None or records is None or committed <= log.base.index or log.synced < committed:
                    continue
                position = log.position(self.rng.randint(log.base.index + 1, committed))
                assert position is not None
                records.base = position
                self.handle(name, Compacted(partition, position))

    def _something_breaks(self) -> None:
        if not self._chance(0.6):
            return
        names = list(self.nodes)
        match self.rng.randrange(7):
            case 0 | 1:
                victim = self.rng.choice(names)
                if self.nodes[victim].state is not None:
                    self._crash(victim)
                    life = self.nodes[victim].life
                    self._after(self.rng.uniform(10, 5_000), lambda: self._start_again(victim, life))
            case 2:
                pair = frozenset(self.rng.sample([*names, "coordinator"], 2))
                self.cut_off.add(pair)
                self._after(self.rng.uniform(100, 4_000), lambda: self.cut_off.discard(pair))
            case 3:
                lonely = self.rng.choice(names)
                pairs = {frozenset((lonely, other)) for other in [*names, "coordinator"] if other != lonely}
                self.cut_off |= pairs
                self._after(self.rng.uniform(100, 4_000), lambda: self.cut_off.difference_update(pairs))
            case 4:
                node = self.nodes[self.rng.choice(names)]
                if node.disk.durable:
                    node.disk.damaged.add(self.rng.choice(list(node.disk.durable)))
            case 5:
                self.coordinator_down = True
                self._after(self.rng.uniform(100, 2_000), self._coordinator_up)
            case _:
                member = self.coordinator.members[self.rng.choice(names)]
                leaving = sum(each.leaving for each in self.coordinator.members.values())
                if self.rng.random() < 0.5:
                    member = msgspec.structs.replace(member, full=not member.full)
                elif member.leaving or leaving == 0:
                    member = msgspec.structs.replace(member, leaving=not member.leaving)
                self.coordinator.members[member.node] = member
                self.coordinator.revision += 1
                self._changed()

    def _tell_of_damage(self) -> None:
        """What nobody has sound any more is restored when the faults are over."""
        for partition, placed in self.coordinator.placements.items():
            copies = [self.nodes[name].disk.damaged for name in placed.placement.in_sync]
            if self.quiet and all(partition in damaged for damaged in copies):
                for damaged in copies:
                    damaged.discard(partition)
        for name, node in self.nodes.items():
            member, damaged = self.coordinator.members[name], tuple(sorted(node.disk.damaged))
            if node.state is not None and self._reachable(name) and member.damaged != damaged:
                self.coordinator.members[name] = msgspec.structs.replace(member, damaged=damaged)
                self.coordinator.revision += 1
                self._changed()

    def _start_again(self, name: str, life: int) -> None:
        if self.nodes[name].state is None and self.nodes[name].life == life:
            self._start(name)

    def _coordinator_up(self) -> None:
        self.coordinator_down = False

    def _heal(self) -> None:
        self.quiet = True
        self.cut_off.clear()
        self.coordinator_down = False
        for name, node in self.nodes.items():
            self.coordinator.members[name] = Member(name, "sim", 0)
            if node.state is None:
                self._start(name)
        self.coordinator.revision += 1
        self._changed()

    # ---------------------------------------------------------------- invariants

    def _broken(self, what: str) -> InvariantBroken:
        return InvariantBroken(f"seed {self.seed}, at {self.time:.1f} ms: {what}")

    def _check_owners(self, node: Node) -> None:
        """One owner per partition and term, one life of it."""
        assert node.state is not None
        for partition in range(self.partitions):
            term = node.state.owned_term(partition)
            if term is not None:
                known = node.state.map.placements[partition].placement if node.state.map is not None else None
                if known is None or node.name not in known.in_sync:
                    raise self._broken(f"{node.name} owns partition {partition} and is not in sync: {known}")
                holder = self.owners.setdefault((partition, term), (node.name, node.life))
                if holder != (node.name, node.life):
                    raise self._broken(
                        f"{holder} and {(node.name, node.life)} own partition {partition} in term {term}"
                    )

    def _check_unwanted(self, node: Node, partition: int) -> None:
        """Nobody gives up what it is to have, or to keep."""
        assert node.state is not None and node.state.map is not None
        placement = node.state.map.placements[partition].placement
        if node.name in placement.copies or node.name in placement.away:
            raise self._broken(f"{node.name} gives partition {partition} up: {placement}")

    def _agree(self, node: Node, partition: int, committed: int) -> None:
        """What is agreed is the same everywhere, for good."""
        agreed, seen = self.agreed[partition], node.seen.get(partition, [])[:committed]
        known = min(len(agreed), len(seen))
        for index in range(max(known - _COMPARED_EACH_TIME, 0), known):
            if agreed[index] != seen[index].payload:
                raise self._broken(f"record {index + 1} of partition {partition} is {agreed[index]} and {seen[index]}")
        for entry in seen[known:]:
            agreed.append(entry.payload)
            self.places[entry.payload] = len(agreed)

    def _acknowledge(self, request: int) -> None:
        partition, payload = self.requests[request]
        if payload not in self.places:
            raise self._broken(f"{payload} was acknowledged and is not agreed")
        self.acknowledged += 1
        self.latest[partition] = max(self.latest[partition], self.places[payload])
        self._check_agreed_everywhere(partition)

    def _check_agreed_everywhere(self, partition: int) -> None:
        """What is acknowledged is, durably, on every node that is in sync, so that any of them may own."""
        latest = self.latest[partition]
        wanted = self.agreed[partition][:latest]
        for name in self.coordinator.placements[partition].placement.in_sync:
            records = self.nodes[name].disk.durable.get(partition)
            held = [] if records is None else [entry.payload for entry in records.entries[:latest]]
            if held != wanted:
                raise self._broken(f"{name} is in sync without what was acknowledged of partition {partition}")

    def _check_answers(self) -> None:
        """Whoever may answer queries has everything that was acknowledged."""
        for name, node in self.nodes.items():
            for partition, latest in self.latest.items():
                if node.state is None or node.state.committed(partition) >= latest:
                    continue
                if node.state.may_answer(partition, node.now_ms(self.time)):
                    raise self._broken(f"{name} answers for partition {partition} without what was acknowledged")

    def _check_converged(self) -> None:
        """Without faults everything is in order after a while, and nothing moves any more."""
        wanted = min(self.coordinator.replicas, len(self.nodes))
        for partition, placed in self.coordinator.placements.items():
            placement = placed.placement
            if len(placement.in_sync) != wanted or placement.filling or placement.away:
                raise self._broken(f"partition {partition} has not healed: {placement}")
            if any(partition in self.nodes[name].disk.damaged for name in placement.in_sync):
                raise self._broken(f"a copy of partition {partition} is still damaged: {placement}")
            owner = self.nodes[placement.owner].state
            assert owner is not None
            if not owner.may_answer(partition, self.nodes[placement.owner].now_ms(self.time)):
                raise self._broken(f"the owner of partition {partition} does not answer")
        further = decide(self.coordinator.read(), self.coordinator.health(self.time))
        if further:
            raise self._broken(f"something still moves: {further[0]}")


def simulation_of(seed: int, trace: bool = False) -> Simulation:
    """A history whose size follows from its seed as well: 3 to 5 nodes, 1 to 3 copies."""
    simulation = Simulation(seed, nodes=3 + seed % 3, partitions=2, replicas=1 + seed // 3 % 3)
    simulation.trace = trace
    return simulation
