"""Queries over several nodes: golden queries answer as on one node, whichever is asked and whatever it loses."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from golden_runner import GoldenCase, golden_cases
from support.nodes import Nodes
from support.trees import Case, parse_tree, read_cases, rounded

from openset.errors import (
    InternalError,
    OpenSetError,
    ParseError,
    PartitionsError,
    QueryError,
    RunTimeError,
    UnreachableError,
)
from openset.query.remote import answer_remote
from openset.query.wire.asking import Answered, Ask
from openset.query.wire.codec import decoded, encoded
from openset_format.hashing import partition_of

GOLDEN = Path(__file__).parents[2] / "golden"
CONTENT: dict[str, Any] = json.loads((GOLDEN / "conformance" / "events.json").read_text())
CASES = list(read_cases(GOLDEN / "conformance" / "pyql.txt"))
SEGMENT = "@segment mugs:\n    match where product is 'mug':\n        tally\n"
TALLY = "match:\n    tally(product)\n"


def cluster(directory: Path, count: int, partitions: int, everywhere: tuple[int, ...] = ()) -> Nodes:
    """Nodes with the table of the worked cases."""
    nodes = Nodes.of(directory, count, partitions)
    table = CONTENT["table"]
    nodes.create_table("cases", [(column["name"], column["type"]) for column in table["columns"]], table["z-order"])
    nodes.insert("cases", CONTENT["events"], everywhere)
    return nodes


@pytest.fixture(scope="module", params=[(1, 3), (2, 3), (5, 8)], ids=["one node", "two nodes", "five nodes"])
def nodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    made = cluster(tmp_path_factory.mktemp("nodes"), *request.param)
    yield made
    made.close()


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Nodes]:
    """Three nodes, all of which have the data of all partitions, as in-sync copies have."""
    made = cluster(tmp_path, 3, 6, tuple(range(6)))
    yield made
    made.close()


def answered(nodes: Nodes, *query: str, at: str = "a", **parameters: str) -> Any:
    """What a node answers to a client, as JSON."""
    return json.loads(asyncio.run(nodes.members[at].body("cases", *query, **parameters)))


EVENTS_CASES = [pytest.param(case, id=case.name) for case in CASES if case.kind == "events"]


@pytest.mark.parametrize("case", EVENTS_CASES)
def test_worked_cases(nodes: Nodes, case: Case) -> None:
    for name in list(nodes.members)[:2]:
        answer = answered(nodes, "events", case.script, at=name, **case.parameters)
        assert rounded(answer["_"]) == rounded(parse_tree(case.expected))


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.kind == "histogram"])
def test_worked_histograms(nodes: Nodes, case: Case) -> None:
    (expected,) = parse_tree(case.expected)
    answer = answered(nodes, f"histogram/{expected['g']}", case.script, **case.parameters)
    assert rounded(answer["_"]) == rounded([expected])


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """The same without a Spread: a node that stands alone."""
    made = cluster(tmp_path_factory.mktemp("single"), 1, 3)
    made.stand_alone()
    yield made
    made.close()


@golden_cases("queries.txt")
def test_golden_queries_as_on_one_node(nodes: Nodes, single: Nodes, case: GoldenCase, update: bool) -> None:
    """The bytes are those of a node that stands alone; what these are is checked through HTTP."""
    first, _, rest = case.given.partition("\n")
    _, _, address = first.partition(" ")
    accept = None
    if rest.startswith("Accept: "):
        accept, _, rest = rest.removeprefix("Accept: ").partition("\n")
    path, _, query = address.partition("?")
    found = []
    for each in (single, nodes):
        member = each.members["a"]
        asyncio.run(member.body("cases", "counts", SEGMENT))
        found.append(asyncio.run(member.body("cases", path, rest, accept, **dict(parse_qsl(query)))))
    if "explain=true" in address and len(nodes.owners) != len(single.owners):
        return  # the number of partitions is in the answer
    assert found[0] == found[1]


def test_a_person_is_asked_of_the_owner(nodes: Nodes) -> None:
    for person in ("ann", "bob"):
        owner = nodes.owners[partition_of(person, len(nodes.owners))]
        for name in nodes.members:
            nodes.asked.clear()
            answer = answered(nodes, "person", at=name, sid=person)
            assert answer["person"] == person and answer["events"]
            assert nodes.asked == ([] if name == owner else [(name, owner)])
            explained = asyncio.run(nodes.members[name].explain("cases", TALLY, person))
            assert explained["person"] == person and explained["events"] == len(answer["events"])
    assert answered(nodes, "person", sid="nobody")["error"]["class"] == "query"


def test_facts_are_of_all_nodes(nodes: Nodes, single: Nodes) -> None:
    for path, script in (("events", TALLY), ("histogram/n", "return event_count"), ("column/product", "")):
        alone, together = (answered(each, path, script, info="true") for each in (single, nodes))
        for name in ("people", "events", "rows"):
            assert alone["info"][name] == together["info"][name]
        assert alone["_"] == together["_"]


def test_errors_of_a_script_come_once_and_as_on_one_node(nodes: Nodes, single: Nodes) -> None:
    failing = "match where product is 'mug':\n    x = 1 + product\n    tally(x)\n"
    for script in (failing, "tally(nothing_that_there_is)", "match:\n  tally(product)\n bad"):
        assert answered(single, "events", script) == answered(nodes, "events", script)
    assert answered(nodes, "events", TALLY, segments="none") == answered(single, "events", TALLY, segments="none")
    assert answered(nodes, "events", TALLY, int_x="3") == answered(single, "events", TALLY, int_x="3")


# ---------------------------------------------------------------- nodes that are lost


def expected(three: Nodes) -> Any:
    return answered(three, "events", TALLY)


@pytest.mark.parametrize("moment", ["before it is asked", "while it answers", "after it answered"])
def test_a_lost_node_is_replaced(three: Nodes, moment: str) -> None:
    """Its partitions are asked of their next owner, and every partition counts once."""
    wanted = expected(three)

    async def lose(node: str, body: bytes) -> bytes | None:
        if node != "b" or "b" in three.down:
            return None
        if moment == "while it answers":
            asyncio.get_running_loop().call_later(0.05, three.lose, "b", "c")
            await asyncio.sleep(30)  # it is called off
        answer = None
        if moment == "after it answered":
            answer = await answer_remote(three.members["b"].tools, body, three.members["b"].may_answer)
        three.lose("b", "c")
        if answer is None:
            raise UnreachableError("the connection broke")
        return answer

    three.before_answer = lose
    assert answered(three, "events", TALLY) == wanted
    assert three.down == {"b"}
    assert answered(three, "batch", json.dumps([{"query": "events", "script": TALLY}])) == [wanted]


def test_who_does_not_own_refuses_and_another_is_asked(three: Nodes) -> None:
    """The map of the coordinating node is old: the owner says so, and the query waits for the newer map."""
    wanted = expected(three)
    three.really = {number: "c" if owner == "b" else owner for number, owner in three.owners.items()}

    async def later(node: str, body: bytes) -> bytes | None:
        if node == "b":
            asyncio.get_running_loop().call_later(0.1, lambda: [three.move(n, o) for n, o in three.really.items()])
        return None

    three.before_answer = later
    assert answered(three, "events", TALLY) == wanted


def test_ownership_that_is_lost_during_the_run_voids_the_answer(three: Nodes) -> None:
    tools, owned = three.members["b"].tools, [number for number, owner in three.owners.items() if owner == "b"]
    answers = iter([True] * len(owned) + [False])
    body = ask(three, "events", owned)
    found = decoded(asyncio.run(answer_remote(tools, body, lambda _: next(answers))), Answered)
    assert found.result is None and list(found.refused) == owned
    found = decoded(asyncio.run(answer_remote(tools, body, lambda number: number == owned[0])), Answered)
    assert found.result is not None and list(found.refused) == owned[1:] and found.read <= 1


def test_partitions_that_nobody_answers_for_are_named(three: Nodes) -> None:
    three.lose("b", None)
    three.down.add("c")
    missing = [1, 2, 4, 5]
    for path, body in (
        ("events", TALLY),
        ("column/product", ""),
        ("histogram/n", "return event_count"),
        ("events", TALLY),
    ):
        error = answered(three, path, body, timeout="500")["error"]
        assert error["class"] == "internode" and error["detail"] == {"missing_partitions": missing}
        assert "1, 4 (no node owns them)" in error["message"] and "2, 5 (node 'c'" in error["message"]
        answer = answered(three, path, body, timeout="500", partial="true")
        assert answer["missing_partitions"] == missing
        assert answer["_"] is not None
    with pytest.raises(PartitionsError):
        asyncio.run(three.members["a"].query("cases", "events", TALLY, timeout="400"))


def test_a_partial_answer_is_that_of_the_others(three: Nodes) -> None:
    everything = answered(three, "column/person", partial="true")
    assert everything["missing_partitions"] == []
    three.lose("b", None)
    found = answered(three, "column/person", partial="true", timeout="400")
    mine = [node for node in everything["_"][0]["_"] if partition_of(node["g"], 6) not in (1, 4)]
    assert found["_"][0]["_"] == mine
    batch = [{"query": "column", "column": "person", "timeout": 400, "partial": partial} for partial in (True, False)]
    some, none = answered(three, "batch", json.dumps(batch))
    assert some == found and none["error"]["class"] == "internode"


def test_a_table_says_in_a_header_what_is_missing(three: Nodes) -> None:
    three.lose("b", None)
    document = asyncio.run(
        three.members["a"].document("cases", "column/person", "text/csv", partial="true", timeout="400")
    )
    assert document.headers["OpenSet-Missing-Partitions"] == "[1,4]"
    assert b"missing" not in document.body


def test_a_node_that_hangs_is_waited_for_until_time_is_up(three: Nodes) -> None:
    async def hang(node: str, body: bytes) -> bytes | None:
        if node == "b":
            await asyncio.sleep(60)
        return None

    three.before_answer = hang
    error = answered(three, "events", TALLY, timeout="500")["error"]
    assert "1, 4 (node 'b' did not answer within 500 ms" in error["message"]
    assert answered(three, "events", TALLY, timeout="500", partial="true")["missing_partitions"] == [1, 4]


def test_errors_of_other_nodes_are_raised_and_the_rest_is_called_off(three: Nodes) -> None:
    ended: list[str] = []

    async def fail(node: str, body: bytes) -> bytes | None:
        if node == "b":
            raise RunTimeError("it failed there")
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(node)
        return None

    three.before_answer = fail
    assert answered(three, "events", TALLY)["error"]["message"] == "it failed there"
    assert ended == ["c"]


def test_cancelling_ends_what_runs_on_other_nodes(three: Nodes) -> None:
    ended: list[str] = []

    async def hang(node: str, body: bytes) -> bytes | None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(node)
        return None

    async def cancelled() -> None:
        task = asyncio.create_task(three.members["a"].query("cases", "events", TALLY))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    three.before_answer = hang
    asyncio.run(cancelled())
    assert sorted(ended) == ["b", "c"]


def test_a_schema_that_changes_meanwhile_begins_the_query_again(three: Nodes) -> None:
    """A column is added, first here, a little later there; the script is compiled with it on every node or on none."""
    script = "match:\n    tally(extra)\n"
    three.members["a"].tools.store.add_column("cases", "extra", "int")
    assert "do not agree" in answered(three, "events", script, timeout="400")["error"]["message"]

    async def later(node: str, body: bytes) -> bytes | None:
        if "extra" not in three.members[node].tools.store.table("cases").column_types:
            asyncio.get_running_loop().call_later(
                0.02, three.members[node].tools.store.add_column, "cases", "extra", "int"
            )
        return None

    three.before_answer = later
    assert answered(three, "events", script) == {"_": []}


# ---------------------------------------------------------------- hostile requests and answers


def ask(three: Nodes, kind: str, partitions: list[int], **changed: Any) -> bytes:
    """What node a sends to others for an events query, changed."""
    caught: list[bytes] = []

    async def catch(node: str, body: bytes) -> bytes | None:
        caught.append(body)
        return None

    three.before_answer = catch
    expected(three)
    three.before_answer = None
    sent = decoded(caught[0], Ask)
    fields = {name: getattr(sent, name) for name in sent.__struct_fields__}
    return encoded(Ask(**{**fields, "kind": kind, "partitions": partitions, **changed}))


def test_requests_that_make_no_sense_are_refused(three: Nodes) -> None:
    tools = three.members["b"].tools
    bad = [b"", b"\xc1", encoded([1]), ask(three, "nothing", [1])]
    bad += [ask(three, "events", numbers) for numbers in ([], [1, 1], [4, 1], [-1], [6])]
    bad += [ask(three, "events", [1], left_ms=left) for left in (0, 1 << 40)]
    bad += [ask(three, kind, [1], request=b"\x81\xa1x\x01") for kind in ("events", "batch", "person", "explain")]
    bad += [ask(three, kind, [1], request=encoded({"table": 7})) for kind in ("events", "column", "counts", "refresh")]
    for body in bad:
        with pytest.raises(InternalError):
            asyncio.run(answer_remote(tools, body, lambda _: True))
    with pytest.raises((ParseError, QueryError)):
        unknown = encoded({"table": "none", "script": "", "common": {}, "parameters": [[], []]})
        asyncio.run(answer_remote(tools, ask(three, "events", [1], request=unknown), lambda _: True))


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        encoded(Answered(None, 0, [])),
        encoded(Answered(b"", 0, [])),
        encoded(Answered(b"nonsense", 1, [])),
        encoded(Answered(b"nonsense", 1 << 30, [])),
        encoded(Answered(None, 0, [0, 99])),
    ],
)
def test_answers_that_make_no_sense_are_an_internal_error(three: Nodes, answer: bytes) -> None:
    async def forged(node: str, body: bytes) -> bytes | None:
        return answer

    three.before_answer = forged
    with pytest.raises(OpenSetError) as raised:
        asyncio.run(three.members["a"].query("cases", "events", TALLY, timeout="500"))
    assert isinstance(raised.value, InternalError)
