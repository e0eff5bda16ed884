"""Column types from events: what `openset load --create` gives a new table.

Responsible for looking at every value of every event, lists and nested `_` groups included. A mix of int and double is
double; any other mix is an error that names the column. Shortcut: a column that only ever holds null becomes text.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from openset.errors import InsertError

_TYPE_NAMES: dict[type, str] = {bool: "bool", int: "int", float: "double", str: "text"}
_NUMBERS = frozenset(("int", "double"))
_ONLY_NULL = "text"


class TypeInference:
    """Collects the columns of events, in the order they are first seen."""

    def __init__(self, skip_bad_events: bool = False) -> None:
        """skip_bad_events: what is not JSON is left to whoever reads the events, instead of an error."""
        self._skip_bad_events = skip_bad_events
        self._types: dict[str, str | None] = {}
        self._first_seen: dict[str, int] = {}
        self.event_count = 0
        self.only_null: tuple[str, ...] = ()

    def add_all(self, events: Iterable[bytes], name: str) -> None:
        """Looks at JSON texts of events; `name` is the file, for errors. Raises InsertError."""
        decode = msgspec.json.decode
        for text in events:
            self.event_count += 1
            try:
                event = decode(text)
            except msgspec.DecodeError as error:
                if self._skip_bad_events:
                    continue
                raise InsertError(f"{name}: event {self.event_count} is not JSON: {error}") from None
            attributes = event.get("attr") if isinstance(event, dict) else None
            if isinstance(attributes, dict):
                self._add_group(attributes)

    def columns(self) -> list[dict[str, str]]:
        """The columns in the form that creating a table takes: name and type."""
        self.only_null = tuple(name for name, kind in self._types.items() if kind is None)
        return [{"name": name, "type": kind or _ONLY_NULL} for name, kind in self._types.items()]

    def _add_group(self, group: dict[str, Any]) -> None:
        for column, value in group.items():
            if column != "_":
                self._add_value(column, value)
                continue
            for inner in value if isinstance(value, list) else [value]:
                if not isinstance(inner, dict):
                    raise InsertError(f"event {self.event_count}: `_` holds a list of groups (objects)")
                self._add_group(inner)

    def _add_value(self, column: str, value: Any) -> None:
        if isinstance(value, list):
            self._types.setdefault(column, None)
            for element in value:
                if isinstance(element, list):
                    raise InsertError(f"column {column!r}: event {self.event_count} has a list inside a list")
                self._add_value(column, element)
            return
        known = self._types.setdefault(column, None)
        if value is None:
            return
        kind = _TYPE_NAMES.get(type(value))
        if kind is None:
            raise InsertError(
                f"column {column!r}: event {self.event_count} has an object; nested values belong in groups under `_`"
            )
        if known is None:
            self._types[column] = kind
            self._first_seen[column] = self.event_count
        elif kind != known:
            if {kind, known} != _NUMBERS:
                raise InsertError(
                    f"column {column!r} has conflicting types: {known} in event {self._first_seen[column]}, "
                    f"{kind} in event {self.event_count}",
                    detail="create the table with the types you want, and change the events to fit them",
                )
            self._types[column] = "double"
