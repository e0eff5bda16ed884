"""The worked cases, answered by a daemon over HTTP, for several numbers of partitions and again after a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon
from support.trees import Case, parse_tree, read_cases, rounded

DIRECTORY = Path(__file__).parents[1] / "golden" / "conformance"
CASES = list(read_cases(DIRECTORY / "pyql.txt"))
EVENTS_CASES = [pytest.param(case, id=case.name) for case in CASES if case.kind == "events"]
SEGMENT_CASES = {case.kind: case for case in CASES if case.kind in ("counts", "compare")}
HISTOGRAM_CASES = [pytest.param(case, id=case.name) for case in CASES if case.kind == "histogram"]
ERROR_CASES = [pytest.param(case, id=case.name) for case in CASES if case.kind == "error"]


@pytest.fixture(scope="module", params=[1, 3, 8])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon with the table `cases` and its events, restarted once after the insert."""
    content: dict[str, Any] = json.loads((DIRECTORY / "events.json").read_text())
    directory = tmp_path_factory.mktemp("cases") / "data"
    with Daemon(directory, init=request.param) as daemon:
        assert daemon.request("POST", "/v1/table/cases", json.dumps(content["table"])).status == 200
        daemon.insert("cases", content["events"])
    with Daemon(directory) as daemon:
        yield daemon


@pytest.mark.parametrize("case", EVENTS_CASES)
def test_case(loaded: Daemon, case: Case) -> None:
    answer = loaded.events("cases", case.script, **case.parameters)
    assert rounded(answer["_"]) == rounded(parse_tree(case.expected))


def test_segments_are_counted_and_compared(loaded: Daemon) -> None:
    counts, compare = SEGMENT_CASES["counts"], SEGMENT_CASES["compare"]
    for _ in range(2):
        answer = loaded.request("POST", "/v1/query/cases/counts", counts.script)
        assert answer.json == {"_": parse_tree(counts.expected)}
    answer = loaded.events("cases", compare.script, **compare.parameters)
    assert rounded(answer["_"]) == rounded(parse_tree(compare.expected))


@pytest.mark.parametrize("case", HISTOGRAM_CASES)
def test_histogram_case(loaded: Daemon, case: Case) -> None:
    (expected,) = parse_tree(case.expected)
    path = f"/v1/query/cases/histogram/{expected['g']}"
    answer = loaded.request("POST", path, case.script, **case.parameters).json
    assert rounded(answer["_"]) == rounded([expected])


@pytest.mark.parametrize("case", ERROR_CASES)
def test_error_case(loaded: Daemon, case: Case) -> None:
    answer = loaded.request("POST", "/v1/query/cases/events", case.script)
    error = answer.error
    assert answer.status == 400
    assert error["class"] == "parse"
    assert f"line {error['line']}" in case.expected
    lines = case.script.splitlines()
    shown, caret = error["detail"].splitlines()
    assert shown == lines[error["line"] - 1]
    assert caret.index("^") == error["column"] - 1
