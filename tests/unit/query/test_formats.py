"""Flat tables of result trees, and which form a client gets."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from openset.errors import QueryError
from openset.query.answer import QueryAnswer, aggregate_names
from openset.query.formats import ARROW, document, flat_table, negotiated


def test_a_row_for_each_path_that_does_not_go_on() -> None:
    body = {
        "_": [
            {"g": "a", "c": [3, 1.5], "_": [{"g": 1, "c": [2, 1.0]}, {"g": True, "c": [1, None]}]},
            {"g": "b", "c": [1, 0.5]},
        ]
    }
    table = flat_table(QueryAnswer(body, ("people", "spent")))
    assert table.names == ["key1", "key2", "people", "spent"]
    assert table.rows == [["a", 1, 2, 1.0], ["a", True, 1, None], ["b", None, 1, 0.5]]


def test_compared_segments_are_columns_side_by_side() -> None:
    body = {"_": [{"g": "a", "c": [3, 1], "c2": [2, 0], "c3": [1, 0]}]}
    names = aggregate_names(["people", "n"], ("*", "x", "x"))
    table = flat_table(QueryAnswer(body, names))
    assert table.names == ["key1", "people@*", "n@*", "people@x", "n@x", "people@x_2", "n@x_2"]
    assert table.rows == [["a", 3, 1, 2, 0, 1, 0]]


def test_one_segment_needs_no_name() -> None:
    assert aggregate_names(["people"], ("buyers",)) == ("people",)


def test_deep_trees_do_not_run_out_of_stack() -> None:
    node: dict[str, Any] = {"g": 0, "c": [1]}
    for level in range(1, 5_000):
        node = {"g": level, "c": [1], "_": [node]}
    table = flat_table(QueryAnswer({"_": [node]}, ("people",)))
    assert len(table.names) == 5_001 and len(table.rows) == 1


def test_what_is_no_tree_is_json() -> None:
    made = document(QueryAnswer({"debug": "x"}), "text/csv")
    assert (made.body, made.content_type) == (b'{"debug":"x"}', "application/json; charset=utf-8")


def test_arrow_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert negotiated(ARROW) == ARROW
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(QueryError, match="pyarrow"):
        negotiated(ARROW)
    assert negotiated("text/csv") == "text/csv"
    assert negotiated(None) == "application/json"
