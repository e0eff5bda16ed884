"""What `cluster_simulator` drives: nodes with their disks, and a coordinator that is never wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from openset.cluster.map import NOWHERE, ClusterMap, Member, Placed, Placement, Position
from openset.cluster.messages import Entry
from openset.cluster.owner import Timing
from openset.cluster.sentinel import Health, first_placements
from openset.cluster.state import NodeState

TIMING = Timing(heartbeat_ms=100, retry_ms=200, silence_ms=900, patience_ms=2_000, promise_ms=600)
LEASE_MS = 1_500
# A node believes in its lease for a shorter time than the coordinator: clocks run at rates up to 1 % apart.
LEASE_BELIEVED_MS = 1_200
GONE_AFTER_MS = 3_000


@dataclass
class Records:
    """The records of one partition that are on a node's disk: those of the file, and those behind it in the journal."""

    base: Position = NOWHERE
    entries: list[Entry] = field(default_factory=list)  # of the whole log, from the first record on

    def terms_behind_base(self) -> list[int]:
        return [entry.term for entry in self.entries[self.base.index :]]


class Disk:
    """Durable records, and steps that are written and not synced: a crash keeps any beginning of them.

    damaged: partitions whose files can be served and compacted by nobody, and sent nowhere.
    """

    def __init__(self) -> None:
        self.durable: dict[int, Records] = {}
        self.steps: list[Callable[[], None]] = []
        self.damaged: set[int] = set()

    def written(self, partition: int) -> Records:
        return self.durable.setdefault(partition, Records())


class Node:
    """A node that is up or down. clock: its own time, a line over the simulation's."""

    def __init__(self, name: str, rng: random.Random):
        self.name = name
        self.disk = Disk()
        self.state: NodeState | None = None
        self.life = 0
        self.offset_ms = rng.randrange(100_000)
        self.rate = rng.uniform(0.995, 1.005)
        # What the process sees, durable or not: rebuilt from the disk at a start.
        self.seen: dict[int, list[Entry]] = {}
        self.left_in: dict[int, int] = {}  # by partition: the life in which it was found to be away
        self.arrived: dict[int, Records] = {}  # files that wait to be put in place

    def now_ms(self, time_ms: float) -> int:
        return int(self.offset_ms + time_ms * self.rate)


class Coordinator:
    """Placements with revisions, and leases; every operation is atomic."""

    def __init__(self, partitions: int, members: dict[str, Member], replicas: int, first: str):
        self.revision = 1
        self.members = members
        self.replicas = replicas
        self.placements = {p: Placed(1, placement) for p, placement in first_placements(partitions, first).items()}
        self.leases: dict[str, tuple[float, int]] = {}
        self.dead_since: dict[str, float] = {}

    def read(self) -> ClusterMap:
        return ClusterMap(self.revision, self.replicas, dict(self.members), dict(self.placements))

    def alive(self, time_ms: float) -> frozenset[str]:
        return frozenset(node for node, (until, _) in self.leases.items() if until > time_ms)

    def renew(self, node: str, time_ms: float) -> int:
        """The revision since which the lease holds without a gap."""
        until, since = self.leases.get(node, (0.0, 0))
        if until <= time_ms:
            self.revision += 1
            since = self.revision
        self.leases[node] = (time_ms + LEASE_MS, since)
        self.dead_since.pop(node, None)
        return since

    def swap(self, partition: int, expected: int, placement: Placement, time_ms: float, while_dead: str | None) -> bool:
        if self.placements[partition].revision != expected:
            return False
        if while_dead is not None and while_dead in self.alive(time_ms):
            return False
        self.revision += 1
        self.placements[partition] = Placed(self.revision, placement)
        return True

    def health(self, time_ms: float) -> Health:
        alive = self.alive(time_ms)
        for node in self.members:
            if node not in alive:
                self.dead_since.setdefault(node, time_ms)
        gone = {node for node, since in self.dead_since.items() if time_ms - since > GONE_AFTER_MS}
        return Health(alive, frozenset(gone))
