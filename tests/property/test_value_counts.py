"""Column queries on Blocks against a plain model: sets of people by value, filters on single values."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support_blocks import block_of

from openset.query.distinct_pairs import distinct_pairs, run_starts
from openset.query.value_counts import ValueCounter, ValueCounts, bucket_key, merged
from openset.query.value_filter import value_filter
from openset_format.block import ColumnType

STAMP = 1_700_000_000_000
TEXTS = ["", "a", "ab", "b.c", "é", "A", "aab"]
DOUBLES = [-7.5, -0.0, 0.0, 0.1, 2.5, 2.5000001, 1e300, -3.0, 9.99]
INTEGERS = [-(1 << 63), -5, -1, 0, 1, 2, 7, (1 << 62) + 1, (1 << 63) - 1]
COLUMNS: dict[str, ColumnType] = {"t": "text", "d": "double", "i": "int", "b": "bool"}
VALUES: dict[str, list[Any]] = {"t": TEXTS, "d": DOUBLES, "i": INTEGERS, "b": [True, False]}

rows = st.lists(
    st.fixed_dictionaries(
        {"person": st.integers(0, 6), **{name: st.none() | st.sampled_from(values) for name, values in VALUES.items()}}
    ),
    max_size=60,
)
number_texts = st.sampled_from(["-7.5", "0", "2.5", "1", "2", "7", "4611686018427387905", "1e300", "-3", "0.1", "1e25"])
number_filters = st.fixed_dictionaries(
    {}, optional={**dict.fromkeys(("gt", "gte", "lt", "lte", "eq"), number_texts), "between": number_texts}
)
text_filters = st.fixed_dictionaries(
    {}, optional={"eq": st.sampled_from([*TEXTS, "z"]), "sub": st.sampled_from(["a", ".", "", "é"]),
                  "rx": st.sampled_from(["^a", "b$", "a.", "[^a]", "^$"])},
)  # fmt: skip
questions = st.one_of(
    st.tuples(st.just("t"), text_filters, st.none()),
    st.tuples(
        st.sampled_from(["d", "i"]), number_filters, st.none() | st.sampled_from(["1", "2", "0.5", "2.5", "1000"])
    ),
    st.tuples(st.just("b"), st.fixed_dictionaries({}, optional={"eq": st.sampled_from(["true", "false"])}), st.none()),
)
members = st.lists(st.none() | st.lists(st.booleans(), min_size=7, max_size=7), min_size=1, max_size=3)


def passes(value: Any, name: str, filters: dict[str, str]) -> bool:
    """Python's own comparisons, one value at a time."""
    if name == "t":
        return (
            filters.get("eq", value) == value
            and filters.get("sub", "") in value
            and re.search(filters.get("rx", "").replace("$", r"\Z"), value) is not None
        )
    if name == "b":
        return "eq" not in filters or value == (filters["eq"] == "true")
    bounds = {operator: float(text) if "." in text or "e" in text else int(text) for operator, text in filters.items()}
    if name == "d":
        bounds = {operator: float(bound) for operator, bound in bounds.items()}
    return (
        ("gt" not in bounds or value > bounds["gt"])
        and ("gte" not in bounds or value >= bounds["gte"])
        and ("lt" not in bounds or value < bounds["lt"])
        and ("lte" not in bounds or value <= bounds["lte"])
        and ("eq" not in bounds or value == bounds["eq"])
        and ("between" not in bounds or bounds["between"] <= value < bounds["and"])
    )


def key_of(value: Any, bucket: str | None) -> Any:
    if bucket is None:
        return value
    width: Any = float(bucket) if "." in bucket else int(bucket)
    if isinstance(value, int) and isinstance(width, int):
        begin = value // width * width
        # As everywhere, an int beyond 64 bits is a double.
        return begin if -(1 << 63) <= begin < 1 << 63 else float(begin)
    quotient = float(value) / width
    return math.floor(quotient) * float(width)


def model(
    events: list[dict[str, Any]], question: tuple[str, dict[str, str], str | None], segment: list[bool] | None
) -> tuple[int, dict[Any, int]]:
    name, filters, bucket = question
    people: dict[Any, set[int]] = defaultdict(set)
    for row in events:
        if row[name] is None or not passes(row[name], name, filters):
            continue
        if segment is None or segment[row["person"]]:
            people[key_of(row[name], bucket)].add(row["person"])
    return len(set().union(*people.values())), {key: len(found) for key, found in people.items()}


def shown(counts: ValueCounts, segment: int, bucket: str | None) -> dict[Any, int]:
    width: Any = None if bucket is None else float(bucket) if "." in bucket else int(bucket)
    found: dict[Any, int] = dict(zip(counts.texts, counts.text_counts[segment].tolist(), strict=True))
    for number, count in zip(counts.numbers.tolist(), counts.number_counts[segment].tolist(), strict=True):
        found[number if width is None else bucket_key(number, width)] = count
    if counts.bool_counts.any():
        found |= dict(zip([False, True], counts.bool_counts[segment].tolist(), strict=True))
    return {key: count for key, count in found.items() if count}


def blocks_of(events: list[dict[str, Any]]) -> Iterator[tuple[list[int], Any]]:
    """Two Blocks of disjoint people, and who they are."""
    for part in (0, 1):
        chosen = [row for row in events if row["person"] % 2 == part]
        people = list(dict.fromkeys(row["person"] for row in chosen))
        made = [
            {"person": row["person"], "stamp": STAMP + number, "action": "x", "attr": {k: row[k] for k in COLUMNS}}
            for number, row in enumerate(chosen)
        ]
        yield people, block_of(made, COLUMNS)


@settings(max_examples=400, deadline=None)
@given(rows, questions, members, number_texts)
def test_counts_equal_those_of_a_plain_model(
    events: list[dict[str, Any]],
    question: tuple[str, dict[str, str], str | None],
    segments: list[list[bool] | None],
    upper: str,
) -> None:
    name, filters, bucket = question
    if "between" in filters:
        filters["and"] = upper
    values = value_filter(name, COLUMNS[name], filters)
    width: Any = None if bucket is None else float(bucket) if "." in bucket else int(bucket)
    parts = []
    for people, block in blocks_of(events):
        counter = ValueCounter(values, width, len(segments), None)
        masks = [None if segment is None else np.array([segment[p] for p in people], np.bool_) for segment in segments]
        counter.add(block.columns[name], block.person_of_row, masks)
        parts.append(counter.result())
    counts = merged(parts, len(segments))
    for place, segment in enumerate(segments):
        total, expected = model(events, question, segment)
        assert counts.any_value[place] == total
        assert shown(counts, place, bucket) == expected


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=12),
    st.integers(1, 3_000),
    st.sampled_from([np.uint8, np.uint16, np.int64]),
    st.integers(0, 1 << 32),
)
def test_pairs_are_distinct_however_many_rows_people_have(
    lengths: list[int], code_count: int, kind: Any, seed: int
) -> None:
    code_count = min(code_count, 256) if kind is np.uint8 else code_count
    source = np.random.default_rng(seed)
    people = np.sort(source.choice(1_000, len(lengths), replace=False)).astype(np.int32)
    persons = np.repeat(people, lengths)
    codes = source.integers(0, code_count, len(persons)).astype(kind)
    found_codes, found_persons = distinct_pairs(codes, persons, run_starts(persons), code_count)
    found = list(zip(found_codes.tolist(), found_persons.tolist(), strict=True))
    assert sorted(found) == sorted(set(zip(codes.tolist(), persons.tolist(), strict=True)))
