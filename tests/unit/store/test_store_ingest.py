"""What an insert body may say, what it may not, and the reason that is given."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from openset import demo
from openset.errors import InsertError
from openset.store.expand import BadEvent, expand
from openset.store.ingest import Insert, prepare_insert
from openset.store.schema import ColumnSchema, TableSchema
from openset.store.stamps import LAST_STAMP, BadStamp, parse_stamp
from openset_format.batch import decode_batch
from openset_format.hashing import partition_of

COLUMNS = (
    ColumnSchema(1, "name", "text"),
    ColumnSchema(4, "units", "int"),
    ColumnSchema(2, "price", "double"),
    ColumnSchema(9, "gift", "bool"),
)
SCHEMA = TableSchema(1, "t", COLUMNS)
NOW = 1_700_000_000_000


def prepare(body: Any, **settings: Any) -> Insert:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return prepare_insert(raw, SCHEMA, settings.pop("partitions", 2), NOW, **settings)


def event(**changes: Any) -> dict[str, Any]:
    return {"person": "ann", "stamp": NOW, "action": "view", **changes}


def reasons(body: Any, **settings: Any) -> list[tuple[int, str]]:
    """What is reported of the bad events; skipping them reports the same."""
    with pytest.raises(InsertError) as caught:
        prepare(body, **settings)
    skipped = prepare(body, skip_bad=True, **settings)
    assert skipped.report() == caught.value.detail
    return [(entry["index"], entry["reason"]) for entry in caught.value.detail]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (7, "an event must be a JSON object"),
        ({"stamp": NOW, "action": "view"}, "person is missing"),
        (event(person=None), "person is missing"),
        (event(person=""), "person is empty"),
        (event(person=True), "person must be text or an int"),
        (event(person=1.5), "person must be text or an int"),
        (event(person=2**63), "person is an int beyond 64 bits"),
        (event(person="a\ud800"), "person has half of a surrogate pair, which is no character"),
        ({"person": "ann"}, "action is missing"),
        (event(action=""), "action is empty"),
        (event(action=3), "action must be text"),
        (event(stamp=True), "stamp must be milliseconds, seconds or ISO 8601 text"),
        (event(stamp=-1), "stamp -1 is before 1970"),
        (event(stamp=LAST_STAMP + 1), f"stamp {LAST_STAMP + 1} is after the year 9999"),
        (event(stamp=10**30), f"stamp {10**30} is after the year 9999"),
        (event(stamp=1709545500.5), "stamp 1709545500.5 is not a whole number of seconds or milliseconds"),
        (event(stamp="yesterday"), "stamp 'yesterday' is not an ISO 8601 date or time"),
        (event(attributes={}), "unknown key 'attributes'; an event has person, stamp, action and attr"),
        (event(attr=[1]), "attr must be a JSON object"),
        (event(attr={"nmae": "x"}), "unknown column 'nmae'"),
        (event(attr={"name": 3}), "attr.name is an int, the column is text"),
        (event(attr={"units": 3.0}), "attr.units is a double, the column is int"),
        (event(attr={"units": True}), "attr.units is a bool, the column is int"),
        (event(attr={"units": "3"}), "attr.units is text, the column is int"),
        (event(attr={"units": 2**63}), "attr.units is an int beyond 64 bits"),
        (event(attr={"units": {"a": 1}}), "attr.units is an object, the column is int"),
        (event(attr={"units": [1, [2]]}), "attr.units is a list, the column is int"),
        (event(attr={"price": True}), "attr.price is a bool, the column is double"),
        (event(attr={"price": float("nan")}), "attr.price is NaN, which is not a number"),
        (event(attr={"units": float("nan")}), "attr.units is NaN, which is not a number"),
        (event(attr={"price": float("inf")}), "attr.price is infinite or beyond the range of a double"),
        (event(attr={"price": 10**400}), "attr.price is a number beyond the range of a double"),
        (event(attr={"gift": 1}), "attr.gift is an int, the column is bool"),
        (event(attr={"name": "\udc00"}), "attr.name is text with half of a surrogate pair, which is no character"),
        (event(attr={"_": {"name": "x"}}), '"_" must be a list of objects'),
        (event(attr={"_": ["x"]}), '"_" must be a list of objects'),
        (event(attr={"_": [{"name": 1}]}), "attr.name is an int, the column is text"),
    ],
)  # fmt: skip
def test_bad_event_is_named(bad: Any, reason: str) -> None:
    good = event(attr={"name": "x"})
    assert reasons([good, bad, good]) == [(1, reason)]
    lines = "\n".join(json.dumps(entry) for entry in (good, bad)).encode()
    assert reasons(lines, newline_delimited=True) == [(1, reason)]


def test_bad_values_among_many_good_ones() -> None:
    body = [event(attr={"units": number, "price": 1.5}) for number in range(50)]
    body[7]["attr"]["units"] = "7"
    body[31]["attr"]["price"] = None
    body[40]["person"] = ""
    assert [index for index, _ in reasons(body)] == [7, 40]
    insert = prepare(body, skip_bad=True)
    assert (insert.accepted, insert.rejected) == (48, 2)
    assert insert.batch is not None
    units = insert.batch.columns[4]
    found = {units.value(row) for row in range(insert.batch.rows)}
    assert found == set(range(50)) - {7, 40}


def test_only_the_first_twenty_are_listed() -> None:
    with pytest.raises(InsertError) as caught:
        prepare([event(action="")] * 30 + [event()])
    assert caught.value.message == "30 of 31 events are bad, nothing was inserted"
    assert [entry["index"] for entry in caught.value.detail] == list(range(20))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the body is empty; it must be a JSON array of events"),
        (b"{}", "the body must be a JSON array of events"),
        (b"[1, 2", "the body is not JSON: Expecting ',' delimiter: line 1 column 6 (char 5)"),
        (b'[{"person": "\xff"}]', "the body is not UTF-8: invalid start byte (byte 13)"),
        (b"[" * 200_000, "the body is nested too deeply"),
        (b'[{"person": nan}]', "the body is not JSON: Expecting value: line 1 column 13 (char 12)"),
    ],
)
def test_bodies_that_are_none(body: bytes, message: str) -> None:
    for skip_bad in (False, True):
        with pytest.raises(InsertError) as caught:
            prepare(body, skip_bad=skip_bad)
        assert caught.value.message == message


def test_bad_lines_are_events() -> None:
    body = b'{"person": 1, "action": "a"}\n\n[\r\n' + b"[" * 100_000 + b'\n{"person": "\xff", "action": "a"}\n'
    found = reasons(body, newline_delimited=True)
    assert [index for index, _ in found] == [1, 2, 3]
    assert found[1][1] == "the line is nested too deeply"


def test_empty_requests() -> None:
    assert prepare([]) == Insert(None, b"", 0, 0, (), SCHEMA.id)
    assert prepare(b"\n", newline_delimited=True).accepted == 0


def test_byte_order_mark_is_skipped() -> None:
    assert prepare(b"\xef\xbb\xbf" + json.dumps([event()]).encode()).accepted == 1


def test_missing_stamps_count_up_per_person_and_action() -> None:
    sent = [("ann", "a"), ("ann", "a"), ("ann", "b"), ("bob", "a"), (7, "a"), ("7", "a"), ("ann", "a")]
    body = [{"person": person, "action": action} for person, action in sent]
    body[1]["stamp"] = None
    body.insert(2, {"person": "ann", "action": "a", "stamp": 5})
    insert = prepare(body, partitions=1)
    assert insert.batch is not None
    assert insert.batch.stamp.tolist() == [NOW, NOW + 1, 5_000, NOW, NOW, NOW, NOW, NOW + 2]


def test_int_is_accepted_for_double_and_nothing_else_is_converted() -> None:
    insert = prepare(
        [event(attr={"price": 3}), event(action="b", attr={"price": 2.5}), event(action="c")], partitions=1
    )
    assert insert.batch is not None
    price = insert.batch.columns[2]
    assert [price.value(row) for row in range(3)] == [3.0, 2.5, None]
    assert set(insert.batch.columns) == {2}


def test_values_that_are_all_none_leave_no_column() -> None:
    insert = prepare([event(attr={"name": None, "units": [], "gift": False})])
    assert insert.batch is not None
    assert set(insert.batch.columns) == {9}


def test_events_are_grouped_by_partition_in_request_order() -> None:
    body = [event(person=f"p{number % 17}", stamp=NOW + number) for number in range(100)]
    insert = prepare(body, partitions=5)
    assert insert.batch is not None
    batch = decode_batch(insert.payload)
    seen = []
    for slice_ in batch.partitions:
        events = range(slice_.first_event, slice_.first_event + slice_.event_count)
        stamps = batch.stamp[events.start : events.stop].tolist()
        assert stamps == sorted(stamps)
        for number in events:
            person = batch.persons[int(batch.person[number])]
            assert partition_of(person, 5) == slice_.partition
            assert person == f"p{(batch.stamp[number] - NOW) % 17}"
            seen.append(int(batch.stamp[number]))
    assert sorted(seen) == [NOW + number for number in range(100)]


@pytest.mark.parametrize(
    ("given", "stamp"),
    [
        (1_709_545_500, 1_709_545_500_000),
        (99_999_999_999, 99_999_999_999_000),
        (100_000_000_000, 100_000_000_000),
        (0, 0),
        (1_709_545_500.0, 1_709_545_500_000),
        ("2024-02-29T12:00:00+02:00", 1_709_200_800_000),
        ("2023-12-31T23:59:59.999Z", 1_704_067_199_999),
        ("2023-12-31T23:59:59.999999", 1_704_067_199_999),
        ("2017-01-01", 1_483_228_800_000),
        ("2017-01-01 05:30", 1_483_248_600_000),
        ("20170101T053000z", 1_483_248_600_000),
        ("9999-12-31T23:59:59.999Z", LAST_STAMP),
        (LAST_STAMP, LAST_STAMP),
    ],
)
def test_stamps(given: Any, stamp: int) -> None:
    assert parse_stamp(given) == stamp


@pytest.mark.parametrize(
    "given", ["", "1709545500", "2024-13-01", "2024-01-01x10:00", "1969-12-31T23:59:59Z", "9999-12-31T23:59:59-01:00",
              "٢٠٢٤-01-01", [], {}, float("inf"), float("nan"), "2024-01-01T10:00:61Z"],
)  # fmt: skip
def test_stamps_that_are_none(given: Any) -> None:
    with pytest.raises(BadStamp):
        parse_stamp(given)


TYPES: dict[str, Any] = {"a": "int", "b": "int", "c": "int"}


def test_lists_vary_slowest_first_and_groups_follow_in_order() -> None:
    attr = {"b": [1, 2], "a": [3, 4], "_": [{"c": 5}, {"c": [6, 7]}]}
    rows = [(row["b"], row["a"], row["c"]) for row in expand(attr, TYPES)]
    assert rows == [(b, a, c) for b in (1, 2) for a in (3, 4) for c in (5, 6, 7)]


def test_a_group_overrides_what_is_outside() -> None:
    attr = {"a": 1, "b": [2, 3], "_": [{"c": 4}, {"b": 9, "c": 5}, {"a": None}]}
    assert expand(attr, TYPES) == [
        {"a": 1, "b": 2, "c": 4},
        {"a": 1, "b": 9, "c": 5},
        {"a": None, "b": 2},
        {"a": 1, "b": 3, "c": 4},
        {"a": None, "b": 3},
    ]


def test_empty_lists_and_empty_groups_never_make_zero_rows() -> None:
    assert expand({"a": [], "_": []}, TYPES) == [{"a": None}]
    assert expand({"_": [{}]}, TYPES) == [{}]
    assert expand({}, TYPES) == [{}]
    assert expand({"a": [1, 1]}, TYPES) == [{"a": 1}, {"a": 1}]


def test_rows_per_event_are_counted_before_they_are_made() -> None:
    many = list(range(1_000))
    with pytest.raises(BadEvent, match="more than 10000 rows"):
        expand({"a": many, "b": many, "c": many}, TYPES)
    with pytest.raises(BadEvent, match="more than 10000 rows"):
        expand({"a": many, "_": [{"_": [{"b": many}]}]}, TYPES)
    assert len(expand({"a": many[:100], "b": many[:100]}, TYPES)) == 10_000
    # What the group overrides does not multiply.
    assert len(expand({"a": many, "_": [{"a": 1, "b": many}]}, TYPES)) == 1_000


def test_depth_is_bounded() -> None:
    attr: dict[str, Any] = {"a": 1}
    for _ in range(40):
        attr = {"_": [attr]}
    with pytest.raises(BadEvent, match="nested deeper than 32"):
        expand(attr, TYPES)


def test_sample_data_of_the_demo() -> None:
    sample = Path(demo.__file__).parent / "data" / "tornado_commits.json.gz"
    kinds = {"files": "int", "lines_added": "int", "lines_deleted": "int", "is_root": "bool", "dir": "text",
             "ext": "text", "file": "text", "added": "int", "deleted": "int"}  # fmt: skip
    columns = tuple(ColumnSchema(number, name, kind) for number, (name, kind) in enumerate(kinds.items(), 1))  # type: ignore[arg-type]
    body = gzip.decompress(sample.read_bytes())
    insert = prepare_insert(body, TableSchema(1, "commits", columns), 4, NOW)
    assert insert.batch is not None
    assert (insert.accepted, insert.batch.rows) == (5_054, 10_818)
