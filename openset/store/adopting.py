"""A table of one data directory taken over into another, which has as many partitions: all of it or nothing.

The table gets an id of its own there and counts in the journal there. First the id is given away, so that whatever has
it belongs, as long as the catalog does not have the table, to one that was dropped: a crash leaves what the next start
removes. Then come the records that the files lack, the files, segments and the state of triggers, each with the new
id, journal and sequences; the catalog is last, and that is the moment from which the table is there. Ordinals, codes,
columns and messages stay what they were.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from openset.errors import ConfigError, InternalError, OpenSetError
from openset.store.catalog import Catalog
from openset.store.dead_letters import dead_letters_path
from openset.store.dropped import remove_table_directory
from openset.store.offline import OfflineStore
from openset.store.opening import open_journal
from openset.store.records import EVENT_KINDS
from openset.store.schema import TableSchema
from openset.store.segment import SEGMENT_SUFFIX, SEGMENTS_DIRECTORY, Segment
from openset.store.snapshot import TABLES_DIRECTORY, partition_path
from openset.store.trigger_catalog import CatalogContents, read_catalog, triggers_path, write_catalog
from openset.store.trigger_store import Triggers, revent_path
from openset_format.decoding import json_decoder
from openset_format.encoding import DecodedColumns
from openset_format.errors import FormatError
from openset_format.files import FILES, FileLayer, replace_file
from openset_format.journal import Journal
from openset_format.membership import MembershipFile, write_membership
from openset_format.reader import PartitionFile
from openset_format.revent_file import ReventHead, write_revent_file
from openset_format.segment import RecordRef
from openset_format.verify import unreadable
from openset_format.writer import PartitionContent, write_partition

Advance = Callable[[int, int], None]


def adopt_table(
    source: OfflineStore,
    triggers: Triggers,
    table: str,
    data_dir: Path,
    name: str,
    advance: Advance = lambda done, total: None,
    files: FileLayer = FILES,
) -> TableSchema:
    """Takes a table over under a name, durably, and returns it as it is then.

    triggers: of the source at the same moment. The caller holds the lock of `data_dir`, which was opened as a store and
    closed before. advance: is told how many bytes of files are done and how many there are. Raises QueryError for an
    unknown table, ConfigError where the directory has one of that name or another number of partitions, InternalError;
    nothing has changed then but the id that the next table gets.
    """
    catalog = Catalog(data_dir, files)
    if catalog.partitions != source.catalog.partitions:
        raise ConfigError(
            f"{data_dir} has {catalog.partitions or 'no'} partitions and the backup "
            f"{source.catalog.partitions or 'none'}: a table fits where they are as many; export and import it instead"
        )
    schema = source.catalog.table(table)
    catalog.check_new_table(name)
    journal = open_journal(data_dir, files)
    table_id = 0
    try:
        table_id = catalog.give_table_id()
        adoption = _Adoption(source, schema, data_dir, table_id, journal, files)
        adoption.append_records()
        adoption.write_files(advance)
        adoption.write_segments()
        adoption.write_triggers(triggers)
        adoption.sync_directories()
        return catalog.adopt_table(source.catalog, table, name, table_id)
    except BaseException as error:
        if table_id:
            # The first error is the one to report; what is not removed here, the next start removes.
            with suppress(OSError, OpenSetError):
                # Read again: the catalog may be in place although writing it failed in the end.
                if not Catalog(data_dir).has(table_id):
                    remove_table_directory(data_dir, table_id, files)
        if isinstance(error, FormatError | OSError):
            raise InternalError(f"table {table!r} could not be taken over: {error}") from error
        raise
    finally:
        journal.close()


class _Adoption:
    """One table on its way. Everything raises FormatError, InternalError, OSError."""

    def __init__(
        self,
        source: OfflineStore,
        schema: TableSchema,
        data_dir: Path,
        table_id: int,
        journal: Journal,
        files: FileLayer,
    ):
        self._source = source
        self._schema = schema
        self._data_dir = data_dir
        self._id = table_id
        self._journal = journal
        self._files = files
        self._before = journal.last_sequence
        self._records = self._needed_records()

    def _needed_records(self) -> list[tuple[RecordRef, int]]:
        """With their kinds: the records of which any partition's file lacks something."""
        waiting = {
            sequence
            for (table_id, _), partition in self._source.partitions.items()
            if table_id == self._schema.id
            for sequence in partition.records.view().fields[:, 0].tolist()
        }
        return [
            (ref, kind)
            for ref, kind, table_id in self._source.journal.records()
            if table_id == self._schema.id and kind in EVENT_KINDS and ref.sequence in waiting
        ]

    def _sequence(self, sequence: int) -> int:
        """What a sequence of the source's journal is here: what came up to it there has come up to it here."""
        known = [ref.sequence for ref, _ in self._records]
        return self._before + bisect_right(known, sequence)

    def append_records(self) -> None:
        """The records, durably. Until the catalog has the table they count as those of a dropped one."""
        for ref, kind in self._records:
            self._journal.append(kind, self._id, self._source.journal.read(ref))
        self._journal.sync()

    def write_files(self, advance: Advance) -> None:
        """The partition files, with other ids in the seal. Verified first."""
        paths = {
            number: self._source.data_dir / partition_path(self._schema.id, number)
            for (table_id, number), partition in sorted(self._source.partitions.items())
            if table_id == self._schema.id and partition.generation
        }
        done, total = 0, sum(path.stat().st_size for path in paths.values())
        self._files.make_directory((self._data_dir / partition_path(self._id, 0)).parent)
        for number, path in paths.items():
            file = PartitionFile.open(path)
            with path.open("rb") as handle:
                damage = next(unreadable(file, handle), None)
            if damage is not None:
                raise InternalError(str(damage))
            write_partition(self._data_dir / partition_path(self._id, number), self._content(file), self._files)
            done += file.size_bytes
            advance(done, total)

    def _content(self, file: PartitionFile) -> PartitionContent:
        return PartitionContent(
            table_id=self._id,
            partition=file.partition,
            generation=file.generation,
            journal_id=self._journal.id,
            applied_sequence=self._sequence(file.applied_sequence),
            schema=file.schema,
            z_order=file.z_order,
            persons=file.persons,
            row_start=file.row_start,
            stamp=file.stamp,
            event_start=file.event_start,
            action=file.action,
            columns=DecodedColumns(file.columns),
            names={column.id: column.name for column in self._schema.columns},
        )

    def write_segments(self) -> None:
        """The stored segments of which the source's journal has everything they know."""
        below = Path(TABLES_DIRECTORY) / str(self._schema.id) / SEGMENTS_DIRECTORY
        target = self._data_dir / TABLES_DIRECTORY / str(self._id) / SEGMENTS_DIRECTORY
        for path in sorted((self._source.data_dir / below).glob(f"*{SEGMENT_SUFFIX}")):
            file = MembershipFile.open(path)
            try:
                segment = json_decoder(Segment).decode(file.description)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise InternalError(f"{path}: its description cannot be read: {error}") from error
            if segment.sequence:
                journal = self._source.journal
                if segment.journal_id != journal.id or segment.sequence > journal.last_sequence:
                    continue  # a start would remove it
                sequence = self._sequence(segment.sequence)
                segment = msgspec.structs.replace(segment, journal_id=self._journal.id, sequence=sequence)
            self._files.make_directory(target)
            members = {partition: file.serialized(partition) for partition in file.partitions}
            write_membership(target / path.name, msgspec.json.encode(segment), members, self._files)

    def write_triggers(self, triggers: Triggers) -> None:
        """Triggers, their state with everything the journal knows of it, and what webhooks did not take."""
        contents = read_catalog(self._source.data_dir / triggers_path(self._schema.id))
        if contents != CatalogContents():
            adopted = [
                msgspec.structs.replace(trigger, from_sequence=self._sequence(trigger.from_sequence))
                for trigger in contents.triggers
            ]
            contents = msgspec.structs.replace(contents, triggers=adopted)
            write_catalog(self._data_dir / triggers_path(self._id), contents, self._files)
        applied = self._sequence(self._source.journal.last_sequence)
        with triggers.states(self._schema.id) as states:
            for number, state in states.items():
                state.evaluated = self._sequence(state.evaluated)
                head = ReventHead(self._id, number, self._journal.id, applied)
                write_revent_file(self._data_dir / revent_path(self._id, number), head, state.encode(), self._files)
        letters = self._source.data_dir / dead_letters_path(self._schema.id)
        if letters.exists():
            replace_file(self._data_dir / dead_letters_path(self._id), letters.read_bytes(), self._files)

    def sync_directories(self) -> None:
        """The names of everything that was written are durable."""
        table = self._data_dir / TABLES_DIRECTORY / str(self._id)
        for directory in (table / SEGMENTS_DIRECTORY, table, table.parent, self._data_dir):
            if directory.is_dir():
                self._files.sync_directory(directory)
