"""inspect, verify and cat over a small data directory, sound and damaged, with and without a journal on top."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from openset.cli import main
from openset.store.store import Store

HOUR = 3_600_000
COLUMNS = [("page", "text"), ("price", "double"), ("count", "int"), ("member", "bool")]


def event(person: str | int, hour: int, action: str, **attributes: Any) -> dict[str, Any]:
    return {"person": person, "stamp": 1_700_000_000_000 + hour * HOUR, "action": action, "attr": attributes}


IN_FILES = [
    event("ann", 0, "view", page="home", count=1),
    event("ann", 1, "view", page="cart", count=2, member=True),
    event("ann", 2, "buy", price=9.5, _=[{"page": "pen"}, {"page": "ink"}]),
    event("bob", 5, "view", page="home", count=-3),
    event(77, 8, "view", page="home", member=False),
]
IN_JOURNAL = [event("ann", 9, "view", page="late"), event("cid", 11, "buy", price=1.25)]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A table of two partitions, most of it in files, the rest in the journal."""
    data = tmp_path / "data"
    store = Store.open(data)
    store.initialise(2)
    store.create_table("shop", COLUMNS, ["view", "buy"])
    store.submit("shop", store.prepare_insert("shop", json.dumps(IN_FILES).encode())).result()
    store.compact_all()
    store.submit("shop", store.prepare_insert("shop", json.dumps(IN_JOURNAL).encode())).result()
    store.close()
    return data


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def files_of(data: Path) -> list[Path]:
    return sorted(data.glob("tables/1/p*.h5"))


def flip(path: Path, offset: int) -> None:
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def contents(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_inspect_shows_a_directory_with_what_the_journal_adds(data_dir: Path) -> None:
    before = contents(data_dir)
    shown = json.loads(run("inspect", data_dir, "--json").stdout)
    assert contents(data_dir) == before
    assert shown["problems"] == [] and shown["partitions"] == 2
    assert (shown["journal"]["records"], shown["journal"]["last_sequence"]) == (2, 2)
    (table,) = shown["tables"]
    assert (table["people"], table["events"], table["rows"]) == (4, 7, 8)
    assert (table["first"], table["last"]) == ("2023-11-14T22:13:20.000Z", "2023-11-15T09:13:20.000Z")
    page = {name: table["columns"]["page"][name] for name in ("type", "nulls", "distinct", "min", "max")}
    assert page == {"type": "text", "nulls": 1, "distinct": 5, "min": "cart", "max": "pen"}
    assert table["columns"]["page"]["top"][0] == {"value": "home", "rows": 3}
    count = table["columns"]["count"]
    assert (count["min"], count["max"], count["nulls"], count["distinct"]) == (-3, 2, 5, 3)
    assert table["columns"]["member"]["min"] is False and table["columns"]["member"]["max"] is True
    # The first row of a double column in a second row of an event repeats it.
    assert table["columns"]["price"]["top"] == [{"value": 9.5, "rows": 2}, {"value": 1.25, "rows": 1}]
    assert table["events_per_person"] == [{"from": 1, "to": 1, "people": 3}, {"from": 4, "to": 7, "people": 1}]
    assert sum(entry["events"] for entry in table["events_over_time"]) == 7
    assert sum(entry["journal_records"] for entry in table["partitions"]) == 2


def test_inspect_shows_a_file_with_the_names_of_its_catalog(data_dir: Path, tmp_path: Path) -> None:
    shown = [json.loads(run("inspect", path, "--json").stdout) for path in files_of(data_dir)]
    assert sum(entry["events"] for entry in shown) == 5 and sum(entry["people"] for entry in shown) == 3
    assert list(shown[0]["columns"]) == ["action", "page", "price", "count", "member"]
    assert shown[0]["header"]["generation"] == 1 and shown[0]["header"]["z_order"] == ["view", "buy"]
    alone = tmp_path / "alone.h5"
    alone.write_bytes(files_of(data_dir)[0].read_bytes())
    assert "column 1" in json.loads(run("inspect", alone, "--json").stdout)["columns"]


def test_inspect_prints_text(data_dir: Path) -> None:
    lines = run("inspect", data_dir).stdout.splitlines()
    assert "  4 people, 7 events, 8 rows" in lines
    assert "  from 2023-11-14T22:13:20.000Z to 2023-11-15T09:13:20.000Z" in lines
    assert "    5 distinct, 1 null, cart to pen; most: home (3), cart (1), ink (1), late (1), pen (1)" in lines
    assert "    3 distinct, 5 null, -3 to 2" in lines
    assert "      1 " + "█" * 40 + " 3" in lines
    assert "    4-7 " + "█" * 14 + " 1" in lines


def test_inspect_shows_a_segment_of_the_journal(data_dir: Path) -> None:
    (segment,) = (data_dir / "journal").glob("*.journal")
    shown = json.loads(run("inspect", segment, "--json").stdout)
    assert [(record["sequence"], record["kind"], record["table_id"]) for record in shown["records"]] == [
        (1, 1, 1),
        (2, 1, 1),
    ]
    assert "record 2: insert, table 1" in run("inspect", segment).stdout


def test_inspect_shows_that_a_text_is_empty(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    store.initialise(1)
    store.create_table("t", [("page", "text")])
    store.submit("t", store.prepare_insert("t", json.dumps([event("ann", 0, "view", page="")]).encode())).result()
    store.close()
    assert "'' to ''" in run("inspect", tmp_path).stdout


def test_inspect_goes_on_when_a_file_is_damaged(data_dir: Path) -> None:
    flip(files_of(data_dir)[0], 30)
    shown = json.loads(run("inspect", data_dir, "--json").stdout)
    assert len(shown["problems"]) == 1 and "p0000.h5" in shown["problems"][0]
    assert 0 < shown["tables"][0]["events"] < 7
    assert run("inspect", files_of(data_dir)[0]).exit_code == 1


def test_verify_finds_a_sound_directory_sound(data_dir: Path) -> None:
    before = contents(data_dir)
    for options in ([], ["--deep"]):
        result = run("verify", data_dir, *options)
        assert (result.exit_code, result.stdout) == (0, "sound\n")
    assert json.loads(run("verify", data_dir, "--json").stdout) == {"sound": True, "problems": [], "notes": []}
    assert contents(data_dir) == before


def test_verify_finds_every_flipped_bit(data_dir: Path) -> None:
    """In all kinds of files, at places all over them."""
    targets = [*files_of(data_dir)[:1], data_dir / "catalog.json", *(data_dir / "journal").glob("*.journal")]
    for path in targets:
        sound = path.read_bytes()
        for offset in range(5, len(sound) - 1, max(len(sound) // 9, 1)):
            flip(path, offset)
            result = run("verify", data_dir, "--json")
            found = json.loads(result.stdout)["problems"]
            assert result.exit_code == 1, (path, offset)
            assert any(path.name in problem["file"] for problem in found), (path, offset, found)
            path.write_bytes(sound)
    assert run("verify", data_dir).exit_code == 0


def test_verify_takes_an_unfinished_end_of_the_journal_for_what_it_is(data_dir: Path) -> None:
    (segment,) = (data_dir / "journal").glob("*.journal")
    with segment.open("ab") as file:
        file.write(b"OSRC half a record")
    assert run("verify", data_dir, "--deep").exit_code == 0
    assert json.loads(run("inspect", data_dir, "--json").stdout)["journal"]["unfinished_bytes"] == 18


def test_verify_misses_a_journal_that_was_cut(data_dir: Path) -> None:
    (segment,) = (data_dir / "journal").glob("*.journal")
    segment.write_bytes(segment.read_bytes()[:64])
    assert run("verify", data_dir).exit_code == 1


def test_verify_finds_a_file_under_the_name_of_another(data_dir: Path) -> None:
    first, second = files_of(data_dir)
    first_bytes = first.read_bytes()
    first.chmod(0o644)
    first.write_bytes(second.read_bytes())
    result = run("verify", data_dir)
    assert result.exit_code == 1 and "holds partition 1 of table 1" in result.stdout
    first.write_bytes(first_bytes)
    assert run("verify", data_dir, "--deep").exit_code == 0


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_what_is_no_data_directory_is_refused(tmp_path: Path, command: str) -> None:
    result = run(command, tmp_path)
    assert result.exit_code == 1 and "is not a data directory" in result.stderr
    assert run(command, tmp_path / "missing").exit_code == 2


def test_cat_gives_what_was_inserted(data_dir: Path) -> None:
    found = json.loads(run("cat", data_dir, "--person", "ann", "--json").stdout)
    assert found["person"] == "ann"
    expected = [*IN_FILES[:3], IN_JOURNAL[0]]
    assert [(entry["stamp"], entry["action"]) for entry in found["events"]] == [
        (entry["stamp"], entry["action"]) for entry in expected
    ]
    assert found["events"][2]["attr"] == {"price": 9.5, "page": ["pen", "ink"]}
    assert json.loads(run("cat", data_dir, "--person", "77", "--id", "--json").stdout)["person"] == 77
    assert run("cat", data_dir, "--person", "bob").stdout.splitlines() == [
        "bob: 1 event",
        "2023-11-15T03:13:20.000Z  view",
        "  page: home, count: -3",
    ]


def test_cat_of_a_file_gives_what_the_file_holds(data_dir: Path) -> None:
    found = [run("cat", path, "--person", "ann", "--json") for path in files_of(data_dir)]
    (holding,) = [json.loads(result.stdout) for result in found if result.exit_code == 0]
    assert len(holding["events"]) == 3


def test_cat_says_who_is_not_there(data_dir: Path) -> None:
    result = run("cat", data_dir, "--person", "77")
    assert result.exit_code == 1 and "there is no person '77'" in result.stderr
    assert run("cat", data_dir, "--person", "x", "--id").exit_code == 2
    assert "no table" in run("cat", data_dir, "--person", "ann", "--table", "none").stderr
