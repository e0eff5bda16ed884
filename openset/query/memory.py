"""What a worker does with memory that is free: kept for the next Block, given back to the system after a heavy query.

The C library asks the system anew for every array of more than some hundred kilobytes, and clearing those pages takes
as long as filling them; so it is told to keep them. What it keeps anyway are smaller pieces: a worker that once ran a
large query would hold gigabytes for good. Where it has no mallopt and malloc_trim (anything but glibc) nothing is done.
"""

from __future__ import annotations

import ctypes
import gc
import os
from pathlib import Path

# Below this resident size nothing is worth giving back.
LARGE_BYTES = 384 << 20

# What glibc may come to by itself in time. Larger arrays go back to the system, and so does what is free at the end of
# the heap beyond KEPT_BYTES.
KEPT_ARRAY_BYTES = 32 << 20
KEPT_BYTES = 64 << 20

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD = -1
_MMAP_THRESHOLD = -3
_STATISTICS = Path("/proc/self/statm")


def resident_bytes() -> int:
    """The resident size of this process; 0 where the system does not tell."""
    try:
        return int(_STATISTICS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0


def keep_freed() -> None:
    """Has the memory of freed arrays kept for the next ones, in this process from now on."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_MMAP_THRESHOLD, KEPT_ARRAY_BYTES)
        set_option(_TRIM_THRESHOLD, KEPT_BYTES)


def give_back() -> None:
    """Returns free memory to the system when the process has become large."""
    if resident_bytes() < LARGE_BYTES:
        return
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
