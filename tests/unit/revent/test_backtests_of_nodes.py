"""Backtests over several nodes: the answer of one node with everything, whoever is asked and whatever is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.nodes import Nodes

from openset.errors import InternalError, InternodeError, OpenSetError, PartitionsError, RunTimeError, UnreachableError
from openset.query.remote import answer_remote
from openset.query.wire.asking import Answered, Ask
from openset.query.wire.codec import decoded, encoded
from openset.revent import backtests
from openset.revent.backtests import BacktestRequest, backtest
from openset.revent.spread_backtests import KIND, BacktestPass, answer_pass
from openset.store.segment import SegmentColumn
from openset.store.stamps import LAST_STAMP

START = 1_700_000_000_000
HOUR = 3_600_000
PARTITIONS = 6
SILENT = """def on_insert():
    schedule(5 hours, "silent")
    match where is_new and action is "buy":
        emit("bought", {"units": units, "kinds": set([1, 2.5, "x"])})

def silent():
    emit("silent", to_hours(now - last_event))
    cancel("silent")
"""
# Fails in some runs, so that the rows of errors are those of all nodes together.
SOMETIMES = """def on_insert():
    match where is_new and units > 1:
        x = "units " + units
    match where is_new:
        emit("fine", units)
"""
ALWAYS = "def on_insert():\n    emit(1 + action)\n"
BUYERS = "@segment buyers:\n    match where action is 'buy': tally\n"


def history() -> list[dict[str, Any]]:
    """Of 30 people, two an hour; some in the same millisecond."""
    chance = random.Random(5)
    return [
        {
            "person": chance.choice([f"p{chance.randrange(20)}", chance.randrange(1, 10)]),
            "stamp": START + (number - number % 7 // 6) * HOUR // 2,
            "action": chance.choice(("look", "look", "buy")),
            "attr": {"units": chance.choice((1, 1, 2, 3))},
        }
        for number in range(240)
    ]


def made(directory: Path, count: int) -> Nodes:
    nodes = Nodes.of(directory, count, PARTITIONS)
    nodes.create_table("t", [("units", "int")])
    nodes.insert("t", history(), range(PARTITIONS))
    return nodes


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Nodes]:
    """Three nodes, all of which have the data of all partitions, as in-sync copies have."""
    nodes = made(tmp_path / "three", 3)
    yield nodes
    nodes.close()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Nodes]:
    nodes = made(tmp_path / "one", 1)
    nodes.stand_alone()
    yield nodes
    nodes.close()


def asked(script: str, **options: Any) -> BacktestRequest:
    fields: dict[str, Any] = {"once": False, "to_ms": START + 1_000 * HOUR, "errors_until_disabled": 4, **options}
    return BacktestRequest("t", "tried", script, **fields)


async def answer(nodes: Nodes, request: BacktestRequest, at: str = "a") -> Any:
    """All that a client is told."""
    found = await backtest(nodes.members[at].tools, request)
    return found.shown(), found.lines()


def answered(nodes: Nodes, request: BacktestRequest, at: str = "a") -> Any:
    return asyncio.run(answer(nodes, request, at))


REQUESTS = [
    asked(SILENT),
    asked(SILENT, once=True),
    asked(SILENT, from_ms=START + 30 * HOUR, to_ms=START + 80 * HOUR),
    asked(SILENT, filter="buyers"),
    asked(ALWAYS),
    *(asked(SOMETIMES, errors_until_disabled=limit) for limit in (2, 4, 6, 1_000)),
]


@pytest.mark.parametrize("pieces", [None, (1, 1), (3, 5)])
def test_every_node_answers_as_one_with_everything(
    one: Nodes, three: Nodes, pieces: tuple[int, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for nodes in (one, three):
        asyncio.run(nodes.members["a"].query("t", "counts", BUYERS))
    expected = [answered(one, request) for request in REQUESTS]
    disabled = [shown["disabled_at"] for shown, _ in expected]
    assert [at is not None for at in disabled] == [False] * 4 + [True] * 4 + [False]
    assert disabled[5] < disabled[6] < disabled[7], "rows of errors are broken by what succeeded"
    if pieces is not None:
        monkeypatch.setattr(backtests, "_FIRST_MOMENTS", pieces[0])
        monkeypatch.setattr(backtests, "_MOST_MOMENTS", pieces[1])
        assert [answered(one, request) for request in REQUESTS] == expected
    for name in three.members:
        assert [answered(three, request, name) for request in REQUESTS] == expected


def test_a_failing_script_costs_small_requests(three: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Owners hear of as many failures as one piece has, however many runs failed."""
    sizes: list[int] = []

    async def measure(node: str, body: bytes) -> bytes | None:
        failures = decoded(decoded(body, Ask).request, BacktestPass).failures
        sizes.append(0 if failures is None else len(failures))
        return None

    three.before_answer = measure
    monkeypatch.setattr(backtests, "_FIRST_MOMENTS", 8)
    assert answered(three, asked(ALWAYS))[0]["errors"] == 4
    assert sorted(set(sizes)) == [0, 64]


# ---------------------------------------------------------------- nodes that are lost


@pytest.mark.parametrize("request_", [1, 2, 3], ids=["replay", "successes", "replay up to the end"])
@pytest.mark.parametrize("moment", ["before it is asked", "while it answers", "after it answered"])
def test_a_node_that_is_lost_in_any_pass_is_replaced(three: Nodes, request_: int, moment: str) -> None:
    request = asked(SOMETIMES)
    wanted = answered(three, request)
    count = 0

    async def lose(node: str, body: bytes) -> bytes | None:
        nonlocal count
        if node != "b" or "b" in three.down:
            return None
        count += 1
        if count < request_:
            return None
        if moment == "while it answers":
            asyncio.get_running_loop().call_later(0.05, three.lose, "b", "c")
            await asyncio.sleep(30)  # it is called off
        if moment == "after it answered":
            await answer_remote(three.members["b"].tools, body, three.members["b"].may_answer, {KIND: answer_pass})
        three.lose("b", "c")
        raise UnreachableError("the connection broke")

    three.before_answer = lose
    assert answered(three, request) == wanted
    assert three.down == {"b"}


def test_who_does_not_own_refuses_and_another_is_asked(three: Nodes) -> None:
    wanted = answered(three, asked(SILENT))
    three.really = {number: "c" if owner == "b" else owner for number, owner in three.owners.items()}

    async def later(node: str, body: bytes) -> bytes | None:
        if node == "b":
            asyncio.get_running_loop().call_later(0.1, lambda: [three.move(n, o) for n, o in three.really.items()])
        return None

    three.before_answer = later
    assert answered(three, asked(SILENT)) == wanted


def test_partitions_that_nobody_answers_for_are_named(three: Nodes) -> None:
    three.lose("b", None)
    with pytest.raises(PartitionsError) as raised:
        answered(three, asked(SILENT, timeout_ms=1_500))
    assert raised.value.detail == {"missing_partitions": [1, 4]}


def test_ownership_that_is_lost_during_the_replay_voids_it(three: Nodes) -> None:
    owned = [number for number, owner in three.owners.items() if owner == "b"]
    answers = iter([True] * len(owned) + [False])
    body = encoded(sent(three, partitions=owned))
    tools = three.members["b"].tools
    found = decoded(asyncio.run(answer_remote(tools, body, lambda _: next(answers), {KIND: answer_pass})), Answered)
    assert found.result is None and list(found.refused) == owned


def test_time_is_up_on_all_nodes(three: Nodes) -> None:
    async def hang(node: str, body: bytes) -> bytes | None:
        if node == "b":
            await asyncio.sleep(60)
        return None

    three.before_answer = hang
    with pytest.raises(PartitionsError) as raised:
        answered(three, asked(SILENT, timeout_ms=1_500))
    assert "1, 4 (node 'b' did not answer within 1500 ms" in raised.value.message


def test_time_is_up_where_it_is_spent(three: Nodes) -> None:
    """Another node's share ends by itself, and says why."""
    nested = "".join(f"{'    ' * depth}match:\n" for depth in range(1, 30))
    script = f"def on_insert():\n{nested}{'    ' * 30}schedule(1, 'on_insert')\n"
    three.owners.update(dict.fromkeys(range(PARTITIONS), "b"))
    with pytest.raises(RunTimeError, match="time budget of 1000 ms"):
        answered(three, asked(script, timeout_ms=1_000))


def test_cancelling_ends_what_runs_on_other_nodes(three: Nodes) -> None:
    ended: list[str] = []

    async def run() -> None:
        both_asked = asyncio.Event()

        async def hang(node: str, body: bytes) -> bytes | None:
            if {other for _, other in three.asked} == {"b", "c"}:
                both_asked.set()
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(node)
            return None

        three.before_answer = hang
        task = asyncio.create_task(answer(three, asked(SILENT)))
        await asyncio.wait_for(both_asked.wait(), 10)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert sorted(ended) == ["b", "c"]


# ---------------------------------------------------------------- tables and segments that change


def test_a_schema_that_changes_meanwhile_begins_it_again(three: Nodes) -> None:
    three.members["a"].tools.store.add_column("t", "extra", "int")
    script = 'def on_insert():\n    match where is_new:\n        emit("extra", extra)\n'
    with pytest.raises(InternodeError, match="do not agree"):
        answered(three, asked(script, timeout_ms=1_500))

    async def later(node: str, body: bytes) -> bytes | None:
        store = three.members[node].tools.store
        if "extra" not in store.table("t").column_types:
            asyncio.get_running_loop().call_later(0.02, store.add_column, "t", "extra", "int")
        return None

    three.before_answer = later
    events = {(each["person"], each["stamp"], each["action"]) for each in history()}
    assert answered(three, asked(script))[0]["emissions"] == len(events)


def refuse_segments(name: str) -> Any:
    """A node does not hear of segments."""

    async def refuse(node: str, body: bytes) -> bytes | None:
        if node == name and b"put segments" in body:
            raise InternodeError("it is cut off")
        return None

    return refuse


async def count_without(nodes: Nodes, name: str, at: str, script: str) -> None:
    nodes.before_answer = refuse_segments(name)
    await nodes.members[at].query("t", "counts", script)
    nodes.before_answer = None


def test_a_node_without_the_segment_is_given_it(three: Nodes) -> None:
    asyncio.run(count_without(three, "b", "a", BUYERS))
    assert [edition_of(three, name) is None for name in "abc"] == [False, True, False]
    found = answered(three, asked(SILENT, filter="buyers"))
    assert 0 < found[0]["people"] < answered(three, asked(SILENT))[0]["people"]
    assert edition_of(three, "b") == edition_of(three, "a")
    assert answered(three, asked(SILENT, filter="buyers"), at="b") == found


def test_a_node_with_a_later_segment_begins_it_again(three: Nodes) -> None:
    """The later computation is everybody's; who is asked takes it over."""
    asyncio.run(three.members["a"].query("t", "counts", BUYERS))
    old = answered(three, asked(SILENT, filter="buyers"))
    asyncio.run(count_without(three, "a", "b", "@segment buyers:\n    match where units > 2: tally\n"))
    assert edition_of(three, "b") == edition_of(three, "c") > edition_of(three, "a")
    found = answered(three, asked(SILENT, filter="buyers"))
    assert found != old and found == answered(three, asked(SILENT, filter="buyers"), at="b")
    assert edition_of(three, "a") == edition_of(three, "b")


def edition_of(nodes: Nodes, name: str) -> Any:
    store = nodes.members[name].tools.store
    with store.segments.pinned(store.table("t").id, ["buyers"], 0) as found:
        return found["buyers"].segment.edition if found else None


def test_everybody_is_gone_between_two_passes(tmp_path: Path) -> None:
    """Nobody is left whose runs could have succeeded; what comes then has nothing in it, and is no defect."""
    nodes = Nodes.of(tmp_path, 2, 2)
    nodes.create_table("t", [("units", "int")])
    people = [f"p{number}" for number in range(8)]
    events = [{"person": who, "stamp": START + n, "action": "look"} for n, who in enumerate(people)]
    nodes.insert("t", events, range(2))
    try:
        runs = 0
        run_here = nodes.members["a"].tools.executor.run

        async def erasing(worker: int, work: Any) -> Any:
            nonlocal runs
            found = await run_here(worker, work)
            runs += 1
            if runs == 1:
                for member in nodes.members.values():
                    for who in people:
                        await asyncio.wrap_future(member.tools.store.submit_erasure("t", who))
            return found

        nodes.owners.update(dict.fromkeys(range(2), "a"))
        nodes.members["a"].tools.executor.run = erasing  # type: ignore[method-assign]
        shown, _ = answered(nodes, asked(ALWAYS, errors_until_disabled=2))
        assert runs > 1 and (shown["people"], shown["errors"]) == (0, 0)
        assert shown["disabled_at"] == START + 1
    finally:
        nodes.close()


# ---------------------------------------------------------------- hostile requests and answers


def sent(three: Nodes, **changed: Any) -> Ask:
    """What node a asks of b, changed."""
    caught: list[bytes] = []

    async def catch(node: str, body: bytes) -> bytes | None:
        if node == "b":
            caught.append(body)
        return None

    three.before_answer = catch
    answered(three, asked(SILENT))
    three.before_answer = None
    found = decoded(caught[0], Ask)
    return Ask(**{**{name: getattr(found, name) for name in found.__struct_fields__}, **changed})


COLUMNS = [SegmentColumn(1, "units", "int")]
PASS = BacktestPass("t", SILENT, COLUMNS, False, None, 0, START, 10_000)
MOMENTS = (7).to_bytes(8, "little"), (9).to_bytes(8, "little")


@pytest.mark.parametrize(
    "changed",
    [
        {"from_ms": -1},
        {"from_ms": LAST_STAMP + 1},
        {"to_ms": LAST_STAMP + 2},
        {"from_ms": START + 1},
        {"timeout_ms": 0},
        {"timeout_ms": 1 << 40},
        {"last_moment": -1},
        {"last_moment": (1 << 63) - 1},
        {"failures": b""},
        {"failures": b"1234567"},
        {"failures": MOMENTS[1] + MOMENTS[0]},
        {"failures": MOMENTS[0] * 2},
        {"failures": b"\xff" * 8},
        {"columns": [SegmentColumn(99, "units", "int")]},
        {"columns": [SegmentColumn(1, "units", "text")]},
        {"columns": [{"id": 1}]},
        {"filter": "nobody"},
        {"once": "perhaps"},
        {"script": None},
    ],
    ids=str,
)
def test_requests_that_make_no_sense_are_refused(three: Nodes, changed: dict[str, Any]) -> None:
    ask, tools = sent(three), three.members["b"].tools
    fields = {name: getattr(PASS, name) for name in PASS.__struct_fields__}
    assert COLUMNS[0].id == tools.store.table("t").columns[0].id

    def answer_to(request: Any) -> bytes:
        body = encoded(Ask(KIND, encoded(request), ask.schema, ask.now_ms, 5_000, ask.partitions))
        return asyncio.run(answer_remote(tools, body, lambda _: True, {KIND: answer_pass}))

    assert decoded(answer_to(fields), Answered).result is not None
    with pytest.raises(InternalError):
        answer_to(fields | changed)


@pytest.mark.parametrize("result", [None, b"", b"nonsense", encoded([[], 0, 0, b"", [1, "why"], None])], ids=str)
def test_answers_that_make_no_sense_are_an_internal_error(three: Nodes, result: bytes | None) -> None:
    async def forged(node: str, body: bytes) -> bytes | None:
        return encoded(Answered(result, 0, []))

    three.before_answer = forged
    with pytest.raises(OpenSetError) as raised:
        answered(three, replace(asked(SILENT), timeout_ms=5_000))
    assert isinstance(raised.value, InternalError)
