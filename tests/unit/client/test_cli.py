"""The command line without a daemon: usage, exit codes, scripts from files and text."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from openset.cli import EXIT_NO_DAEMON, main, print_error
from openset.client.connection import Refused
from openset.client.daemon import free_port
from openset.client.scripts import script_text


@pytest.mark.parametrize(
    "arguments",
    [
        ["load", "shop", "events.json"],
        ["load", "shop", "events.json", "--create"],
        ["query", "shop", "tally(1)"],
        ["person", "shop", "ann"],
    ],
)
def test_without_a_daemon_every_command_says_so(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, [*arguments, "--url", f"http://127.0.0.1:{free_port()}"])
    assert result.exit_code == EXIT_NO_DAEMON
    assert "no OpenSet daemon answers" in result.stderr
    assert result.stdout == ""


def test_the_address_comes_from_the_environment() -> None:
    port = free_port()
    result = CliRunner().invoke(main, ["person", "shop", "ann"], env={"OPENSET_URL": f"http://127.0.0.1:{port}"})
    assert result.exit_code == EXIT_NO_DAEMON
    assert f":{port}" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["load", "shop"],
        ["load", "shop", "x.json", "--z-order", "a,b"],
        ["query", "shop"],
        ["query", "shop", "tally(1)", "--order", "up"],
        ["query", "shop", "missing.pyql"],
        ["serve"],
        ["serve", "--data", "x", "--init", "0"],
        ["serve", "--data", "x", "--init", "1001"],
        ["nonsense"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments, env={"OPENSET_DATA": None})
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_a_script_is_a_file_or_the_text_itself(tmp_path: Path) -> None:
    path = tmp_path / "question.pyql"
    path.write_text("tally('from the file')\n")
    assert script_text(str(path)) == "tally('from the file')\n"
    assert script_text("tally(1)") == "tally(1)"
    assert script_text("match:\n    tally(" + "'x', " * 2_000 + "1)").startswith("match:")
    path.write_bytes(b"\xff")
    with pytest.raises(click.UsageError, match="cannot read"):
        script_text(str(path))


def test_an_error_is_shown_with_its_line_and_caret(capsys: pytest.CaptureFixture[str]) -> None:
    detail = "match where prodct is 1:\n            ^"
    print_error(Refused("there is no column 'prodct'", detail=detail, line=1, column=13, error_class="parse"))
    assert capsys.readouterr().err.splitlines() == [
        "error (parse) in line 1, column 13: there is no column 'prodct'",
        "  match where prodct is 1:",
        "              ^",
    ]
