"""What operators mean for values: tables of cases, one line each."""

from __future__ import annotations

from typing import Any

import pytest

from openset.errors import RunTimeError
from openset.pyql.meaning.containers import DictValue, SetValue, copy_value, key_of
from openset.pyql.meaning.text import read_number, to_text
from openset.pyql.meaning.values import BINARY_OPERATIONS, INT_GREATEST, INT_LEAST, is_true, negated


def from_python(value: Any) -> Any:
    """Python's dicts and sets as PyQL's. A Python dict cannot hold True and 1, so those cases are made by hand."""
    if isinstance(value, dict):
        return DictValue({key_of(key): from_python(held) for key, held in value.items()})
    if isinstance(value, (set, frozenset)):
        return SetValue.of(sorted(value, key=str))
    return [from_python(held) for held in value] if isinstance(value, list) else value


def operate(left: Any, operator: str, right: Any) -> Any:
    return BINARY_OPERATIONS[operator](from_python(left), from_python(right))


def same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and to_text(left) == to_text(right)


ARITHMETIC = [
    (1, "+", 2, 3),
    (1, "+", 2.5, 3.5),
    (True, "+", True, 2),
    (7, "/", 2, 3.5),
    (6, "/", 2, 3.0),
    (7, "//", 2, 3),
    (-7, "//", 2, -4),
    (7.5, "//", 2, 3.0),
    (-7, "%", 3, 2),
    (7, "%", -3, -2),
    (-7.5, "%", 2, 0.5),
    (1, "/", 0, 0.0),
    (1, "//", 0, 0),
    (1, "%", 0, 0),
    (1.0, "//", 0, 0.0),
    (1, "%", 0.0, 0.0),
    (INT_GREATEST, "+", 1, float(2**63)),
    (INT_GREATEST, "*", INT_GREATEST, float(INT_GREATEST) * float(INT_GREATEST)),
    (INT_LEAST, "//", -1, float(2**63)),
    (INT_LEAST, "-", 1, float(-(2**63))),
    (1e308, "*", 10, None),
    (1e308, "//", 1e-308, None),
    (None, "+", 1, None),
    (1, "-", None, None),
    (None, "/", 0, None),
    (None, "+", "x", None),
    ("x", "+", None, None),
    ("a", "+", "b", "ab"),
    (None, "+", [1], None),
    (9007199254740993, "/", 1, 9007199254740992.0),
]

IMPOSSIBLE = [
    ("a", "+", 1),
    (1, "+", "a"),
    ("a", "+", True),
    ("a", "-", "b"),
    ("a", "*", 2),
    ("a", "/", 2),
    ("3", "%", 2),
    ("3", "//", 2),
    (1, "+", [1]),
    ([1], "*", 2),
    ("a", "+", ["b"]),
    ({"a": 1}, "+", "b"),
    ({"a": 1}, "+", ["b"]),
    ({1}, "/", 2),
    (1, "in", 1),
    ([{"a": 1}], "in", 5),
    ({1}, "+", [[2]]),
]

COMPARISONS = [
    ("3.14", "==", 3.14, True),
    (3, "==", "3", True),
    (3, "==", " 3 ", True),
    ("3.0", "==", "3", False),
    ("1e2", "==", 100, True),
    ("nan", "==", 0, False),
    ("1_000", "==", 1000, False),
    ("1", "==", True, False),
    (1, "==", True, True),
    (0.0, "==", False, True),
    (None, "==", None, True),
    (None, "==", 0, False),
    (None, "==", "", False),
    (2**53 + 1, "==", float(2**53), False),
    ("x", "!=", 1, True),
    ("5", "!=", 5, False),
    ([1, "2"], "==", [1.0, "2"], True),
    ([1], "==", ["1"], False),
    ([1], "==", [True], False),
    ({"a": [1]}, "==", {"a": [1]}, True),
    ({1, 2}, "==", {2, 1}, True),
    ([1], "==", {1}, False),
    ("[1]", "==", [1], False),
    (1, "<", 2.5, True),
    (True, "<", 2, True),
    ("a", "<", "b", True),
    ("a", "<=", "a", True),
    ("10", "<", 9, False),
    ("10", ">", 9, False),
    (None, "<", 1, False),
    (None, ">=", None, False),
    (1, ">", None, False),
    ([1], "<", [2], False),
    (INT_GREATEST, "<", 9.3e18, True),
]

MEMBERSHIP = [
    (5, ["5"], False),
    ("5", ["5"], True),
    (1.0, [1], True),
    (True, [1], False),
    (1, {1.0}, True),
    (True, {1}, False),
    ("a", {"a": 1}, True),
    ([1], {"a": 1}, False),
    ([1], [[1], 2], True),
    (None, [None], True),
    ("en", "tent", True),
    (1, "a1", False),
    (None, "tent", False),
    (1, None, False),
]

CONTAINER_OPERATIONS = [
    ([1], "+", 2, "[1, 2]"),
    ([1], "+", [2, [3]], "[1, 2, [3]]"),
    ([1], "+", {2}, "[1, 2]"),
    ([1], "+", {"k": 1}, "[1, 'k']"),
    ([1], "+", None, "[1, None]"),
    ([5, 6, 5, 7], "-", 5, "[6, 7]"),
    ([5, 6, "5"], "-", [5.0, 6], "['5']"),
    ([[1], 2], "-", [[1]], "[2]"),
    ([1], "-", 9, "[1]"),
    ({1}, "+", "x", "{1, 'x'}"),
    ({1}, "+", [2, 1], "{1, 2}"),
    ({1, 2}, "-", 1, "{2}"),
    ({1}, "-", 1, "set()"),
    ({"a": 1}, "+", {"b": 2}, "{'a': 1, 'b': 2}"),
    ({"a": 1, "b": 2}, "-", ["a", "zz"], "{'b': 2}"),
    ({"a": 1, "b": 2}, "-", "b", "{'a': 1}"),
    ({"a": 1}, "-", {"a": 9}, "{}"),
]


@pytest.mark.parametrize(("left", "operator", "right", "expected"), ARITHMETIC)
def test_arithmetic(left: Any, operator: str, right: Any, expected: Any) -> None:
    assert same(operate(left, operator, right), expected)


@pytest.mark.parametrize(("left", "operator", "right"), IMPOSSIBLE)
def test_impossible_operations_are_errors(left: Any, operator: str, right: Any) -> None:
    with pytest.raises(RunTimeError):
        operate(left, operator, right)


@pytest.mark.parametrize(("left", "operator", "right", "expected"), COMPARISONS)
def test_comparisons(left: Any, operator: str, right: Any, expected: bool) -> None:
    assert operate(left, operator, right) is expected
    if operator in ("==", "!="):
        assert operate(right, operator, left) is expected


@pytest.mark.parametrize(("item", "container", "expected"), MEMBERSHIP)
def test_membership_is_strict(item: Any, container: Any, expected: bool) -> None:
    assert operate(item, "in", container) is expected
    assert operate(item, "not in", container) is not expected


@pytest.mark.parametrize(("left", "operator", "right", "expected"), CONTAINER_OPERATIONS)
def test_container_operators(left: Any, operator: str, right: Any, expected: str) -> None:
    assert to_text(operate(left, operator, right)) == expected


def test_an_operator_leaves_its_operands_alone() -> None:
    held = [1]
    assert operate(held, "+", 2) == [1, 2]
    assert held == [1]


def test_true_one_and_text_are_three_keys() -> None:
    held = DictValue({key_of(key): key for key in (True, 1, 1.0, "1", False, 0, None)})
    assert to_text(held) == "{True: True, 1: 1.0, '1': '1', False: False, 0: 0, None: None}"


@pytest.mark.parametrize("value", [0, 0.0, "", None, False, [], DictValue(), SetValue()])
def test_false_values(value: Any) -> None:
    assert not is_true(value)


@pytest.mark.parametrize("value", [1, -0.5, "0", True, [0], DictValue({"a": None}), SetValue.of([0])])
def test_true_values(value: Any) -> None:
    assert is_true(value)


def test_negation() -> None:
    assert negated(INT_LEAST) == float(2**63)
    assert negated(None) is None
    assert same(negated(True), -1)
    with pytest.raises(RunTimeError, match="text"):
        negated("1")


@pytest.mark.parametrize(
    ("text", "number"),
    [("12", 12), ("-3", -3), ("+4.5", 4.5), (".5", 0.5), ("5.", 5.0), ("1e3", 1000.0), (" 7\n", 7), ("", None),
     ("x", None), ("0x10", None), ("inf", None), ("1e999", None), ("٣", None), ("9223372036854775808", 2.0**63)],
)  # fmt: skip
def test_texts_that_read_as_numbers(text: str, number: Any) -> None:
    assert same(read_number(text), number)


def test_a_copy_shares_nothing_and_is_counted() -> None:
    held: list[int] = []
    original = [1, [2], DictValue({"k": [3]})]
    copied = copy_value(original, held.append)
    original[1].append(9)  # type: ignore[union-attr]
    original[2].entries["k"].append(9)  # type: ignore[union-attr]
    assert to_text(copied) == "[1, [2], {'k': [3]}]"
    assert len(held) == 4
    assert all(size > 0 for size in held)


def test_containers_nest_to_a_limit() -> None:
    value: Any = []
    for _ in range(100):
        value = [value]
    with pytest.raises(RunTimeError, match="nested deeper than 64"):
        copy_value(value, lambda size: None)


def test_text_has_a_limit_in_bytes() -> None:
    assert len(operate("x" * 65_000, "+", "y" * 536)) == 65_536
    with pytest.raises(RunTimeError, match="64 KB"):
        operate("x" * 65_000, "+", "y" * 537)
    with pytest.raises(RunTimeError, match="64 KB"):
        operate("é" * 20_000, "+", "é" * 20_000)
    with pytest.raises(RunTimeError, match="64 KB"):
        to_text(["x" * 1000] * 100)
