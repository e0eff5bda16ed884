"""Makes the engine do with a handful of rows what it otherwise does with millions: cut loops and Blocks into pieces,
sort instead of counting in tables, leave people to the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from openset.pyql.lanes import block_run, for_loop, grouping, inline, matching, node_table, vectors


@contextmanager
def small_limits(piece_lanes: int = 5, tally_bytes: int = 2_000) -> Iterator[None]:
    """Limits of the engine that small tests reach."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (matching, for_loop):
            patch.setattr(module, "PIECE_LANES", piece_lanes)
        patch.setattr(inline, "_PIECE_ROWS", 3 * piece_lanes)
        patch.setattr(block_run, "MAX_TALLY_BYTES", tally_bytes)
        patch.setattr(node_table, "_LOOKUP_LIMIT", 8)
        for module in (vectors, grouping):
            patch.setattr(module, "fits_table", lambda size, count, per_value=4, always=0: False)
        yield
