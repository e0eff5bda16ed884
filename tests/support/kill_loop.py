"""A daemon that is killed again and again under inserts, compactions, changes of columns and new segments.

`python tests/support/kill_loop.py --rounds 100` is part of `make crash`; the test suite runs a few rounds. Every client
knows which of its requests were acknowledged. After every restart each of those is there exactly once and each other
one as a whole or not at all, columns and segments are what was acknowledged, and `openset verify --deep` finds nothing.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).parent.parent
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from support.daemon import Daemon  # noqa: E402

from openset_tools.verify import verify  # noqa: E402

CLIENTS = 3
PARTITIONS = 4
STAMP_MS = 1_500_000_000_000
POLICY = {"floor_events": 150, "base_share": 0.02, "age_s": 1.0}
# Every event of a request, so that a half of one is seen: how many there are per client and request.
CONTENTS = "agg:\n    count stamp as n\nmatch:\n    tally(client, request)\n"
_GONE = (OSError, http.client.HTTPException)


@dataclass(slots=True)
class Client:
    """What one client sent and was told. sizes: events by request; known: requests that were acknowledged."""

    number: int
    sizes: dict[int, int] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)

    def body(self, request: int, chance: random.Random) -> str:
        """Events of several people, and now and then an old request once more, which changes nothing."""
        size = self.sizes.setdefault(request, chance.randint(1, 60))
        return json.dumps(
            [
                {
                    "person": f"p{(request * 7 + at) % 90}",
                    "stamp": STAMP_MS + (request * 1_000 + at) * CLIENTS + self.number,
                    "action": "do",
                    "attr": {"client": self.number, "request": request, "text": f"{self.number}-{request}"},
                }
                for at in range(size)
            ]
        )


@dataclass(slots=True)
class Tally:
    """What happened."""

    rounds: int = 0
    acknowledged: int = 0
    events: int = 0
    half_way: int = 0
    columns: int = 0
    segments: int = 0
    compactions: int = 0
    restart_seconds: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        slowest = max(self.restart_seconds, default=0.0)
        return (
            f"{self.rounds} kills: {self.acknowledged:,} requests with {self.events:,} events acknowledged, all there "
            f"exactly once; {self.half_way} requests under way, each whole or not there; {self.columns} changes of "
            f"columns, {self.segments} segments, {self.compactions} compactions; slowest restart {slowest:.2f} s"
        )


class KillLoop:
    """Rounds over one data directory."""

    def __init__(self, place: Path, seed: int):
        self.place = place
        self.data = place / "data"
        self.chance = random.Random(seed)
        self.clients = [Client(number) for number in range(CLIENTS)]
        self.columns: dict[str, str] = {}  # of the changing ones: what the catalog said last; "?" when nobody knows
        self.segments: dict[str, int] = {}
        self.tally = Tally()
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """An initialised data directory with the table."""
        with Daemon(self.data, init=PARTITIONS) as daemon:
            daemon.create("t", {"client": "int", "request": "int", "text": "text"})

    def round(self) -> None:
        """Starts the daemon, checks, lets clients work, kills it."""
        started = time.monotonic()
        with Daemon(self.data, policy=POLICY) as daemon:
            self.check(daemon)
            self.tally.restart_seconds.append(time.monotonic() - started)
            workers = [threading.Thread(target=self._insert, args=(daemon, client)) for client in self.clients]
            workers += [threading.Thread(target=self._change, args=(daemon, random.Random(self.chance.random())))]
            for worker in workers:
                worker.start()
            # Mostly long enough for compactions.
            time.sleep(self.chance.choice((0.05, 1.0, 2.0)) + self.chance.uniform(0.0, 1.0))
            if self.tally.rounds == 0:
                self._wait_for_compaction(daemon)
            daemon.kill()
            for worker in workers:
                worker.join(60)
                assert not worker.is_alive()
            self.tally.compactions += sum(line["event"] == "compacted" for line in daemon.log())
            complaints = [line for line in daemon.log() if line.get("level") in ("error", "critical") or "text" in line]
            assert not complaints, complaints
        self.tally.rounds += 1
        self._forget_log()

    def _wait_for_compaction(self, daemon: Daemon) -> None:
        """In one round there is one for sure, however slow the machine is."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not any(line["event"] == "compacted" for line in daemon.log()):
            time.sleep(0.1)

    def verify(self) -> None:
        """`openset verify --deep` over the directory as it is."""
        problems = verify(self.data, deep=True)
        assert not problems, [str(problem) for problem in problems]

    def check(self, daemon: Daemon) -> None:
        """What is there after a restart."""
        tree = daemon.events("t", CONTENTS, trim=1_000_000).get("_", [])
        found = Counter({(node["g"], below["g"]): below["c"][0] for node in tree for below in node["_"]})
        for client in self.clients:
            for request, size in client.sizes.items():
                count = found.pop((client.number, request), 0)
                if request in client.known:
                    assert count == size, f"client {client.number}: {count} of {size} events of request {request}"
                else:
                    assert count in (0, size), f"client {client.number}: request {request} is there by half: {count}"
                    self.tally.half_way += 1
                    client.known.discard(request)
                    if count:
                        client.known.add(request)
            client.sizes = {request: size for request, size in client.sizes.items() if request in client.known}
        assert not found, f"events nobody sent: {found}"
        self._check_columns(daemon)
        self._check_segments(daemon)

    def _check_columns(self, daemon: Daemon) -> None:
        described = daemon.request("GET", "/v1/table/t").json["columns"]
        there = {column["name"]: column["type"] for column in described if column["name"].startswith("extra")}
        for name, kind in self.columns.items():
            assert kind == "?" or there.get(name, "") == kind, f"column {name} is {there.get(name)!r}, not {kind!r}"
        self.columns = {**dict.fromkeys(self.columns, ""), **there}

    def _check_segments(self, daemon: Daemon) -> None:
        listed = daemon.request("GET", "/v1/table/t/segments").json["segments"]
        there = {one["name"]: one["people"] for one in listed}
        for name, people in self.segments.items():
            assert people < 0 or there.get(name) == people, f"segment {name}: {there.get(name)} people, not {people}"
        self.segments = there

    # --- while it runs: everything ends when the daemon is gone -------------------------------------------------

    def _insert(self, daemon: Daemon, client: Client) -> None:
        chance = random.Random(f"{client.number} {self.tally.rounds}")
        while True:
            again = bool(client.known) and chance.random() < 0.1
            request = chance.choice(sorted(client.known)) if again else max(client.sizes, default=0) + 1
            try:
                answer = daemon.request("POST", "/v1/insert/t", client.body(request, chance))
            except _GONE:
                return
            assert answer.status == 200, answer.body
            if not again:
                client.known.add(request)
                with self._lock:
                    self.tally.acknowledged += 1
                    self.tally.events += client.sizes[request]
            time.sleep(chance.uniform(0.0, 0.06))  # compactions run at low priority and need their time, too

    def _change(self, daemon: Daemon, chance: random.Random) -> None:
        """Columns come and go, segments are made and removed."""
        while True:
            try:
                self._change_column(daemon, f"extra{chance.randint(1, 3)}", chance.choice(["int", "text", "double"]))
                self._change_segment(daemon, f"s{chance.randint(1, 4)}", chance.randint(0, 90))
            except _GONE:
                return
            time.sleep(0.05)

    def _change_column(self, daemon: Daemon, name: str, kind: str) -> None:
        there = self.columns.get(name, "")
        self.columns[name] = "?"
        if there:
            answer = daemon.request("DELETE", f"/v1/table/t/column/{name}")
        else:
            answer = daemon.request("PUT", f"/v1/table/t/column/{name}:{kind}")
        assert answer.status == 200, answer.body
        self.columns[name] = "" if there else kind
        self.tally.columns += 1

    def _change_segment(self, daemon: Daemon, name: str, least: int) -> None:
        script = f"@segment {name} ttl=forever:\n    if event_count > {least}:\n        tally\n"
        self.segments[name] = -1
        answer = daemon.request("POST", "/v1/query/t/counts", script)
        assert answer.status == 200, answer.body
        self.segments[name] = answer.json["_"][0]["c"][0]
        self.tally.segments += 1

    def _forget_log(self) -> None:
        for log in self.place.glob("data-*.log"):
            log.unlink()


def run(place: Path, rounds: int, seed: int, verify_every: int = 10, verbose: bool = False) -> Tally:
    """Kills a daemon so many times, and checks. verbose: says now and then how far it is."""
    loop = KillLoop(place, seed)
    loop.prepare()
    for number in range(rounds):
        loop.round()
        if verbose and (number + 1) % 10 == 0:
            print(loop.tally, flush=True)
        if number % verify_every == 0:
            loop.verify()
    with Daemon(loop.data, policy=POLICY) as daemon:
        loop.check(daemon)
        assert daemon.request("POST", "/v1/table/t/compact").status == 200
        loop.check(daemon)
    loop.verify()
    return loop.tally


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    place = Path(tempfile.mkdtemp(prefix="openset-crash-"))
    try:
        print(run(place, options.rounds, seed, verbose=True))
    except BaseException:
        print(f"the directory is left as it was: {place}", flush=True)
        raise
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
