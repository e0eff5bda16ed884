"""The minute of what `make chaos` does for ten: a cluster of five nodes under faults, every answer checked."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.chaos.namespaces import Namespaces, are_available
from support.chaos.network import called
from support.chaos.plan import plan
from support.chaos.run import run

SEED = 20261127
_ECHO = """
import socket
with socket.create_server(("0.0.0.0", 8080)) as server:
    while True:
        connection, _ = server.accept()
        connection.sendall(b"here")
        connection.close()
"""
_ASK = "import socket, sys; print(socket.create_connection((sys.argv[1], 8080), 1).recv(4).decode())"


@pytest.mark.timeout(400)
def test_a_minute_of_chaos(tmp_path: Path) -> None:
    tally = run(tmp_path, SEED, seconds=40)
    print(tally)
    _, acknowledged, _ = tally.requests
    assert acknowledged > 50
    assert tally.answers["events answered"] > 20 and tally.answers["person answered"] > 5
    assert sum(tally.faults.values()) == len(plan(SEED, 40))


def test_a_seed_says_what_goes_wrong() -> None:
    faults = plan(1, 600)
    assert faults == plan(1, 600) != plan(2, 600)
    assert len({fault.kind for fault in faults}) == 11, "everything that can go wrong does"
    for fault in faults:
        disturbed = {
            node
            for other in faults
            if other.at <= fault.at < other.until and not (other.kind.endswith("etcd") and not other.ways)
            for node in other.nodes
        }
        assert len(disturbed) <= 2


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[Namespaces | None]:
    """None where the machine does not give them: there `make chaos` uses proxies."""
    if not are_available():
        yield None
        return
    with closing(Namespaces()) as network:
        nodes = [network.node(number, tmp_path / called(number), {}) for number in range(3)]
        serving = [
            subprocess.Popen([*node.options["runner"], sys.executable, "-c", _ECHO], stdin=subprocess.DEVNULL)
            for node in nodes
        ]
        try:
            for node in nodes:
                reached(node.options["host"])
            yield network
        finally:
            for process in serving:
                process.kill()
                process.wait()


def reached(host: str) -> None:
    """Waits until somebody answers there."""
    for _ in range(200):
        try:
            with socket.create_connection((host, 8080), 1) as connection:
                assert connection.recv(4) == b"here"
                return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError(f"{host} does not answer")


@pytest.mark.parametrize("silent", [True, False])
def test_who_is_cut_off_is_reached_by_nobody_but_the_tests(namespaces: Namespaces | None, silent: bool) -> None:
    if namespaces is None:
        return

    def asks(source: int, target: int) -> bool:
        command = [
            *namespaces.runner(called(source)),
            sys.executable,
            "-c",
            _ASK,
            namespaces.address_of(called(target)),
        ]
        asked = subprocess.run(command, capture_output=True, text=True, check=False)
        return asked.stdout.strip() == "here"

    everybody = [(source, target) for source in range(3) for target in range(3) if source != target]
    assert all(asks(*way) for way in everybody)
    cut = frozenset({(called(0), called(1)), (called(1), called(0))})
    namespaces.cut(cut, silent=silent)
    assert [way for way in everybody if not asks(*way)] == [(0, 1), (1, 0)]
    for number in range(3):
        reached(namespaces.address_of(called(number)))
    namespaces.mend(cut)
    assert all(asks(*way) for way in everybody)
