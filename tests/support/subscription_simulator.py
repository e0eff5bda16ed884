"""Random histories of one subscription: messages come, consumers poll, acknowledge, vanish, the node restarts.

After every step: no message is leased twice at one time, nothing acknowledged comes again, the messages of a person
come for the first time in their order. In the end everything that is not beyond the hold was acknowledged.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from openset.revent.subscription import Delivery, Key, Poll, Subscription
from openset.store.trigger_changes import Cursor, Message

PARTITIONS = (0, 1, 2)
HOLD_MS = 20_000


@dataclass
class Log:
    """The messages of a trigger in one partition, some numbers of it being those of other triggers."""

    messages: list[Message] = field(default_factory=list)
    next_number: int = 1


class History:
    """Same seed, same history."""

    def __init__(self, seed: int):
        self.seed = seed
        self.rng = random.Random(seed)
        self.now = 1_000_000
        self.logs = {partition: Log() for partition in PARTITIONS}
        self.durable = {partition: (0, set[int]()) for partition in PARTITIONS}
        self.held: dict[Key, int] = {}  # live leases: until
        self.first_seen: list[Key] = []
        self.acknowledged: set[Key] = set()
        self.deliveries: list[Delivery] = []
        self.subscription = self._start()
        self.delivered = 0

    def _start(self) -> Subscription:
        cursors = {p: Cursor(up_to, sorted(acked), HOLD_MS) for p, (up_to, acked) in self.durable.items()}
        return Subscription(PARTITIONS, cursors, self._read, HOLD_MS)

    def _read(self, partition: int, number: int, limit: int) -> list[Message]:
        return [each for each in self.logs[partition].messages if each.number > number][:limit]

    def run(self, steps: int = 300) -> None:
        for _ in range(steps):
            self.now += self.rng.choice((0, 1, 5, 40))
            self.rng.choice(
                (self._emit, self._emit, self._poll, self._poll, self._ack, self._ack, self._wait, self._leave,
                 self._restart, self._erase, self._release)
            )()  # fmt: skip
        self._drain()

    # ---------------------------------------------------------------- steps

    def _emit(self) -> None:
        log = self.logs[self.rng.choice(PARTITIONS)]
        for _ in range(self.rng.choice((1, 1, 3, 8))):
            log.next_number += self.rng.choice((0, 0, 2))
            person = f"p{self.rng.randrange(4)}"
            log.messages.append(Message(log.next_number, self.now, 0, person, 1, "t", "n", None))
            log.next_number += 1
        for delivery in self.subscription.serve(self.now):
            self._deliver(delivery)

    def _poll(self) -> None:
        poll = Poll(self.rng.randrange(5), self.rng.choice((1, 2, 5)), self.rng.choice((50, 200, 1_000)))
        self.leases = poll.lease_ms
        delivery = self.subscription.poll(poll, self.now)
        if delivery is not None:
            self._deliver(delivery)

    def _deliver(self, delivery: Delivery) -> None:
        assert delivery.messages, "nothing is delivered as something"
        self.delivered += 1
        for partition, message in delivery.messages:
            key = (partition, message.number)
            assert self.held.get(key, 0) <= self.now, self._told(f"{key} is leased twice")
            assert key not in self.acknowledged, self._told(f"{key} comes after its acknowledgement")
            if key not in self.first_seen:
                earlier = [
                    each.number
                    for each in self.logs[partition].messages
                    if each.person == message.person and each.number < message.number
                    and (partition, each.number) not in self.first_seen and each.stamp_ms + HOLD_MS > self.now
                ]  # fmt: skip
                assert not earlier, self._told(f"{key} comes before {earlier}")
                self.first_seen.append(key)
            lease = self.subscription._leases[key][0]
            assert lease > self.now
            self.held[key] = lease
        self.deliveries.append(delivery)

    def _ack(self) -> None:
        if not self.deliveries:
            return
        delivery = self.rng.choice(self.deliveries)
        keys = delivery.keys if self.rng.random() < 0.7 else delivery.keys[:1]
        numbers: dict[int, list[int]] = {}
        for partition, number in keys:
            numbers.setdefault(partition, []).append(number)
        news = self.subscription.acknowledge(numbers)
        for partition, fresh in news.items():
            up_to, acked = self.durable[partition]
            acked |= set(fresh)
            for each in self.logs[partition].messages:
                if each.number > up_to:
                    if each.number not in acked:
                        break
                    up_to = each.number
            self.durable[partition] = (up_to, {number for number in acked if number > up_to})
        for key in keys:
            self.acknowledged.add(key)
            self.held.pop(key, None)
        self.subscription.settled({p: Cursor(u, sorted(a), HOLD_MS) for p, (u, a) in self.durable.items()})

    def _wait(self) -> None:
        self.now += self.rng.choice((60, 300, 1_200))
        self.held = {key: until for key, until in self.held.items() if until > self.now}
        for delivery in self.subscription.serve(self.now):
            self._deliver(delivery)

    def _leave(self) -> None:
        self.subscription.leave(self.rng.randrange(5))

    def _release(self) -> None:
        if self.deliveries and self.rng.random() < 0.4:
            keys = self.rng.choice(self.deliveries[-3:]).keys
            self.subscription.release(keys)
            for key in keys:
                self.held.pop(key, None)

    def _restart(self) -> None:
        if self.rng.random() < 0.2:
            self.subscription = self._start()
            self.held = {}

    def _erase(self) -> None:
        if self.rng.random() < 0.1:
            gone = f"p{self.rng.randrange(4)}"
            for log in self.logs.values():
                log.messages = [each for each in log.messages if each.person != gone]

    # ---------------------------------------------------------------- the end

    def _drain(self) -> None:
        """Everything that is left comes and is acknowledged."""
        for consumer in range(5):
            self.subscription.leave(consumer)
        self.now += 1_100
        self.held = {}
        while (delivery := self.subscription.poll(Poll(9, 5, 100), self.now)) is not None:
            self._deliver(delivery)
            self.acknowledged |= set(delivery.keys)
            for partition, number in delivery.keys:
                self.subscription.acknowledge({partition: [number]})
        for partition, log in self.logs.items():
            for message in log.messages:
                if message.stamp_ms + HOLD_MS > self.now:
                    assert (partition, message.number) in self.acknowledged, self._told(f"{message} never came")
        assert self.subscription.pending(self.now, 100) == 0

    def _told(self, what: str) -> str:
        return f"seed {self.seed}, at {self.now}: {what}"
