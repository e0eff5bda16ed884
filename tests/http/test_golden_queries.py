"""Requests and answers as text: columns, histograms, batches, forms, zones, over the events of the worked cases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from golden_runner import GoldenCase, golden_cases
from support.daemon import Daemon

EVENTS = Path(__file__).parents[1] / "golden" / "conformance" / "events.json"
SEGMENT = "@segment mugs:\n    match where product is 'mug':\n        tally\n"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    content: dict[str, Any] = json.loads(EVENTS.read_text())
    with Daemon(tmp_path_factory.mktemp("golden") / "data", init=3) as daemon:
        assert daemon.request("POST", "/v1/table/cases", json.dumps(content["table"])).status == 200
        daemon.insert("cases", content["events"])
        assert daemon.request("POST", "/v1/query/cases/counts", SEGMENT).status == 200
        yield daemon


@golden_cases("queries.txt")
def test_queries(loaded: Daemon, case: GoldenCase, update: bool) -> None:
    """The first line of a case is the request, a second one may be a header, the rest is the body."""
    first, _, rest = case.given.partition("\n")
    method, _, address = first.partition(" ")
    headers: dict[str, str] = {}
    if rest.startswith("Accept: "):
        headers["Accept"], _, rest = rest.removeprefix("Accept: ").partition("\n")
    path, _, query = address.partition("?")
    answer = loaded.request(
        method, f"/v1/query/cases/{path}", rest or None, headers=headers, **dict(parse_qsl(query))
    )  # fmt: skip
    case.check(
        "\n".join(shown(answer.json)) if not headers else answer.body.decode().replace("\r\n", "\n"), update=update
    )


def shown(answer: Any) -> Iterator[str]:
    """A tree a node a line, anything else as JSON, a member a line."""
    if isinstance(answer, list):
        for number, one in enumerate(answer):
            yield f"[{number}]"
            yield from shown(one)
    elif "_" in answer:
        yield from nodes(answer["_"], 0)
    else:
        ((name, members),) = answer.items()
        yield name
        for member, value in members.items():
            yield f"  {member}: {json.dumps(value, ensure_ascii=False)}"


def nodes(siblings: list[dict[str, Any]], depth: int) -> Iterator[str]:
    for node in siblings:
        counts = " ".join(f"{name}={json.dumps(node[name])}" for name in node if name not in ("g", "_"))
        yield f"{'  ' * depth}{json.dumps(node['g'], ensure_ascii=False)}  {counts}"
        yield from nodes(node.get("_", []), depth + 1)
