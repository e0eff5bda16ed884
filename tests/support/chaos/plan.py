"""What goes wrong and when, from a seed alone: the same seed gives the same faults at the same moments.

At most two of five nodes, and one of three members of etcd, are disturbed at one time, so that much goes on meanwhile.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from support.chaos.network import ETCD, Way, called

# How often one is chosen, and for how long it lasts, in s.
_KINDS: dict[str, tuple[int, float, float]] = {
    "kill": (6, 0.1, 4.0),
    "pause": (4, 0.3, 7.0),
    "restart": (3, 0.1, 1.0),
    "disk-full": (3, 1.0, 6.0),
    "cut-off": (3, 1.0, 7.0),
    "cut-between": (3, 1.0, 7.0),
    "cut-one-way": (2, 1.0, 7.0),
    "cut-from-etcd": (3, 1.0, 7.0),
    "kill-etcd": (2, 0.5, 5.0),
    "pause-etcd": (1, 0.5, 4.0),
    "compact": (3, 0.0, 0.0),
}
_REST_SECONDS = 1.5


@dataclass(frozen=True, slots=True)
class Fault:
    """at, until: seconds from the start. nodes: numbers of those it is about, or of a member of etcd.

    ways: that are cut.  silent: how.
    """

    at: float
    until: float
    kind: str
    nodes: tuple[int, ...]
    ways: frozenset[Way] = field(default=frozenset())
    silent: bool = False

    def __str__(self) -> str:
        how = f", {'silent' if self.silent else 'refused'}" if self.ways else ""
        return f"{self.at:6.1f} s: {self.kind} {', '.join(map(str, self.nodes))}{how}, for {self.until - self.at:.1f} s"


def plan(seed: int, seconds: float, nodes: int = 5, etcd: int = 3, pace: float = 1.0) -> list[Fault]:
    """Faults in the order of time, all over by `seconds`. pace: seconds between two, on average."""
    chance = random.Random(seed)
    free_at = [0.0] * nodes
    etcd_free_at = 0.0
    faults: list[Fault] = []
    names, weights = list(_KINDS), [weight for weight, _, _ in _KINDS.values()]
    now = 1.0
    while True:
        now += chance.uniform(0.2, 2 * pace - 0.2)
        (kind,) = chance.choices(names, weights)
        until = now + chance.uniform(*_KINDS[kind][1:])
        # Also where it is not used, so that a change of one rule changes little else.
        order, direction, silent = chance.sample(range(nodes), nodes), chance.random() < 0.5, chance.random() < 0.7
        member = chance.randrange(etcd)
        if until > seconds:
            return faults
        if kind.endswith("-etcd") and kind != "cut-from-etcd":
            if etcd_free_at <= now:
                etcd_free_at = until + _REST_SECONDS
                faults.append(Fault(now, until, kind, (member,)))
            continue
        if kind == "compact":
            faults.append(Fault(now, now, kind, (order[0],)))
            continue
        wanted = 2 if kind in ("cut-between", "cut-one-way") else 1
        free = [node for node in order if free_at[node] <= now]
        if len(free) - wanted < nodes - 2:
            continue
        chosen = tuple(free[:wanted])
        for node in chosen:
            free_at[node] = until + _REST_SECONDS
        faults.append(Fault(now, until, kind, chosen, _ways(kind, chosen, nodes, direction), silent))


def _ways(kind: str, chosen: tuple[int, ...], nodes: int, direction: bool) -> frozenset[Way]:
    one = called(chosen[0])
    match kind:
        case "cut-off":
            others = [called(node) for node in range(nodes) if node != chosen[0]]
        case "cut-between":
            others = [called(chosen[1])]
        case "cut-from-etcd":
            others = [ETCD]
        case "cut-one-way":
            other = called(chosen[1])
            return frozenset({(one, other) if direction else (other, one)})
        case _:
            return frozenset()
    return frozenset(way for other in others for way in ((one, other), (other, one)))
