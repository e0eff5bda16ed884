"""Events beyond the retention of their table: left out of what is read and of what a compaction writes.

All rows of a person are ordered by stamp, so whether anything of theirs has expired shows in their first row. People
stay, without rows, for their ordinals are never given away again.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openset.store.delta import Base
from openset.store.merge import Layer
from openset.store.ranges import offsets_of


def without_expired(layer: Layer, expired_before: int) -> Layer:
    """The same people without their rows of stamps before a moment (ms); the same object when there are none."""
    living = layer.stamp >= expired_before
    if living.all():
        return layer
    counts = offsets_of(living.astype(np.int64))
    return Layer(
        people=layer.people,
        row_start=counts[layer.row_start],
        source=layer.source[living],
        stamp=layer.stamp[living],
        action=layer.action[living],
        event_start=layer.event_start[living],
    )


def first_stamps(rows: Base | Layer) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """int64[n], ms: the stamp of the first row of everyone who has rows; int64[n]: their places."""
    places = np.flatnonzero(rows.row_start[1:] > rows.row_start[:-1])
    return rows.stamp[rows.row_start[places]], places
