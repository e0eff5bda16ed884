"""The demonstration runs to its end and says what it promises to say."""

from __future__ import annotations

import re
import subprocess
import sys

from openset.demo.questions import QUESTIONS


def test_the_demo_loads_asks_and_cleans_up() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "openset.demo"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    assert "6 events of 3 people are stored" in done.stdout
    assert "5,054 events sent" in done.stdout
    assert "5,011 events of 487 people are stored" in done.stdout
    assert "43 replaced an event that was there" in done.stdout
    times = re.findall(r"^   (\d+) rows in [\d.]+ ms$", done.stdout, re.MULTILINE)
    assert len(times) == len(QUESTIONS) >= 8
    assert all(int(rows) > 0 for rows in times)
    for number, question in enumerate(QUESTIONS, 1):
        assert f"\n{number}. {question.title}\n" in done.stdout
    assert "panini press            2          2       135.98" in done.stdout
    assert re.search(r"^   regulars: 47 messages$", done.stdout, re.MULTILINE)
    assert re.search(r"^   silent: \d+ messages$", done.stdout, re.MULTILINE)
    assert done.stdout.rstrip().endswith("The daemon has stopped (exit code 0) and its directory is gone.")
