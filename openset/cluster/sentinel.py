"""The sentinel's decisions: from the map and who is alive, what should change next and why.

A pure function. Every change is one swap of one placement, small enough that the next look at the map sees what became
of it; nothing is moved that need not be. Load is what the partitions weigh (`loads`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from openset.cluster.map import ClusterMap, NodeName, Placed, Placement, changed

# Partitions that are being filled at one time, per node that gets them.
FILLING_AT_ONCE = 8
# A partition is moved between nodes whose loads differ by more than it weighs, and so much more that it is worth it.
WORTH_MOVING = 1.25


@dataclass(frozen=True, slots=True)
class Health:
    """Who is alive, and who has been dead for so long that others take over its copies.

    weights: of partitions, 1 where none is given. weighed: whether the weights are known well enough to move anything
    because of them.
    """

    alive: frozenset[NodeName]
    gone: frozenset[NodeName] = frozenset()
    weights: Mapping[int, float] = field(default_factory=dict)
    weighed: bool = True


@dataclass(frozen=True, slots=True)
class Change:
    """A swap of a placement, only while a node is dead where one is named. The reason is in the placement.

    The condition has to be part of the swap: an owner that came back meanwhile may answer queries.
    """

    partition: int
    expected_revision: int
    placement: Placement
    while_dead: NodeName | None = None


def decide(cluster: ClusterMap, health: Health) -> list[Change]:
    """What to change now, at most one thing per partition; nothing when all is as it should be.

    Owners that are dead come first, then missing copies, then what is too many, then balance, which waits until the
    rest is in order.
    """
    look = _Look(cluster, health)
    urgent = [change for partition in sorted(cluster.placements) for change in look.repair(partition)]
    return urgent or list(look.balance())


class _Look:
    """One look at the map. Counts what the changes it makes would add, so that they fit together."""

    def __init__(self, cluster: ClusterMap, health: Health):
        self._cluster = cluster
        self._health = health
        staying = [node for node, member in cluster.members.items() if node in health.alive and not member.leaving]
        # A full disk is to have room again: what it has counts, and it gets nothing.
        self._eligible = sorted(node for node in staying if not cluster.members[node].full)
        self._wanted = min(max(cluster.replicas, 1), max(len(staying), 1))
        # What is wanted when everybody is back.
        lasting = sum(not member.leaving for member in cluster.members.values())
        self._wanted_at_last = min(max(cluster.replicas, 1), max(lasting, 1))
        self._owned = dict.fromkeys(cluster.members, 0.0)
        self._held = dict.fromkeys(cluster.members, 0.0)
        self._filling = dict.fromkeys(cluster.members, 0)
        for partition, placed in cluster.placements.items():
            self._count(partition, placed.placement, 1)

    def _count(self, partition: int, placement: Placement, sign: int) -> None:
        weight = sign * self._weight(partition)
        owner = placement.successor or placement.owner
        if owner in self._owned:
            self._owned[owner] += weight
        for node in (*placement.copies, *placement.away):
            if node in self._held:
                self._held[node] += weight
        for node in placement.filling:
            if node in self._filling:
                self._filling[node] += sign

    def _weight(self, partition: int) -> float:
        return self._health.weights.get(partition, 1.0)

    def _change(self, partition: int, placement: Placement) -> Change:
        placed = self._cluster.placements[partition]
        self._count(partition, placed.placement, -1)
        self._count(partition, placement, 1)
        before = placed.placement.owner
        deposes_dead = placement.owner != before and before not in self._health.alive
        return Change(partition, placed.revision, placement, before if deposes_dead else None)

    def _leaving(self, node: NodeName) -> bool:
        member = self._cluster.members.get(node)
        return member is None or member.leaving

    def _full(self, node: NodeName) -> bool:
        member = self._cluster.members.get(node)
        return member is not None and member.full

    def _damaged(self, node: NodeName, partition: int) -> bool:
        member = self._cluster.members.get(node)
        return member is not None and partition in member.damaged

    # ---------------------------------------------------------------- repair

    def repair(self, partition: int) -> Iterator[Change]:
        """The most urgent change of a partition, if there is one."""
        placement = self._cluster.placements[partition].placement
        for rule in (self._new_owner, self._stop_filling, self._add_copy, self._drop_copy, self._forget):
            wanted = rule(partition, placement)
            if wanted is not None:
                yield self._change(partition, wanted)
                return

    def _new_owner(self, partition: int, placement: Placement) -> Placement | None:
        """A dead owner is replaced by a copy in sync; one that leaves, takes no writes or is damaged hands over."""
        owner = placement.owner
        dead, damaged = owner not in self._health.alive, self._damaged(owner, partition)
        if not (dead or damaged or self._leaving(owner) or self._full(owner)):
            return None
        heirs = [node for node in placement.in_sync if node in self._health.alive and node != owner]
        sound = [node for node in heirs if not self._damaged(node, partition)]
        preferred = [node for node in sound if node in self._eligible]
        if not preferred and dead:
            preferred = heirs
        elif not preferred and self._leaving(owner):
            preferred = [node for node in (heirs if damaged else sound) if not self._leaving(node)]
        elif not preferred and damaged:
            # Who leaves stays until there is another sound copy.
            preferred = [node for node in sound if not self._full(node)]
        if not preferred:
            return None
        heir = min(preferred, key=lambda node: self._as_heir(partition, node))
        if dead:
            in_sync, away = frozenset(placement.in_sync) - {owner}, frozenset(placement.away) | {owner}
            return changed(placement, f"the owner {owner} is not alive", owner=heir, in_sync=in_sync, away=away)
        reasons = ((self._leaving(owner), "{} leaves"), (damaged, "the copy of {} is damaged"))
        reason = next((text for holds, text in reasons if holds), "the disk of {} is full")
        return self._succeeded(partition, placement, reason.format(f"the owner {owner}"), heir)

    def _as_heir(self, partition: int, node: NodeName) -> tuple[bool, bool, float, NodeName]:
        """Least for the one that had best own a partition."""
        return self._damaged(node, partition), self._leaving(node), self._owned.get(node, 0.0), node

    def _succeeded(self, partition: int, placement: Placement, reason: str, heir: NodeName) -> Placement | None:
        """An owner that lives is asked to hand over; None when it has been asked."""
        asked = placement.successor
        fits = asked in placement.in_sync and asked in self._eligible and not self._damaged(asked, partition)
        return None if fits or asked == heir else changed(placement, reason, successor=heir)

    def _stop_filling(self, partition: int, placement: Placement) -> Placement | None:
        """Nodes that went away, leave, or take nothing, while they were being filled. They keep what they got so far.

        It may be nearly everything: who dies is filled anew while its lease lasts.
        """
        lost = {
            node
            for node in placement.filling
            if node in self._health.gone or self._leaving(node) or self._full(node)
        }  # fmt: skip
        if not lost:
            return None
        reason = f"{', '.join(sorted(lost))} went away, or has no room, before it had caught up"
        return changed(placement, reason, stop_filling=frozenset(lost), away=frozenset(placement.away) | lost)

    def _replaceable(self, partition: int, placement: Placement) -> frozenset[NodeName]:
        """Copies in sync that are damaged, where the owner has a sound one."""
        if self._damaged(placement.owner, partition) or placement.owner not in self._health.alive:
            return frozenset()
        return frozenset(node for node in placement.in_sync if self._damaged(node, partition))

    def _staying(self, partition: int, placement: Placement) -> list[NodeName]:
        """Copies that count: those of nodes that are neither gone nor leaving, but for damaged ones."""
        lost = self._health.gone | self._replaceable(partition, placement)
        return [node for node in placement.copies if node not in lost and not self._leaving(node)]

    def _awaited(self, partition: int, placement: Placement) -> list[NodeName]:
        """Nodes that are away and will soon be copies again, as far as anybody knows."""
        return [
            node
            for node in placement.away
            if node not in self._health.gone
            and not (self._leaving(node) or self._full(node) or self._damaged(node, partition))
        ]

    def _add_copy(self, partition: int, placement: Placement) -> Placement | None:
        """Who was away and is back is filled, and lacks little. Only where that cannot be expected somebody else is."""
        staying = len(self._staying(partition, placement))
        if placement.owner not in self._health.alive or staying >= self._wanted:
            return None
        back = [node for node in self._may_get(partition, placement) if node in placement.away]
        if not back and staying + len(self._awaited(partition, placement)) >= self._wanted_at_last:
            return None
        target = self._emptiest(back) if back else self._target(partition, placement)
        if target is None:
            return None
        what = "was away and gets what it lacks" if back else "gets one"
        return changed(placement, f"{staying} of {self._wanted} copies, {target} {what}", fill=target)

    def _may_get(self, partition: int, placement: Placement) -> list[NodeName]:
        """Who could take a copy. What was damaged has to be gone there first."""
        return [
            node for node in self._eligible if node not in placement.copies and not self._damaged(node, partition)
        ]  # fmt: skip

    def _target(self, partition: int, placement: Placement) -> NodeName | None:
        """The node with the least to hold that can take a copy now."""
        return self._emptiest(self._may_get(partition, placement))

    def _emptiest(self, nodes: Iterable[NodeName]) -> NodeName | None:
        """Of those that are not getting many partitions already."""
        free = [node for node in nodes if self._filling[node] < FILLING_AT_ONCE]
        return min(free, key=lambda node: (self._held[node], node), default=None)

    def _drop_copy(self, partition: int, placement: Placement) -> Placement | None:
        """A copy too many goes when enough others are in sync: one that leaves or is gone, else the fullest node's.

        A damaged one goes before, where only the node that has it could get another.
        """
        spare = [node for node in placement.in_sync if node != placement.owner]
        staying = set(self._staying(partition, placement))
        damaged = self._replaceable(partition, placement)
        sound = [node for node in placement.in_sync if node in self._health.alive and node in staying]
        useless = [node for node in spare if node not in staying]
        # Who leaves and lives keeps what it has until it is not needed for the copies there should be, whoever is away.
        if len(sound) < self._wanted_at_last:
            alive = self._health.alive
            useless = [node for node in useless if node in damaged or node not in alive or not self._leaving(node)]
        again = [node for node in damaged if node in self._eligible]
        awaited = self._awaited(partition, placement)
        if useless and len(sound) >= self._wanted:
            victim = min(useless)
            why = "is damaged" if victim in damaged else "leaves or is gone"
            reason = f"{victim} {why}, and {len(sound)} copies are in sync"
        elif again and not (placement.filling or self._may_get(partition, placement) or awaited):
            victim = min(again)
            reason = f"the copy of {victim} is damaged, and it is to get another one"
        elif len(sound) > self._wanted:
            # What was made last was made for a reason, which may not show in the loads yet.
            others = [node for node in sound if node != placement.newest]
            victim = max(others, key=lambda node: (self._held.get(node, 0.0), node != placement.owner, node))
            reason = f"{len(sound)} copies are in sync and {self._wanted} are wanted; of the others {victim} holds most"
            if victim == placement.owner:
                heir = min((node for node in sound if node != victim), key=lambda node: (self._owned[node], node))
                return self._succeeded(partition, placement, f"{reason} and hands over", heir)
        else:
            return None
        others = [node for node in placement.in_sync if node != victim]
        if all(self._damaged(node, partition) for node in others) and victim not in damaged:
            return None  # it is the only sound one
        return changed(placement, reason, in_sync=frozenset(placement.in_sync) - {victim})

    def _forget(self, partition: int, placement: Placement) -> Placement | None:
        """Who is away and is not to be a copy again gives up what it has.

        Who is gone is forgotten when others have taken its place: until then nobody has more than it has.
        """
        lost = {
            node: "leaves" if node in self._cluster.members else "is no member any more"
            for node in placement.away
            if self._leaving(node)
        }
        if placement.owner in self._health.alive and not self._damaged(placement.owner, partition):
            lost |= {node: "is damaged" for node in placement.away if self._damaged(node, partition)}
        staying = self._staying(partition, placement)
        sound = [node for node in placement.in_sync if node in self._health.alive and node in staying]
        if len(sound) >= self._wanted_at_last and not placement.filling:
            lost = {node: f"is not needed: {len(sound)} copies are in sync" for node in placement.away} | lost
        if not lost:
            return None
        reason = "; ".join(f"{node} was away and {why}" for node, why in sorted(lost.items()))
        away = frozenset(placement.away) - lost.keys()
        return changed(placement, reason, successor=placement.successor, away=away)

    # ---------------------------------------------------------------- balance

    def balance(self) -> Iterator[Change]:
        """Copies from the fullest to the emptiest node, then owners; only where it makes a difference."""
        if not self._health.weighed or len(self._eligible) < 2:
            return
        placements = [placed.placement for placed in self._cluster.placements.values()]
        if any(
            placed.placement.filling and not self._is_lost(number)
            for number, placed in self._cluster.placements.items()
        ):
            return
        if any(one.successor is not None or len(one.in_sync) > self._wanted for one in placements):
            return  # what is on its way away still counts where it is
        if any(self._awaited(partition, placed.placement) for partition, placed in self._cluster.placements.items()):
            return  # who comes back has its part already
        moved = list(self._move_copies())
        yield from moved
        if not moved:
            yield from self._move_owners()

    def _is_lost(self, partition: int) -> bool:
        """Whether every copy of a partition is damaged: whoever is to get one may wait for ever."""
        return all(self._damaged(node, partition) for node in self._cluster.placements[partition].placement.in_sync)

    def _heaviest_first(self) -> list[tuple[int, Placed]]:
        """What is light evens out what is left."""
        return sorted(self._cluster.placements.items(), key=lambda one: (-self._weight(one[0]), one[0]))

    def _movable_first(self) -> list[tuple[int, Placed]]:
        """The heaviest first, but what the fullest node got last, maybe because somebody asked, only after the rest."""
        fullest = max(self._eligible, key=lambda node: (self._held[node], node))
        return sorted(self._heaviest_first(), key=lambda one: one[1].placement.newest == fullest)

    def _move_copies(self) -> Iterator[Change]:
        for partition, placed in self._movable_first():
            placement = placed.placement
            target = self._target(partition, placement)
            holders = [node for node in placement.in_sync if node in self._held]
            if target is None or not holders or placement.owner not in self._health.alive:
                continue
            fullest = max(holders, key=lambda node: (self._held[node], node))
            if self._held[fullest] - self._held[target] < WORTH_MOVING * self._weight(partition):
                continue
            load = f"{fullest} holds {self._held[fullest]:.4g}, {target} {self._held[target]:.4g}"
            reason = f"{load}, this weighs {self._weight(partition):.4g}: {target} gets a copy"
            # What it will lose counts already; it goes when the new copy is in sync.
            self._held[fullest] -= self._weight(partition)
            yield self._change(partition, changed(placement, reason, fill=target))

    def _move_owners(self) -> Iterator[Change]:
        for partition, placed in self._heaviest_first():
            placement, owner = placed.placement, placed.placement.owner
            heirs = [
                node
                for node in placement.in_sync
                if node in self._eligible and node != owner and not self._damaged(node, partition)
            ]
            if not heirs or placement.successor is not None or owner not in self._health.alive:
                continue
            heir = min(heirs, key=lambda node: (self._owned[node], node))
            if self._owned.get(owner, 0.0) - self._owned[heir] < WORTH_MOVING * self._weight(partition):
                continue
            load = f"{owner} owns {self._owned[owner]:.4g}, {heir} {self._owned[heir]:.4g}"
            reason = f"{load}, this weighs {self._weight(partition):.4g}: {heir} takes over"
            wanted = self._succeeded(partition, placement, reason, heir)
            if wanted is not None:
                yield self._change(partition, wanted)


def first_placements(partitions: int, node: NodeName) -> dict[int, Placement]:
    """The placements of a new cluster of one node."""
    return {number: Placement(1, node, (node,), reason="the cluster was initialised") for number in range(partitions)}


def unplaced(placements: Mapping[int, Placed], node: NodeName) -> bool:
    """Whether a node has no copy of anything and keeps none, so that it may be removed."""
    return all(node not in one.placement.copies and node not in one.placement.away for one in placements.values())
