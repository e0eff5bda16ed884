"""Column types that `--create` finds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openset.client.inference import TypeInference
from openset.errors import InsertError


def inferred(*attributes: dict[str, Any] | None) -> TypeInference:
    inference = TypeInference()
    events = [{"person": "p", "action": "a", "attr": attr} for attr in attributes]
    inference.add_all((json.dumps(event).encode() for event in events), "events.json")
    return inference


def types(*attributes: dict[str, Any] | None) -> dict[str, str]:
    return {column["name"]: column["type"] for column in inferred(*attributes).columns()}


def test_each_type_is_found() -> None:
    assert types({"t": "x", "i": 1, "d": 1.5, "b": True}) == {"t": "text", "i": "int", "d": "double", "b": "bool"}


@pytest.mark.parametrize("values", [(1, 2.5), (2.5, 1), (1, None, 2.5), ([1, 2.5],)])
def test_int_and_double_make_double(values: tuple[Any, ...]) -> None:
    assert types(*({"price": value} for value in values)) == {"price": "double"}


def test_lists_and_nested_groups_are_looked_into_in_the_order_they_are_written() -> None:
    event = {"total": 1.5, "_": [{"tags": ["a", "b"], "_": [{"deep": False}]}, {"units": [None, 3]}]}
    assert list(types(event).items()) == [("total", "double"), ("tags", "text"), ("deep", "bool"), ("units", "int")]


def test_a_column_of_nulls_alone_is_text_and_is_named() -> None:
    inference = inferred({"a": None, "b": [], "c": 1}, None)
    assert {column["name"]: column["type"] for column in inference.columns()} == {"a": "text", "b": "text", "c": "int"}
    assert inference.only_null == ("a", "b")
    assert inference.event_count == 2


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (1, "x", "int in event 1, text in event 2"),
        ("x", 2.5, "text in event 1, double in event 2"),
        (True, 1, "bool in event 1, int in event 2"),
    ],
)
def test_conflicting_types_name_the_column_and_both_events(first: Any, second: Any, words: str) -> None:
    with pytest.raises(InsertError, match=f"column 'price' has conflicting types: {words}"):
        types({"price": first}, {"price": second})


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"where": {"city": "x"}}, "column 'where': event 1 has an object"),
        ({"tags": [["x"]]}, "column 'tags': event 1 has a list inside a list"),
        ({"_": [1]}, "event 1: `_` holds a list of groups"),
    ],
)
def test_shapes_that_no_event_may_have_are_errors(attributes: dict[str, Any], words: str) -> None:
    with pytest.raises(InsertError, match=words):
        types(attributes)


def test_a_line_that_is_not_json_is_an_error() -> None:
    with pytest.raises(InsertError, match=r"events\.ndjson: event 1 is not JSON"):
        TypeInference().add_all([b"{oops"], "events.ndjson")
    passing = TypeInference(skip_bad_events=True)
    passing.add_all([b"{oops", b'{"attr": {"n": 1}}'], "events.ndjson")
    assert passing.columns() == [{"name": "n", "type": "int"}]
