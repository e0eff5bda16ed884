"""Really started clusters on loopback: daemons that share a secret, joined to each other, killed and started again."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from support.daemon import Daemon, Response
from support.etcd import Etcd, free_ports

SECRET = "a secret of the tests, long enough"
# Tests do not wait for as long as operators do.
LEASE_MS = 2_000
GONE_AFTER_MS = 3_000
PATIENCE_SECONDS = 30.0

Found = TypeVar("Found")


def wait_until(what: str, look: Callable[[], Found], seconds: float = PATIENCE_SECONDS) -> Found:
    """The first answer that is true. Refused connections and failed assertions may come before it."""
    deadline = time.monotonic() + seconds
    last: object = None
    while time.monotonic() < deadline:
        try:
            found = look()
            if found:
                return found
            last = found
        except (OSError, AssertionError) as error:
            last = error
        time.sleep(0.05)
    raise AssertionError(f"not in {seconds} s: {what} ({last!r})")


class Node:
    """A daemon with a port that it keeps over restarts. name: in the cluster, empty before it is in one."""

    def __init__(self, data: Path, cluster: dict[str, Any], port: int = 0, **options: Any):
        self.data = data
        self.port = port or free_ports(1)[0]
        self.cluster = cluster
        self.options = options
        self.daemon: Daemon | None = None

    @property
    def running(self) -> Daemon:
        assert self.daemon is not None, "the node has been started"
        return self.daemon

    @property
    def pid(self) -> int:
        return self.running.process.pid

    @property
    def name(self) -> str:
        return str(self.status()["node"] or "")

    def start(self, wait: bool = True) -> Daemon:
        """wait: until it says that it is ready; a member is not before it has seen its cluster."""
        options = {"workers": 1, "port": self.port, "cluster": self.cluster, **self.options}
        self.daemon = Daemon(self.data, wait=wait, **options)
        self.daemon.port = self.port
        return self.daemon

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        return self.running.stop()

    def kill(self) -> None:
        """SIGKILL."""
        self.running.kill()

    def pause(self) -> None:
        """Its port takes connections, and nothing answers."""
        self.running.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.running.process.send_signal(signal.SIGCONT)

    def request(self, method: str, path: str, body: bytes | str | None = None, **options: Any) -> Response:
        return self.running.request(method, path, body, **options)

    def status(self) -> dict[str, Any]:
        """GET /v1/cluster."""
        answer = self.request("GET", "/v1/cluster", patience=5)
        assert answer.status == 200, answer.body
        return dict(answer.json)

    def close(self) -> None:
        if self.daemon is not None and self.daemon.process.poll() is None:
            self.go_on()
            self.daemon.kill()


class Cluster:
    """Nodes on loopback. The first one is initialised and has invited the others when this has been made.

    etcd: the coordinator, else the first node is it.  joined: how many of the nodes are members; others are empty.
    cluster: fields of ClusterOptions for every node.  options: of `serve`, for every node.
    """

    def __init__(
        self,
        directory: Path,
        nodes: int = 3,
        *,
        partitions: int = 4,
        replicas: int | None = None,
        etcd: Etcd | None = None,
        prefix: str = "tests",
        joined: int | None = None,
        cluster: dict[str, Any] | None = None,
        **options: Any,
    ):
        settings: dict[str, Any] = {"secret": SECRET, "lease_ms": LEASE_MS, "gone_after_ms": GONE_AFTER_MS}
        if etcd is not None:
            settings["coordinator"] = f"etcd://{etcd.hosts}/{prefix}"
        settings |= cluster or {}
        self.nodes = [Node(directory / f"n{number}", settings, **options) for number in range(nodes)]
        try:
            for node in self.nodes:
                node.start(wait=False)
            for node in self.nodes:
                node.running._wait_for("ready")
            told = {} if replicas is None else {"replicas": replicas}
            self._done(self.nodes[0].request("PUT", "/v1/cluster/init", partitions=partitions, **told))
            for node in self.nodes[1:joined]:
                self.join(node)
        except BaseException:
            self.close()
            raise

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number]

    def join(self, node: Node, by: int = 0) -> None:
        """Invites a node, which must succeed."""
        self._done(self.nodes[by].request("PUT", "/v1/cluster/join", host="127.0.0.1", port=node.port))

    @staticmethod
    def _done(answer: Response) -> None:
        assert answer.status == 200, answer.body

    def wait_for(self, what: str, holds: Callable[[dict[str, Any]], Any], nodes: list[Node] | None = None) -> None:
        """Until something holds for GET /v1/cluster of these nodes, all unless given."""
        for node in self.nodes if nodes is None else nodes:
            wait_until(what, lambda node=node: holds(node.status()))  # type: ignore[misc]

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@contextlib.contextmanager
def started(directory: Path, nodes: int = 3, **options: Any) -> Iterator[Cluster]:
    """A Cluster that ends with the block."""
    cluster = Cluster(directory, nodes, **options)
    try:
        yield cluster
    finally:
        cluster.close()


def members(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The members that GET /v1/cluster shows, by name."""
    return {member["node"]: member for member in status["members"]}


def alive(status: dict[str, Any]) -> set[str]:
    """Those of them that live."""
    return {name for name, member in members(status).items() if member["alive"]}


def is_settled(status: dict[str, Any]) -> bool:
    """Every partition has its copies, and nothing is on its way."""
    wanted = min(status["replicas"], len(status["members"]))
    placed = all(len(each["in_sync"]) == wanted and not each["filling"] for each in status["map"])
    return placed and not status["transfers"] and len(alive(status)) == len(status["members"])
