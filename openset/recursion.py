"""How deep Python code may call itself, which is one limit for all threads of a process.

The interpreter's closures nest as deep as a script does, so while scripts run the limit is raised. C code that
recurses, such as a decoder of JSON in another thread, is held by the same limit, but uses stack where Python
functions use none: without larger stacks a hostile body would end the process while a script runs.
"""

from __future__ import annotations

import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# Expressions of up to 200 steps, times the 64 calls that may be open, and the blocks around them.
_DEEP_LIMIT = 20_000
# The hungriest decoder takes about 350 bytes a level, so this leaves room for what was called before it.
STACK_SIZE_BYTES = 32 << 20

_lock = threading.Lock()
_entered = 0
_limit_before = 0


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Room for the nested calls of a script. The last thread that leaves puts the limit back."""
    global _entered, _limit_before
    with _lock:
        if _entered == 0:
            _limit_before = sys.getrecursionlimit()
            sys.setrecursionlimit(max(_limit_before, _DEEP_LIMIT))
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if _entered == 0:
                sys.setrecursionlimit(_limit_before)


def enlarge_stacks() -> None:
    """Gives this thread, if it is the main one, and threads started from now on stacks for C code at the raised limit.

    Stacks are reserved, and take memory only as they are used. Linux lets the main thread's stack grow up to the
    limit of the moment (getrlimit(2), RLIMIT_STACK).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    wanted = STACK_SIZE_BYTES if hard == resource.RLIM_INFINITY else min(STACK_SIZE_BYTES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_STACK, (wanted, hard))
    threading.stack_size(STACK_SIZE_BYTES)
