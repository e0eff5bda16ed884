"""What the tests of segments ask a daemon."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from support.daemon import Daemon


def count(daemon: Daemon, table: str, script: str, **parameters: Any) -> dict[str, int]:
    """The people of each section of a counts request that must succeed."""
    answer = daemon.request("POST", f"/v1/query/{table}/counts", script, **parameters)
    assert answer.status == 200, answer.body
    return {entry["g"]: entry["c"][0] for entry in answer.json["_"]}


def listed(daemon: Daemon, table: str) -> dict[str, dict[str, Any]]:
    """The stored segments by name."""
    answer = daemon.request("GET", f"/v1/table/{table}/segments")
    assert answer.status == 200, answer.body
    return {entry["name"]: entry for entry in answer.json["segments"]}


def refused(daemon: Daemon, table: str, script: str, **parameters: Any) -> dict[str, Any]:
    """The error of a counts request, which must be a 400."""
    answer = daemon.request("POST", f"/v1/query/{table}/counts", script, **parameters)
    assert answer.status == 400, answer.body
    return answer.error


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns when the condition holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
