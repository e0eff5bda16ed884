"""Events without a stamp through all nodes of a cluster: none replaces another one."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from support.cluster import Node, started

PEOPLE = "match: tally(person)"


def insert(node: Node, events: list[dict[str, Any]]) -> None:
    answer = node.request("POST", "/v1/insert/t", json.dumps(events))
    assert (answer.status, answer.json["accepted"]) == (200, len(events)), answer.body


def stamps(node: Node, person: str) -> list[int]:
    found = node.request("GET", "/v1/query/t/person", sid=person).json
    return [event["stamp"] for event in found["events"]]


def test_no_event_without_a_stamp_replaces_another_one(tmp_path: Path) -> None:
    with started(tmp_path, 3) as cluster:
        assert cluster[0].request("POST", "/v1/table/t", json.dumps({"columns": []})).status == 200
        people = [f"p{number}" for number in range(5)]
        began_ms = time.time_ns() // 1_000_000

        def send(number: int) -> None:
            events = [{"person": person, "action": "tick"} for person in people for _ in range(20)]
            events += [{"person": people[0], "action": "given", "stamp": 10**12 + number}]
            insert(cluster[number % 3], events)

        with ThreadPoolExecutor(3) as pool:
            list(pool.map(send, range(30)))
        for node in cluster.nodes:
            for person in people:
                found = stamps(node, person)
                given = 30 * (person == people[0])
                assert len(found) == 600 + given, person
                ticks = sorted(found)[given:]
                assert len(set(ticks)) == 600 and began_ms <= ticks[0]

        owners = [one["owner"] for one in cluster[0].status()["map"]]
        victim = next(node for node in cluster.nodes[1:] if node.name in owners)
        victim.kill()
        others = [node for node in cluster.nodes if node is not victim]
        insert(others[0], [{"person": person, "action": "later"} for person in people for _ in range(3)])
        insert(others[1], [{"person": person, "action": "later"} for person in people for _ in range(3)])
        assert [len(stamps(others[0], person)) for person in people] == [636, *[606] * 4]
