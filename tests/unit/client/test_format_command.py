"""`openset format`: canonical scripts on standard output, rewritten files, exit codes."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner
from golden_runner import GOLDEN, read_golden

from openset.cli import main

MESSY = "agg:\n  people\n  sum price   as x with product\nmatch   where a is 'x' and b>3:\n    tally( a,b )  # pairs\n"
NEAT = """agg:
    people
    sum price as x with product
match where a is 'x' and b > 3:
    tally(a, b)  # pairs
"""


def test_a_script_is_printed_in_canonical_form() -> None:
    done = CliRunner().invoke(main, ["format", "-"], input=MESSY)
    assert done.exit_code == 0
    assert done.stdout == NEAT


def test_check_only_sets_the_exit_code() -> None:
    assert CliRunner().invoke(main, ["format", "--check", MESSY]).exit_code == 1
    neat = CliRunner().invoke(main, ["format", "--check", NEAT])
    assert neat.exit_code == 0
    assert neat.stdout == ""


def test_write_rewrites_the_file_and_needs_one(tmp_path: Path) -> None:
    path = tmp_path / "script.pyql"
    path.write_text(MESSY)
    assert CliRunner().invoke(main, ["format", "--write", str(path)]).exit_code == 0
    assert path.read_text() == NEAT
    assert CliRunner().invoke(main, ["format", "--write", "-"], input=MESSY).exit_code == 2


def test_a_mistake_is_shown_with_its_place_and_nothing_is_rewritten(tmp_path: Path) -> None:
    path = tmp_path / "script.pyql"
    path.write_text("match:\n    tally(")
    done = CliRunner().invoke(main, ["format", "--write", str(path)])
    assert done.exit_code == 1
    assert "line 2" in done.stderr
    assert path.read_text() == "match:\n    tally("


def test_golden_scripts_stay_as_they_are_when_formatted_twice() -> None:
    runner = CliRunner()
    cases = read_golden(GOLDEN / "trees.txt")
    assert len(cases) > 20
    for case in cases:
        once = runner.invoke(main, ["format", "-"], input=case.given)
        assert once.exit_code == 0, case.name
        assert runner.invoke(main, ["format", "-"], input=once.stdout).stdout == once.stdout
