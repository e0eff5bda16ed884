"""Emissions as events: which values of a dict become attributes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from openset.revent.emitted import events_of
from openset.store.schema import ColumnSchema, TableSchema
from openset.store.trigger_changes import Message

COLUMNS = (ColumnSchema(1, "word", "text"), ColumnSchema(2, "price", "double"), ColumnSchema(3, "units", "int"))
SCHEMA = TableSchema(1, "t", COLUMNS)


@pytest.mark.parametrize(
    ("value", "attributes"),
    [
        (None, {}),
        ([1], {}),
        ({"word": "rug", "price": 2, "units": 3}, {"word": "rug", "price": 2, "units": 3}),
        ({"word": 1, "price": "2", "units": 2.5, "other": 1}, {}),
        ({"units": True, "price": [[1.5]]}, {}),
        ({"price": [1.5, None], "word": None}, {"price": [1.5, None], "word": None}),
    ],
)
def test_values_that_fit_columns_are_attributes(value: Any, attributes: dict[str, Any]) -> None:
    (event,) = json.loads(events_of([Message(1, 1_700_000_000_000, 0, "ann", 1, "buys", "bought", value)], SCHEMA))
    assert event["attr"] == attributes
    assert (event["person"], event["action"]) == ("ann", "bought")
