"""The events of one person, from a partition file or a data directory: `openset cat`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openset.errors import ConfigError, InternalError, QueryError
from openset.store.fold import fold_events
from openset.store.offline import OpenTable, read_data_dir, table_named
from openset_format.block import Block, PersonId
from openset_format.errors import FormatError
from openset_format.reader import PartitionFile
from openset_format.verify import unreadable
from openset_tools.inspect_file import column_names, file_block


def cat(path: Path, person: PersonId, table: str | None = None) -> tuple[dict[str, Any], list[str]]:
    """A person's events as the person query answers them, {"person", "events"}, and what is damaged beside them.

    From a file alone, what it holds; from a directory with what the journal adds. table: of a directory with more than
    one. Raises QueryError when there is no such person, ConfigError, InternalError for a damaged file.
    """
    block, problems = _in_directory(path, person, table) if path.is_dir() else (_in_file(path, person), [])
    if block is None:
        where = f", as far as it can be read: {problems[0]}" if problems else ""
        raise QueryError(f"there is no person {person!r} in {path}{where}", detail=problems[1:] or None)
    return {"person": person, "events": fold_events(block)}, problems


def _in_directory(path: Path, person: PersonId, table: str | None) -> tuple[Block | None, list[str]]:
    store = read_data_dir(path)
    name = table_named(store, table).name
    with OpenTable(path, name, {store.partition_of(person)}) as opened:
        found = [view.person_rows(person) for _, view in opened.sound_views()]
        return next((block for block in found if block is not None), None), opened.problems


def _in_file(path: Path, person: PersonId) -> Block | None:
    try:
        file = PartitionFile.open(path)
        with path.open("rb") as handle:
            damage = next(unreadable(file, handle), None)
        if damage is not None:
            raise InternalError(str(damage))
        ordinal = file.persons.index(person)
        if ordinal is None or file.row_start[ordinal] == file.row_start[ordinal + 1]:
            return None
        return file_block(file, column_names(file)).part(ordinal, ordinal + 1)
    except FormatError as error:
        raise InternalError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
