"""Triggers of a cluster: made through any node, run by the owners, taken along when a node alone becomes a member."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.cluster import Node, is_settled, started, wait_until
from support.daemon import Response

STAMP = 1_700_000_000_000
THIRD = """def on_insert():
    bought = 0
    match where action is "buy":
        bought = bought + 1
    if bought >= 3:
        emit("regular", {"product": "prize"})
"""
LATER = 'def on_insert():\n    schedule(1, "later")\n\ndef later():\n    emit("later")\n'
PEOPLE = [f"person-{number:02}" for number in range(30)]


def done(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def create(node: Node, table: str = "shop") -> None:
    columns = [{"name": "product", "type": "text"}, {"name": "units", "type": "int"}]
    done(node.request("POST", f"/v1/table/{table}", json.dumps({"columns": columns})))


def save(node: Node, name: str, script: str = "", table: str = "shop", **options: Any) -> dict[str, Any]:
    return dict(done(node.request("POST", f"/v1/table/{table}/revent/{name}", script, **options)))


def buy(node: Node, at: int, people: list[str] = PEOPLE, table: str = "shop") -> None:
    events = [{"person": one, "action": "buy", "stamp": STAMP + 1_000 * at} for one in people]
    done(node.request("POST", f"/v1/insert/{table}", json.dumps(events)))


def found(node: Node, table: str = "shop") -> dict[str, list[int]]:
    """By action how many people and how many events there are."""
    script = "agg:\n    people\n    count stamp as stamps\n    sum units as units\nmatch:\n    tally(action)\n"
    answer = done(node.request("POST", f"/v1/query/{table}/events", script))
    return {entry["g"]: [int(entry["c"][0]), int(entry["c"][2] or 0)] for entry in answer["_"]}


def test_a_node_with_triggers_becomes_a_member_and_they_go_on(tmp_path: Path) -> None:
    with started(tmp_path, 3, partitions=6, joined=1) as cluster:
        first = cluster[0]
        create(first)
        save(first, "regular", THIRD, emit_as_event="true")
        save(first, "later", LATER, emit_as_event="true")
        for at in range(3):
            buy(first, at, PEOPLE[:10])
        wait_until("everybody is regular", lambda: found(first).get("regular") == [10, 0])
        buy(first, 3, PEOPLE[10:])
        for node in cluster.nodes[1:]:
            cluster.join(node)
        cluster.wait_for("all copies are there", is_settled)
        for node in cluster.nodes:
            assert [one["name"] for one in done(node.request("GET", "/v1/table/shop/revents"))["triggers"]] == [
                "later",
                "regular",
            ]
        buy(cluster[1], 4, PEOPLE[10:])
        assert found(cluster[2])["regular"] == [10, 0], "nobody emits twice, and nobody before the third time"
        buy(cluster[2], 5)
        for node in cluster.nodes:
            wait_until("everybody is regular", lambda node=node: found(node).get("regular") == [30, 0])  # type: ignore[misc]
            wait_until("everybody was late", lambda node=node: found(node).get("later") == [30, 0])  # type: ignore[misc]


EACH = 'def on_insert():\n    match where is_new and action is "buy":\n        emit("bought", {"units": 1})\n'


def test_triggers_go_on_when_an_owner_is_killed(tmp_path: Path) -> None:
    with started(tmp_path, 3, partitions=6) as cluster:
        cluster.wait_for("all copies are there", is_settled)
        create(cluster[1])
        save(cluster[2], "each", EACH, once="false", emit_as_event="true")
        wanted = 0
        for at in range(12):
            if at == 4:
                cluster[2].kill()
            if at == 8:
                cluster[2].start()
                cluster.wait_for("all copies are there", is_settled)
            buy(cluster[at % 2], at)
            wanted += len(PEOPLE)
            # One at a time: what is emitted in one turn is one event of a person.
            total = [len(PEOPLE), wanted]
            wait_until("all is evaluated", lambda total=total: found(cluster[0]).get("bought") == total)  # type: ignore[misc]
        save(cluster[0], "each", "", enabled="false")
        buy(cluster[1], 20)
        save(cluster[1], "each", "", enabled="true")
        buy(cluster[2], 21)
        wait_until("all is evaluated", lambda: found(cluster[0]).get("bought") == [30, wanted + len(PEOPLE)])
        assert done(cluster[1].request("DELETE", "/v1/table/shop/revent/each")) == {"deleted": "each"}
        for node in cluster.nodes:
            assert done(node.request("GET", "/v1/table/shop/revents")) == {"triggers": []}
            assert found(node)["bought"] == [30, wanted + len(PEOPLE)]


def test_what_two_nodes_change_at_once_is_not_lost(tmp_path: Path) -> None:
    with started(tmp_path, 2, partitions=2) as cluster:
        create(cluster[0])
        for number in range(6):
            save(cluster[number % 2], f"t{number}", EACH)
        for node in cluster.nodes:
            names = [one["name"] for one in done(node.request("GET", "/v1/table/shop/revents"))["triggers"]]
            assert names == [f"t{number}" for number in range(6)]
        wrong = cluster[1].request("POST", "/v1/table/shop/revent/bad", "def on_insert(:\n")
        assert (wrong.status, wrong.error["class"]) == (400, "parse")
        assert cluster[1].request("DELETE", "/v1/table/shop/revent/bad").error["class"] == "query"
        done(cluster[1].request("DELETE", "/v1/table/shop"))
        create(cluster[0])
        assert done(cluster[1].request("GET", "/v1/table/shop/revents")) == {"triggers": []}
