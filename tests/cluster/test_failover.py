"""How soon writes are accepted again when the owner of their partitions goes, with etcd and the usual lease."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support.cluster import Cluster, Node, members, started
from support.etcd import Etcd

from openset.cluster.options import ClusterOptions
from openset_format.hashing import partition_of

PARTITIONS = 4
USUAL = ClusterOptions()
MOST_SECONDS = 10.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, etcd: Etcd) -> Iterator[Cluster]:
    settings = {"lease_ms": USUAL.lease_ms, "gone_after_ms": USUAL.gone_after_ms}
    place = tmp_path_factory.mktemp("failover")
    with started(place, 3, etcd=etcd, prefix="failover", partitions=PARTITIONS, replicas=2, cluster=settings) as made:
        made[0].running.create("t", {"number": "int"})
        yield made


def in_order(status: dict[str, Any]) -> bool:
    """All own something, and every partition has its copies."""
    return all(one["owns"] for one in status["members"]) and all(len(one["in_sync"]) == 2 for one in status["map"])


def seconds_until_accepted(asked: Node, people: list[str], stamp: int) -> float:
    """How long an insert takes, which must succeed."""
    events = [{"person": person, "stamp": stamp, "action": "do"} for person in people]
    began = time.monotonic()
    answer = asked.request("POST", "/v1/insert/t", json.dumps(events))
    assert answer.status == 200, answer.body
    return time.monotonic() - began


@pytest.mark.parametrize("ends", ["stopped", "killed"])
def test_writes_are_accepted_again(cluster: Cluster, ends: str) -> None:
    """The node that goes is the sentinel as well, so that somebody has to be elected first."""
    cluster.wait_for("all is in order", in_order)
    status = cluster[0].status()
    (victim,) = [node for node in cluster.nodes if node.name == status["sentinel"]["node"]]
    name = victim.name
    owned = {one["partition"] for one in status["map"] if one["owner"] == name}
    people = [f"p{number}" for number in range(100) if partition_of(f"p{number}", PARTITIONS) in owned]
    asked = next(node for node in cluster.nodes if node is not victim)
    stamp = 1_500_000_000_000 + len(ends)
    seconds_until_accepted(asked, people, stamp)
    if ends == "stopped":
        victim.running.process.terminate()
    else:
        victim.kill()
    seconds = seconds_until_accepted(asked, people, stamp + 10)
    print(f"{ends}: writes were accepted again after {seconds:.1f} s")
    # Who stops in order says farewell; nobody waits for its lease to end.
    assert seconds < (USUAL.lease_ms / 1_000 if ends == "stopped" else MOST_SECONDS)
    assert asked.running.events("t", f"match where stamp == {stamp + 10}:\n    tally(1)\n")["_"][0]["c"] == [
        len(people)
    ]
    assert not members(asked.status())[name]["alive"]
    victim.running.process.wait(30)
    victim.start()
