"""Giving memory back to the system after a heavy query.

The C library keeps freed memory for reuse; a worker that once ran a large query would hold gigabytes for good. Where
the library has no malloc_trim (anything but glibc) nothing is done.
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

# Below this resident size nothing is worth giving back.
LARGE_BYTES = 384 << 20

_STATISTICS = Path("/proc/self/statm")


def resident_bytes() -> int:
    """The resident size of this process; 0 where the system does not tell."""
    try:
        return int(_STATISTICS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def give_back() -> None:
    """Returns free memory to the system when the process has become large."""
    if resident_bytes() < LARGE_BYTES:
        return
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
