"""What partitions weigh, for the sentinel: rows as their owners tell them, kept still while nothing much changes.

Queries look at rows and disks hold them, so they are what is balanced; how many a partition has does not depend on when
it was compacted last. A fixed part keeps small data balanced by the number of partitions. Shortcut: how often
partitions are asked for does not count, because queries ask for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from openset.cluster.map import NodeName

# What every partition weighs besides its rows, in rows.
BASE_ROWS = 10_000
# Weights are made anew when one's share of all has changed by so much: growth of all alike moves nothing.
_CHANGED_BY = 1.25


class Loads:
    """rows: by partition, over all tables, as told last. complete: whether everyone there is has been asked."""

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        self.complete = False
        self._weights: dict[int, float] = {}

    def told(self, told: Mapping[NodeName, Mapping[int, int]], owners: Mapping[int, NodeName]) -> None:
        """What nodes say of the partitions that they have records of; that of the owner counts.

        Partitions of owners that said nothing keep what was told last.
        """
        for partition, owner in owners.items():
            if owner in told:
                self.rows[partition] = told[owner].get(partition, 0)
        self.complete = True

    def weights(self, partitions: Collection[int]) -> Mapping[int, float]:
        """By partition, 1 for an empty one. One that nothing is known of weighs what others do on average."""
        known = [self.rows[partition] for partition in partitions if partition in self.rows]
        usual = sum(known) / len(known) if known else 0.0
        found = {partition: 1.0 + self.rows.get(partition, usual) / BASE_ROWS for partition in partitions}
        if found.keys() != self._weights.keys() or _differ(found, self._weights):
            self._weights = found
        return self._weights


def _differ(one: Mapping[int, float], other: Mapping[int, float]) -> bool:
    scale = sum(other.values()) / sum(one.values())
    ratios = [scale * weight / other[partition] for partition, weight in one.items()]
    return max(ratios) > _CHANGED_BY or min(ratios) < 1 / _CHANGED_BY
