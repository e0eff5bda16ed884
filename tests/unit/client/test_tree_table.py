"""Result trees and people as text."""

from __future__ import annotations

from typing import Any

import pytest

from openset.client.person_text import person_lines
from openset.client.tree_table import readable_key, tree_table


def shown(nodes: list[dict[str, Any]], headers: list[str]) -> list[str]:
    header, lines = tree_table(nodes, headers)
    return [header, *lines]


def test_keys_are_indented_and_numbers_aligned_under_their_names() -> None:
    nodes = [
        {"g": 2, "c": [1, 3, 155.93], "_": [{"g": "fly rod", "c": [1, 1, 99.95]}, {"g": "tent", "c": [1, 12, 6]}]},
        {"g": 5, "c": [100, 1, 99.5]},
    ]
    assert shown(nodes, ["people", "purchased", "spent"]) == [
        "           people  purchased   spent",
        "2               1          3  155.93",
        "  fly rod       1          1   99.95",
        "  tent          1         12    6",
        "5             100          1   99.50",
    ]


def test_missing_values_texts_bools_and_unnamed_columns() -> None:
    nodes = [{"g": "a", "c": [None, "mug", True]}, {"g": "b", "c": [1.5, "rug", False]}]
    assert shown(nodes, ["mean", "last"]) == [
        "   mean  last     c3",
        "a     -  mug    true",
        "b   1.5  rug   false",
    ]


def test_sums_are_shown_without_the_noise_of_doubles() -> None:
    assert shown([{"g": "x", "c": [0.1 + 0.2]}, {"g": "y", "c": [8.083333333333334]}], ["sum"]) == [
        "        sum",
        "x  0.300000",
        "y  8.083333",
    ]


def test_wide_characters_keep_the_columns_aligned() -> None:
    assert shown([{"g": "日本", "c": [1]}, {"g": "abc", "c": [22]}], ["n"]) == ["       n", "日本   1", "abc   22"]


def test_an_empty_answer_is_its_header() -> None:
    assert shown([], ["people", "spent"]) == ["  people  spent"]


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("mug", "mug"),
        (7, "7"),
        ("7", '"7"'),
        ("2.5", '"2.5"'),
        (True, "true"),
        ("true", '"true"'),
        ("", '""'),
        ("a\nb\x1b[31m", "a\\nb\\x1b[31m"),
        (1.0, "1.0"),
    ],
)
def test_keys_that_look_alike_are_told_apart(key: object, text: str) -> None:
    assert readable_key(key) == text


def test_a_person_is_shown_event_by_event() -> None:
    event = {
        "stamp": 1,
        "stamp_iso": "2017-01-01T05:30:00.000Z",
        "action": "purchase",
        "attr": {
            "total": 122.73,
            "gift": None,
            "_": [{"name": "rug", "tags": ["red", "7"], "_": [{"g": 1}]}, {"n": 2}],
        },
    }
    answer = {"person": "7", "events": [event, {"stamp": 2, "stamp_iso": "2017-01-02", "action": "login", "attr": {}}]}
    assert list(person_lines(answer)) == [
        '"7": 2 events',
        "2017-01-01T05:30:00.000Z  purchase",
        "  total: 122.73, gift: none",
        '  - name: rug, tags: [red, "7"]',
        "    - g: 1",
        "  - n: 2",
        "2017-01-02  login",
    ]
