"""What clients sent and were told, and whether an answer can be right: a checker that knows nothing of the cluster.

A request's events of one partition are one record. From the moment a record is known to be there (its request was
acknowledged, or an answer had it) every query that begins later must have it, whole; nothing may be in an answer that
was not sent before the answer ended. That is what "right for some moment of the history" means for each partition.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from openset_format.hashing import partition_of

STAMP_MS = 1_500_000_000_000
PEOPLE = 240
MOST_EVENTS = 16
_NEVER = float("inf")

# Of a client: request, partition. How many events there are.
Parts = dict[tuple[int, int], int]


@dataclass(slots=True)
class Sent:
    """A request. sent, acknowledged: monotonic times, never is infinite. parts: events by partition."""

    body: str
    people: Counter[str]
    parts: Counter[int]
    sent: float
    acknowledged: float = _NEVER
    # When an answer had a part of it for the first time.
    seen: dict[int, float] = field(default_factory=dict)

    def known(self, partition: int) -> float:
        """When it was known that the part is there."""
        return min(self.acknowledged, self.seen.get(partition, _NEVER))


@dataclass(slots=True)
class Expected:
    """What an answer must have, as of when the query was sent; from and to: which requests it is about."""

    client: int
    first: int
    asked: float
    parts: Parts


class History:
    """Of all clients. Its methods may be called from any thread."""

    def __init__(self, clients: int, partitions: int):
        self.partitions = partitions
        self.clients = clients
        self.requests: list[list[Sent]] = [[] for _ in range(clients)]
        self._lock = threading.Lock()

    def send(self, client: int, chance: random.Random) -> tuple[int, str]:
        """A new request: its number and body."""
        number = len(self.requests[client])
        people: Counter[str] = Counter()
        parts: Counter[int] = Counter()
        events = []
        for at in range(chance.randint(1, MOST_EVENTS)):
            person = f"p{chance.randrange(PEOPLE)}"
            home = partition_of(person, self.partitions)
            people[person] += 1
            parts[home] += 1
            attr = {"client": client, "request": number, "home": home, "text": f"{client}-{number}"}
            events.append({"person": person, "stamp": stamp_of(number, at, client), "action": "do", "attr": attr})
        body = json.dumps(events)
        with self._lock:
            self.requests[client].append(Sent(body, people, parts, time.monotonic()))
        return number, body

    def acknowledge(self, client: int, number: int) -> None:
        with self._lock:
            one = self.requests[client][number]
            one.acknowledged = min(one.acknowledged, time.monotonic())

    def acknowledged(self, client: int) -> list[int]:
        """The numbers of requests."""
        with self._lock:
            return [number for number, one in enumerate(self.requests[client]) if one.acknowledged < _NEVER]

    # --- answers ---------------------------------------------------------------------------------------------------

    def expect(self, client: int, first: int) -> Expected:
        """What is known at this moment of a client's requests from a number on."""
        now = time.monotonic()
        with self._lock:
            parts = {
                (number, partition): count
                for number, one in enumerate(self.requests[client][first:], first)
                for partition, count in one.parts.items()
                if one.known(partition) < now
            }
        return Expected(client, first, now, parts)

    def check(self, expected: Expected, found: Parts, missing: frozenset[int] = frozenset()) -> list[str]:
        """What is wrong with an answer; it is known from now on. missing: partitions that it says it lacks."""
        now = time.monotonic()
        wrong = []
        with self._lock:
            requests = self.requests[expected.client]
            for (number, partition), count in found.items():
                here = 0 <= number < len(requests)
                size = requests[number].parts.get(partition, 0) if here else 0
                if count != size or number < expected.first or partition in missing:
                    wrong.append(f"{self._name(expected.client, number, partition)}: {count} events of {size}")
                    continue
                requests[number].seen.setdefault(partition, now)
            for (number, partition), size in expected.parts.items():
                if (number, partition) not in found and partition not in missing:
                    since = expected.asked - requests[number].known(partition)
                    name = self._name(expected.client, number, partition)
                    there = sorted(request for request, home in found if home == partition)
                    wrong.append(
                        f"{name}: {size} events lacking that were known for {since:.2f} s; of this partition are there "
                        f"requests {there}"
                    )
        return wrong

    def expect_person(self, person: str, first: int) -> dict[tuple[int, int], int]:
        """How many events of a person are known, by client and request, of requests from a number on."""
        now, home = time.monotonic(), partition_of(person, self.partitions)
        with self._lock:
            return {
                (client, number): one.people[person]
                for client, requests in enumerate(self.requests)
                for number, one in enumerate(requests[first:], first)
                if one.people[person] and one.known(home) < now
            }

    def check_person(
        self, person: str, first: int, expected: dict[tuple[int, int], int], events: list[dict[str, Any]]
    ) -> list[str]:
        """What is wrong with a person's events."""
        now, home = time.monotonic(), partition_of(person, self.partitions)
        found = Counter((event["attr"]["client"], event["attr"]["request"]) for event in events)
        wrong = []
        with self._lock:
            for (client, number), count in found.items():
                here = 0 <= client < self.clients and first <= number < len(self.requests[client])
                size = self.requests[client][number].people[person] if here else 0
                if count != size:
                    wrong.append(f"{person}, {self._name(client, number, home)}: {count} events of {size}")
                else:
                    self.requests[client][number].seen.setdefault(home, now)
            for (client, number), size in expected.items():
                if (client, number) not in found:
                    wrong.append(
                        f"{person}, {self._name(client, number, home)}: {size} known events lacking; there are "
                        f"(client, request) {sorted(found)}"
                    )
        return wrong

    # --- at the end ------------------------------------------------------------------------------------------------

    def check_all(self, found: dict[int, Parts]) -> list[str]:
        """What is wrong with everything that there is, by client, when nothing is under way any more."""
        wrong = []
        for client in range(self.clients):
            wrong += self.check(self.expect(client, 0), found.get(client, {}))
        wrong += [f"events of client {client}, which there is not" for client in found if client >= self.clients]
        return wrong

    def by_partition(self, found: dict[int, Parts]) -> dict[int, Counter[tuple[int, int]]]:
        """The same by partition: events by client and request."""
        parts: dict[int, Counter[tuple[int, int]]] = defaultdict(Counter)
        for client, numbers in found.items():
            for (number, partition), count in numbers.items():
                parts[partition][client, number] = count
        return parts

    def counts(self) -> tuple[int, int, int]:
        """Requests sent, acknowledged, and events of the latter."""
        with self._lock:
            sent = [one for requests in self.requests for one in requests]
        known = [one for one in sent if one.acknowledged < _NEVER]
        return len(sent), len(known), sum(one.parts.total() for one in known)

    def longest_silence(self, until: float) -> float:
        """The longest time in which nobody had a request acknowledged, in s. until: monotonic."""
        with self._lock:
            times = sorted(
                one.acknowledged for requests in self.requests for one in requests if one.acknowledged < until
            )
        return max((later - earlier for earlier, later in pairwise(times)), default=0.0)

    @staticmethod
    def _name(client: int, number: int, partition: int) -> str:
        return f"client {client}, request {number}, partition {partition}"


def stamp_of(number: int, at: int, client: int) -> int:
    """Of an event: unlike every other one, and in the order of requests."""
    return STAMP_MS + ((number * MOST_EVENTS + at) << 4) + client


def first_stamp(number: int) -> int:
    """Before those of a request and all later ones, of every client."""
    return stamp_of(number, 0, 0)
