"""A node of the cluster as a state machine: events in, instructions out; no sockets, no clock, no disk.

Every partition the node has is a `Follower`, and an `Owner` besides while the map says so. What the map tells counts
from the moment a node hears of it; that others hear of it later is what terms are for. A node that starts never owns in
a term that was given before: it may have said things in it that it does not remember, so it asks for the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from openset.cluster.follower import Follower
from openset.cluster.log import PartitionLog
from openset.cluster.map import ClusterMap, NodeName, Placed, Placement, changed
from openset.cluster.messages import (
    Answer,
    Append,
    Appended,
    Await,
    Compacted,
    Discard,
    Event,
    Instruction,
    LeaseRenewed,
    MapRead,
    Propose,
    Received,
    Send,
    Synced,
    Tick,
    TransferArrived,
    TransferClosed,
    Write,
)
from openset.cluster.owner import Owner, Timing


class NodeState:
    """One node. `handle` is all there is to call; the rest tells what the node knows."""

    def __init__(self, node: NodeName, logs: Mapping[int, PartitionLog], timing: Timing | None = None):
        """logs: of the partitions found on the disk; everything in them is durable."""
        self.node = node
        self.map: ClusterMap | None = None
        self._timing = timing or Timing()
        self._logs = logs
        self._followers: dict[int, Follower] = {}
        self._born = False
        self._owners: dict[int, Owner] = {}
        # The least term in which this node may own a partition, where it was the owner when it started.
        self._least_terms: dict[int, int] = {}
        self._claims: dict[int, tuple[int, int]] = {}  # revision that a new term was asked for, and when
        self._lease_until_ms = 0
        self._lease_revision = 0

    def handle(self, event: Event, now_ms: int) -> list[Instruction]:
        """What to do about an event, in this order. now_ms: the node's own clock, which only grows."""
        if not self._born:
            self._begin(now_ms)
        handlers: dict[type, Callable[..., list[Instruction]]] = {
            MapRead: self._map_read,
            Received: self._received,
            Write: self._write,
            Await: self._await,
            Synced: self._synced,
            Compacted: self._compacted,
            TransferArrived: self._transfer_arrived,
            TransferClosed: self._transfer_closed,
            LeaseRenewed: self._lease_renewed,
            Tick: self._tick,
        }
        return handlers[type(event)](event, now_ms)

    def _begin(self, now_ms: int) -> None:
        """What it had promised before it started it does not remember: it may have been just before."""
        self._born = True
        promise_ms = self._timing.promise_ms
        for partition, log in self._logs.items():
            self._followers[partition] = Follower(partition, log, log.base.index, promise_ms, now_ms + promise_ms)

    # ---------------------------------------------------------------- what the node knows

    def owner_of(self, partition: int) -> NodeName | None:
        """Who owns a partition as far as this node knows; None before it knows the map."""
        placed = None if self.map is None else self.map.placements.get(partition)
        return None if placed is None else placed.placement.owner

    def owned_term(self, partition: int) -> int | None:
        """The term in which this node owns a partition, None when it does not."""
        return self._owners[partition].term if partition in self._owners else None

    def may_answer(self, partition: int, now_ms: int) -> bool:
        """Whether queries may be answered from here: nobody else can own the partition at this moment.

        While the lease lasts the coordinator gives it to nobody; without it, while all copies in sync have promised not
        to take it.
        """
        owner = self._owners.get(partition)
        if owner is None or self.map is None or not owner.ready:
            return False
        is_alive = now_ms < self._lease_until_ms and self.map.revision >= self._lease_revision
        return is_alive or owner.is_confirmed(now_ms)

    def committed(self, partition: int) -> int:
        """Up to where the records of a partition are agreed, as far as this node knows."""
        if partition in self._owners:
            return self._owners[partition].committed
        return self._followers[partition].committed if partition in self._followers else 0

    def log(self, partition: int) -> PartitionLog | None:
        """The log of a partition that is here."""
        follower = self._followers.get(partition)
        return None if follower is None else follower.log

    # ---------------------------------------------------------------- events

    def _map_read(self, event: MapRead, now_ms: int) -> list[Instruction]:
        before, self.map = self.map, event.map
        if before is not None and event.map.revision < before.revision:
            self.map = before  # a read that was overtaken by a later one
            return []
        instructions: list[Instruction] = []
        for partition, placed in sorted(event.map.placements.items()):
            if before is None and placed.placement.owner == self.node:
                self._least_terms[partition] = placed.placement.term + 1
            instructions += self._placed(partition, placed, now_ms)
        return instructions

    def _placed(self, partition: int, placed: Placed, now_ms: int) -> list[Instruction]:
        placement = placed.placement
        owner = self._owners.get(partition)
        follower = self._followers.get(partition)
        if self.node not in placement.copies:
            return self._stay_away(partition, placement) if self.node in placement.away else self._leave(partition)
        if follower is None:
            follower = self._followers[partition] = Follower(partition, PartitionLog(), 0, self._timing.promise_ms)
        follower.raise_term(placement.term)
        follower.ticket = placement.filling.get(self.node, follower.ticket)
        if placement.owner != self.node:
            return self._stop_owning(partition, f"{placement.owner} owns partition {partition} now")
        if owner is not None and owner.term == placement.term:
            return owner.follow(placed, now_ms) if placed.revision > owner.placed.revision else []
        instructions = self._stop_owning(partition, "the partition changed its owner meanwhile")
        if placement.term < follower.term:
            return instructions  # deposed; the map will say by whom
        if placement.term < self._least_terms.get(partition, 0):
            return instructions + self._claim(partition, placed, now_ms)
        if now_ms < follower.promised_until_ms and not placement.handed_over:
            return instructions  # the owner before may still answer; it is looked at again as time goes by
        owner = Owner(self.node, partition, follower.log, follower.committed, placed, self._timing, now_ms)
        self._owners[partition] = owner
        return instructions + owner.start(now_ms)

    def _claim(self, partition: int, placed: Placed, now_ms: int) -> list[Instruction]:
        """Asks for a term of its own, once for each placement that is seen, and again when that was lost."""
        revision, asked_ms = self._claims.get(partition, (0, 0))
        if revision == placed.revision and now_ms - asked_ms < self._timing.silence_ms:
            return []
        self._claims[partition] = (placed.revision, now_ms)
        placement = changed(placed.placement, f"{self.node} started again", owner=self.node)
        return [Propose(partition, placed.revision, placement)]

    def _stay_away(self, partition: int, placement: Placement) -> list[Instruction]:
        """Keeps what is here, and owns it no more: it may lack records that were agreed without this node.

        What it has too many shows when it is filled, which comes with a ticket that nothing it said before has.
        """
        instructions = self._stop_owning(partition, f"{placement.owner} owns partition {partition} now")
        if partition in self._followers:
            self._followers[partition].raise_term(placement.term)
        return instructions

    def _leave(self, partition: int) -> list[Instruction]:
        instructions = self._stop_owning(partition, f"{self.node} has no copy of partition {partition} any more")
        if self._followers.pop(partition, None) is not None:
            instructions.append(Discard(partition))
        return instructions

    def _stop_owning(self, partition: int, reason: str) -> list[Instruction]:
        owner = self._owners.pop(partition, None)
        if owner is None:
            return []
        follower = self._followers[partition]
        return owner.give_up(reason) + follower.learn_committed(owner.committed)

    def _received(self, event: Received, now_ms: int) -> list[Instruction]:
        message = event.message
        follower = self._followers.get(message.partition)
        if isinstance(message, Appended):
            owner = self._owners.get(message.partition)
            return [] if owner is None else owner.appended(event.sender, message, now_ms)
        assert isinstance(message, Append)
        if follower is None or self.map is None:
            # The map does not say yet that this node gets it, or which terms were over before this node started; it
            # may have been in them and does not remember. The owner will try again.
            return []
        owner = self._owners.get(message.partition)
        if owner is not None and message.term <= owner.term:
            assert message.term < owner.term or event.sender == self.node, "one owner per term"
            return [Send(event.sender, Appended(message.partition, owner.term, None, 0))]
        instructions: list[Instruction] = []
        if owner is not None:
            instructions = self._stop_owning(message.partition, f"{event.sender} owns the partition now")
        return instructions + follower.receive(event.sender, message, now_ms)

    def _write(self, event: Write, now_ms: int) -> list[Instruction]:
        owner = self._owners.get(event.partition)
        if owner is None:
            return [Answer(event.request, False, f"{self.node} does not own partition {event.partition}")]
        return owner.write(event.request, event.payload, now_ms)

    def _await(self, event: Await, now_ms: int) -> list[Instruction]:
        owner = self._owners.get(event.partition)
        if owner is None:
            return [Answer(event.request, False, f"{self.node} does not own partition {event.partition}")]
        return owner.wait(event.request, event.index, now_ms)

    def _synced(self, event: Synced, now_ms: int) -> list[Instruction]:
        if event.partition in self._owners:
            return self._owners[event.partition].synced(event, now_ms)
        follower = self._followers.get(event.partition)
        return [] if follower is None else follower.synced(event, now_ms)

    def _compacted(self, event: Compacted, now_ms: int) -> list[Instruction]:
        log = self.log(event.partition)
        if log is not None and event.position.index <= self.committed(event.partition) and log.has(event.position):
            log.compact(event.position)
        return []

    def _transfer_arrived(self, event: TransferArrived, now_ms: int) -> list[Instruction]:
        follower = self._followers.get(event.partition)
        if follower is None or event.partition in self._owners:
            return []
        return follower.transferred(event)

    def _transfer_closed(self, event: TransferClosed, now_ms: int) -> list[Instruction]:
        if event.partition in self._owners:
            self._owners[event.partition].transfer_closed(event.to)
        return []

    def _lease_renewed(self, event: LeaseRenewed, now_ms: int) -> list[Instruction]:
        self._lease_until_ms = max(self._lease_until_ms, event.until_ms)
        self._lease_revision = max(self._lease_revision, event.revision)
        return []

    def _tick(self, event: Tick, now_ms: int) -> list[Instruction]:
        instructions = [each for _, owner in sorted(self._owners.items()) for each in owner.tick(now_ms)]
        if self.map is not None:
            for partition, placed in sorted(self.map.placements.items()):
                if placed.placement.owner == self.node and partition not in self._owners:
                    instructions += self._placed(partition, placed, now_ms)
        return instructions
