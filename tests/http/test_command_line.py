"""The command line against a started daemon, as a user runs it: processes, output, exit codes."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.reference import PROJECT

from openset.client.connection import Connection
from openset.client.daemon import Daemon

DATA = PROJECT / "openset" / "demo" / "data"
QUESTIONS = PROJECT / "openset" / "demo" / "questions"


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with Daemon(tmp_path_factory.mktemp("command-line") / "data", partitions=3) as started:
        done = run(started, "load", "highstreet", str(DATA / "highstreet_events.json"), "--create")
        assert done.returncode == 0, done.stderr
        yield started


def run(daemon: Daemon, *arguments: str, given: bytes = b"") -> subprocess.CompletedProcess[str]:
    """`openset ...` with the daemon's address in the environment."""
    done = subprocess.run(
        [sys.executable, "-m", "openset.cli", *arguments],
        input=given,
        capture_output=True,
        timeout=120,
        check=False,
        env={**os.environ, "OPENSET_URL": daemon.url},
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_loading_reports_what_is_stored_and_loading_again_replaces(daemon: Daemon) -> None:
    done = run(daemon, "load", "highstreet", str(DATA / "highstreet_events.json"))
    assert done.returncode == 0
    first, second = done.stdout.splitlines()
    assert first.startswith("6 events accepted in ")
    assert first.endswith("6 of them replaced an event, 0 rejected")
    assert second == "table highstreet holds 6 events of 3 people"


def test_commits_are_loaded_with_inferred_columns_in_several_batches(daemon: Daemon) -> None:
    done = run(
        daemon, "load", "commits", str(DATA / "tornado_commits.json.gz"), "--create", "--z-order", "merge,commit",
        "--batch", "500",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "5,054 events accepted" in done.stdout
    assert "43 of them replaced an event, 0 rejected" in done.stdout
    assert "table commits holds 5,011 events of 487 people" in done.stdout
    assert "is_root bool, dir text, ext text, file text, added int, deleted int" in done.stderr
    described = run(daemon, "load", "commits", "-", "--create", given=b"[]")
    assert "table commits is there already" in described.stderr


def test_a_question_from_a_file_is_answered_as_a_table(daemon: Daemon) -> None:
    done = run(daemon, "query", "highstreet", str(QUESTIONS / "highstreet" / "by_weekday.pyql"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "                      people  purchased  total_spent",
        "2                          1          3       155.93",
        "  deluxe spinner           1          1        27.99",
        "  fly rod                  1          1        99.95",
        "  triple hook jigger       1          1        27.99",
        "5                          1          1        99.95",
        "  fly rod                  1          1        99.95",
        "7                          1          3       145.93",
        "  double spinner           1          1        17.99",
        "  fly rod                  1          1        99.95",
        "  gilded spoon             1          1        27.99",
    ]
    assert done.stderr.startswith("10 rows in ")


def test_scripts_come_from_text_and_standard_input_with_parameters_and_options(daemon: Daemon) -> None:
    script = "match where product_price >= {{least}} and shipper is {{shipper}}:\n    tally(product_name)\n"
    arguments = ["--param", "least=70", "--param", "shipper=ground", "--sort", "key", "--order", "asc", "--trim", "1"]
    from_text = run(daemon, "query", "highstreet", script, *arguments, "--json")
    from_input = run(daemon, "query", "highstreet", "-", *arguments, "--json", given=script.encode())
    assert json.loads(from_text.stdout) == {"_": [{"g": "espresso mmachine", "c": [1]}]}
    assert from_input.stdout == from_text.stdout
    as_text = run(daemon, "query", "highstreet", "tally({{n}})", "--param-str", "n=7", "--json")
    assert json.loads(as_text.stdout) == {"_": [{"g": "7", "c": [3]}]}


def test_segments_are_counted_and_listed(daemon: Daemon) -> None:
    script = (
        "@segment some ttl=1h:\n    match where product_group is {{group}}: tally\n@segment rest:\n    complement(some)"
    )
    done = run(daemon, "counts", "highstreet", script, "--param", "group=outdoor")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["      people", "some       2", "rest       1"]
    assert done.stderr.startswith("2 segments in ")
    raw = run(daemon, "counts", "highstreet", script, "--param-str", "group=outdoor", "--json")
    assert json.loads(raw.stdout) == {"_": [{"g": "some", "c": [2]}, {"g": "rest", "c": [1]}]}
    plan = run(daemon, "counts", "highstreet", script, "--param", "group=x", "--debug")
    assert "complement(some)" in plan.stdout
    shown = run(daemon, "segments", "highstreet")
    assert "some: 2 people, computed " in shown.stdout
    assert "ttl 1h" in shown.stdout
    listed = json.loads(run(daemon, "segments", "highstreet", "--json").stdout)
    assert [entry["name"] for entry in listed["segments"]] == ["rest", "some"]
    unknown = run(daemon, "counts", "highstreet", "@segment a:\n    complement(sme)")
    assert unknown.returncode == 1
    assert "did you mean 'some'" in unknown.stderr


def test_debug_shows_how_a_script_would_run(daemon: Daemon) -> None:
    done = run(daemon, "query", "highstreet", "match:\n    tally(shipper)", "--debug")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("debug:")
    assert "tally" in done.stdout


def test_a_parse_error_shows_the_line_and_a_caret(daemon: Daemon) -> None:
    done = run(daemon, "query", "highstreet", "match where product_nam is 'rug':\n    tally(1)")
    assert done.returncode == 1
    assert done.stdout == ""
    first, line, caret = done.stderr.splitlines()
    assert first.startswith("error (parse) in line 1, column 13:")
    assert "product_name" in first
    assert line == "  match where product_nam is 'rug':"
    assert caret == "  " + " " * 12 + "^"


def test_a_person_is_shown_and_an_unknown_one_is_an_error(daemon: Daemon) -> None:
    done = run(daemon, "person", "highstreet", "Klara")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Klara: 3 events\n2017-01-03T13:15:00")
    assert "product_name: fly rod" in done.stdout
    answer = json.loads(run(daemon, "person", "highstreet", "Tommy", "--json").stdout)
    assert [event["action"] for event in answer["events"]] == ["purchase", "purchase"]
    run(daemon, "load", "numbered", "-", "--create", given=b'{"person": 42, "action": "login", "stamp": 1700000000}')
    assert run(daemon, "person", "numbered", "42", "--id").stdout.startswith("42: 1 event\n2023-11-14T22:13:20")
    assert run(daemon, "person", "highstreet", "nobody").returncode == 1


def test_an_unknown_table_is_an_error_that_names_it(daemon: Daemon) -> None:
    events = str(DATA / "highstreet_events.json")
    for arguments in (["query", "heighstreet", "tally(1)"], ["load", "heighstreet", events]):
        done = run(daemon, *arguments)
        assert done.returncode == 1
        assert "heighstreet" in done.stderr
        assert ("openset load --create" in done.stderr) == (arguments[0] == "load")


@pytest.mark.parametrize("command", [("person", "", "ann"), ("subscribe", "commits", "t", ""), ("backtest", "t", "")])
def test_an_empty_name_is_called_so(daemon: Daemon, command: tuple[str, ...]) -> None:
    """In an address it would be another one."""
    ended = run(daemon, *command)
    assert (ended.returncode, ended.stderr) == (1, "error (query): a name is empty\n")


def test_broken_standard_input_is_called_so(daemon: Daemon) -> None:
    done = run(daemon, "load", "highstreet", "-", given=b'[{"person": ]')
    assert done.returncode == 1
    assert done.stderr.startswith("error (insert): standard input: element 1 of the array is not JSON")


def test_bad_events_are_named_by_file_and_number(daemon: Daemon, tmp_path: Path) -> None:
    good = {"person": "a", "action": "visit", "stamp": 1_700_000_000, "attr": {"page": 1}}
    bad = {"person": "a", "action": "visit", "stamp": 1_700_000_001, "attr": {"page": "one"}}
    path = tmp_path / "visits.json.gz"
    path.write_bytes(gzip.compress(json.dumps([good, good, bad]).encode()))
    body = json.dumps({"columns": [{"name": "page", "type": "int"}]}).encode()
    create(daemon, "visits", body)
    refused = run(daemon, "load", "visits", str(path), "--batch", "2")
    assert refused.returncode == 1
    assert f"{path}, event 3: " in refused.stderr
    assert "page" in refused.stderr
    assert "2 events before this batch are stored" in refused.stderr
    skipped = run(daemon, "load", "visits", str(path), "--batch", "2", "--skip-bad-events")
    assert skipped.returncode == 0
    assert "2 events accepted" in skipped.stdout
    assert "1 rejected" in skipped.stdout
    assert f"rejected: {path}, event 3: " in skipped.stderr


def test_lines_that_are_not_json_are_bad_events(daemon: Daemon, tmp_path: Path) -> None:
    create(daemon, "torn", b'{"columns": []}')
    good = '{"person": "%s", "action": "view", "stamp": 1700000000}\n'
    path = tmp_path / "torn.ndjson"
    path.write_text(good % "ann" + '{"person": "ben", \n' + "\n" + good % "carl" + "[]\n")
    refused = run(daemon, "load", "torn", str(path))
    assert refused.returncode == 1
    assert f"{path}, event 2: the line is not JSON" in refused.stderr
    skipped = run(daemon, "load", "torn", str(path), "--skip-bad-events")
    assert skipped.returncode == 0
    assert "2 events accepted" in skipped.stdout
    assert "2 rejected" in skipped.stdout
    assert f"rejected: {path}, event 4: an event must be a JSON object" in skipped.stderr


def create(daemon: Daemon, table: str, body: bytes) -> None:
    """Creates a table with a definition of its own."""
    with Connection(daemon.url) as connection:
        connection.request("POST", f"/v1/table/{table}", body=body)


def test_conflicting_types_stop_before_the_table_is_made(daemon: Daemon) -> None:
    event = '{"person": "a", "action": "b", "attr": {"size": %s}}\n'
    events = (event % 1 + event % '"L"').encode()
    done = run(daemon, "load", "sizes", "-", "--create", given=events)
    assert done.returncode == 1
    assert "column 'size' has conflicting types: int in event 1, text in event 2" in done.stderr
    assert run(daemon, "query", "sizes", "tally(1)").returncode == 1


def test_the_values_of_a_column_as_a_table(daemon: Daemon) -> None:
    done = run(daemon, "column", "highstreet", "product_price", "--between", "10", "100", "--bucket", "50")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "               people",
        "product_price       3",
        "  0                 3",
        "  50                3",
    ]
    done = run(daemon, "column", "highstreet", "product_name", "--rx", "^fly", "--json")
    assert json.loads(done.stdout)["_"][0]["_"] == [{"g": "fly rod", "c": [2]}]
    done = run(daemon, "column", "highstreet", "product_name", "--gt", "3")
    assert done.returncode == 1 and "gt= is for numbers" in done.stderr
