"""The README's shell examples: run in order against a started daemon, their shown output compared with the real one.

A block that starts with "console" holds commands after "$ " and, below each, its output. In the output "..." stands for
anything, and a line of only "..." for any lines. The one "console serve" block is the daemon that the others talk to.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.reference import PROJECT, fenced_blocks

from openset.client.daemon import Daemon

README = PROJECT / "README.md"
ADDRESS = "127.0.0.1:8080"
STAND_IN = PROJECT / "tests" / "support" / "curl.py"


@dataclass(frozen=True)
class Command:
    """A command of the README and the output shown below it."""

    line: int
    text: str
    expected: str


def commands() -> list[Command]:
    """The commands of all console blocks, in order."""
    found = []
    for block in fenced_blocks(README):
        if block.info == "console":
            for part in re.split(r"^\$ ", block.content, flags=re.MULTILINE)[1:]:
                text, output = _split(part)
                found.append(Command(block.line, text, output))
    return found


def _split(part: str) -> tuple[str, str]:
    """A command, which goes on while a quote is open or the line ends with a backslash, and what is below it."""
    lines = part.splitlines(keepends=True)
    for count in range(1, len(lines) + 1):
        text = "".join(lines[:count])
        if text.rstrip("\n").endswith("\\"):
            continue
        try:
            shlex.split(text)
        except ValueError:
            continue
        return text, "".join(lines[count:])
    raise AssertionError(f"a quote of this command is never closed: {part}")


def shell(command: str, address: str, directory: Path, own_curl: bool) -> str:
    """What a command prints, standard error included. `own_curl`: the machine's curl, where it has one."""
    text = command.replace(ADDRESS, address).replace(".venv/bin/openset", "openset")
    text = re.sub(r"\bopenset/demo/", f"{PROJECT}/openset/demo/", text)
    tools = directory / "bin"
    tools.mkdir(exist_ok=True)
    _script(tools / "openset", "-m openset.cli")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENSET_")}
    environment |= {"OPENSET_URL": f"http://{address}", "PATH": f"{tools}:{os.environ['PATH']}"}
    if not own_curl or shutil.which("curl") is None:
        _script(tools / "curl", str(STAND_IN))
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout.replace(address, ADDRESS).replace(f"{PROJECT}/", "")


def _script(path: Path, arguments: str) -> None:
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
    path.chmod(0o755)


def matches(expected: str, output: str) -> bool:
    """Whether an output is the expected one, "..." standing for anything."""
    pattern = re.escape(expected.strip("\n")).replace(re.escape("..."), ".*?")
    return re.fullmatch(pattern, output.strip("\n"), re.DOTALL) is not None


def test_the_readme_starts_a_daemon_as_the_tests_do() -> None:
    (block,) = [block for block in fenced_blocks(README) if block.info == "console serve"]
    arguments = shlex.split(block.content.removeprefix("$ "))
    assert arguments == [".venv/bin/openset", "serve", "--data", "my-data", "--port", "8080"]


@pytest.mark.parametrize("own_curl", [True, False], ids=["curl", "stand-in for curl"])
def test_the_examples_of_the_readme_give_what_they_show(tmp_path: Path, own_curl: bool) -> None:
    examples = commands()
    assert len(examples) >= 10
    with Daemon(tmp_path / "my-data", partitions=None) as daemon:
        for example in examples:
            output = shell(example.text, f"127.0.0.1:{daemon.port}", tmp_path, own_curl)
            assert matches(example.expected, output), (
                f"README.md, block in line {example.line}:\n$ {example.text}\nshows\n{example.expected}\nis\n{output}"
            )
    assert daemon.exit_code == 0


def test_dots_stand_for_anything_and_nothing_else_does() -> None:
    assert matches('{"a":"..."}\n', '{"a":"x y"}')
    assert matches("first\n...\nlast\n", "first\nsome\nmore\nlast\n")
    assert not matches("[1]\n", "1\n")
    assert not matches("one\n", "one\ntwo\n")


def test_scripts_of_the_readme_are_those_of_the_demo() -> None:
    shown = [block for block in fenced_blocks(README) if block.info.startswith("pyql file ")]
    assert len(shown) == 2
    for block in shown:
        script = (PROJECT / block.info.removeprefix("pyql file ")).read_text().partition("\n")[2]
        assert block.content.strip() == script.strip(), block.info
