"""The compactions of a store: which partition is next, putting a written file in place, and what may be removed then.

A compaction itself is `compaction.compact`, in whichever process; this is what comes before and after it. Files of
dropped tables and segments of the journal go from here too, when nobody needs them any more. Shares the store's lock.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from openset.errors import InternalError, NoRoomError, OpenSetError
from openset.log import get_logger
from openset.store.catalog import Catalog
from openset.store.compaction import STAGING_SUFFIX, CompactionResult, CompactionTask, Policy, check_staged, compact
from openset.store.compaction_queue import CompactionQueue, Key
from openset.store.dropped import remove_table_directory
from openset.store.erasures import Erasures
from openset.store.journals import Journals, Mark, first_of
from openset.store.leftovers import Leftovers, leftovers_of
from openset.store.partition import Partition
from openset.store.pins import Pins
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot, partition_path
from openset.store.trigger_store import Triggers
from openset_format.errors import FormatError
from openset_format.files import FileLayer

log = get_logger("openset.store")

# What a compaction leaves free, for the journal.
ROOM_LEFT_BYTES = 64 * 1024 * 1024


class Compactions:
    """Methods may be called from any thread, not from the event loop where they sync."""

    def __init__(
        self, data_dir: Path, catalog: Catalog, journals: Journals, partitions: Mapping[Key, Partition],
        triggers: Triggers, erasures: Erasures, pins: Pins, files: FileLayer, lock: threading.Lock, policy: Policy,
        visible_sequence: Callable[[], int], note_file: Callable[[Key], None],
        suspect: Callable[[Iterable[Path]], None],
    ):  # fmt: skip
        """lock: guards partitions and pins, and everything here; held for moments only.

        note_file: notes in the catalog that a partition has a file.  suspect: hears of files that cannot be read.
        """
        self._data_dir = data_dir
        self._catalog = catalog
        self._journals = journals
        self._partitions = partitions
        self._triggers = triggers
        self._erasures = erasures
        self._pins = pins
        self._files = files
        self._lock = lock
        self._policy = policy
        self._visible_sequence = visible_sequence
        self._note_file = note_file
        self._suspect = suspect
        self._queue = CompactionQueue(policy, self._first_held)
        self._keep_segments = False
        self._durable_directories: set[Path] = set()
        # Dropped tables with files still there.
        self.dropped: set[int] = set()
        # Set when there may be something to do.
        self.wake = threading.Event()
        self.wake.set()

    def rows(self, numbers: Iterable[int]) -> dict[int, int]:
        """About how many rows partitions have, over all tables: what was replaced counts until it is compacted away."""
        found = dict.fromkeys(numbers, 0)
        with self._lock:
            for (_, number), one in self._partitions.items():
                if number in found:
                    found[number] += one.base_rows + one.delta_events
        return found

    def next(self, forced: bool = False) -> CompactionTask | None:
        """The partition that should be compacted now, or None. Give every task to `publish` or `give_up`.

        forced: any partition with a record that is not in its file. The one that holds the oldest record comes first.
        Raises InternalError when the disk refuses, NoRoomError.
        """
        self.delete_dropped_tables()
        with self._lock:
            # Under the lock: the file must have every column that a record on its way into it has.
            schemas = {schema.id: schema for schema in self._catalog.tables()}
            too_long = self._journals.size_bytes > self._policy.journal_bytes
            chosen = self._queue.begin(self._partitions, schemas, forced, too_long)
            if chosen is None:
                return None
            key = (chosen.table_id, chosen.partition)
            before = self._first_held(*key)
            snapshot = chosen.snapshot(schemas[chosen.table_id], self._journals.id, before=before)
        path = snapshot.file
        staging = path.with_name(f"{path.name}.{secrets.token_hex(4)}{STAGING_SUFFIX}")
        task = CompactionTask(self._data_dir, snapshot, staging)
        try:
            self._make_durable_directory(path.parent)
            self._check_room(snapshot)
        except OSError as error:
            self.give_up(task)
            raise InternalError(f"{self._data_dir / path.parent} cannot be made: {error}") from error
        except OpenSetError:
            self.give_up(task)
            raise
        return task

    def _first_held(self, table_id: int, partition: int) -> int | None:
        """The oldest record of a partition that has to stay in the journal, None when none has to."""
        held = (self._triggers.first_pending(table_id, partition), self._erasures.first(table_id, partition))
        return min((sequence for sequence in held if sequence is not None), default=None)

    def _check_room(self, snapshot: PartitionSnapshot) -> None:
        """Raises NoRoomError when the disk may be full before the new file is written, OSError.

        The old file and all of the records are more than the new file takes, as a rule: what is repeated in every
        record, names and texts, it has once.
        """
        path = self._data_dir / snapshot.file
        wanted = snapshot.records.size_bytes + (path.stat().st_size if snapshot.generation else 0) + ROOM_LEFT_BYTES
        free = self._files.free_bytes(path.parent)
        if free < wanted:
            raise NoRoomError(
                f"{snapshot.file} is not compacted: that may take {wanted >> 20:,} MiB, and {free >> 20:,} are free"
            )

    def _make_durable_directory(self, directory: Path) -> None:
        """A directory two levels below the data directory, with its name. Raises OSError."""
        if directory not in self._durable_directories:
            self._files.make_directory(self._data_dir / directory)
            self._files.sync_directory(self._data_dir / directory.parent)
            self._files.sync_directory(self._data_dir)
            self._durable_directories.add(directory)

    def run_all(self) -> int:
        """Brings all records into the files, in the calling thread; returns how many partitions that took.

        Inserts that triggers have not run for stay where they are.

        For tools and tests; a daemon takes one partition at a time from `next`. Raises InternalError, NoRoomError.
        """
        self._erasures.finish_all()
        count = 0
        while (task := self.next(forced=True)) is not None:
            try:
                result = compact(task, self._files)
            except BaseException:
                self.give_up(task)
                raise
            self.publish(task, result)
            count += 1
        self.write_sidecars(forced=True)
        return count

    def publish(self, task: CompactionTask, result: CompactionResult) -> None:
        """Puts a written generation in place and removes journal segments that nobody needs any more. Syncs.

        Raises InternalError. Nothing is lost then: the old file or the new one is in place, the journal is kept.
        """
        snapshot = task.snapshot
        key = (snapshot.schema.id, snapshot.partition)
        try:
            check_staged(task, result, self._journals.id)
            with self._lock:
                if self._catalog.is_dropped(snapshot.schema.id):
                    self.wake.set()  # to delete its files
                    return
                if not self._is_current(snapshot):
                    return
                path = self._data_dir / snapshot.file
                self._pins.keep_file(key, snapshot.generation, path)
                self._files.rename(self._data_dir / task.staging, path)
                self._partitions[key].publish(result.generation, result.applied_sequence, result.rows)
                self._queue.end(key)
            self._sync_published(path.parent)
            self._note_file(key)
            self.drop_segments()
        except (OSError, FormatError) as error:
            raise InternalError(f"{snapshot.file} cannot be published: {error}") from error
        finally:
            self.give_up(task)

    def _sync_published(self, directory: Path) -> None:
        """Raises OSError. From then on no segment is dropped: a power failure may bring the old file back."""
        try:
            self._files.sync_directory(directory)
        except OSError:
            self._keep_segments = True
            raise

    def is_current(self, task: CompactionTask) -> bool:
        """Whether what is compacted is still there: the table, and the copy of the partition."""
        with self._lock:
            return not self._catalog.is_dropped(task.snapshot.schema.id) and self._is_current(task.snapshot)

    def _is_current(self, snapshot: PartitionSnapshot) -> bool:
        """False for a copy that was given up, or replaced by one from another node. The lock is held."""
        current = self._partitions.get((snapshot.schema.id, snapshot.partition))
        return current is not None and current.lineage == snapshot.lineage

    def give_up(self, task: CompactionTask) -> None:
        """A compaction that failed: the partition may be tried again, what was written is removed."""
        discard(self._data_dir / task.staging, self._files)
        key = (task.snapshot.schema.id, task.snapshot.partition)
        with self._lock:
            self._queue.give_up(key)

    def write_sidecars(self, forced: bool = False) -> None:
        """Writes the state of triggers that is due into its files, and removes what only they needed of the journal.

        forced: all of it, also when the journal is too long. Syncs. Raises InternalError.
        """
        forced = forced or self._journals.size_bytes > self._policy.journal_bytes
        if self._triggers.write_sidecars(forced):
            try:
                self.drop_segments()
            except FormatError as error:
                raise InternalError(f"the journal cannot be shortened: {error}") from error

    def want(self, schema: TableSchema) -> set[Key]:
        """Asks for the compaction of everything in a table that has something to leave out or to bring in.

        And of every other partition that holds on to the journal there is: what was erased is in there. Returns all of
        them; what is done is not in `still_wanted` any more. Raises InternalError.
        """
        self.check_readable(schema)
        wanted = self._with_leftovers(schema, lambda found: found.any)
        with self._lock:
            wanted |= {key for key, one in self._partitions.items() if one.delta_events and not one.damage}
            self._queue.want(wanted)
        self.wake.set()
        return wanted

    def check_readable(self, schema: TableSchema) -> None:
        """Raises InternalError when a file of a table is known to be damaged: no compaction can take it."""
        with self._lock:
            damaged = [one.damage for key, one in self._partitions.items() if key[0] == schema.id and one.damage]
        if damaged:
            raise InternalError(damaged[0])

    def held_by_damage(self, below: Mark) -> str | None:
        """The damage of a file because of which records before a mark stay in the journal, of whatever table."""
        with self._lock:
            return next(
                (
                    one.damage
                    for (_, number), one in self._partitions.items()
                    if one.damage and one.oldest_sequence < first_of(below, number)
                ),
                None,
            )

    def still_wanted(self, keys: Collection[Key]) -> bool:
        """Whether any of these partitions waits for the compaction that was asked for."""
        with self._lock:
            return self._queue.still_wanted([key for key in keys if key in self._partitions])

    def look_for_leftovers(self) -> None:
        """Asks for compactions of partitions that have enough to leave out, though nothing new. Reads all files."""
        for schema in self._catalog.tables():
            found = self._with_leftovers(schema, lambda found: found.are_worth_it)
            with self._lock:
                self._queue.want(found & self._partitions.keys())
                if found:
                    self.wake.set()

    def _with_leftovers(self, schema: TableSchema, enough: Callable[[Leftovers], bool]) -> set[Key]:
        """The partitions of a table whose files hold enough that should not be there. Raises InternalError."""
        with self._lock:
            readable = [key for key, one in self._partitions.items() if one.generation and not one.damage]
            keys = [key for key in readable if key[0] == schema.id]
        paths = {key: self._data_dir / partition_path(*key) for key in keys}
        return {key for key, found in leftovers_of(paths, schema, self._suspect).items() if enough(found)}

    def begin_forgetting(self) -> Mark:
        """Begins new journal segments and returns where they begin: what is before is to go. Raises InternalError."""
        try:
            return self._journals.rotate()
        except FormatError as error:
            raise InternalError(str(error)) from error

    def is_forgotten(self, below: Mark, keys: Collection[Key]) -> bool:
        """Whether no journal segment has a record below a mark, and no replaced file of some partitions is there.

        False as long as a query needs one, or a partition has a record that is not in its file. Raises InternalError.
        """
        try:
            self.drop_segments()
        except FormatError as error:
            raise InternalError(str(error)) from error
        with self._lock:
            return self._journals.is_past(below) and not self._pins.keeps_replaced(keys)

    def drop_segments(self) -> None:
        """Removes segments of the journal that no partition, query or trigger needs. Raises FormatError."""
        if self._keep_segments:
            return
        with self._lock:
            needed = [
                (number, partition.oldest_sequence)
                for (_, number), partition in self._partitions.items()
                if partition.delta_events
            ]
            needed += self._pins.oldest_sequences() + self._triggers.needed_from()
            visible = self._visible_sequence()
        self._journals.drop(needed, visible)

    def delete_dropped_tables(self) -> None:
        """The files of those that nobody reads any more."""
        with self._lock:
            compacting = self._queue.running_tables()
            idle = {
                table_id
                for table_id in self.dropped - compacting
                if not self._pins.uses_table(table_id)
            }  # fmt: skip
            self.dropped -= idle
        for table_id in idle:
            try:
                remove_table_directory(self._data_dir, table_id, self._files)
            except OSError as error:
                log.warning("files of a dropped table stay until the next start", table_id=table_id, reason=str(error))


def discard(path: Path, files: FileLayer) -> None:
    """Removes a file that nobody needs; where that is not possible, the next start does."""
    try:
        files.discard(path)
    except OSError as error:
        log.warning("a file that is not needed any more stays", file=str(path), reason=str(error))
