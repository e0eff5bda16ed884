"""OpenSet: a behavioural event database."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from openset.notebook import Table

__version__ = "0.1.0"


def open_table(data_dir: Path | str, table: str | None = None) -> Table:
    """A table of a data directory for notebooks, read-only, without a daemon or beside one; see `openset.notebook`.

    Without a name it is the only table there is. Raises OpenSetErrors.
    """
    from openset import notebook

    return notebook.open_table(data_dir, table)
