"""New files of a directory that count together: after a crash all of them are there, or none.

While they are written, a list beside them (`unfinished.json`, with a checksum) names them; removing the list is the
moment from which they count. A start that finds a list removes what it names. Whoever only reads leaves them out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openset.errors import ConfigError, InternalError
from openset.log import get_logger
from openset.store.sealed_json import encode_sealed, read_sealed
from openset_format.files import FileLayer, replace_file

log = get_logger("openset.store")

UNFINISHED_NAME = "unfinished.json"
_MEMBER = "unfinished"


def begin(directory: Path, names: Sequence[str], files: FileLayer) -> None:
    """Before files of these names are written. Durable. Raises OSError."""
    undo(directory, files)  # what an earlier attempt could not remove must not count when this one is done
    replace_file(directory / UNFINISHED_NAME, encode_sealed(_MEMBER, list(names)), files)


def finish(directory: Path, files: FileLayer) -> None:
    """The files are durable, their names included: they count. Raises OSError: then they count or not, all of them."""
    files.unlink(directory / UNFINISHED_NAME)
    files.sync_directory(directory)


def undo(directory: Path, files: FileLayer) -> None:
    """Removes the files that a list names, durably before the list; nothing where there is none. Raises OSError."""
    if not (directory / UNFINISHED_NAME).exists():
        return
    for name in unfinished_names(directory):
        files.discard(directory / name)
    files.sync_directory(directory)
    files.unlink(directory / UNFINISHED_NAME)
    files.sync_directory(directory)


def unfinished_names(directory: Path) -> frozenset[str]:
    """The files of a directory that do not count (yet). A list that cannot be read is logged and names none."""
    try:
        names = read_sealed(directory / UNFINISHED_NAME, _MEMBER, list[str]) or []
    except (InternalError, ConfigError) as error:
        log.error("a list of unfinished files is left out", reason=error.message)
        return frozenset()
    return frozenset(name for name in names if "/" not in name and name not in ("", ".", ".."))
