"""A second reader of partition files: h5py and what spec/partition-file.md says, nothing of openset_format."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
from support.format_models import Event, Person


class Book:
    """One file. Everything is read as a list; what is not there is None."""

    def __init__(self, handle: h5py.File):
        self._handle = handle
        self.manifest = json.loads(bytes(handle["manifest"][:]))

    def values(self, path: str) -> list[Any] | None:
        return self._handle[path][:].tolist() if path in self._handle else None

    def texts(self, group: str) -> list[str]:
        """Packed texts."""
        offsets = self.values(f"{group}/offsets")
        if offsets is None:
            return []
        data = bytes(self.values(f"{group}/bytes") or [])
        return [data[start:end].decode() for start, end in pairwise(offsets)]

    def column(self, group: str, kind: str) -> list[Any]:
        """The values of a column, None where there is none."""
        path, rows = f"{group}/values", self.manifest["rows"]
        values, valid = self.values(path), self.values(f"{group}/valid")
        if values is None:
            return [None] * rows
        scale = self.manifest.get("scales", {}).get(path)
        if scale is not None:
            assert kind == "double" and self._handle[path].attrs["scale"] == scale
            values = [float(value) / scale for value in values]
        if kind == "text":
            texts = self.texts(f"{group}/dictionary") or [""]
            values = [texts[code] for code in values]
        if kind == "bool":
            values = [value == 1 for value in values]
        return values if valid is None else [value if ok else None for value, ok in zip(values, valid, strict=True)]

    def person(self, person: int) -> str | int:
        integers, texts = self.values("persons/integers"), self.texts("/persons/texts")
        is_integer = self._handle["persons/kinds"][person] == 1
        return int(integers[person]) if is_integer and integers is not None else texts[person]


def model_by_the_book(path: Path) -> list[Person]:
    """The model a file stands for."""
    with h5py.File(path, "r") as handle:
        book = Book(handle)
        row_start = book.values("persons/row_start") or [0]
        stamps = book.values("events/stamp") or []
        starts = book.values("events/event_start") or [1] * len(stamps)
        actions = book.column("/events/action", "text")
        columns = {one["id"]: book.column(f"/columns/{one['id']}", one["type"]) for one in book.manifest["schema"]}
        people: list[Person] = []
        for person in range(book.manifest["people"]):
            events: list[Event] = []
            for row in range(row_start[person], row_start[person + 1]):
                if starts[row]:
                    events.append((stamps[row], actions[row], []))
                cells = {column_id: values[row] for column_id, values in columns.items()}
                events[-1][2].append({key: cell for key, cell in cells.items() if cell is not None})
            people.append((book.person(person), events))
        return people
