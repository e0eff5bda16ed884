"""Decoding a class for the first time in many threads at once, which ends the process where msgspec is left alone."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys, threading
from typing import Annotated
import msgspec
from openset_format.decoding import json_decoder, msgpack_decoder
sys.setswitchinterval(1e-6)
for number in range(200):
    inner = msgspec.defstruct("Inner", [("x", int), ("z", Annotated[str, msgspec.Meta(max_length=10)])])
    outer = msgspec.defstruct("Outer", [("a", Annotated[int, msgspec.Meta(ge=0)]), ("inner", list[inner])])
    whole = outer(1, [inner(1, "b")])
    packed, text = msgspec.msgpack.encode(whole), msgspec.json.encode(whole)
    barrier, found = threading.Barrier(4), []
    def decode():
        barrier.wait()
        found.append(msgpack_decoder(outer).decode(packed))
        found.append(json_decoder(outer).decode(text))
    threads = [threading.Thread(target=decode) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [whole] * 8
"""


def test_a_class_may_be_decoded_for_the_first_time_in_several_threads() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
