"""Deep scripts and hostile bodies share one limit of the process."""

from __future__ import annotations

import subprocess
import sys
import threading

from openset.recursion import deep_recursion

_HOSTILE_BODIES_WHILE_A_SCRIPT_RUNS = """
import resource, sys, threading
import msgspec
from openset.errors import InsertError
from openset.recursion import deep_recursion, enlarge_stacks
from openset.store.decode import decode_body

def refused():
    for body in (b"[" * 200_000, b'{"a":' * 200_000, b'[{"person":"a","action":"b","attr":{"c":' + b"[" * 200_000):
        for lines in (False, True):
            try:
                problems = decode_body(body, newline_delimited=lines).problems
            except InsertError:
                continue
            assert problems
    try:
        msgspec.json.decode(b'{"a":[' * 200_000)
    except RecursionError:
        return
    raise AssertionError("no RecursionError")

resource.setrlimit(resource.RLIMIT_STACK, (4 << 20, resource.getrlimit(resource.RLIMIT_STACK)[1]))
enlarge_stacks()
with deep_recursion():
    assert sys.getrecursionlimit() > 10_000
    refused()
    thread = threading.Thread(target=refused)
    thread.start()
    thread.join()
print("done")
"""


def test_the_limit_is_back_after_scripts_that_overlapped() -> None:
    before = sys.getrecursionlimit()
    inside, leave = threading.Event(), threading.Event()

    def script() -> None:
        with deep_recursion():
            inside.set()
            leave.wait(10)

    other = threading.Thread(target=script)
    with deep_recursion():
        raised = sys.getrecursionlimit()
        other.start()
        assert inside.wait(10)
    assert sys.getrecursionlimit() == raised > before
    leave.set()
    other.join()
    assert sys.getrecursionlimit() == before


def test_hostile_bodies_are_refused_while_a_script_runs() -> None:
    command = [sys.executable, "-c", _HOSTILE_BODIES_WHILE_A_SCRIPT_RUNS]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (0, "done\n", "")
