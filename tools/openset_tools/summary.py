"""What a set of people and events looks like: counts, per column its distinct values, range and most frequent values.

Works on Blocks, so that a single file and a whole table are summarised by the same code. Every value of a column is
counted; a column of distinct numbers costs a sort and a copy of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.store.fold import iso_text
from openset_format.block import Block, Column, ColumnType

TOP_VALUES = 5
TIME_BUCKETS = 12


@dataclass(slots=True)
class ColumnSummary:
    """The values of a column over rows. counts: text to rows; numbers and numbers_count: ascending, for other types."""

    type: ColumnType
    rows: int = 0
    nulls: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    numbers: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    numbers_count: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def add(self, column: Column, rows: NDArray[np.bool_] | None) -> None:
        """Takes the rows of a Block in; rows: bool[rows], None for all of them."""
        values, valid = column.values, column.valid
        if rows is not None:
            values = values[rows]
            valid = None if valid is None else valid[rows]
        self.rows += len(values)
        if valid is not None:
            values = values[valid]
            self.nulls += int(len(valid) - len(values))
        if self.type == "text":
            assert column.dictionary is not None
            counts = np.bincount(values) if len(values) else np.empty(0, np.int64)
            used = np.flatnonzero(counts)
            self.counts.update({column.dictionary.text(code): int(counts[code]) for code in used.tolist()})
            return
        numbers, count = np.unique(values, return_counts=True)
        if len(self.numbers):
            numbers, place = np.unique(np.concatenate([self.numbers, numbers]), return_inverse=True)
            count = np.bincount(place, np.concatenate([self.numbers_count, count])).astype(np.int64)
        self.numbers, self.numbers_count = numbers, count

    def shown(self) -> dict[str, Any]:
        """type, nulls, distinct, min, max and the most frequent values with their rows."""
        if self.type == "text":
            distinct, ends = len(self.counts), (min(self.counts, default=None), max(self.counts, default=None))
            top: list[tuple[Any, int]] = sorted(self.counts.items(), key=lambda entry: (-entry[1], entry[0]))[
                :TOP_VALUES
            ]
        else:
            distinct = len(self.numbers)
            ends = (self._python(0), self._python(-1)) if distinct else (None, None)  # type: ignore[assignment]
            order = np.argsort(-self.numbers_count, kind="stable")[:TOP_VALUES].tolist()
            top = [(self._python(place), int(self.numbers_count[place])) for place in order]
        return {
            "type": self.type,
            "nulls": self.nulls,
            "distinct": distinct,
            "min": ends[0],
            "max": ends[1],
            "top": [{"value": value, "rows": rows} for value, rows in top],
        }

    def _python(self, place: int) -> int | float | bool:
        value = self.numbers[place].item()
        return bool(value) if self.type == "bool" else value


@dataclass(slots=True)
class Summary:
    """People, events and rows, and what stands in their columns.

    events_per_person: people by the number of binary digits of their event count.
    stamps: int64[events] per Block.
    """

    types: Mapping[str, ColumnType]
    people: int = 0
    events: int = 0
    rows: int = 0
    columns: dict[str, ColumnSummary] = field(default_factory=dict)
    events_per_person: Counter[int] = field(default_factory=Counter)
    stamps: list[NDArray[np.int64]] = field(default_factory=list)

    def add(self, block: Block) -> None:
        """Takes the people of a Block in."""
        included = None
        if block.include is not None:
            included = np.repeat(block.include, np.diff(block.row_start))
        rows = block.rows if included is None else int(included.sum())
        first = block.event_first_row[:-1]
        if included is not None:
            first = first[included[first]]
        person = np.searchsorted(block.row_start, first, side="right") - 1
        counts = np.bincount(person, minlength=block.people)
        counts = counts[counts > 0]
        self.people += len(counts)
        self.events += len(first)
        self.rows += rows
        digits, people = np.unique(np.floor(np.log2(counts)).astype(np.int64), return_counts=True)
        self.events_per_person.update(dict(zip(digits.tolist(), people.tolist(), strict=True)))
        self.stamps.append(block.stamp[first])
        self._add_columns(block.columns, rows, included)

    def add_columns(self, columns: Mapping[str, Column], rows: int) -> None:
        """Takes columns over rows in, of which nobody knows whose they are."""
        self.rows += rows
        self._add_columns(columns, rows, None)

    def _add_columns(self, columns: Mapping[str, Column], rows: int, included: NDArray[np.bool_] | None) -> None:
        for name, column_type in {"action": "text", **self.types}.items():
            summary = self.columns.setdefault(name, ColumnSummary(column_type))
            if name in columns:
                summary.add(columns[name], included)
            else:
                summary.rows += rows
                summary.nulls += rows

    def shown(self) -> dict[str, Any]:
        """As JSON: people, events, rows, first and last stamp, columns and histograms."""
        self._add_columns({}, 0, None)  # those of a table without any row, too
        stamps = np.concatenate(self.stamps) if self.stamps else np.empty(0, np.int64)
        span = (int(stamps.min()), int(stamps.max())) if len(stamps) else None
        return {
            "people": self.people,
            "events": self.events,
            "rows": self.rows,
            "first": None if span is None else iso_text(span[0]),
            "last": None if span is None else iso_text(span[1]),
            "columns": {name: column.shown() for name, column in self.columns.items()},
            "events_per_person": [
                {"from": 2**digit, "to": 2 ** (digit + 1) - 1, "people": people}
                for digit, people in sorted(self.events_per_person.items())
            ],
            "events_over_time": [] if span is None else _over_time(stamps, *span),
        }


def _over_time(stamps: NDArray[np.int64], first: int, last: int) -> list[dict[str, Any]]:
    """Events in spans of equal length, the first of which starts with the first event."""
    length = max(-(-(last - first + 1) // TIME_BUCKETS), 1)
    counts = np.bincount((stamps - first) // length)
    return [{"from": iso_text(first + length * place), "events": count} for place, count in enumerate(counts.tolist())]
