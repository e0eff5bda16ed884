"""While the embedded coordinator is not running: what goes on, what does not, and that nobody says all is well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.cluster import Node, is_settled, started, wait_until
from support.daemon import Response

from openset_format.hashing import partition_of

TALLY = "match: tally(action)"


def insert(node: Node, person: str, stamp: int, **options: Any) -> Response:
    return node.request(
        "POST", "/v1/insert/t", json.dumps([{"person": person, "action": "a", "stamp": stamp}]), **options
    )


def person_of(partition: int) -> str:
    return next(name for name in map(str, range(1_000)) if partition_of(name, 4) == partition)


def test_reads_of_living_owners_go_on_and_writes_want_their_copies(tmp_path: Path) -> None:
    with started(tmp_path, 3) as cluster:
        first, second, third = cluster.nodes
        cluster.wait_for("all is well", lambda status: status["health"]["status"] == "ok")
        assert first.request("POST", "/v1/table/t", json.dumps({"columns": []})).status == 200
        for number in range(4):
            assert insert(first, person_of(number), 10**12).status == 200
        name = first.name

        def parted() -> tuple[list[int], list[int], list[int]] | None:
            placed = {one["partition"]: one for one in second.status()["map"]}
            lost = [number for number, one in placed.items() if one["owner"] == name]
            alone = [number for number, one in placed.items() if number not in lost and name in one["in_sync"]]
            whole = [number for number, one in placed.items() if name not in one["in_sync"]]
            return (lost, alone, whole) if lost and alone and whole and is_settled(second.status()) else None

        lost, alone, whole = wait_until("there is one of each kind", parted)
        first.kill()
        for node in (second, third):
            found = wait_until("it says so", lambda node=node: _unknown(node))  # type: ignore[misc]
            assert "cannot be reached" in found["reason"]
            assert node.request("GET", "/health").json["cluster"]["status"] == "unknown"
        # Longer than any lease lasts.
        for _ in range(4):
            answer = second.request(
                "POST", "/v1/query/t/events", TALLY, partial="true", timeout=2_500, patience=10
            ).json
            assert answer["missing_partitions"] == lost
            assert answer["_"] == [{"g": "a", "c": [4 - len(lost)]}]
        for number in whole:
            assert insert(third, person_of(number), 10**12 + 1).status == 200
        refused = insert(third, person_of(alone[0]), 10**12 + 1, patience=60)
        assert refused.status == 503 and f"partition {alone[0]}" in refused.error["message"]
        assert third.request("POST", "/v1/table/u", json.dumps({"columns": []})).status == 503
        first.start()
        cluster.wait_for("all is well again", lambda status: status["health"]["status"] == "ok")
        assert insert(third, person_of(alone[0]), 10**12 + 1).status == 200


def _unknown(node: Node) -> dict[str, Any] | None:
    health: dict[str, Any] = node.status()["health"]
    return health if health["status"] == "unknown" else None
