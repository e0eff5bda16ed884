"""The daemon as a process: killed, stopped, started twice, with its workers killed."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon, Response

STAMP = 1_700_000_000_000
ENDLESS = "n = 0\nmatch:\n    match:\n        match:\n            n = n * 3 + 1\ntally(n % 7)"
SUM = "agg:\n    people\n    count stamp\n    sum a\nmatch:\n    tally('all')"


def fill(daemon: Daemon, count: int = 3_000) -> None:
    daemon.create("t", {"a": "int"})
    for first in range(0, count, 1_000):
        numbers = range(first, first + 1_000)
        daemon.insert("t", [event(number) for number in numbers])


def event(number: int) -> dict[str, Any]:
    return {"person": number % 5, "stamp": STAMP + number * 1_000, "action": "x", "attr": {"a": number}}


def in_background(daemon: Daemon, script: str, answers: list[Response], **parameters: Any) -> threading.Thread:
    def ask() -> None:
        answers.append(daemon.request("POST", "/v1/query/t/events", script, **parameters))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def workers_of(daemon: Daemon) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(daemon.process.pid)], capture_output=True, text=True)
    return [int(line) for line in found.stdout.split()]


def test_acknowledged_events_survive_sigkill(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "data", init=3)
    fill(daemon)
    before = daemon.events("t", SUM)
    daemon.kill()
    with Daemon(tmp_path / "data") as again:
        assert again.events("t", SUM) == before == {"_": [{"g": "all", "c": [5, 3_000, sum(range(3_000))]}]}


def test_sigkill_under_load_loses_nothing_acknowledged(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "data", init=2)
    daemon.create("t", {"a": "int"})
    acknowledged: list[int] = []

    def insert(first: int) -> None:
        number = first
        while True:
            try:
                answer = daemon.request("POST", "/v1/insert/t", json.dumps([event(number)]))
            except (OSError, http.client.HTTPException):
                return
            if answer.status != 200:
                return
            acknowledged.append(number)
            number += 4

    threads = [threading.Thread(target=insert, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    daemon.kill()
    for thread in threads:
        thread.join()
    assert acknowledged
    with Daemon(tmp_path / "data") as again:
        tree = again.events("t", "match:\n    tally(a)")
        assert {node["g"] for node in tree["_"]} >= set(acknowledged)


def test_sigterm_finishes_running_requests_and_exits_0(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "data", init=1, workers=1)
    fill(daemon, 1_000)
    answers: list[Response] = []
    running = in_background(daemon, ENDLESS, answers, timeout=60)
    time.sleep(0.3)
    address = ("127.0.0.1", daemon.port)
    assert daemon.stop() == 0
    running.join()
    assert answers and answers[0].status in (200, 400)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(address, 1):
        raise AssertionError("the daemon still listens")
    with Daemon(tmp_path / "data") as again:
        assert again.events("t", SUM)["_"][0]["c"][1] == 1_000


def test_an_idle_connection_does_not_keep_the_daemon(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "data", init=1, workers=1)
    connection = http.client.HTTPConnection("127.0.0.1", daemon.port)
    connection.request("GET", "/ping")
    assert connection.getresponse().read() == b'{"pong":true}'
    started = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - started < 10
    connection.close()


def test_a_second_daemon_on_the_data_directory_is_refused(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=1, workers=1) as daemon:
        second = Daemon(tmp_path / "data", wait=False, workers=1)
        assert second.process.wait(30) == 1
        reasons = [line["reason"] for line in second.log() if line.get("level") == "error"]
        assert len(reasons) == 1 and "in use" in reasons[0]
        assert daemon.request("GET", "/v1/table").status == 200


def test_a_port_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        daemon = Daemon(tmp_path / "data", wait=False, workers=1, port=taken.getsockname()[1])
        assert daemon.process.wait(30) == 1
        assert any("cannot listen" in line.get("reason", "") for line in daemon.log())


def test_a_killed_worker_gives_an_error_and_the_next_query_works(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=2, workers=2) as daemon:
        fill(daemon)
        expected = daemon.events("t", SUM)
        for number in (signal.SIGKILL, signal.SIGBUS):
            answers: list[Response] = []
            running = in_background(daemon, ENDLESS, answers)
            time.sleep(0.5)
            for worker in workers_of(daemon):
                os.kill(worker, number)
            running.join(30)
            assert answers[0].error["class"] == "run_time"
            assert signal.Signals(number).name in answers[0].error["message"]
            assert daemon.events("t", SUM) == expected
            assert len(workers_of(daemon)) == 2


def test_workers_end_with_a_killed_daemon(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "data", init=2, workers=2)
    workers = workers_of(daemon)
    assert len(workers) == 2
    daemon.kill()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{worker}").exists() for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)


def test_a_client_that_goes_away_cancels_its_query(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", init=1, workers=1) as daemon:
        fill(daemon)
        first = workers_of(daemon)
        connection = socket.create_connection(("127.0.0.1", daemon.port))
        body = ENDLESS.encode()
        head = f"POST /v1/query/t/events HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        time.sleep(0.5)
        connection.close()
        started = time.monotonic()
        assert daemon.events("t", SUM)["_"][0]["c"][1] == 3_000
        assert time.monotonic() - started < 10
        assert workers_of(daemon) != first


def test_ctrl_c_stops_in_order(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "data", init=1, workers=1)
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.process.wait(30) == 0


def test_requests_during_recovery_wait_for_it(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "data", init=2)
    fill(daemon, 20_000)
    daemon.kill()
    restarted = Daemon(tmp_path / "data", wait=False)
    try:
        port = restarted._wait_for("listening")["port"]
        restarted.port = port
        assert restarted.request("GET", "/ping").status == 200
        assert restarted.events("t", SUM)["_"][0]["c"][1] == 20_000
    finally:
        restarted.stop()


def test_the_command_line_serves(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {**os.environ, "OPENSET_DATA": str(tmp_path / "data"), "OPENSET_PORT": str(port)}
    process = subprocess.Popen(
        [sys.executable, "-m", "openset.cli", "serve", "--init", "2"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/v1/table")
                assert json.loads(connection.getresponse().read()) == {"tables": []}
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
