"""What is done to a table through any node of a cluster: erasing people and compacting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.cluster import Cluster, Node, alive, is_settled, started, wait_until
from support.daemon import Response

STAMP = 1_700_000_000_000
PEOPLE = 60


def events(table: str) -> list[dict[str, Any]]:
    """One of each person, with a word that is in no other table."""
    return [
        {"person": f"person-{n:02}", "stamp": STAMP + n, "action": "view", "attr": {"word": f"{table}-{n:02}", "n": n}}
        for n in range(PEOPLE)
    ]


def done(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def create(node: Node, table: str) -> None:
    """A table on all nodes, with everybody in it."""
    columns = [{"name": "word", "type": "text"}, {"name": "n", "type": "int"}]
    done(node.request("POST", f"/v1/table/{table}", json.dumps({"columns": columns})))
    done(node.request("POST", f"/v1/insert/{table}", json.dumps(events(table))))


def erase(node: Node, table: str, person: str) -> Response:
    return node.request("DELETE", f"/v1/table/{table}/person", sid=person)


def people(node: Node, table: str) -> int:
    answer = done(node.request("POST", f"/v1/query/{table}/events", "match: tally('all')"))
    return int(answer["_"][0]["c"][0])


def count(node: Node, table: str, script: str) -> dict[str, int]:
    answer = done(node.request("POST", f"/v1/query/{table}/counts", script))
    return {entry["g"]: entry["c"][0] for entry in answer["_"]}


def listed(node: Node, table: str) -> dict[str, int]:
    """The people of the stored segments by name."""
    answer = done(node.request("GET", f"/v1/table/{table}/segments"))
    return {entry["name"]: entry["people"] for entry in answer["segments"]}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members with two copies of each partition, so that each lacks some."""
    with started(tmp_path_factory.mktemp("cluster"), 3, partitions=6) as cluster:
        cluster.wait_for("all copies are there", is_settled)
        yield cluster


EVERY = "@segment every:\n    match: tally\n@segment low:\n    match where n < 10: tally\n"


def test_who_is_erased_through_any_node_is_gone_from_all(cluster: Cluster) -> None:
    create(cluster[0], "erased")
    assert count(cluster[1], "erased", EVERY) == {"every": PEOPLE, "low": 10}
    left = PEOPLE
    for number in range(9):
        node = cluster[number % 3]
        assert done(erase(node, "erased", f"person-{number:02}")) == {"deleted": f"person-{number:02}"}
        left -= 1
        for other in cluster.nodes:
            assert people(other, "erased") == left
            assert listed(other, "erased") == {"every": left, "low": 10 - 1 - number}
            assert other.request("GET", "/v1/query/erased/person", sid=f"person-{number:02}").error["class"] == "query"
    for node in cluster.nodes:
        error = erase(node, "erased", "person-00").error
        assert (error["class"], error["message"]) == ("query", "there is no person 'person-00' in table 'erased'")
        assert erase(node, "nothing", "person-00").error["class"] == "query"
        assert erase(node, "erased", "nobody").error["class"] == "query"
    # Somebody of the same id is another person.
    done(cluster[2].request("POST", "/v1/insert/erased", json.dumps(events("erased")[:1])))
    assert [people(node, "erased") for node in cluster.nodes] == [left + 1] * 3
    assert listed(cluster[0], "erased") == {"every": left, "low": 1}


def test_health_says_how_the_cluster_is(cluster: Cluster) -> None:
    for node in cluster.nodes:
        health = done(node.request("GET", "/health"))
        assert (health["status"], health["cluster"]) == ("ok", {"node": node.name, "alive": True, "status": "ok"})


def found_in(cluster: Cluster, text: bytes) -> list[str]:
    """The files of the nodes that have a text in them."""
    paths = [path for node in cluster.nodes for path in node.data.rglob("*") if path.is_file()]
    return [str(path) for path in paths if text in path.read_bytes()]


def test_compacting_through_any_node_leaves_nothing_on_any(cluster: Cluster) -> None:
    create(cluster[0], "forgetting")
    cluster.wait_for("copies are there", is_settled)
    for number in range(6):
        person, node = f"person-{number:02}", cluster[number % 3]
        done(erase(node, "forgetting", person))
    assert found_in(cluster, b"forgetting-05")
    compacted = done(cluster[1].request("POST", "/v1/table/forgetting/compact"))["compacted"]
    assert compacted > 6, "there are six partitions, each on two nodes"
    assert found_in(cluster, b"forgetting-05") == []
    assert len(found_in(cluster, b"forgetting-20")) == 2, "in the file of each copy"
    for node in cluster.nodes:
        assert people(node, "forgetting") == PEOPLE - 6
        assert done(node.request("POST", "/v1/table/forgetting/compact")) == {"compacted": 0}
        assert node.request("POST", "/v1/table/nothing/compact").error["class"] == "query"


def test_a_node_that_was_down_answers_with_the_segments_of_the_others(cluster: Cluster) -> None:
    create(cluster[0], "away")
    cluster.wait_for("copies are there", is_settled)
    count(cluster[0], "away", EVERY + "@segment gone:\n    match where n < 5: tally\n")
    away, rest = cluster[1], [cluster[0], cluster[2]]
    name = away.name
    away.kill()
    error = wait_until("it is missed", lambda: rest[0].request("POST", "/v1/table/away/compact", patience=60)).error
    assert (error["class"], name in error["message"]) == ("internode", True)
    # GET /health is "degraded" until the others have made the copies that are missing.
    cluster.wait_for("its lease has ended", lambda status: name not in alive(status), rest)
    cluster.wait_for("others own its partitions", lambda status: owned_by_others(status, name), rest)
    done(erase(rest[0], "away", "person-03"))
    done(rest[1].request("DELETE", "/v1/table/away/segments/gone"))
    count(rest[0], "away", "@segment low:\n    match where n < 20: tally\n@segment new:\n    complement(low)\n")
    away.start()
    expected = {"every": PEOPLE - 1, "low": 19, "new": 40}
    assert listed(away, "away") == expected
    answer = done(away.request("POST", "/v1/query/away/events", "match: tally('all')", segments="low,new,every"))
    assert [answer["_"][0][f"c{end}"][0] for end in ("", "2", "3")] == [19, 40, PEOPLE - 1]
    gone = away.request("POST", "/v1/query/away/events", "match: tally('all')", segments="gone")
    assert "no segment 'gone'" in gone.error["message"]
    assert [listed(node, "away") for node in cluster.nodes] == [expected] * 3
    cluster.wait_for("it is whole again", is_settled)
    done(away.request("POST", "/v1/table/away/compact"))
    assert found_in(cluster, b"away-03") == []


def owned_by_others(status: dict[str, Any], name: str) -> bool:
    return name not in alive(status) and all(each["owner"] != name for each in status["map"])
