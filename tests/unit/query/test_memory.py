"""What a worker does with free memory: it is there for the next Block, and the system gets back what was a lot."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from openset.query import memory

_ROUNDS = """
import json, resource, sys
import numpy as np
from openset.query import memory
if json.loads(sys.argv[1]):
    memory.keep_freed()
def round_of_arrays():
    return len([np.ones(1 << 18) for _ in range(16)])
round_of_arrays()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    round_of_arrays()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_HEAVY = """
import numpy as np
from openset.query import memory
memory.keep_freed()
held = [np.ones(1 << 17) for _ in range(600)]
kept = held[::50]
del held
before = memory.resident_bytes()
memory.give_back()
print(before, memory.resident_bytes())
"""


def printed(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_arrays_of_the_next_block_take_the_memory_of_the_last_one() -> None:
    fresh, kept = (int(printed(_ROUNDS, json.dumps(keep))) for keep in (False, True))
    assert kept < fresh / 10


def test_a_heavy_query_gives_memory_back_whatever_is_kept() -> None:
    before, after = map(int, printed(_HEAVY).split())
    assert before > memory.LARGE_BYTES
    assert after < before / 3


def test_nothing_happens_where_the_library_has_no_such_options(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def without_options(name: str | None) -> object:
        asked.append(name)
        return object()

    monkeypatch.setattr(memory.ctypes, "CDLL", without_options)
    monkeypatch.setattr(memory, "resident_bytes", lambda: memory.LARGE_BYTES + 1)
    memory.keep_freed()
    kept = len(asked)
    memory.give_back()
    assert 0 < kept < len(asked), "both looked for what they need, and neither minds that it is not there"
