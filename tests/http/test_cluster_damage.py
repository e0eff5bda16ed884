"""Damaged files of a copy are replaced by those of another one, found at the start, by the scrub or by a transfer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster, Node, is_settled, members, started, wait_until
from support.daemon import Response
from support.damage import flip, in_the_rows

from openset_format.reader import PartitionFile
from openset_format.verify import verify_partition

STAMP = 1_700_000_000_000
PEOPLE = 200
SCRUBBING = {"bytes_per_second": 1e12, "interval_s": 0.5}


def done(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def filled(cluster: Cluster) -> None:
    """A table whose events are in files on all nodes."""
    cluster.wait_for("all copies are there", is_settled)
    wait_until("each owns something", lambda: all(one["owns"] for one in cluster[0].status()["members"]))
    done(cluster[0].request("POST", "/v1/table/t", json.dumps({"columns": []})))
    events = [{"person": f"p{number}", "action": "view", "stamp": STAMP + number} for number in range(PEOPLE)]
    done(cluster[0].request("POST", "/v1/insert/t", json.dumps(events), patience=40))
    done(cluster[0].request("POST", "/v1/table/t/compact", patience=60))


def count(node: Node) -> int:
    answer = done(node.request("POST", "/v1/query/t/events", "agg:\n    count person as n\nmatch: tally('all')"))
    return int(answer["_"][0]["c"][0])


def file_of(node: Node, partition: int) -> Path:
    return node.data / "tables" / "1" / f"p{partition:04d}.h5"


def owned_by(node: Node, name: str) -> list[int]:
    return [one["partition"] for one in node.status()["map"] if one["owner"] == name]


def is_whole(nodes: Sequence[Node]) -> bool:
    """Every copy is in sync, sound, and known to be."""
    status = nodes[0].status()
    files = [path for node in nodes for path in node.data.glob("tables/*/p*.h5")]
    return (
        is_settled(status)
        and not any(one["damaged"] for one in status["members"])
        and all(done(node.request("GET", "/health"))["damage"] == [] for node in nodes)
        and not any(verify_partition(path) for path in files)
    )


@pytest.mark.parametrize("nodes", [2, 3])
def test_what_the_scrub_finds_is_replaced(nodes: int, tmp_path: Path) -> None:
    """Of a partition that the node owns, and of one that another node owns."""
    with started(tmp_path, nodes, partitions=6, scrubbing=SCRUBBING) as cluster:
        filled(cluster)
        first, second = cluster[0], cluster[1]
        name, own = second.name, owned_by(first, second.name)[0]
        other = next(
            one["partition"] for one in first.status()["map"] if one["owner"] != name and name in one["in_sync"]
        )
        for partition in (own, other):
            flip(file_of(second, partition), in_the_rows(file_of(second, partition)))
        wait_until("it is repaired", lambda: any(d["reason"].find("is damaged") > 0 for d in decisions(first)), 60)
        wait_until("everything is whole", lambda: is_whole(cluster.nodes), 60)
        reasons = {one["reason"] for one in decisions(first) if one.get("partition") == own}
        assert f"the copy of the owner {name} is damaged" in reasons
        assert [count(node) for node in cluster.nodes] == [PEOPLE] * nodes


def decisions(node: Node) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.status()["sentinel"]["decisions"]
    return found


def test_what_a_start_finds_is_replaced(tmp_path: Path) -> None:
    """A file whose head is damaged, and one that is missing."""
    with started(tmp_path, 2, partitions=4) as cluster:
        filled(cluster)
        first, second = cluster[0], cluster[1]
        damaged, missing = owned_by(first, second.name)[0], owned_by(first, first.name)[0]
        assert second.stop() == 0
        flip(file_of(second, damaged), 100)
        file_of(second, missing).unlink()
        second.start()
        # Away for long enough it is not in sync any more, and gets everything anew for that reason.
        wait_until("everything is whole", lambda: file_of(second, missing).exists() and is_whole(cluster.nodes), 60)
        first.kill()
        assert second.stop() == 0, "it waits for the coordinator"
        first.start(wait=False)
        second.start()
        cluster.wait_for("all are there", is_settled)
        assert [count(node) for node in cluster.nodes] == [PEOPLE] * 2


def test_what_a_query_cannot_read_is_replaced(tmp_path: Path) -> None:
    """Codes for which there is no text; the scrub does not come by."""
    with started(tmp_path, 2, partitions=4, scrubbing={"bytes_per_second": 0}) as cluster:
        filled(cluster)
        first, second = cluster[0], cluster[1]
        path = file_of(second, owned_by(first, second.name)[0])
        place = PartitionFile.open(path).manifest.datasets["/events/action/values"]
        for offset in range(place.offset, place.offset + place.size_bytes):
            flip(path, offset, 0xFF)
        assert first.request("POST", "/v1/query/t/events", "match: tally(action)").status == 500
        wait_until("everything is whole", lambda: is_whole(cluster.nodes), 60)
        assert [count(node) for node in cluster.nodes] == [PEOPLE] * 2
        assert first.request("POST", "/v1/query/t/events", "match: tally(action)").status == 200


def test_what_a_compaction_cannot_read_is_replaced(tmp_path: Path) -> None:
    """A head that is damaged and a file that is gone while the nodes run; there is nothing to bring in."""
    with started(tmp_path, 2, partitions=4, scrubbing={"bytes_per_second": 0}) as cluster:
        filled(cluster)
        first, second = cluster[0], cluster[1]
        damaged, missing = owned_by(first, second.name)
        flip(file_of(second, damaged), 0)
        file_of(second, missing).unlink()
        second.request("POST", "/v1/table/t/compact", patience=60)
        wait_until("everything is whole", lambda: file_of(second, missing).exists() and is_whole(cluster.nodes), 60)
        assert done(first.request("POST", "/v1/table/t/compact", patience=60)) is not None
        assert [count(node) for node in cluster.nodes] == [PEOPLE] * 2


def test_what_has_no_other_copy_stays_as_it_is(tmp_path: Path) -> None:
    with started(tmp_path, 2, partitions=4, replicas=1, scrubbing=SCRUBBING) as cluster:
        filled(cluster)
        first, second = cluster[0], cluster[1]
        name, partition = second.name, owned_by(first, second.name)[0]
        flip(file_of(second, partition), in_the_rows(file_of(second, partition)))
        wait_until("it is known", lambda: members(first.status())[name]["damaged"] == [partition])
        before = next(one for one in first.status()["map"] if one["partition"] == partition)
        health = done(second.request("GET", "/health"))
        assert [Path(one["file"]).name for one in health["damage"]] == [file_of(second, partition).name]
        assert first.status()["health"]["missing_copies"] == [partition]
        wait_until(
            "it is looked at again",
            lambda: done(second.request("GET", "/health"))["scrub"]["at"] > health["scrub"]["at"],
        )  # fmt: skip
        assert next(one for one in first.status()["map"] if one["partition"] == partition) == before
        assert file_of(second, partition).exists()


def test_what_a_transfer_finds_is_replaced(tmp_path: Path) -> None:
    """The owner's file is damaged where only the node looks that gets it; the sound copy is on a node that leaves."""
    with started(tmp_path, 3, partitions=6, scrubbing={"bytes_per_second": 0}) as cluster:
        filled(cluster)
        first = cluster[0]
        by_name = {node.name: node for node in cluster.nodes}
        partition, owner, leaves = next(
            (one["partition"], by_name[one["owner"]], by_name[name])
            for one in first.status()["map"]
            for name in one["in_sync"]
            if name not in (one["owner"], first.name)
        )
        name, goes = owner.name, leaves.name
        flip(file_of(owner, partition), in_the_rows(file_of(owner, partition)))
        done(first.request("PUT", "/v1/cluster/leave", node=goes))
        wait_until("it has left", lambda: goes not in members(first.status()), 60)
        assert f"the copy of the owner {name} is damaged" in {one["reason"] for one in decisions(first)}
        stay = [node for node in cluster.nodes if node is not leaves]
        wait_until("everything is whole", lambda: is_whole(stay), 60)
        assert [count(node) for node in stay] == [PEOPLE] * 2
