"""Segments that were removed stay removed, and those that were made are everywhere, whichever nodes were away meanwhile
and in whichever order they are started again."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster, Node, alive, is_settled, started, wait_until
from support.daemon import Response
from support.etcd import Etcd

STAMP = 1_700_000_000_000
PEOPLE = 20
EVENTS = [{"person": f"p{n}", "stamp": STAMP + n, "action": "view", "attr": {"n": n}} for n in range(PEOPLE)]


def done(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def make(node: Node, *sections: str) -> None:
    done(node.request("POST", "/v1/query/t/counts", "\n".join(f"@segment {section}: tally" for section in sections)))


def listed(node: Node) -> dict[str, int]:
    """The people of the stored segments by name."""
    answer = done(node.request("GET", "/v1/table/t/segments"))
    return {entry["name"]: entry["people"] for entry in answer["segments"]}


@contextlib.contextmanager
def cluster_of(directory: Path) -> Iterator[Cluster]:
    """Three members with etcd, so that each can be the only one that runs. All of them have a copy of everything."""
    etcd = Etcd(directory / "etcd", 1)
    try:
        with started(directory / "nodes", 3, etcd=etcd, replicas=3) as cluster:
            done(cluster[0].request("POST", "/v1/table/t", json.dumps({"columns": [{"name": "n", "type": "int"}]})))
            done(cluster[0].request("POST", "/v1/insert/t", json.dumps(EVENTS)))
            cluster.wait_for("all copies are there", is_settled)
            yield cluster
    finally:
        etcd.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_of(tmp_path) as made:
        yield made


def leave(cluster: Cluster, node: Node) -> None:
    """A node ends, and the others know."""
    name = node.name
    node.stop()
    rest = [one for one in cluster.nodes if one.daemon is not None and one.daemon.process.poll() is None]
    cluster.wait_for("it is gone", lambda status: name not in alive(status), rest)


def test_who_was_away_does_not_bring_back_what_was_removed(cluster: Cluster) -> None:
    first, away, third = cluster.nodes
    make(first, "s7", "kept", "early refresh=1s")
    leave(cluster, away)
    done(first.request("DELETE", "/v1/table/t/segments/s7"))
    done(third.request("DELETE", "/v1/table/t/segments/early"))
    # Nobody has it in memory any more.
    leave(cluster, third)
    first.stop()
    away.start()
    assert set(listed(away)) >= {"s7", "kept"}, "nobody could tell it"
    first.start()
    third.start()
    cluster.wait_for("all are there", is_settled)
    for node in cluster.nodes:
        wait_until("it is removed again", lambda node=node: not listed(node).keys() & {"s7", "early"})
    assert [listed(node).get("kept") for node in cluster.nodes] == [PEOPLE] * 3
    for node in (away, first, third):
        error = node.request("POST", "/v1/query/t/events", "match: tally('all')", segments="s7").error
        assert "no segment 's7'" in error["message"]
        assert node.request("DELETE", "/v1/table/t/segments/s7").error["class"] == "query"
    # Made anew it is there, and outlasts restarts.
    make(away, "s7")
    for node in cluster.nodes:
        node.stop()
        node.start()
        assert listed(node)["s7"] == PEOPLE
    cluster.wait_for("all are there", is_settled)
    assert [listed(node).get("s7") for node in cluster.nodes] == [PEOPLE] * 3


def test_what_was_made_by_the_only_node_that_ran_reaches_those_that_were_away(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    make(first, "old")
    leave(cluster, third)
    make(second, "old", "new")
    done(first.request("DELETE", "/v1/table/t/person", sid="p3"))
    first.stop()
    second.stop()
    third.start()
    assert listed(third) == {"old": PEOPLE}
    first.start()
    second.start()
    cluster.wait_for("all are there", is_settled)
    for node in cluster.nodes:
        wait_until("both are there", lambda node=node: listed(node) == {"old": PEOPLE - 1, "new": PEOPLE - 1})
