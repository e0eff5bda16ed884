"""The sentinel parts heavy partitions, says why, and then leaves everything where it is."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from support.cluster import Node, is_settled, started

from openset_format.hashing import partition_of


def owners(node: Node) -> dict[int, str]:
    return {one["partition"]: one["owner"] for one in node.status()["map"]}


def fill(node: Node, partitions: list[int], events: int) -> None:
    """So many events in each of some partitions."""
    people = [name for name in map(str, range(4_000)) if partition_of(name, 4) in partitions]
    share = events * len(partitions) // len(people)
    batch: list[dict[str, Any]] = []
    for person in people:
        batch += [{"person": person, "action": "a", "stamp": 10**12 + number} for number in range(share)]
    for first in range(0, len(batch), 20_000):
        answer = node.request("POST", "/v1/insert/t", json.dumps(batch[first : first + 20_000]), patience=30)
        assert answer.status == 200, answer.body


def test_heavy_partitions_are_parted(tmp_path: Path) -> None:
    with started(tmp_path, 2, partitions=4, replicas=1) as cluster:
        cluster.wait_for("two for each", lambda status: {one["owns"] for one in status["members"]} == {2})
        cluster.wait_for("settled", is_settled)
        first = cluster[0]
        assert first.request("POST", "/v1/table/t", json.dumps({"columns": []})).status == 200
        before = owners(first)
        heavy = [number for number, owner in before.items() if owner == cluster[1].name]
        fill(first, heavy, 60_000)
        cluster.wait_for(
            "they are parted",
            lambda status: len({one["owner"] for one in status["map"] if one["partition"] in heavy}) == 2,
        )
        status = first.status()
        assert any("weighs" in one["reason"] for one in status["sentinel"]["decisions"])
        rows = {one["partition"]: one["rows"] for one in status["map"]}
        assert all(rows[number] > 50_000 for number in heavy)
        assert sum(one["owned_rows"] for one in status["members"]) == sum(rows.values())
        cluster.wait_for("and light ones too", lambda status: {one["owns"] for one in status["members"]} == {2})
        cluster.wait_for("settled", is_settled)
        after = owners(first)
        time.sleep(12)  # the sentinel looks at the rows again
        assert owners(first) == after
