"""Clusters of two and of five nodes answer every golden script as one node does, whichever node is asked.

What one node answers is held against the golden files elsewhere (`test_golden_queries`, `test_conformance`, `golden/`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from golden_runner import GOLDEN, read_golden
from support.cluster import Node, members, started
from support.daemon import Daemon, Response
from support.event_maker import COLUMNS, Z_ORDER
from support.found_cases import DIRECTORY, read_found
from support.trees import read_cases

PARTITIONS = 5
SEGMENT = "@segment mugs:\n    match where product is 'mug':\n        tally\n"


@dataclass(frozen=True)
class Question:
    """A request whose answer is the same everywhere."""

    name: str
    path: str
    body: str | None
    method: str = "POST"
    parameters: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    def answer(self, node: Node | Daemon) -> Any:
        """Status and content, doubles without what depends on the order of addition."""
        answer = node.request(self.method, self.path, self.body, headers=self.headers, **self.parameters)
        if not answer.headers["content-type"].startswith("application/json"):
            return answer.status, answer.body
        return answer.status, rounded(answer.json)


def rounded(value: Any) -> Any:
    """JSON in which bool, int and double are told apart."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    if isinstance(value, float):
        return f"{value:.12g}" if math.isfinite(value) else str(value)
    return ("bool", value) if isinstance(value, bool) else value


def questions() -> Iterator[Question]:
    """All golden scripts as requests about the tables that `filled` makes."""
    for case in read_golden(GOLDEN / "queries.txt"):
        first, _, rest = case.given.partition("\n")
        method, _, address = first.partition(" ")
        headers: dict[str, str] = {}
        if rest.startswith("Accept: "):
            headers["Accept"], _, rest = rest.removeprefix("Accept: ").partition("\n")
        path, _, query = address.partition("?")
        parameters = dict(parse_qsl(query))
        yield Question(case.name, f"/v1/query/cases/{path}", rest or None, method, parameters, headers)
    for worked in read_cases(GOLDEN / "conformance" / "pyql.txt"):
        kind = {"counts": "counts", "histogram": "histogram/people"}.get(worked.kind, "events")
        yield Question(worked.name, f"/v1/query/cases/{kind}", worked.script, parameters=worked.parameters)
    for case in (*read_golden(GOLDEN / "trees.txt"), *read_golden(GOLDEN / "errors.txt")):
        kind = "counts" if case.options == "counts" else "events"
        yield Question(case.name, f"/v1/query/cases/{kind}", case.given)
    for number, found in enumerate(read_found(path) for path in found_files()):
        parameters = {"tz": found.conditions.zone, "session_time": str(found.conditions.session_time_ms)}
        yield Question(found.title, f"/v1/query/found{number}/events", found.script, parameters=parameters)


def found_files() -> list[Path]:
    return sorted(DIRECTORY.glob("*.txt"))


def fill(node: Node | Daemon) -> None:
    """The tables that golden scripts are about."""
    content: dict[str, Any] = json.loads((GOLDEN / "conformance" / "events.json").read_text())
    done(node.request("POST", "/v1/table/cases", json.dumps(content["table"])))
    done(node.request("POST", "/v1/insert/cases", json.dumps(content["events"])))
    done(node.request("POST", "/v1/query/cases/counts", SEGMENT))
    columns = [{"name": name, "type": kind} for name, kind in COLUMNS.items()]
    for number, path in enumerate(found_files()):
        done(node.request("POST", f"/v1/table/found{number}", json.dumps({"columns": columns, "z-order": Z_ORDER})))
        done(node.request("POST", f"/v1/insert/found{number}", json.dumps(read_found(path).events)))


def done(answer: Response) -> None:
    assert answer.status == 200, answer.body


def test_two_and_five_nodes_answer_every_golden_script_as_one(tmp_path: Path) -> None:
    asked = list(questions())
    with Daemon(tmp_path / "one", init=PARTITIONS, workers=1) as one:
        fill(one)
        expected = [question.answer(one) for question in asked]
    assert sum(status == 200 for status, _ in expected) > 60, "most scripts are about these tables"
    with started(tmp_path, 5, partitions=PARTITIONS, joined=2) as cluster:
        fill(cluster[1])
        for count in (2, 5):
            for node in cluster.nodes[len(members(cluster[0].status())) : count]:
                cluster.join(node)
            cluster.wait_for(
                "all hold something, and nothing moves",
                lambda status, count=count: (
                    sum(bool(one["in_sync"]) for one in status["members"]) == count
                    and status["health"]["status"] == "ok"
                    and not any(one["filling"] or one["successor"] for one in status["map"])
                ),
                cluster.nodes[:count],
            )
            nodes = cycle(cluster.nodes[:count])
            wrong = [
                (count, question.name, known, found)
                for question, known, node in zip(asked, expected, nodes, strict=False)
                if (found := question.answer(node)) != known
            ]
            assert not wrong, wrong[:3]
