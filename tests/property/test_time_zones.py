"""Dates in time zones: the engine's tables against Python's zones, around changes of offsets and anywhere else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_blocks import block_of

from openset.pyql.interpreter.interpreter import interpret
from openset.pyql.lanes.engine import compile_plan, run
from openset.pyql.lanes.texts import TextTable
from openset.pyql.lanes.vector_functions import call
from openset.pyql.lanes.vectors import INT, Vec
from openset.pyql.lanes.vectors import scalars as lane_values
from openset.pyql.meaning.functions import pure_functions
from openset.pyql.meaning.zones import zone_table
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_script
from openset.query.result import Order, result_tree

# Half hours, a quarter of an hour, a summer time of half an hour, a day left out, offsets with seconds, a summer time
# that goes backwards in winter, and one that stops for a month.
ZONES = [
    "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia",
    "Africa/Monrovia", "Europe/Dublin", "Africa/Casablanca", "America/St_Johns", "Antarctica/Troll", "Asia/Tehran",
    "Pacific/Kiritimati", "America/Sao_Paulo", "UTC",
]  # fmt: skip
FUNCTIONS = [name for name in pure_functions() if name.startswith(("get_", "date_"))]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(*date: int) -> int:
    return (datetime(*date, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)  # type: ignore[misc, arg-type]


# Last and first days of summer times, and of years.
EDGES = [
    milliseconds(*date)
    for date in [
        (2024, 3, 31, 1), (2024, 10, 27, 1), (2024, 3, 10, 7), (2024, 11, 3, 6), (2024, 4, 6, 15), (2024, 10, 5, 15),
        (2011, 12, 30, 10), (1972, 1, 7, 0), (2023, 12, 31, 23), (2040, 3, 25, 1), (1950, 5, 14, 1), (2024, 3, 10, 2),
    ]
]  # fmt: skip
HOURS_MS = 3_600_000
near_an_edge = st.builds(
    lambda edge, distance: edge + distance, st.sampled_from(EDGES), st.integers(-30 * HOURS_MS, 30 * HOURS_MS)
)
anywhere = st.integers(milliseconds(1900, 1, 1), milliseconds(2150, 1, 1))
stamps = st.lists(st.one_of(near_an_edge, anywhere), min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ZONES), stamps)
def test_functions_on_vectors_are_the_functions_on_values(name: str, moments: list[int]) -> None:
    zone = ZoneInfo(name)
    scalars = pure_functions(zone)
    values = Vec(INT, np.array(moments, np.int64))
    for function in FUNCTIONS:
        table = TextTable(1 << 20)
        found = call(function, scalars[function], [values], len(moments), table, zone)
        expected = [scalars[function](moment) for moment in moments]
        assert lane_values(found, len(moments), table) == expected, (name, function)


@pytest.mark.parametrize("name", ZONES)
def test_tables_know_every_change_of_a_century(name: str) -> None:
    zone = ZoneInfo(name)
    first, last = milliseconds(1970, 1, 1), milliseconds(2070, 1, 1)
    moments = np.arange(first, last, 6 * HOURS_MS, dtype=np.int64) - 1
    table = zone_table(zone, first, last)
    assert table is not None
    offsets = (table.to_local(moments) - moments).tolist()
    for moment, offset in zip(moments[::7].tolist(), offsets[::7], strict=True):
        local = (EPOCH + timedelta(milliseconds=moment)).astimezone(zone)
        assert local.utcoffset() == timedelta(milliseconds=offset), local


def test_too_long_a_time_has_no_table() -> None:
    assert zone_table(ZoneInfo("Europe/Berlin"), milliseconds(1000, 1, 1), milliseconds(2000, 1, 1)) is None
    assert zone_table(ZoneInfo("Europe/Berlin"), milliseconds(2, 1, 1), milliseconds(2, 2, 1)) is None


SCRIPTS = [
    "match:\n    tally(get_day_of_week(event_time), get_hour(stamp))",
    "match where get_month(stamp) in [3, 10]:\n    tally(date_day(stamp), date_hour(stamp))",
    "match where iter_between('2024-03-31', '2024-10-27T02:30:00'):\n    tally(date_month(stamp), get_year(stamp))",
    "a = '2024-03-31T02:30:00'\nmatch where iter_between(a, '2024-11-03'):\n    tally(date_week(stamp))",
    "x = date_year(first_event)\ntally(x, date_quarter(last_event), get_day_of_year(now))",
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(ZONES), st.sampled_from(SCRIPTS), stamps)
def test_the_engine_equals_the_interpreter(name: str, text: str, moments: list[int]) -> None:
    events = [
        {"person": moment % 3, "stamp": moment, "action": "x"}
        for moment in moments
        if moment >= milliseconds(1973, 4, 1)  # earlier ones would be read as seconds
    ]
    block = block_of(events, {})
    script = parse_script(text, {})
    zoned = RunSettings(now_ms=EDGES[0], zone=ZoneInfo(name))
    expected = Partial(script.aggregators)
    interpret(script, block, zoned, expected)
    found = run(compile_plan(script), [block], zoned)
    order = Order(None, ascending=True)
    assert result_tree(found, order) == result_tree(expected, order)


def test_a_day_of_twenty_three_hours() -> None:
    zoned = pure_functions(ZoneInfo("Europe/Berlin"))
    noon = milliseconds(2024, 3, 31, 10)
    assert zoned["get_hour"](noon) == 12
    assert zoned["date_day"](noon) == milliseconds(2024, 3, 30, 23)
    assert zoned["date_day"](noon + 24 * HOURS_MS) == milliseconds(2024, 3, 31, 22)
