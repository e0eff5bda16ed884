"""What is compared: a data directory, a backup of one, or a partition file, each at one moment."""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from openset.errors import ConfigError, InternalError
from openset.store.catalog import CATALOG_NAME
from openset.store.offline import OpenTable, read_data_dir
from openset.store.schema import TableSchema
from openset.store.views import PartitionView
from openset_format.block import Block, ColumnType, PersonId
from openset_format.errors import FormatError
from openset_format.reader import PartitionFile
from openset_format.verify import unreadable
from openset_tools.backups.lists import BACKUPS_DIRECTORY, chosen
from openset_tools.backups.places import place_of
from openset_tools.backups.restore import opened_backup
from openset_tools.inspect_file import column_names, file_block

_BLOCK_ROWS = 262_144

Name = TypeVar("Name")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a table is. retention_days: None where events are kept forever, or nobody knows."""

    columns: Mapping[str, ColumnType]
    z_order: tuple[str, ...]
    retention_days: float | None = None


class Partition(ABC):
    """Some people of a table, verified."""

    rows: int

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """The Blocks of all people, made anew."""

    @abstractmethod
    def person(self, person: PersonId) -> Block | None:
        """The rows of one person."""


class Side(ABC):
    """One of the two. problems: what is damaged and left out."""

    name: str
    problems: list[str]

    @abstractmethod
    def tables(self) -> dict[str, Facts]:
        """The tables by name."""

    @abstractmethod
    def partitions(self, table: str, advance: Callable[[int, int], None]) -> list[Partition]:
        """The partitions of a table. advance: is told how many rows were verified and how many there are."""


class _ViewPartition(Partition):
    def __init__(self, view: PartitionView):
        self._view = view
        self.rows = view.rows

    def blocks(self) -> Iterator[Block]:
        return self._view.stream(_BLOCK_ROWS)

    def person(self, person: PersonId) -> Block | None:
        return self._view.person_rows(person)


class DirectorySide(Side):
    """A data directory, or a backup opened as one."""

    def __init__(self, name: str, data_dir: Path):
        """Raises ConfigError, InternalError."""
        self.name = name
        self.problems = []
        self._data_dir = data_dir
        self._schemas: dict[str, TableSchema] = {
            schema.name: schema for schema in read_data_dir(data_dir).catalog.tables()
        }  # fmt: skip

    def tables(self) -> dict[str, Facts]:
        return {
            name: Facts(schema.column_types, schema.z_order, schema.retention_days)
            for name, schema in self._schemas.items()
        }

    def partitions(self, table: str, advance: Callable[[int, int], None]) -> list[Partition]:
        found: list[Partition] = []
        with OpenTable(self._data_dir, table) as opened:
            total, done = sum(view.rows for view in opened.views.values()), 0
            for _, view in opened.sound_views():
                found.append(_ViewPartition(view))
                advance(done := done + view.rows, total)
            self.problems += [problem for problem in opened.problems if problem not in self.problems]
        return found


class _FilePartition(Partition):
    def __init__(self, file: PartitionFile, names: Mapping[int, str]):
        self._file = file
        self._names = names
        self.rows = file.rows

    def blocks(self) -> Iterator[Block]:
        yield file_block(self._file, self._names)

    def person(self, person: PersonId) -> Block | None:
        ordinal = self._file.persons.index(person)
        if ordinal is None or self._file.row_start[ordinal] == self._file.row_start[ordinal + 1]:
            return None
        return file_block(self._file, self._names).part(ordinal, ordinal + 1)


class FileSide(Side):
    """A partition file. It has one table, called "file". names: of its columns by id."""

    TABLE = "file"

    def __init__(self, path: Path):
        """Raises InternalError for a damaged file, ConfigError for one that cannot be read."""
        self.name = str(path)
        self.problems = []
        try:
            self._file = PartitionFile.open(path)
            with path.open("rb") as handle:
                damage = next(unreadable(self._file, handle), None)
        except FormatError as error:
            raise InternalError(str(error)) from error
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        if damage is not None:
            raise InternalError(str(damage))
        self.names: dict[int, str] = column_names(self._file)

    def tables(self) -> dict[str, Facts]:
        file = self._file
        columns = {name: file.schema[column_id] for column_id, name in self.names.items()}
        return {self.TABLE: Facts(columns, tuple(file.z_order))}

    def partitions(self, table: str, advance: Callable[[int, int], None]) -> list[Partition]:
        return [_FilePartition(self._file, self.names)]


@contextmanager
def opened_sides(first: str, second: str) -> Iterator[tuple[Side, Side]]:
    """Both, until the context is left. Raises ConfigError, InternalError."""
    with ExitStack() as stack:
        sides = [stack.enter_context(_opened(address)) for address in (first, second)]
        files = [side for side in sides if isinstance(side, FileSide)]
        if len(files) == 1:
            raise ConfigError("a partition file can be compared with a partition file only")
        if files and any(name.startswith("column ") for side in files for name in side.names.values()):
            # One of them does not know the names.
            for side in files:
                side.names = {column_id: f"column {column_id}" for column_id in side.names}
        yield sides[0], sides[1]


@contextmanager
def _opened(address: str) -> Iterator[Side]:
    path = Path(address)
    if path.is_file():
        yield FileSide(path)
        return
    if (path / CATALOG_NAME).exists():
        yield DirectorySide(address, path)
        return
    where, backup_id = address, None
    if "@" in address.rpartition("/")[2] and not path.exists():
        where, _, backup_id = address.rpartition("@")
    if "://" not in where and not Path(where).is_dir():
        raise ConfigError(f"there is no file or directory {where}")
    if "://" not in where and not (Path(where) / BACKUPS_DIRECTORY).is_dir():
        raise ConfigError(f"{where} is neither a data directory nor one with backups")
    directory = Path(tempfile.mkdtemp("", "openset-diff-"))
    try:
        place = place_of(where)
        backup = chosen(place, backup_id)
        with opened_backup(place, backup, directory) as opened:
            yield DirectorySide(f"{where}@{backup.id}", opened)
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def without(names: Collection[Name], *others: Collection[Name]) -> list[Name]:
    """Those that are in none of the others, in their order."""
    return [name for name in names if not any(name in other for other in others)]
