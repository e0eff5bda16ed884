"""Answers of the vectorised engine and of the scalar interpreter, as trees that can be compared and printed.

Doubles may differ by 1e-9 of the magnitude that was summed up, since the two add in different orders; everything else
is compared exactly, kinds included.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from numpy.typing import NDArray
from support.choices import Choices
from support.event_maker import COLUMNS, NOW_MS, Event, Person, whole
from support.expression_maker import PARAMETERS

from openset.errors import RunTimeError
from openset.pyql import tree
from openset.pyql.interpreter.interpreter import evaluate_people, interpret
from openset.pyql.lanes.engine import EngineRun, Plan, compile_plan, outcomes, run
from openset.pyql.meaning.values import is_true
from openset.pyql.partial import ROOT, Partial
from openset.pyql.settings import LOG_LIMIT_LINES, SESSION_TIME_MS, RunSettings
from openset.pyql.states import SumState, Value, order_key
from openset.pyql.syntax.parse import parse_script
from openset_format.block import Block

# Enough for nearly every generated pair; one that needs more is left out, whoever needs it.
MOST_ROWS = 15_000
_MOST_SECONDS = 2
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Conditions:
    """What a request says besides the script."""

    zone: str = "UTC"
    session_time_ms: int = SESSION_TIME_MS


DEFAULT = Conditions()
_conditions = [DEFAULT]


@contextmanager
def under(conditions: Conditions) -> Iterator[None]:
    """Both sides run under these conditions."""
    _conditions.append(conditions)
    try:
        yield
    finally:
        _conditions.pop()


def make_conditions(choices: Choices) -> Conditions:
    """The default in most cases."""
    if choices.chance(70):
        return DEFAULT
    zones = ("Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Pacific/Apia")
    return Conditions(choices.pick(zones), choices.pick((SESSION_TIME_MS, 0, 60_000)))


class Skipped(Exception):
    """A budget was used up: the engine and the interpreter count differently, so there is nothing to compare."""


@dataclass
class Node:
    """A node of an answer: the values of its aggregators, and its children by (kind, key)."""

    values: list[Value | None] = field(default_factory=list)
    children: dict[tuple[str, Value], Node] = field(default_factory=dict)


@dataclass
class Answer:
    """What a run gave. error: the message of a RunTimeError, the rest is then empty. log: sorted."""

    root: Node = field(default_factory=Node)
    people: int = 0
    rows: int = 0
    events: int = 0
    log: list[str] = field(default_factory=list)
    error: str | None = None


def settings() -> RunSettings:
    """The settings every comparison runs under."""
    return RunSettings(
        now_ms=NOW_MS,
        session_time_ms=_conditions[-1].session_time_ms,
        parameters=PARAMETERS,
        zone=ZoneInfo(_conditions[-1].zone),
        max_expanded_rows=MOST_ROWS,
        max_memory_bytes=50_000_000,
        deadline=time.monotonic() + _MOST_SECONDS,
    )


def parsed(text: str) -> tree.Script:
    """A script over the columns of the event maker."""
    return parse_script(text, COLUMNS)


# ---------------------------------------------------------------- running


def oracle_answer(script: tree.Script, blocks: Sequence[Block]) -> Answer:
    """The interpreter's answer."""
    return _answer(lambda: oracle_partial(script, blocks))


def oracle_partial(script: tree.Script, blocks: Sequence[Block]) -> Partial:
    result = Partial(script.aggregators)
    for block in blocks:
        interpret(script, block, settings(), result)
    return result


def engine_answer(plan: Plan, blocks: Sequence[Block]) -> Answer:
    """The engine's answer for Blocks in one run."""
    return _answer(lambda: run(plan, blocks, settings(), want_log=True))


def merged_answer(plan: Plan, blocks: Sequence[Block]) -> Answer:
    """The engine's answer for Blocks in a run each, merged, as workers do it."""

    def merged() -> Partial:
        whole_partial = Partial(plan.script.aggregators)
        for block in blocks:
            whole_partial.merge(run(plan, [block], settings(), want_log=True))
        return whole_partial

    return _answer(merged)


def _answer(make: Callable[[], Partial]) -> Answer:
    try:
        found = make()
        if len(found.log) >= LOG_LIMIT_LINES:
            raise Skipped("the log is full, which lines it has depends on the order of people")
        return answer_of(found)
    except RunTimeError as error:
        if "budget" in error.message:
            raise Skipped(error.message) from None
        return Answer(error=error.message)


def answer_of(result: Partial) -> Answer:
    """A Partial as a tree."""
    nodes = [Node() for _ in range(len(result))]
    for number, siblings in enumerate(result.children()):
        nodes[number].values = result.values(number) if number != ROOT else []
        for child in siblings:
            key = result.keys[child]
            assert key is not None
            assert (_kind(key), key) not in nodes[number].children, f"two nodes for {key!r}"
            nodes[number].children[(_kind(key), key)] = nodes[child]
    return Answer(nodes[ROOT], result.people, result.rows, result.events, sorted(result.log))


def _kind(value: Value | None) -> str:
    return type(value).__name__


# ---------------------------------------------------------------- comparing


def difference(first: Answer, second: Answer, magnitudes: Callable[[], Node] | None = None) -> str | None:
    """Where two answers differ, in words; None where they are the same.

    magnitudes: gives a tree with the sums of absolute values, asked for when sums differ by more than rounding.
    """
    if (first.error is None) != (second.error is None):
        return f"one raises, the other does not: {first.error!r} and {second.error!r}"
    for name in ("people", "rows", "events", "log"):
        left, right = getattr(first, name), getattr(second, name)
        if left != right:
            return f"{name}: {str(left)[:200]} and {str(right)[:200]}"
    return _node_difference(first.root, second.root, [], magnitudes)


def _node_difference(first: Node, second: Node, path: list[Value], magnitudes: Callable[[], Node] | None) -> str | None:
    for index, (left, right) in enumerate(zip(first.values, second.values, strict=True)):
        if not _same(left, right) and not _within_rounding(left, right, index, path, magnitudes):
            return f"at {path!r}, aggregator {index}: {left!r} and {right!r}"
    if first.children.keys() != second.children.keys():
        missing = sorted((key for _, key in first.children.keys() - second.children.keys()), key=order_key)
        surplus = sorted((key for _, key in second.children.keys() - first.children.keys()), key=order_key)
        return f"below {path!r}: only the first has {missing!r}, only the second has {surplus!r}"
    for address, child in first.children.items():
        found = _node_difference(child, second.children[address], [*path, address[1]], magnitudes)
        if found is not None:
            return found
    return None


def _same(left: Value | None, right: Value | None) -> bool:
    if _kind(left) != _kind(right):
        return False
    if isinstance(left, float):
        assert isinstance(right, float)
        return left == right or abs(left - right) <= _TOLERANCE * max(abs(left), abs(right))
    return left == right


def _within_rounding(
    left: Value | None, right: Value | None, index: int, path: list[Value], magnitudes: Callable[[], Node] | None
) -> bool:
    if magnitudes is None or not (isinstance(left, float) and isinstance(right, float)):
        return False
    node = magnitudes()
    for key in path:
        node = node.children[(_kind(key), key)]
    magnitude = node.values[index]
    return isinstance(magnitude, float | int) and abs(left - right) <= _TOLERANCE * abs(magnitude)


def magnitudes_of(script: tree.Script, blocks: Sequence[Block]) -> Node:
    """The oracle's answer where sums and averages add up absolute values."""
    plain = SumState.add_value
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SumState, "add_value", lambda state, node, value: plain(state, node, abs(value)))
        return answer_of(oracle_partial(script, blocks)).root


# ---------------------------------------------------------------- the comparison itself


def compare(
    text: str, events: Sequence[Event], people: Sequence[Person], cuts: Sequence[Sequence[Block]]
) -> str | None:
    """How the engine's answer differs from the oracle's, for all people in one Block and for every other way to cut
    them; None where it does not. Raises Skipped."""
    script = parsed(text)
    plan = compile_plan(script)
    block = whole(events, people)
    expected = oracle_answer(script, [block])
    found = difference(expected, engine_answer(plan, [block]), lambda: magnitudes_of(script, [block]))
    if found is not None:
        return f"oracle and engine: {found}"
    for number, blocks in enumerate(cuts):
        make = merged_answer if number % 2 else engine_answer
        found = difference(expected, make(plan, blocks), lambda: magnitudes_of(script, [block]))
        if found is not None:
            return f"oracle and engine over {len(blocks)} Blocks: {found}"
    return None


def compare_segments(text: str, block: Block, members: Sequence[NDArray[np.bool_] | None]) -> str | None:
    """How the engine's answers for segments that are compared in one pass differ from the oracle's for each."""
    script = parsed(text)

    engine_run = EngineRun(compile_plan(script), settings(), want_log=True, segments=len(members))
    whole_answer = _answer(lambda: _first_partial(engine_run, block, members))
    for number, mask in enumerate(members):
        own = block if mask is None else replace(block, include=mask)
        expected = oracle_answer(script, [own])
        if whole_answer.error is not None:
            if expected.error is not None:
                return None
            continue
        given = _answer(partial(engine_run.partials.__getitem__, number))
        found = difference(expected, given, partial(magnitudes_of, script, [own]))
        if found is not None:
            return f"oracle and engine for segment {number}: {found}"
    return None if whole_answer.error is None else f"only the engine raises: {whole_answer.error}"


def _first_partial(engine_run: EngineRun, block: Block, members: Sequence[NDArray[np.bool_] | None]) -> Partial:
    engine_run.add([block], [members])
    return engine_run.partials[0]


def compare_outcomes(text: str, block: Block) -> str | None:
    """How what the engine says about each person (tallied, returned) differs from what the oracle says. Scripts that
    say so have no agg: section."""
    script = parsed(text)
    try:
        expected = [
            (person, outcome.tallied, _scalar(outcome.returned), outcome.tallied or is_true(outcome.returned))
            for person, outcome in evaluate_people(script, block, settings())
        ]
    except RunTimeError as error:
        return _unless_raises(lambda: outcomes(compile_plan(script), block, settings()), error)
    found = outcomes(compile_plan(script), block, settings())
    returned = [_scalar(value) for value in found.returned]
    given = list(zip(found.people.tolist(), found.tallied.tolist(), returned, found.member.tolist(), strict=True))
    for one, other in zip(expected, given, strict=True):
        if one != other:
            return f"oracle and engine on a person: {one!r} and {other!r}"
    return None


def _scalar(value: object) -> tuple[str, object]:
    """A value with its kind; of containers only that they are containers."""
    if value is None or isinstance(value, bool | int | float | str):
        return (type(value).__name__, value)
    return ("container", None)


def _unless_raises(call: Callable[[], object], expected: RunTimeError) -> str | None:
    if "budget" in expected.message:
        raise Skipped(expected.message)
    try:
        call()
    except RunTimeError:
        return None
    return f"only the oracle raises: {expected.message}"


def without_aggregators(text: str) -> str:
    """A script without its agg: section."""
    lines = text.splitlines()
    if lines[0] == "agg:":
        lines = lines[1:]
        while lines[0].startswith(" "):
            lines.pop(0)
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- showing


def show(answer: Answer) -> str:
    """An answer as text: one line per node, key and aggregates, children indented, siblings by key."""
    if answer.error is not None:
        return "RunTimeError"
    return "\n".join([*_lines(answer.root, 0), *(f"log: {line}" for line in answer.log)])


def _lines(node: Node, depth: int) -> list[str]:
    lines = []
    for (_, key), child in sorted(node.children.items(), key=lambda entry: order_key(entry[0][1])):
        lines.append(f"{'  ' * depth}{_plain(key)}  c=[{', '.join(_plain(value) for value in child.values)}]")
        lines += _lines(child, depth + 1)
    return lines


def _plain(value: Value | None) -> str:
    """JSON; doubles with 12 digits."""
    if isinstance(value, float):
        short = float(f"{value:.12g}")
        return repr(short)
    return json.dumps(value, ensure_ascii=False)
