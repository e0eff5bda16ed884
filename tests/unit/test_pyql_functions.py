"""The pure functions and the methods: tables of cases, one line each."""

from __future__ import annotations

from typing import Any

import pytest

from openset.errors import RunTimeError
from openset.pyql.meaning.containers import DictValue, SetValue, key_of
from openset.pyql.meaning.functions import call_method, pure_functions
from openset.pyql.meaning.text import to_text
from openset.pyql.names import FUNCTIONS

PURE = pure_functions()

CASES: list[tuple[str, list[Any], Any]] = [
    ("bucket", [27.99, 10], 20.0),
    ("bucket", [27, 10], 20),
    ("bucket", [-1, 10], -10),
    ("bucket", [-0.5, 10], -10.0),
    ("bucket", [5, 0], 0),
    ("bucket", [5, 0.0], 0.0),
    ("bucket", [None, 5], None),
    ("bucket", [5, None], None),
    ("bucket", [7, 2.5], 5.0),
    ("trunc", [2.9], 2),
    ("trunc", [-2.9], -2),
    ("trunc", [7], 7),
    ("trunc", [1e300], 1e300),
    ("trunc", [None], None),
    ("round", [2.5], 3),
    ("round", [-2.5], -3),
    ("round", [0.015, 2], 0.02),
    ("round", [1.005, 2], 1.01),
    ("round", [2.675, 2], 2.68),
    ("round", [1234, -2], 1200),
    ("round", [1250, -2], 1300),
    ("round", [1234.5, -2], 1200.0),
    ("round", [7, 2], 7),
    ("round", [-0.4, 0], 0.0),
    ("round", [1e22, 3], 1e22),
    ("round", [1.7e308, -308], None),
    ("round", [True], 1),
    ("round", [None, 2], None),
    ("round", [2.5, None], None),
    ("fix", [1234.5678, 0], "1235"),
    ("fix", [1234.5678, 2], "1234.57"),
    ("fix", [0.015, 2], "0.02"),
    ("fix", [-0.015, 2], "-0.02"),
    ("fix", [3, 2], "3.00"),
    ("fix", [-0.4, 0], "0"),
    ("fix", [1e22, 1], "10000000000000000000000.0"),
    ("fix", [1e-7, 3], "0.000"),
    ("fix", [None, 1], None),
    ("int", ["3.9"], 3),
    ("int", ["x"], 0),
    ("int", [None], 0),
    ("int", [-3.9], -3),
    ("int", [True], 1),
    ("int", [[1]], 0),
    ("int", ["1e30"], 1e30),
    ("float", ["3.5"], 3.5),
    ("float", [2], 2.0),
    ("float", [None], 0.0),
    ("float", ["nan"], 0.0),
    ("str", [None], "None"),
    ("str", [True], "True"),
    ("str", [3.0], "3.0"),
    ("str", [1e22], "1e+22"),
    ("str", [0.1], "0.1"),
    ("str", [[1, "a", None, [True]]], "[1, 'a', None, [True]]"),
    ("len", [None], 0),
    ("len", ["héé"], 3),
    ("len", [[1, 2]], 2),
    ("to_seconds", [1999], 1),
    ("to_seconds", [-1999], -1),
    ("to_minutes", [90_000.5], 1),
    ("to_hours", [7_200_000], 2),
    ("to_days", [-86_399_999], 0),
    ("to_weeks", [604_800_000], 1),
    ("to_days", [None], None),
    ("to_seconds", [-1e22], -1e19),
    ("url_decode", [None], None),
]

DATES: list[tuple[str, int | float, int | None]] = [
    ("get_second", 1_709_545_505, 5),
    ("get_minute", 1_709_545_500_000, 45),
    ("get_hour", 1_709_545_500_000, 9),
    ("get_day_of_week", 1_709_424_000_000, 1),  # Sunday 3 March 2024
    ("get_day_of_week", 1_709_424_000_000 - 1, 7),
    ("get_day_of_month", 1_709_164_800, 29),  # 29 February 2024
    ("get_day_of_year", 1_709_164_800, 60),
    ("get_month", 1_709_164_800, 2),
    ("get_quarter", 1_703_980_800, 4),
    ("get_quarter", 1_704_067_200, 1),
    ("get_year", 1_703_980_800, 2023),
    ("get_year", 0, 1970),
    ("get_year", -1, 1969),
    ("get_second", 1_709_545_500_999.9, 0),
    ("get_year", 10**18, None),
    ("get_year", 99_999_999_999, 5138),
    ("get_year", 100_000_000_000, 1973),
    ("date_second", 1_709_545_505_678, 1_709_545_505_000),
    ("date_minute", 1_709_545_505_678, 1_709_545_500_000),
    ("date_hour", 1_709_545_505_678, 1_709_542_800_000),
    ("date_day", 1_709_545_505_678, 1_709_510_400_000),
    ("date_week", 1_709_545_505_678, 1_709_424_000_000),
    ("date_week", 1_709_424_000_000, 1_709_424_000_000),
    ("date_month", 1_709_545_505_678, 1_709_251_200_000),
    ("date_quarter", 1_709_545_505_678, 1_704_067_200_000),
    ("date_year", 1_709_545_505_678, 1_704_067_200_000),
    ("date_week", 1_704_067_200, 1_703_980_800_000),
    ("date_day", 10**18, None),
]

WRONG: list[tuple[str, list[Any]]] = [
    ("bucket", ["5", 2]),
    ("trunc", ["5"]),
    ("round", ["5"]),
    ("round", [1.5, 0.5]),
    ("fix", [1.5, -1]),
    ("fix", [1.5, 5000]),
    ("len", [5]),
    ("to_days", ["x"]),
    ("get_year", ["2024"]),
    ("date_day", [[1]]),
    ("url_decode", [5]),
]

METHODS: list[tuple[Any, str, list[Any], Any]] = [
    ("banana", "find", ["an"], 1),
    ("banana", "find", ["an", 2], 3),
    ("banana", "find", ["an", 2, 4], -1),
    ("banana", "find", ["x"], -1),
    ("banana", "find", [None], None),
    ("banana", "rfind", ["an"], 3),
    ("banana", "rfind", ["an", 0, 4], 1),
    ("a,b,,c", "split", [","], ["a", "b", "", "c"]),
    (" x\t", "strip", [], "x"),
    ("a-b-c", "replace", ["-", "+"], "a+b+c"),
    (None, "find", ["x"], None),
    (None, "split", [","], None),
    (None, "keys", [], None),
]


def same(left: Any, right: Any) -> bool:
    return type(left) is type(right) and to_text(left) == to_text(right)


def test_every_pure_function_is_there() -> None:
    assert set(PURE) == {name for name, builtin in FUNCTIONS.items() if builtin.pure}


@pytest.mark.parametrize(("function", "arguments", "expected"), CASES)
def test_functions(function: str, arguments: list[Any], expected: Any) -> None:
    assert same(PURE[function](*arguments), expected)


@pytest.mark.parametrize(("function", "stamp", "expected"), DATES)
def test_dates(function: str, stamp: int | float, expected: int | None) -> None:
    assert same(PURE[function](stamp), expected)


@pytest.mark.parametrize("function", [name for name in FUNCTIONS if name.startswith(("get_", "date_", "to_"))])
def test_dates_of_none_are_none(function: str) -> None:
    assert PURE[function](None) is None


@pytest.mark.parametrize(("function", "arguments"), WRONG)
def test_wrong_arguments_are_errors(function: str, arguments: list[Any]) -> None:
    with pytest.raises(RunTimeError, match=r"\(\)"):
        PURE[function](*arguments)


@pytest.mark.parametrize(("target", "method", "arguments", "expected"), METHODS)
def test_text_methods(target: Any, method: str, arguments: list[Any], expected: Any) -> None:
    assert same(call_method(target, method, arguments), expected)


def test_dates_in_a_time_zone() -> None:
    from zoneinfo import ZoneInfo

    functions = pure_functions(ZoneInfo("Asia/Kolkata"))  # half an hour off the hours of UTC
    stamp = 1_709_490_600_000  # 2024-03-03T18:30Z, midnight of the 4th in Kolkata
    assert functions["get_day_of_month"](stamp) == 4
    assert functions["get_hour"](stamp) == 0
    assert functions["date_day"](stamp + 1) == stamp
    assert functions["date_hour"](stamp + 60_000) == stamp
    assert functions["date_week"](stamp + 1) == stamp - 86_400_000


def test_list_and_set_take_their_arguments_as_elements() -> None:
    assert PURE["list"](1, [2]) == [1, [2]]
    assert to_text(PURE["set"](3, 1, 3, True)) == "{3, 1, True}"
    assert to_text(PURE["set"]([1, 2], 2)) == "{1, 2}"
    assert to_text(PURE["dict"]()) == "{}"


def test_changing_methods() -> None:
    numbers: list[Any] = [1]
    call_method(numbers, "append", [[2]])
    call_method(numbers, "add", [1.0])
    call_method(numbers, "remove", [1])
    call_method(numbers, "remove", ["nothing"])
    assert numbers == [[2], 1.0]
    assert call_method(numbers, "pop", []) == 1.0
    held = DictValue({"a": 1})
    call_method(held, "update", [DictValue({key_of(True): 2, "b": 3})])
    assert call_method(held, "pop", []) == ["b", 3]
    call_method(held, "remove", ["zz"])
    assert call_method(held, "keys", []) == ["a", True]
    call_method(held, "clear", [])
    assert call_method(held, "pop", []) is None
    elements = SetValue()
    call_method(elements, "update", [[1, 2]])
    call_method(elements, "add", ["x"])
    call_method(elements, "remove", [1])
    assert to_text(elements) == "{2, 'x'}"
    assert call_method(elements, "pop", []) == "x"


@pytest.mark.parametrize(
    ("target", "method", "arguments"),
    [(None, "append", [1]), ("x", "append", ["y"]), (5, "find", ["x"]), ([1], "keys", []), (DictValue(), "add", [1]),
     ("x", "split", [""]), ("x", "find", [1]), ("x", "replace", ["x", 1]), ([1], "strip", [])],
)  # fmt: skip
def test_methods_of_the_wrong_kind_are_errors(target: Any, method: str, arguments: list[Any]) -> None:
    with pytest.raises(RunTimeError):
        call_method(target, method, arguments)


def test_replace_stays_within_the_text_limit() -> None:
    with pytest.raises(RunTimeError, match="64 KB"):
        call_method("x" * 60_000, "replace", ["x", "y" * 60_000])


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (
            "https://me:pw@Shop.Example.com:8080/a%20b/c?q=red%20rug&page=2&new&q=blue+rug&empty=#part",
            "{'host': 'shop.example.com', 'path': '/a b/c', 'query': 'q=red rug&page=2&new&q=blue rug&empty=', "
            "'params': {'q': 'blue rug', 'page': '2', 'new': True, 'empty': ''}}",
        ),
        ("/cart?x=1", "{'host': None, 'path': '/cart', 'query': 'x=1', 'params': {'x': '1'}}"),
        ("//cdn.example.com", "{'host': 'cdn.example.com', 'path': '', 'query': '', 'params': {}}"),
        ("http://[bad", "{'host': '[bad', 'path': '', 'query': '', 'params': {}}"),
        ("", "{'host': None, 'path': '', 'query': '', 'params': {}}"),
        ("/%ff?%E2%82%AC=%", "{'host': None, 'path': '/\ufffd', 'query': '€=%', 'params': {'€': '%'}}"),
    ],
)
def test_url_decode(address: str, expected: str) -> None:
    assert to_text(PURE["url_decode"](address)) == expected
