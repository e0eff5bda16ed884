"""What it takes to add a node to a cluster, and to lose one: `python -m openset_tools.bench_cluster`.

Two nodes on this machine hold two copies of every partition. A third one joins: measured is from the invitation until
all that it is to get is in sync, in bytes of files per second, against curl fetching the same files from a plain
Tornado static handler in the same run. Then owners are killed: measured is until an insert for their partitions is
accepted. Everything runs on one machine, so senders, receivers and the disk share it.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
import msgspec

from openset.client.connection import Connection, Unreachable
from openset.client.daemon import free_port
from openset_tools.bench_insert import insert_events
from openset_tools.sample_events import COLUMNS, Z_ORDER

TABLE = "bench"
_PATIENCE_SECONDS = 600.0
# Looking costs the nodes some of the machine that they are measured on.
_LOOK_SECONDS = 0.05
_STATIC = """
import asyncio, sys
from tornado.web import Application, StaticFileHandler
async def main():
    Application([(r"/(.*)", StaticFileHandler, {"path": sys.argv[1]})]).listen(int(sys.argv[2]), "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(main())
"""


class Node:
    """A daemon of the cluster. url: where it answers."""

    def __init__(self, data: Path, secret: Path):
        self.data = data
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._secret = secret
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "openset.cli", "serve", "--data", str(self.data), "--port", str(self.port)]
        with (self.data.parent / f"{self.data.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--cluster-secret-file", str(self._secret)], stderr=log, stdout=log
            )
        _wait("the daemon answers", lambda: bool(self.request("GET", "/v1/cluster")))

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def request(self, method: str, path: str, body: bytes | None = None, **parameters: str) -> Any:
        with Connection(self.url, timeout_seconds=_PATIENCE_SECONDS) as connection:
            return connection.request(method, path, body=body, parameters=parameters)

    def files(self) -> list[Path]:
        """The partition files of the table."""
        return sorted((self.data / "tables").rglob("p*.h5"))


@click.command()
@click.option("--events", default=1_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", default=100_000, show_default=True, type=click.IntRange(min=1))
@click.option("--partitions", default=12, show_default=True, type=click.IntRange(3, 1000))
@click.option("--batch", default=5_000, show_default=True, type=click.IntRange(1, 1_000_000), help="Events a request.")
@click.option("--kills", default=3, show_default=True, type=click.IntRange(min=0), help="Owners that are killed.")
@click.option("--directory", type=click.Path(path_type=Path, file_okay=False, exists=True), help="For the data.")
def main(events: int, people: int, partitions: int, batch: int, kills: int, directory: Path | None) -> None:
    """Measures a node that joins a cluster, and nodes that are killed."""
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openset-", dir=directory)))
        secret = place / "secret"
        secret.write_text("a secret of the benchmark\n")
        nodes = [Node(place / f"n{number}", secret) for number in range(3)]
        for node in nodes:
            stack.callback(node.end)
            node.start()
        first, second, third = nodes
        first.request("PUT", "/v1/cluster/init", partitions=str(partitions), replicas="2")
        _join(first, second)
        _wait("both have everything", lambda: _is_quiet(first, 2 * partitions))
        definition = {"columns": COLUMNS, "z-order": Z_ORDER}
        first.request("POST", f"/v1/table/{TABLE}", body=msgspec.json.encode(definition))
        seconds, _ = insert_events(first.url, TABLE, events, people, batch, 2)
        click.echo(f"{events:,} events into two nodes with two copies: {events / seconds:,.0f} events/s")
        first.request("POST", f"/v1/table/{TABLE}/compact")
        joined = _measure_join(first, third, partitions)
        fetched = _measure_curl(place, third)
        click.echo(f"the join goes at {joined / fetched:.2f} of the rate of curl")
        _measure_kills(first, nodes[1:], kills, 2 * partitions)


def _join(by: Node, guest: Node) -> str:
    """Returns the name of the new member."""
    return str(by.request("PUT", "/v1/cluster/join", host="127.0.0.1", port=str(guest.port))["node"])


def _measure_join(first: Node, third: Node, partitions: int) -> float:
    """From the invitation until everything is in sync; bytes per second."""
    before = _holders(first)
    began = time.perf_counter()
    name = _join(first, third)
    share = 2 * partitions // 3
    _wait("the third node has its share", lambda: sum(name in holders for holders in _holders(first).values()) >= share)
    seconds = time.perf_counter() - began
    _wait("nothing moves", lambda: _is_quiet(first, 2 * partitions))
    after = _holders(first)
    moved = sum(len(after[number] - before[number]) for number in after)
    elsewhere = sum(len(after[number] - before[number] - {name}) for number in after)
    size = sum(path.stat().st_size for path in third.files())
    click.echo(
        f"a third node joins: {moved} of {2 * partitions} copies move (its share is {share}; {elsewhere} between the "
        f"others), {size / 1e6:,.1f} MB in {seconds:.2f} s: {size / seconds / 1e6:,.0f} MB/s"
    )
    return size / seconds


def _measure_curl(place: Path, node: Node) -> float:
    """curl fetches the same files one after the other; bytes per second."""
    port = free_port()
    fetched = place / "fetched"
    fetched.mkdir()
    server = subprocess.Popen([sys.executable, "-c", _STATIC, str(node.data), str(port)])
    try:
        _wait(
            "the static handler answers",
            lambda: not subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/x"]).returncode,
        )
        command = ["curl", "-s", "--fail"]
        for number, path in enumerate(node.files()):
            command += ["-o", str(fetched / f"{number}.h5"), f"http://127.0.0.1:{port}/{path.relative_to(node.data)}"]
        began = time.perf_counter()
        subprocess.run(command, check=True)
        seconds = time.perf_counter() - began
    finally:
        server.kill()
        server.wait()
    size = sum(path.stat().st_size for path in fetched.iterdir())
    rate = f"{size / 1e6:,.1f} MB in {seconds:.2f} s: {size / seconds / 1e6:,.0f} MB/s"
    click.echo(f"curl, from Tornado's static handler: {rate}")
    return size / seconds


def _measure_kills(first: Node, others: list[Node], kills: int, copies: int) -> None:
    """Until an insert for everybody is accepted. The first node has the coordinator and stays."""
    body = msgspec.json.encode(
        [{"person": f"killed-{number}", "stamp": 1_600_000_000_000, "action": "view"} for number in range(200)]
    )
    times = []
    for number in range(kills):
        victim = others[number % len(others)]
        victim.end()
        began = time.perf_counter()
        first.request("POST", f"/v1/insert/{TABLE}", body=body)
        times.append(time.perf_counter() - began)
        victim.start()
        _wait("everything is in order again", lambda: _is_quiet(first, copies))
    if times:
        click.echo(
            f"an owner is killed, {kills} times: writes are accepted again after {statistics.median(times):.1f} s "
            f"(median), {max(times):.1f} s at worst"
        )


def _holders(node: Node) -> dict[int, set[str]]:
    """Which nodes have a copy of each partition in sync."""
    return {one["partition"]: set(one["in_sync"]) for one in node.request("GET", "/v1/cluster")["map"]}


def _is_quiet(node: Node, copies: int) -> bool:
    status = node.request("GET", "/v1/cluster")
    still = all(not one["filling"] and not one["successor"] for one in status["map"])
    alive = all(one["alive"] for one in status["members"])
    return still and alive and sum(len(one["in_sync"]) for one in status["map"]) == copies


def _wait(what: str, holds: Callable[[], bool]) -> None:
    """Raises ClickException when it takes too long."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            if holds():
                return
        except (Unreachable, KeyError):
            pass
        time.sleep(_LOOK_SECONDS)
    raise click.ClickException(f"not within {_PATIENCE_SECONDS:.0f} s: {what}")


if __name__ == "__main__":
    main()
