"""A node whose events were all imported, so that its journal has no record, founds a cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.cluster import GONE_AFTER_MS, LEASE_MS, SECRET, Node, alive, is_settled, wait_until
from support.daemon import Response

STAMP = 1_700_000_000_000
PEOPLE = 100
SETTINGS: dict[str, Any] = {"secret": SECRET, "lease_ms": LEASE_MS, "gone_after_ms": GONE_AFTER_MS}


def done(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def imported(directory: Path) -> Path:
    """A data directory with four partitions of a table `t`."""
    events = directory / "events.ndjson"
    lines = [json.dumps({"person": f"p{n}", "stamp": STAMP + n, "action": "a"}) for n in range(PEOPLE)]
    events.write_text("\n".join(lines))
    data = directory / "n0"
    subprocess.run(
        [sys.executable, "-m", "openset.cli", "import", str(data), "t", str(events), "--create", "--partitions", "4"],
        check=True,
        capture_output=True,
    )
    return data


def people(node: Node) -> int:
    answer = done(node.request("POST", "/v1/query/t/events", "match: tally('all')", patience=20))
    return int(answer["_"][0]["c"][0])


def test_imported_events_are_on_all_copies_of_the_cluster(tmp_path: Path) -> None:
    nodes = [Node(imported(tmp_path), SETTINGS), Node(tmp_path / "n1", SETTINGS), Node(tmp_path / "n2", SETTINGS)]
    try:
        for node in nodes:
            node.start()
        assert people(nodes[0]) == PEOPLE
        for node in nodes[1:]:
            done(nodes[0].request("PUT", "/v1/cluster/join", host="127.0.0.1", port=node.port))
        wait_until("all copies are there", lambda: is_settled(nodes[0].status()))
        assert [people(node) for node in nodes] == [PEOPLE] * 3
        more = [{"person": f"p{n}", "stamp": STAMP, "action": "b"} for n in range(PEOPLE + 20)]
        done(nodes[1].request("POST", "/v1/insert/t", json.dumps(more)))
        assert [people(node) for node in nodes] == [PEOPLE + 20] * 3
        gone = nodes[2].name
        nodes[2].kill()
        wait_until("it is missed", lambda: gone not in alive(nodes[0].status()))
        assert [people(node) for node in nodes[:2]] == [PEOPLE + 20] * 2
        nodes[2].start()
        wait_until("it is back", lambda: is_settled(nodes[0].status()))
        assert people(nodes[2]) == PEOPLE + 20
    finally:
        for node in nodes:
            node.close()
