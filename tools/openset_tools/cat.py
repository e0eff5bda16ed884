"""The events of one person, from a partition file or a data directory: `openset cat`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openset.errors import ConfigError, InternalError, QueryError
from openset.store.fold import fold_events
from openset.store.offline import OfflineStore, at_one_moment, table_named
from openset.store.views import ViewCache
from openset_format.block import Block, PersonId
from openset_format.errors import FormatError
from openset_format.reader import PartitionFile
from openset_tools.inspect import column_names, file_block


def cat(path: Path, person: PersonId, table: str | None = None) -> dict[str, Any]:
    """A person's events as the person query answers them: {"person", "events"}.

    From a file alone, what it holds; from a directory with what the journal adds. table: of a directory with more than
    one. Raises QueryError when there is no such person, ConfigError, InternalError.
    """
    if path.is_dir():
        block = at_one_moment(path, lambda store: _in_directory(store, person, table))
    else:
        block = _in_file(path, person)
    if block is None:
        raise QueryError(f"there is no person {person!r} in {path}")
    return {"person": person, "events": fold_events(block)}


def _in_directory(store: OfflineStore, person: PersonId, table: str | None) -> Block | None:
    schema = table_named(store, table)
    snapshot = store.person_snapshot(schema.name, person)
    return ViewCache(store.data_dir).person_rows(snapshot, person)


def _in_file(path: Path, person: PersonId) -> Block | None:
    try:
        file = PartitionFile.open(path)
        ordinal = file.persons.index(person)
        if ordinal is None or file.row_start[ordinal] == file.row_start[ordinal + 1]:
            return None
        return file_block(file, column_names(file)).part(ordinal, ordinal + 1)
    except FormatError as error:
        raise InternalError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
