"""Five nodes, two copies, three members of etcd, under inserts and queries while everything goes wrong.

`make chaos` runs it for ten minutes, the test suite for less. Faults follow from a seed (`plan`); the network is one
of network `namespaces` where the machine gives them, else of `proxies`; a disk is full when the node's file layer says
so (`controlled_files`). Every answer is checked when it comes (`history`); at the end, with all nodes up, every
acknowledged event is there exactly once, in every copy.
"""

from __future__ import annotations

import argparse
import errno
import http.client
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[2]
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))

from support.chaos.copies import unequal_copies  # noqa: E402
from support.chaos.history import PEOPLE, History, Parts, first_stamp  # noqa: E402
from support.chaos.namespaces import Namespaces, are_available  # noqa: E402
from support.chaos.network import Network, called  # noqa: E402
from support.chaos.plan import Fault, plan  # noqa: E402
from support.chaos.proxies import Proxies  # noqa: E402
from support.cluster import Node, alive, wait_until  # noqa: E402
from support.controlled_files import set_faults  # noqa: E402
from support.daemon import Response  # noqa: E402

NODES, COPIES, PARTITIONS = 5, 2, 8
WRITERS, READERS = 8, 4
LEASE_MS, GONE_AFTER_MS = 2_000, 5_000
POLICY = {"floor_events": 400, "base_share": 0.05, "age_s": 3.0}
COLUMNS = {"client": "int", "request": "int", "home": "int", "text": "text"}
# A query is about the last so many requests of one client: answers stay small however long it runs.
WINDOW = 60
QUERY_MS = 6_000
# More than any query or insert may take by itself.
PATIENCE_SECONDS = 45.0
SETTLE_SECONDS = 120.0
# Requests that run are waited for; a compaction may take long.
STOP_SECONDS = 75
# Connections that end within so long after a fault of the node are its fault.
_AFTER_SECONDS = 1.0
_REFUSALS = {"internode", "limit"}
_NOT_HTTP = (OSError, http.client.HTTPException)

WINDOW_SCRIPT = (
    "agg:\n    count stamp as n\nmatch where client == {{who}} and request >= {{first}}:\n    tally(request, home)\n"
)
ALL_SCRIPT = "agg:\n    count stamp as n\nmatch:\n    tally(client, request, home)\n"


@dataclass(slots=True)
class Tally:
    """What happened."""

    seed: int
    seconds: float
    network: str
    faults: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    requests: tuple[int, int, int] = (0, 0, 0)
    silence_seconds: float = 0.0
    settle_seconds: float = 0.0
    complaints: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        sent, known, events = self.requests
        faults = ", ".join(f"{count} {kind}" for kind, count in sorted(self.faults.items()))
        answers = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.answers.items()))
        return (
            f"seed {self.seed}, {self.seconds:.0f} s, {self.network}: {known:,} of {sent:,} requests with {events:,} "
            f"events acknowledged, all there exactly once and in every copy\nfaults: {faults}\nanswers: {answers}\n"
            f"longest without an acknowledgement {self.silence_seconds:.1f} s; in order again after "
            f"{self.settle_seconds:.1f} s\nerrors in the logs: {dict(self.complaints)}"
        )


class Chaos:
    """A cluster, its clients, and what is done to it. Use as a context manager."""

    def __init__(
        self, place: Path, seed: int, seconds: float, network: Network, pace: float = 1.0, verbose: bool = False
    ):
        """network: open until this is over."""
        self.place = place
        self.seed = seed
        self.plan = plan(seed, seconds, NODES, pace=pace)
        self.tally = Tally(seed, seconds, network.kind)
        self.history = History(WRITERS, PARTITIONS)
        self.wrong: list[str] = []
        self._verbose = verbose
        self._seconds = seconds
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ended = False
        self._network = network
        self._etcd = network.start_etcd(place / "etcd")
        self._nodes = [self._node(number) for number in range(NODES)]
        self._left_out: set[Fault] = set()
        # Those without room on their disks.
        self._full: set[int] = set()
        # What starts the nodes after their last faults.
        self._starting = [threading.Thread() for _ in range(NODES)]
        for starting in self._starting:
            starting.start()
        # By node: from when to when its connections may end or hang.
        self._down: list[list[list[float]]] = [[] for _ in range(NODES)]

    def _node(self, number: int) -> Node:
        one = called(number)
        settings = {"lease_ms": LEASE_MS, "gone_after_ms": GONE_AFTER_MS}
        control = str(self.place / f"{one}.control")
        return self._network.node(number, self.place / one, settings, policy=POLICY, control=control)

    def __enter__(self) -> Chaos:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._ended = True
        for node in self._nodes:
            node.close()
        self._etcd.close()

    # --- the whole -------------------------------------------------------------------------------------------------

    def run(self) -> Tally:
        """Raises AssertionError for whatever must not be."""
        self._form()
        threads = [threading.Thread(target=self._write, args=(number,)) for number in range(WRITERS)]
        threads += [threading.Thread(target=self._read, args=(number,)) for number in range(READERS)]
        for thread in threads:
            thread.start()
        try:
            self._disturb()
        finally:
            self._over.set()
            for thread in threads:
                thread.join(2 * PATIENCE_SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a client still waits for an answer"
        ended = time.monotonic()
        self._check()
        self._heal()
        self._settle()
        self.tally.settle_seconds = time.monotonic() - ended
        self.tally.silence_seconds = self.history.longest_silence(ended)
        self.tally.requests = self.history.counts()
        self._check_end()
        return self.tally

    def _form(self) -> None:
        for node in self._nodes:
            node.start(wait=False)
        for node in self._nodes:
            node.running._wait_for("ready")
        first = self._nodes[0]
        done(first.request("PUT", "/v1/cluster/init", partitions=PARTITIONS, replicas=COPIES))
        for node in self._nodes[1:]:
            done(first.request("PUT", "/v1/cluster/join", host=node.cluster["host"], port=node.port))
        for number, node in enumerate(self._nodes):
            self._network.know(node.name, called(number))
        first.running.create("t", COLUMNS)
        self._settle()

    def _disturb(self) -> None:
        """Carries the plan out. In the main thread: members of etcd go with the thread that has started them."""
        steps = [(fault.at, True, fault) for fault in self.plan]
        steps += [(fault.until, False, fault) for fault in self.plan if fault.until > fault.at]
        began = time.monotonic()
        for at, begins, fault in sorted(steps, key=lambda step: step[:2]):
            if self._wait(began + at):
                return
            if begins:
                self._say(str(fault))
                self._begin(fault)
                self.tally.faults["left out" if fault in self._left_out else fault.kind] += 1
            else:
                self._end(fault)
        self._wait(began + self._seconds)

    def _wait(self, until: float) -> bool:
        """Whether something is wrong by then: then it ends there."""
        while (left := until - time.monotonic()) > 0 and not self.wrong:
            time.sleep(min(left, 0.2))
        return bool(self.wrong)

    def _check(self) -> None:
        assert not self.wrong, f"seed {self.seed}: " + "\n".join(self.wrong[:20])

    def _violation(self, what: str) -> None:
        if self._ended:
            return
        with self._lock:
            self.wrong.append(f"{time.strftime('%H:%M:%S')} {what}")
        self._say(f"WRONG: {what}")

    def _say(self, text: str) -> None:
        if self._verbose:
            print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    # --- faults ----------------------------------------------------------------------------------------------------

    def _begin(self, fault: Fault) -> None:
        number = fault.nodes[0]
        if fault.kind.endswith("etcd") and not fault.ways:
            member = self._etcd.members[number]
            member.kill() if fault.kind == "kill-etcd" else member.pause()
            return
        for one in fault.nodes:
            self._starting[one].join(2)
        if any(self._starting[one].is_alive() for one in fault.nodes):
            self._left_out.add(fault)  # the machine is slow: the fault before is not over
            return
        node = self._nodes[number]
        if fault.ways:
            self._network.cut(fault.ways, silent=fault.silent)
        elif fault.kind == "disk-full":
            self._full.add(number)
            set_faults(
                Path(node.options["control"]), *({"kind": kind, "errno": errno.ENOSPC} for kind in ("write", "create"))
            )
        elif fault.kind == "compact":
            threading.Thread(target=self._compact, args=(number,), daemon=True).start()
        else:
            self._down[number].append([time.monotonic(), float("inf")])
            if fault.kind == "kill":
                node.kill()
            elif fault.kind == "pause":
                node.pause()
            else:
                node.running.process.terminate()

    def _end(self, fault: Fault) -> None:
        number = fault.nodes[0]
        if fault.kind.endswith("etcd") and not fault.ways:
            member = self._etcd.members[number]
            member.start() if fault.kind == "kill-etcd" else member.go_on()
            return
        if fault in self._left_out:
            return
        node = self._nodes[number]
        if fault.ways:
            self._network.mend(fault.ways)
        elif fault.kind == "disk-full":
            set_faults(Path(node.options["control"]))
            if node.running.process.poll() is not None:  # it was starting, for which it needs some room
                self._down[number].append([time.monotonic(), float("inf")])
                self._begin_start(number, stops=False)
            self._full.discard(number)
        elif fault.kind == "pause":
            node.go_on()
            self._down[number][-1][1] = time.monotonic()
        else:
            self._begin_start(number, stops=fault.kind == "restart")

    def _begin_start(self, number: int, *, stops: bool) -> None:
        self._starting[number] = threading.Thread(target=self._start_again, args=(number, stops), daemon=True)
        self._starting[number].start()

    def _start_again(self, number: int, stops: bool) -> None:
        """In a thread of its own: a daemon may take a while to stop, and longer to find its cluster."""
        node, down = self._nodes[number], self._down[number][-1]
        if stops:
            self._stopped(node, f"node {called(number)}")
        self._complain(number)
        node.start(wait=False)
        try:
            # Its port is open again; whether it has seen its cluster is another thing.
            node.running._wait_for("listening")
        except AssertionError as error:
            if (node.running.process.poll() or 0) >= 0:
                self._violation(f"node {called(number)} does not start: {error}")
        down[1] = min(down[1], time.monotonic())

    def _stopped(self, node: Node, who: str) -> None:
        try:
            code = node.running.process.wait(STOP_SECONDS)
        except Exception:
            self._violation(f"{who} does not stop within {STOP_SECONDS} s of SIGTERM")
            node.kill()
            return
        if code != 0:
            self._violation(f"{who} ends with {code} after SIGTERM")

    def _compact(self, number: int) -> None:
        self._request(number, "POST", "/v1/table/t/compact", None)

    def _heal(self) -> None:
        for starting in self._starting:
            starting.join(60)
        self._network.mend()
        for number, node in enumerate(self._nodes):
            set_faults(Path(node.options["control"]))
            if node.running.process.poll() is not None:
                self._complain(number)
                node.start(wait=False)
            else:
                node.go_on()
        for member in self._etcd.members:
            if member.process is None:
                member.start()
            else:
                member.go_on()

    def _settle(self) -> None:
        """Every node sees all of them alive, and every partition with its copies."""
        for node in self._nodes:
            wait_until("everything is in order", lambda node=node: in_order(node.status()), SETTLE_SECONDS)  # type: ignore[misc]

    # --- clients ---------------------------------------------------------------------------------------------------

    def _request(self, number: int, method: str, path: str, body: str | None, **parameters: Any) -> Response | None:
        """None for a connection that ended because of what was done to the node, or an error in the envelope."""
        asked = time.monotonic()
        what = f"{method} {path} at {called(number)}"
        try:
            answer = self._nodes[number].request(method, path, body, patience=PATIENCE_SECONDS, **parameters)
        except _NOT_HTTP as error:
            waits = path.endswith("/compact") and isinstance(error, TimeoutError)  # for members that are cut off
            if not waits and not self._was_down(number, asked, time.monotonic()):
                ended = self._nodes[number].running.process.poll()
                how = "" if ended is None else f", its process ended with {ended}"
                self._violation(f"{what} ends without an answer after {time.monotonic() - asked:.1f} s: {error!r}{how}")
            self._count("connections that ended")
            return None
        if answer.status == 200:
            self._count(f"{path.rpartition('/')[2] if 'query' in path else path.split('/')[2]} answered")
            return answer
        try:
            error_class = answer.error["class"]
            if answer.status == 400 and answer.error["message"].startswith("there is no person"):
                return answer
        except (AssertionError, ValueError, KeyError) as error:
            self._violation(f"{what} answers {answer.status} without an envelope: {error!r}")
            return None
        too_slow = error_class == "run_time" and "ran longer" in answer.error["message"]
        compacts = path.endswith("/compact")  # of everybody at once, which somebody's full disk prevents
        if not too_slow and not compacts and (error_class not in _REFUSALS or answer.status != 503):
            self._violation(f"{what} answers {answer.status}: {answer.body!r}")
        self._count(f"refused ({error_class})")
        return None

    def _count(self, what: str) -> None:
        with self._lock:
            self.tally.answers[what] += 1

    def _was_down(self, number: int, since: float, until: float) -> bool:
        if number in self._full and self._nodes[number].running.process.poll() is not None:
            return True
        return any(began <= until and ended + _AFTER_SECONDS >= since for began, ended in self._down[number])

    def _write(self, client: int) -> None:
        chance = random.Random(f"{self.seed} writer {client}")
        while not self._over.is_set():
            number, body = self.history.send(client, chance)
            # Whoever is not answered tries again at another node, and gives up some time.
            while not self._over.is_set():
                answer = self._request(chance.randrange(NODES), "POST", "/v1/insert/t", body)
                if answer is not None:
                    self.history.acknowledge(client, number)
                    break
                if chance.random() < 0.3:
                    break
                self._over.wait(0.1)
            if chance.random() < 0.05 and (known := self.history.acknowledged(client)):
                again = chance.choice(known)  # changes nothing
                self._request(
                    chance.randrange(NODES), "POST", "/v1/insert/t", self.history.requests[client][again].body
                )
            self._over.wait(chance.uniform(0.0, 0.12))

    def _read(self, reader: int) -> None:
        chance = random.Random(f"{self.seed} reader {reader}")
        while not self._over.is_set():
            client, number = chance.randrange(WRITERS), chance.randrange(NODES)
            first = max(0, len(self.history.requests[client]) - chance.randint(5, WINDOW))
            if chance.random() < 0.3:
                self._read_person(number, f"p{chance.randrange(PEOPLE)}", first)
            else:
                self._read_window(number, client, first, partial=chance.random() < 0.3)
            self._over.wait(chance.uniform(0.0, 0.15))

    def _read_window(self, number: int, client: int, first: int, *, partial: bool) -> None:
        expected = self.history.expect(client, first)
        parameters = {"partial": "true"} if partial else {}
        answer = self._request(
            number, "POST", "/v1/query/t/events", WINDOW_SCRIPT,
            int_who=client, int_first=first, timeout=QUERY_MS, trim=1_000_000, **parameters,
        )  # fmt: skip
        if answer is None:
            return
        content = answer.json
        missing = frozenset(content["missing_partitions"]) if partial else frozenset()
        for wrong in self.history.check(expected, parts_of(content.get("_", [])), missing):
            self._violation(f"a query at {called(number)}: {wrong}")

    def _read_person(self, number: int, person: str, first: int) -> None:
        expected = self.history.expect_person(person, first)
        answer = self._request(number, "GET", "/v1/query/t/person", None, sid=person, **{"from": first_stamp(first)})
        if answer is None:
            return
        events = answer.json["events"] if answer.status == 200 else []
        for wrong in self.history.check_person(person, first, expected, events):
            self._violation(f"a person at {called(number)}: {wrong}")

    # --- the end ---------------------------------------------------------------------------------------------------

    def _check_end(self) -> None:
        answers = []
        for node in self._nodes:
            tree = node.running.events("t", ALL_SCRIPT, trim=10_000_000, timeout=60_000).get("_", [])
            answers.append({one["g"]: parts_of(one["_"]) for one in tree})
            self.wrong += [f"at the end, asked {node.name}: {wrong}" for wrong in self.history.check_all(answers[-1])]
        self._check()
        assert all(answer == answers[0] for answer in answers), "nodes answer differently"
        placements = {one["partition"]: set(one["in_sync"]) for one in self._nodes[0].status()["map"]}
        names = [node.name for node in self._nodes]
        for number, node in enumerate(self._nodes):
            self._complain(number)
            node.running.process.terminate()
        for number, node in enumerate(self._nodes):
            self._stopped(node, f"node {called(number)}")
        held = {name: {partition for partition, copies in placements.items() if name in copies} for name in names}
        for name, node in zip(names, self._nodes, strict=True):
            self.wrong += unequal_copies(node.data, held[name], self.history.by_partition(answers[0]))
        self._check()

    def _complain(self, number: int) -> None:
        """What the log of a node's present daemon says that should not be; a defect is wrong, the rest is counted."""
        for line in self._nodes[number].running.log():
            if line.get("level") in ("error", "critical"):
                kind = line.get("event", "")
                self.tally.complaints[kind] += 1
                if self.tally.complaints[kind] == 1:
                    self._say(f"{called(number)} logs: {line}")
            if "exception" in line or "defect" in line.get("event", "") or line.get("text", "").strip():
                self._violation(f"{called(number)} logs: {line}")


def in_order(status: dict[str, Any]) -> bool:
    """Whether a node sees that all is as it should be."""
    return (
        len(alive(status)) == NODES
        and status["health"]["status"] == "ok"
        and all(len(one["in_sync"]) == COPIES and not one["filling"] and not one["successor"] for one in status["map"])
    )


def parts_of(tree: list[dict[str, Any]]) -> Parts:
    """Events by request and partition."""
    return {(node["g"], below["g"]): below["c"][0] for node in tree for below in node["_"]}


def done(answer: Response) -> None:
    assert answer.status == 200, answer.body


def run(
    place: Path, seed: int, seconds: float, *, network: str = "", pace: float = 1.0, verbose: bool = False
) -> Tally:
    """The whole of it in an empty directory. network: its kind, that of the kernel where there is one unless told.

    pace: seconds between two faults, on average.
    """
    network = network or (Namespaces.kind if are_available() else Proxies.kind)
    made = {Namespaces.kind: Namespaces, Proxies.kind: Proxies}[network]()
    with closing(made), Chaos(place, seed, seconds, made, pace, verbose) as chaos:
        return chaos.run()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--pace", type=float, default=1.0)
    parser.add_argument("--network", choices=[Namespaces.kind, Proxies.kind], default="")
    options = parser.parse_args()
    seed = random.randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the daemons are ended then, too
    place = Path(tempfile.mkdtemp(prefix="openset-chaos-"))
    try:
        print(run(place, seed, options.seconds, network=options.network, pace=options.pace, verbose=True))
    except BaseException:
        print(f"the directory is left as it was: {place}", flush=True)
        raise
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
