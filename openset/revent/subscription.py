"""A named subscription as a state machine: who waits, what is leased to whom, what comes again. No sockets, no clock.

Several consumers share it: a message is leased to one of them at a time, and comes to another when the lease ends
without an acknowledgement. What is acknowledged is durable elsewhere; leases are not, so a restart delivers again.
Messages of a person stand in one partition and are first delivered in their order.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from openset.store.trigger_changes import Cursor, Message

# (partition, number): a message within the subscription's trigger.
Key = tuple[int, int]

# How far behind acknowledged and leased messages a look at a partition goes on.
_LOOK_AHEAD = 64
# As many messages are given to a consumer at once.
MOST_MESSAGES = 10_000


@dataclass(frozen=True, slots=True)
class Poll:
    """A consumer asks for messages. consumer: a number of its own. most: how many at once."""

    consumer: int
    most: int
    lease_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """Messages for a consumer, leased to it."""

    consumer: int
    messages: tuple[tuple[int, Message], ...]

    @property
    def keys(self) -> list[Key]:
        """(partition, number) of each."""
        return [(partition, message.number) for partition, message in self.messages]


@dataclass(slots=True)
class _Partition:
    """acked: numbers above acked_up_to that are acknowledged, or are about to be."""

    acked_up_to: int
    acked: set[int] = field(default_factory=set)


Read = Callable[[int, int, int], Sequence[Message]]


class Subscription:
    """One subscription of one trigger.

    read: the oldest messages of a partition above a number, at most so many (partition, number, limit).
    """

    def __init__(self, partitions: Sequence[int], cursors: Mapping[int, Cursor], read: Read, hold_ms: int):
        self.hold_ms = hold_ms
        self._read = read
        self._partitions = {number: _Partition(0) for number in partitions}
        for number, cursor in cursors.items():
            self._partitions[number] = _Partition(cursor.acked_up_to, set(cursor.acked))
        self._leases: dict[Key, tuple[int, int]] = {}  # until ms, consumer
        self._lease_ends: list[tuple[int, Key]] = []
        self._waiting: list[Poll] = []

    # ---------------------------------------------------------------- what consumers do

    def poll(self, poll: Poll, now_ms: int) -> Delivery | None:
        """Messages that can be delivered now, leased to the consumer; None, and it waits, when there are none."""
        self.leave(poll.consumer)
        self._waiting.append(poll)
        for delivery in self.serve(now_ms):
            if delivery.consumer == poll.consumer:
                return delivery
        return None

    def leave(self, consumer: int) -> None:
        """A consumer does not wait any more. What it has leased stays leased."""
        self._waiting = [poll for poll in self._waiting if poll.consumer != consumer]

    def release(self, keys: Sequence[Key]) -> None:
        """Leases end at once: the messages have not reached their consumer."""
        for key in keys:
            self._leases.pop(key, None)

    def extend(self, keys: Sequence[Key], until_ms: int) -> None:
        """Leases last longer, where they have not ended."""
        for key in keys:
            if key in self._leases:
                self._lease(key, until_ms, self._leases[key][1])

    def acknowledge(self, numbers: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
        """What of this has to be made durable: the rest was acknowledged before, or is not here any more."""
        news: dict[int, list[int]] = {}
        for partition, given in numbers.items():
            held = self._partitions.get(partition)
            if held is None:
                continue
            fresh = [number for number in given if number > held.acked_up_to and number not in held.acked]
            for number in given:
                self._leases.pop((partition, number), None)
            if fresh:
                held.acked.update(fresh)
                news[partition] = fresh
        return news

    def unacknowledged(self, keys: Sequence[Key]) -> list[Key]:
        """Those of some messages that are not acknowledged, and not about to be."""
        return [
            (partition, number)
            for partition, number in keys
            if (held := self._partitions.get(partition)) is not None
            and number > held.acked_up_to
            and number not in held.acked
        ]

    def know(self, partition: int) -> None:
        """A partition may have messages from now on."""
        self._partitions.setdefault(partition, _Partition(0))

    def own(self, cursors: Mapping[int, Cursor]) -> None:
        """Tells of these partitions from now on and of no others; what was acknowledged elsewhere is known."""
        for gone in self._partitions.keys() - cursors.keys():
            del self._partitions[gone]
            self._leases = {key: lease for key, lease in self._leases.items() if key[0] != gone}
        self.catch_up(cursors)

    def catch_up(self, cursors: Mapping[int, Cursor]) -> None:
        """What was acknowledged elsewhere, in some partitions: it is not delivered again, nor leased any more."""
        for partition, cursor in cursors.items():
            held = self._partitions.setdefault(partition, _Partition(0))
            if cursor.acked_up_to <= held.acked_up_to and held.acked.issuperset(cursor.acked):
                continue
            held.acked_up_to = max(held.acked_up_to, cursor.acked_up_to)
            held.acked = {one for one in (*held.acked, *cursor.acked) if one > held.acked_up_to}
            for key in [key for key in self._leases if key[0] == partition]:
                if key[1] <= held.acked_up_to or key[1] in held.acked:
                    del self._leases[key]

    def has_news(self, now_ms: int) -> bool:
        """Whether there is a message that could be delivered."""
        self._end_leases(now_ms)
        return bool(self._deliverable(1, now_ms))

    def settled(self, cursors: Mapping[int, Cursor]) -> None:
        """How far the subscription is, durably: keeps what is remembered short."""
        for number, cursor in cursors.items():
            held = self._partitions.setdefault(number, _Partition(0))
            if cursor.acked_up_to > held.acked_up_to:
                held.acked_up_to = cursor.acked_up_to
                held.acked = {one for one in held.acked if one > cursor.acked_up_to}

    # ---------------------------------------------------------------- delivering

    def serve(self, now_ms: int) -> list[Delivery]:
        """What can be delivered to those who wait, shared between them: the one who waits longest comes first."""
        if not self._waiting:
            return []
        self._end_leases(now_ms)
        wanted = sum(poll.most for poll in self._waiting)
        found = self._deliverable(wanted, now_ms)
        deliveries: list[Delivery] = []
        waiting, self._waiting = self._waiting, []
        while waiting and found:
            poll = waiting.pop(0)
            share = min(poll.most, -(-len(found) // (len(waiting) + 1)))
            taken, found = found[:share], found[share:]
            for partition, message in taken:
                self._lease((partition, message.number), now_ms + poll.lease_ms, poll.consumer)
            deliveries.append(Delivery(poll.consumer, tuple(taken)))
        self._waiting = waiting
        return deliveries

    def _lease(self, key: Key, until_ms: int, consumer: int) -> None:
        self._leases[key] = (until_ms, consumer)
        heapq.heappush(self._lease_ends, (until_ms, key))

    def _end_leases(self, now_ms: int) -> None:
        while self._lease_ends and self._lease_ends[0][0] <= now_ms:
            until_ms, key = heapq.heappop(self._lease_ends)
            if key in self._leases and self._leases[key][0] == until_ms:
                del self._leases[key]

    def _deliverable(self, wanted: int, now_ms: int) -> list[tuple[int, Message]]:
        """The oldest messages that are neither leased, acknowledged nor beyond the hold; by time, at most `wanted`."""
        streams = [
            [(message.stamp_ms, partition, message) for message in self._free(partition, wanted, now_ms)]
            for partition in sorted(self._partitions)
        ]
        # Within a partition the order is that of the numbers, whatever the stamps say.
        merged: list[tuple[int, Message]] = []
        for _, partition, message in heapq.merge(*streams, key=lambda entry: entry[:2]):
            merged.append((partition, message))
            if len(merged) == wanted:
                break
        return merged

    def _free(self, partition: int, wanted: int, now_ms: int) -> list[Message]:
        held = self._partitions[partition]
        free: list[Message] = []
        number = held.acked_up_to
        while len(free) < wanted:
            messages = self._read(partition, number, wanted + _LOOK_AHEAD)
            for message in messages:
                taken = message.number in held.acked or (partition, message.number) in self._leases
                if not taken and message.stamp_ms + self.hold_ms > now_ms:
                    free.append(message)
                    if len(free) == wanted:
                        break
            if len(messages) < wanted + _LOOK_AHEAD:
                break
            number = messages[-1].number
        return free

    # ---------------------------------------------------------------- looking up

    @property
    def waiting(self) -> int:
        """How many consumers wait."""
        return len(self._waiting)

    def leased(self, now_ms: int) -> int:
        """How many messages are leased."""
        self._end_leases(now_ms)
        return len(self._leases)

    def next_lease_end(self) -> int | None:
        """When the next lease ends, ms: what was leased can then be delivered again."""
        while self._lease_ends:
            until_ms, key = self._lease_ends[0]
            if key in self._leases and self._leases[key][0] == until_ms:
                return until_ms
            heapq.heappop(self._lease_ends)
        return None

    def pending(self, now_ms: int, limit: int) -> int:
        """How many messages are not acknowledged and not beyond the hold, leased ones included; up to a limit."""
        count = 0
        for partition, held in self._partitions.items():
            number = held.acked_up_to
            while count < limit:
                messages = self._read(partition, number, _LOOK_AHEAD * 16)
                count += sum(
                    message.number not in held.acked and message.stamp_ms + self.hold_ms > now_ms
                    for message in messages
                )
                if len(messages) < _LOOK_AHEAD * 16:
                    break
                number = messages[-1].number
        return min(count, limit)
