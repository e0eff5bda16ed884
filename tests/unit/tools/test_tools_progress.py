"""Long work shows a bar on a terminal, a line now and then elsewhere, and nothing of it on standard output."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from support.tool_cases import make_data_dir

from openset_tools import progress

_RUN = "import sys; from openset.cli import main; main(sys.argv[1:])"


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    make_data_dir(tmp_path / "data")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", _RUN, "verify", str(tmp_path / "data")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 65_536)
            except OSError:  # what a terminal gives when nobody has it open any more
                break
            if not piece:
                break
            shown += piece
        assert process.stdout is not None
        assert (process.wait(30), process.stdout.read()) == (0, "sound\n")
    os.close(ours)
    assert "verify" in shown.decode() and "━" in shown.decode() and "bytes" in shown.decode()


def test_a_line_now_and_then_elsewhere(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with progress.shown_progress("copy", "bytes") as advance:
        advance(1, 10)
        monkeypatch.setattr(progress, "_PLAIN_LINE_SECONDS", 0.0)
        advance(2_000, 10_000)
        advance(3, 0, "copy more")
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err == "copy: 2,000 of 10,000 bytes\ncopy more: 3 bytes\n"
