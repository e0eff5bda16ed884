"""An explanation of a person as text that reads well: a line a step, indented like the script runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

_INDENT = "  "


def explained_text(explanation: Mapping[str, Any]) -> str:
    """The lines of an explanation."""
    return "".join(f"{line}\n" for line in _lines(explanation))


def _lines(explanation: Mapping[str, Any]) -> Iterator[str]:
    events, rows = explanation["events"], explanation["rows"]
    yield f"{explanation['person']}: {_counted(events, 'event')}, {_counted(rows, 'row')}"
    for run in explanation["runs"]:
        if "segment" in run:
            yield f"segment {run['segment']}"
        for step in run["steps"]:
            yield from (_INDENT * step["depth"] + line for line in _step(step))
        if run["left_out"]:
            yield f"({run['left_out']:,} further steps are left out)"
        if run["error"] is not None:
            error = run["error"]
            place = "" if error["line"] is None else f" in line {error['line']}, column {error['column']}"
            yield f"error{place}: {error['message']}"
        if "segment" in run:
            yield "belongs to it" if run["tallied"] or run["returned"] else "does not belong to it"
        elif not run["steps"] and run["error"] is None:
            yield "nothing happens"


def _step(step: Mapping[str, Any]) -> Iterator[str]:
    line = f"line {step['line']}: "
    match step["what"]:
        case "match":
            where = "" if step["condition"] is None else f" where {step['condition']}"
            yield f"{line}match{where}, from row {step['from_row']}"
        case "visit":
            yield _row(step)
        case "end":
            yield f"{_counted(step['visited'], 'row')} visited"
            for failed in step["failed"]:
                yield f"{_counted(failed['rows'], 'row')} left out by: {failed['part']}"
                for row in failed["first"]:
                    values = ", ".join(f"{name} = {_value(value)}" for name, value in row["values"].items())
                    yield f"{_INDENT}{_row(row)}  {values}".rstrip()
                if failed["rows"] > len(failed["first"]):
                    yield f"{_INDENT}..."
        case "tally":
            yield f"{line}tally({', '.join(_value(key) for key in step['keys'])})"
        case "emit":
            value = "" if step["value"] is None else f", {_value(step['value'])}"
            yield f"{line}emit({_value(step['name'])}{value})"
        case "schedule":
            yield f"{line}schedule({step['span']}, {_value(step['function'])})"
        case "cancel":
            yield f"{line}cancel({_value(step['function'])})"
        case "log":
            yield f"{line}log: {step['text']}"
        case "return":
            yield f"{line}return {_value(step['value'])}"
        case "exit":
            yield f"{line}exit"


def _row(row: Mapping[str, Any]) -> str:
    return f"row {row['row']}  {row['stamp_iso']}  {row['action']}"


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value)
    return json.dumps(value, ensure_ascii=False)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
