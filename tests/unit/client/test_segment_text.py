"""Stored segments as text."""

from __future__ import annotations

from typing import Any

import pytest

from openset.client.segment_text import segment_lines, span


def test_a_line_of_facts_and_the_script_below() -> None:
    buyers: dict[str, Any] = {
        "name": "buyers",
        "people": 12_345,
        "age": 61.4,
        "ttl": 3600.0,
        "refresh": 300.0,
        "script": "match where action is 'buy':\n    tally",
    }
    rest = {"name": "rest", "people": 1, "age": 0.2, "ttl": None, "refresh": None, "script": "complement(buyers)",
            "error": "there is no segment 'buyers'"}  # fmt: skip
    assert list(segment_lines([buyers, rest])) == [
        "buyers: 12,345 people, computed 61s ago, ttl 1h, refresh 5m",
        "  match where action is 'buy':",
        "      tally",
        "rest: 1 people, computed 0s ago, kept forever",
        "  complement(buyers)",
        "  cannot be computed again: there is no segment 'buyers'",
    ]


@pytest.mark.parametrize("seconds, shown", [(0, "0s"), (59.6, "1m"), (90, "90s"), (7_200, "2h"), (86_400 * 3, "3d")])
def test_spans(seconds: float, shown: str) -> None:
    assert span(seconds) == shown
