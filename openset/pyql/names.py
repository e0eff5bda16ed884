"""Every name PyQL gives a meaning to: built-in columns, functions with their arity, methods, keywords.

The parser, the checks, the interpreter, the engine and the documentation test all read this one table.
"""

from __future__ import annotations

from dataclasses import dataclass

MANY = 1_000_000


@dataclass(frozen=True, slots=True)
class Builtin:
    """A built-in function. `bare`: may be written without brackets. `pure`: depends on its arguments alone."""

    name: str
    min_arguments: int
    max_arguments: int
    bare: bool = False
    pure: bool = True


def _table(*entries: Builtin) -> dict[str, Builtin]:
    return {entry.name: entry for entry in entries}


# Built-in columns; `people` is another name of `person`.
BUILTIN_COLUMNS: dict[str, str | None] = {"person": None, "stamp": "int", "action": "text", "session": "int"}
COLUMN_SYNONYMS = {"people": "person"}

_TIME_NAMES = ("now", "event_time", "first_event", "last_event", "prev_match", "first_match", "event_count",
               "session_count")  # fmt: skip
# Written differently, meaning the same.
FUNCTION_SYNONYMS = {"last_match": "prev_match"}

_GET_UNITS = ("second", "minute", "hour", "day_of_week", "day_of_month", "day_of_year", "month", "quarter", "year")
_DATE_UNITS = ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
_SPAN_UNITS = ("seconds", "minutes", "hours", "days", "weeks")

FUNCTIONS: dict[str, Builtin] = _table(
    *(Builtin(name, 0, 0, bare=True, pure=False) for name in _TIME_NAMES),
    *(Builtin(f"to_{unit}", 1, 1) for unit in _SPAN_UNITS),
    *(Builtin(f"get_{unit}", 1, 1) for unit in _GET_UNITS),
    *(Builtin(f"date_{unit}", 1, 1) for unit in _DATE_UNITS),
    Builtin("iter_get", 0, 0, pure=False),
    Builtin("iter_within", 2, 2, pure=False),
    Builtin("iter_between", 2, 2, pure=False),
    Builtin("bucket", 2, 2),
    Builtin("trunc", 1, 1),
    Builtin("round", 1, 2),
    Builtin("fix", 2, 2),
    Builtin("int", 1, 1),
    Builtin("float", 1, 1),
    Builtin("str", 1, 1),
    Builtin("len", 1, 1),
    Builtin("list", 0, MANY),
    Builtin("set", 0, MANY),
    Builtin("dict", 0, 0),
    Builtin("url_decode", 1, 1),
)

# Calls that are statements: they have no value.
MOVES: dict[str, Builtin] = _table(
    Builtin("iter_next", 0, 0, pure=False),
    Builtin("iter_prev", 0, 0, pure=False),
    Builtin("iter_set", 1, 1, pure=False),
    Builtin("iter_move_first", 0, 0, pure=False),
    Builtin("iter_move_last", 0, 0, pure=False),
    Builtin("iter_reset_event", 0, 0, pure=False),
)
STATEMENT_CALLS: dict[str, Builtin] = _table(Builtin("tally", 0, MANY, pure=False), Builtin("log", 1, MANY, pure=False))

# Statements of trigger scripts.
TRIGGER_CALLS: dict[str, Builtin] = _table(
    Builtin("emit", 1, 2, pure=False), Builtin("schedule", 2, 2, pure=False), Builtin("cancel", 1, 1, pure=False)
)
ON_INSERT = "on_insert"
# A column that rows have while a trigger runs.
IS_NEW = "is_new"
# A column of Blocks that takes the place of the `now` of a run, for runs that see people at different moments.
NOW = "now"

# Methods. `changes`: the target is changed and must be a variable (or an element of one).
METHODS: dict[str, tuple[int, int]] = {
    "append": (1, 1), "add": (1, 1), "update": (1, 1), "remove": (1, 1), "pop": (0, 0), "clear": (0, 0),
    "keys": (0, 0), "find": (1, 3), "rfind": (1, 3), "split": (1, 1), "strip": (0, 0), "replace": (2, 2),
}  # fmt: skip
CHANGING_METHODS = frozenset({"append", "add", "update", "remove", "pop", "clear"})

AGGREGATORS = ("count", "sum", "min", "max", "avg", "value", "var")
INLINE_AGGREGATIONS = ("SUM", "COUNT", "MIN", "MAX", "AVG", "DISTINCT")

KEYWORDS = frozenset(
    [
        "and",
        "or",
        "not",
        "in",
        "is",
        "if",
        "elif",
        "else",
        "for",
        "match",
        "where",
        "def",
        "return",
        "break",
        "continue",
        "exit",
        "del",
        "pass",
        "as",
        "with",
        "all",
        "true",
        "false",
        "none",
        "True",
        "False",
        "None",
    ]
)

DURATION_UNITS_MS = {
    "second": 1_000, "seconds": 1_000, "minute": 60_000, "minutes": 60_000, "hour": 3_600_000, "hours": 3_600_000,
    "day": 86_400_000, "days": 86_400_000, "week": 604_800_000, "weeks": 604_800_000,
}  # fmt: skip

# Names of the trigger and segment language that are reserved too.
TRIGGER_NAMES = frozenset({*TRIGGER_CALLS, ON_INSERT, IS_NEW})
SEGMENT_NAMES = frozenset({"population", "intersection", "union", "complement", "compliment", "difference"})

# What a column of a table may not be called.
RESERVED_COLUMN_NAMES = frozenset(
    {name.lower() for name in KEYWORDS}
    | set(BUILTIN_COLUMNS)
    | set(COLUMN_SYNONYMS)
    | set(FUNCTIONS)
    | set(FUNCTION_SYNONYMS)
    | set(MOVES)
    | set(STATEMENT_CALLS)
    | TRIGGER_NAMES
    | SEGMENT_NAMES
)
