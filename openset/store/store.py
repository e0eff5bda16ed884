"""The store of a node: catalog, journal and partitions of one data directory, on the side of the daemon.

It knows where everything is and what is durable; reading the data is the workers' part (`views`), merging it that of
compactions. All methods may be called from any thread; those that do more than look things up say so.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

from openset.errors import ConfigError, InternalError, QueryError
from openset.log import get_logger
from openset.store.catalog import Catalog, new_server_name
from openset.store.commit import Commit, Committer
from openset.store.compaction import Policy
from openset.store.compactions import Compactions, discard
from openset.store.copies import Copies, make_member_locked
from openset.store.damage import Damage
from openset.store.dead_letters import DeadLetters
from openset.store.erasures import Erasures
from openset.store.expand import ROWS_PER_EVENT
from openset.store.health import Health, WatchedFiles
from openset.store.ingest import Insert, prepare_insert
from openset.store.journals import Journals, NodeJournal, PartitionJournals, read_member
from openset.store.lock import DirectoryLock, check_file_system
from openset.store.now import LaterStamps, NowStamps
from openset.store.opening import open_journal, report_torn_tail
from openset.store.partition import Partition
from openset.store.pins import Pins
from openset.store.placing import finish_placing
from openset.store.records import (
    ERASURE_RECORD,
    INSERT_RECORD,
    REVENT_RECORD,
    Share,
    encode_erasure,
)
from openset.store.recovery import NoRecords, Records, recover, recover_member
from openset.store.replicas import Replicas
from openset.store.schema import TableSchema
from openset.store.segments import Segments
from openset.store.shared_schema import SharedSchema
from openset.store.snapshot import PartitionSnapshot
from openset.store.trigger_store import Triggers
from openset_format.block import PersonId
from openset_format.errors import DamageError, FormatError
from openset_format.files import FILES, FileLayer
from openset_format.hashing import partition_of
from openset_format.problem import problem_of
from openset_format.segment import RecordRef

log = get_logger("openset.store")


class Store:
    """Open one per data directory; it holds the directory's lock until `close`."""

    def __init__(self, data_dir: Path, lock: DirectoryLock, files: FileLayer, policy: Policy):
        """Use `open`."""
        self.data_dir = data_dir
        self.policy = policy
        # Whether the disk takes anything; it is asked before every change.
        self.health = Health()
        self._unwatched_files = files
        files = WatchedFiles(files, self.health)
        self._directory_lock = lock
        self._files = files
        self._catalog = Catalog(data_dir, files)
        self.damage = Damage(self._catalog.has)
        # Guards the catalog's changes. Taken before _lock.
        self._catalog_lock = threading.Lock()
        self._now_stamps: dict[int, NowStamps] = {}  # by table id
        # Guards partitions, compactions and pins; held for moments only.
        self._lock = threading.Lock()
        self._pins = Pins(data_dir, files)
        self.dead_letters = DeadLetters(data_dir, files, self.health)
        # Of a member of a cluster: what its other nodes agree with it about. None where the node stands alone.
        self.replicas: Replicas | None = None
        self.copies: Copies | None = None
        self._committer: Committer | None = None
        # Of a node that stands alone. Records above it may be in the journal already, on their way to the partitions.
        self._visible_sequence = 0
        journals: Journals
        if read_member(data_dir) is None:
            journals = self._open_alone()
        else:
            journals = self._open_member()
        self._journals = journals
        self.health.watch_journal(lambda: self._journals.failure)
        self.compactions = Compactions(
            data_dir, self._catalog, journals, self._partitions, self.triggers, self.erasures, self._pins, files,
            self._lock, policy, lambda: self.visible_sequence, self._note_file, self.damage.suspect,
        )  # fmt: skip
        if isinstance(journals, NodeJournal):
            self._committer = Committer(journals.journal, self._make_visible, self.health)
        else:
            assert isinstance(journals, PartitionJournals)
            self.copies = Copies(
                data_dir, self._catalog, self._catalog_lock, self._partitions, self._pins, self.triggers, self.damage,
                journals, self._lock, files,
            )  # fmt: skip
            self.replicas = Replicas(
                journals, self._lock, self.health, self.copies.create, self._take_in, self.compactions.wake.set
            )
        self._closed = False

    def _open_alone(self) -> NodeJournal:
        """Journal, partitions and what hangs on them. Raises InternalError, ConfigError, OSError."""
        journal = open_journal(self.data_dir, self._files)
        report_torn_tail(journal)
        try:
            self._partitions = recover(self.data_dir, self._catalog, journal, self._files, self._damaged_file)
            self._note_files()
            self._open_segments(journal.id, journal.last_sequence)
            self.erasures.recover(journal)
            self._open_triggers(journal)
        except BaseException:
            journal.close()
            raise
        self._visible_sequence = journal.last_sequence
        return NodeJournal(journal)

    def _open_member(self) -> PartitionJournals:
        """`_open_alone`, of a member."""
        try:
            journals = PartitionJournals(self.data_dir, self._catalog.partitions or 0, self._files)
        except FormatError as error:
            raise InternalError(str(error)) from error
        try:
            for number in journals.numbers():
                report_torn_tail(journals.of(number))
            self._partitions = recover_member(
                self.data_dir, self._catalog, journals, self._files, self._damaged_file
            )  # fmt: skip
            self._note_files()
            self._open_segments(journals.id, None)
            self._open_triggers(NoRecords(journals.id))
            self.dead_letters.discard(self._catalog.tables())  # they are with the state of triggers now
        except BaseException:
            journals.close()
            raise
        return journals

    def _open_segments(self, journal_id: str, last_sequence: int | None) -> None:
        """last_sequence: of the node's journal; None on a member of a cluster, which has one per partition."""
        table_ids = [schema.id for schema in self._catalog.tables()]
        self.segments = Segments(self.data_dir, table_ids, journal_id, last_sequence, self._files, self.health)
        self.erasures = Erasures(
            self.data_dir, self._catalog, self._partitions, journal_id, self.segments, self.dead_letters, self._lock
        )

    def _open_triggers(self, journal: Records) -> None:
        self.triggers = Triggers(
            self.data_dir, self._catalog, journal, self._partitions, self._submit_changes, self._files, self.health
        )

    @classmethod
    def open(cls, data_dir: Path | str, *, files: FileLayer = FILES, policy: Policy | None = None) -> Store:
        """Locks the directory (created when missing), reads the catalog and recovers what a crash left; may take long.

        Raises ConfigError when the directory is in use or cannot be used, InternalError when something is damaged.
        """
        directory = Path(data_dir)
        try:
            if not directory.is_dir():
                files.make_directory(directory)
                files.sync_directory(directory.parent)
        except OSError as error:
            raise ConfigError(f"data directory {directory} cannot be made: {error.strerror}") from error
        check_file_system(directory)
        lock = DirectoryLock(directory, files)
        try:
            finish_placing(directory, files)
            return cls(directory, lock, files, policy or Policy())
        except OSError as error:
            lock.release()
            raise ConfigError(f"data directory {directory} cannot be used: {error}") from error
        except BaseException:
            lock.release()
            raise

    def probe(self) -> bool:
        """Tries whether a full disk has room again; whether the node takes changes now. Not for the event loop."""
        return self.health.probe(self.data_dir, self._unwatched_files)

    def free_bytes(self) -> int:
        """How much the disk takes. Raises OSError."""
        return self._files.free_bytes(self.data_dir)

    def close(self) -> None:
        """Writes what waits to be committed and gives the directory up. May be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._committer is not None:
            self._committer.close()
        if self.replicas is not None:
            self.replicas.close()
        self._journals.close()
        self._directory_lock.release()

    # --- catalog ---------------------------------------------------------------------------------------------------

    @property
    def journal_id(self) -> str:
        """What all files of this directory name as theirs; in a cluster, that of all its members."""
        return self._journals.id

    @property
    def partitions(self) -> int | None:
        """How many partitions every table has; None before `initialise`."""
        return self._catalog.partitions

    @property
    def server_name(self) -> str | None:
        """The name the server was given by `initialise`."""
        return self._catalog.server_name

    def initialise(self, partitions: int, name: str | None = None) -> str:
        """Fixes the number of partitions for good, durably, and returns the server's name. Raises ConfigError.

        name: the server's, a new one unless given.
        """
        with self._changing():
            name = name or new_server_name()
            self._catalog.initialise(partitions, name)
            return name

    def _note_files(self) -> None:
        """Files that an import has brought, or a program before. What cannot be written now, the next start writes."""
        try:
            self._catalog.note_files([key for key, one in self._partitions.items() if one.generation])
        except InternalError as error:
            log.warning("the catalog does not know of all files", reason=error.message)

    def _note_file(self, key: tuple[int, int]) -> None:
        """Raises InternalError."""
        if not self._catalog.has_file(*key):
            with self._catalog_lock:
                self._catalog.note_files([key])

    def _damaged_file(self, path: Path, error: DamageError) -> None:
        self.damage.note(path, [problem_of(error)])

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Around a change of the catalog. Raises ReadOnlyError."""
        with self.health.writing(), self._catalog_lock:
            yield

    def tables(self) -> list[TableSchema]:
        """All tables, oldest first."""
        return self._catalog.tables()

    def table(self, name: str) -> TableSchema:
        """The table as it is now. Raises ConfigError before `initialise`, QueryError when there is none."""
        self._initialised()
        return self._catalog.table(name)

    def create_table(
        self,
        name: str,
        columns: Iterable[tuple[str, str]],
        z_order: Sequence[str] = (),
        reserved_names: Collection[str] = (),
        retention_days: float | None = None,
    ) -> TableSchema:
        """A new table with columns of (name, type), durably. Raises ConfigError for what cannot be."""
        self._initialised()
        with self._changing():
            schema = self._catalog.create_table(name, columns, z_order, reserved_names, retention_days)
            self.triggers.create_table(schema.id)
            return schema

    def add_column(self, table: str, name: str, column_type: str, reserved_names: Collection[str] = ()) -> TableSchema:
        """The table with one more column, durably. Raises ConfigError, QueryError."""
        self._initialised()
        with self._changing():
            return self._catalog.add_column(table, name, column_type, reserved_names)

    def drop_column(self, table: str, name: str) -> TableSchema:
        """The table without a column, durably; compactions remove its values. Raises ConfigError, QueryError."""
        self._initialised()
        with self._changing():
            return self._catalog.drop_column(table, name)

    def set_retention(self, table: str, days: float | None) -> TableSchema:
        """The table with another retention (None: forever), durably. Raises ConfigError, QueryError.

        Queries leave out what is older from now on, compactions remove it.
        """
        self._initialised()
        with self._changing():
            return self._catalog.set_retention(table, days)

    def drop_table(self, name: str) -> TableSchema:
        """Takes a table away, durably, and returns what it was. Raises QueryError, ConfigError, InternalError.

        Queries that run go on with what they began with; the files go when none of them needs them any more, the
        records with the segments of the journal when other tables need none of their records.
        """
        self._initialised()
        with self._changing():
            schema = self._catalog.drop_table(name)
            self._hide(schema)
        self._forget([schema])
        return schema

    def shared_schema(self) -> SharedSchema:
        """The tables as a cluster's coordinator keeps them."""
        with self._catalog_lock:
            return self._catalog.shared()

    def adopt_schema(self, schema: SharedSchema) -> None:
        """Has these tables from now on, durably: those that are missing there are dropped as `drop_table` does.

        Raises ReadOnlyError, and InternalError, also for a schema older than this one; then nothing has changed.
        """
        with self._changing():
            if schema == self._catalog.shared():
                return
            dropped, created = self._catalog.adopt(schema)
            for table in created:
                self.triggers.create_table(table.id)
            for table in dropped:
                self._hide(table)
        if dropped:
            self._forget(dropped)

    def _hide(self, table: TableSchema) -> None:
        """No snapshot has a table any more that the catalog does not have. The catalog's lock is held."""
        with self._lock:
            self.compactions.dropped.add(table.id)
            for key in [key for key in self._partitions if key[0] == table.id]:
                del self._partitions[key]

    def _forget(self, dropped: Sequence[TableSchema]) -> None:
        """Removes what belongs to dropped tables as far as nobody needs it. Raises InternalError."""
        for table in dropped:
            self._now_stamps.pop(table.id, None)
            self.segments.drop_table(table.id)
            self.erasures.drop_table(table.id)
            self.triggers.drop_table(table.id)
        self.compactions.delete_dropped_tables()
        try:
            self._journals.rotate()
            self.compactions.drop_segments()
        except FormatError as error:
            # The table is gone all the same. The journal says again what is wrong with it at the next insert.
            names = [table.name for table in dropped]
            log.error("records of dropped tables cannot be removed", tables=names, reason=str(error))

    def has_table(self, table_id: int) -> bool:
        """Whether there is a table of this id now."""
        return self._catalog.has(table_id)

    def is_dropped(self, table_id: int) -> bool:
        """Whether a table that there was is no more."""
        return self._catalog.is_dropped(table_id)

    # --- insert ----------------------------------------------------------------------------------------------------

    def prepare_insert(
        self,
        table: str,
        body: bytes,
        *,
        newline_delimited: bool = False,
        skip_bad: bool = False,
        rows_per_event: int = ROWS_PER_EVENT,
        now_ms: int | None = None,
    ) -> Insert:
        """Reads, checks and encodes a request body. Takes time in proportion to it: not for the event loop.

        On a member missing stamps stay NOW: the owners of the partitions give them (`cluster.stamping`).
        Raises InsertError for bad bodies and bad events, QueryError for an unknown table, ConfigError, ReadOnlyError.
        """
        schema = self.table(table)
        if self.replicas is None:  # a member may bring it to others
            self.health.check()
        return prepare_insert(
            body,
            schema,
            self._initialised(),
            int(time.time() * 1_000) if now_ms is None else now_ms,
            newline_delimited=newline_delimited,
            skip_bad=skip_bad,
            rows_per_event=rows_per_event,
            now_stamps=self.now_stamps(schema.id) if self.replicas is None else LaterStamps(),
        )

    def now_stamps(self, table_id: int) -> NowStamps:
        """What gives stamps to events of a table that have none."""
        return self._now_stamps.setdefault(table_id, NowStamps())

    def submit(self, table: str, insert: Insert, kind: int = INSERT_RECORD) -> Future[int]:
        """Hands a prepared request to the writer. The future is done when the events are durable and visible.

        kind: EMITTED_RECORD for what a trigger emitted.

        It gives the sequence of the record (0 when there are no events), InternalError or ReadOnlyError. Raises
        ReadOnlyError, and QueryError when the table was dropped since the request was prepared.
        """
        if insert.batch is None:
            nothing: Future[int] = Future()
            nothing.set_result(0)
            return nothing
        self.health.check()
        if self.table(table).id != insert.table_id:
            raise QueryError(f"table {table!r} was dropped while the events were read")
        shares = [Share(place.partition, place.event_count) for place in insert.batch.partitions]
        return self._submit(Commit(kind, insert.table_id, insert.payload, shares))

    async def commit(self, table: str, insert: Insert) -> int:
        """`submit`, for the event loop: returns when the events are durable and visible."""
        return await asyncio.wrap_future(self.submit(table, insert))

    def submit_erasure(self, table: str, person: PersonId) -> Future[int]:
        """Hands the erasure of a person to the writer; done when it is durable and no snapshot has the person any more.

        Who asks has to finish it then (`erasures.finish`) or to leave it.
        What is stored of the person goes with the next compaction. Raises QueryError, ConfigError.
        """
        schema, partitions = self.table(table), self._initialised()
        self.health.check()
        share = Share(partition_of(person, partitions), 1)
        commit = Commit(ERASURE_RECORD, schema.id, encode_erasure(person, partitions), [share])
        return self._submit(commit)

    def _submit_changes(self, table_id: int, payload: bytes) -> Future[int]:
        """For the triggers."""
        self.health.check()
        return self._submit(Commit(REVENT_RECORD, table_id, payload, ()))

    def _submit(self, commit: Commit) -> Future[int]:
        assert self._committer is not None, "the records of a member go through its cluster"
        return self._committer.submit(commit)

    @property
    def visible_sequence(self) -> int:
        """The record up to which every snapshot has the inserts."""
        return self._visible_sequence

    def visible_in(self, partition: int) -> int:
        """The record up to which every snapshot has the inserts of a partition."""
        if self.replicas is None:
            return self._visible_sequence
        return self.replicas.shown(partition)

    def _make_visible(self, written: list[tuple[Commit, RecordRef]]) -> None:
        """In the writer thread: whole records at once, so that no snapshot has half of one."""
        due = False
        with self._lock:
            for commit, ref in written:
                due = self._take_in(ref, commit.kind, commit.table_id, commit.shares, commit.payload) or due
                self._visible_sequence = ref.sequence
        if due:
            self.compactions.wake.set()

    def _take_in(self, ref: RecordRef, kind: int, table_id: int, shares: Sequence[Share], payload: bytes) -> bool:
        """Makes one record visible; whether a partition may be due for compaction then. The lock is held."""
        if self._catalog.is_dropped(table_id):
            return False
        if kind == REVENT_RECORD:
            # What they have run for may be compacted now.
            found = [(table_id, number) for number in self.triggers.changed(table_id, ref.sequence, payload)]
            touched = [self._partitions[key] for key in found if key in self._partitions]
            return any(self.policy.is_due(one.base_rows, one.delta_events, 0.0) for one in touched)
        due = False
        for share in shares:
            partition = self._partition(table_id, share.partition)
            if ref.sequence <= partition.applied_sequence:
                continue  # its file has it, as that of a member may
            partition.add(ref, kind, share)
            due = due or self.policy.is_due(partition.base_rows, partition.delta_events, 0.0)
            if kind == ERASURE_RECORD:
                # In a member nobody waits to finish it: what compacts does.
                self.erasures.begin(table_id, ref.sequence, payload, is_left=self.replicas is not None)
                due = due or self.replicas is not None
        if kind == ERASURE_RECORD:
            self.triggers.erased(table_id, ref.sequence, payload)
        else:
            self.triggers.inserted(table_id, kind, ref.sequence, shares)
        return due

    def _partition(self, table_id: int, partition: int) -> Partition:
        key = (table_id, partition)
        if key not in self._partitions:
            lineage = 0 if self.replicas is None else self.replicas.journals.base(partition).incarnation
            self._partitions[key] = Partition(table_id, partition, lineage=lineage)
        return self._partitions[key]

    # --- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self, table: str) -> list[PartitionSnapshot]:
        """The partitions of a table that have any events, all at one moment, ascending. Cheap.

        Everything acknowledged before is in it. A compaction may supersede it (StaleSnapshotError when it is opened).
        Raises QueryError, ConfigError.
        """
        with self._lock:
            return self._snapshots(self.table(table))

    def _snapshots(self, schema: TableSchema, now_ms: int | None = None) -> list[PartitionSnapshot]:
        return [
            self._partitions[schema.id, number].snapshot(schema, self._journals.id, now_ms)
            for number in range(self._initialised())
            if (schema.id, number) in self._partitions
        ]

    @contextmanager
    def pinned_snapshot(self, table: str) -> Iterator[list[PartitionSnapshot]]:
        """`snapshot`, all of which can be opened until the context is left, whatever is compacted meanwhile.

        It is one moment over all partitions, so no request is seen by half. Raises QueryError, ConfigError.
        """
        with self.pinned_table(table) as (_, snapshots):
            yield snapshots

    @contextmanager
    def pinned_table(
        self, table: str, now_ms: int | None = None
    ) -> Iterator[tuple[TableSchema, list[PartitionSnapshot]]]:
        """`pinned_snapshot`, with the table as it was at the same moment: what a script is to be compiled against.

        now_ms: the query's now, which its table's retention counts from.
        """
        with self._lock:
            # A compaction that leaves a dropped column out is published later than this moment or before it; so with
            # the table read under the lock no snapshot lacks one of its columns.
            schema = self.table(table)
            snapshots = self._snapshots(schema, now_ms)
            self._pins.add(snapshots)
        try:
            yield schema, snapshots
        finally:
            with self._lock:
                idle = self._pins.remove(snapshots)
                if schema.id in self.compactions.dropped:
                    self.compactions.wake.set()
            for link in idle:
                discard(link, self._files)

    def person_snapshot(self, table: str, person_id: PersonId) -> PartitionSnapshot:
        """The partition a person belongs to. Raises QueryError, ConfigError."""
        number = partition_of(person_id, self._initialised())
        with self._lock:
            schema = self.table(table)
            found = self._partitions.get((schema.id, number), Partition(schema.id, number))
            return found.snapshot(schema, self._journals.id)

    def trigger_snapshot(self, table: TableSchema, number: int, up_to: int, now_ms: int) -> PartitionSnapshot | None:
        """A partition with the inserts up to a record, which must not be below those triggers have run for.

        None when the table was dropped or the partition's file is damaged. A compaction may supersede it.
        """
        with self._lock:
            found = self._partitions.get((table.id, number), Partition(table.id, number))
            if self._catalog.is_dropped(table.id) or found.damage:
                return None
            return found.snapshot(self.table(table.name), self._journals.id, now_ms, up_to + 1)

    def _initialised(self) -> int:
        if self._catalog.partitions is None:
            raise ConfigError("the cluster is not initialised: PUT /v1/cluster/init?partitions=N first")
        return self._catalog.partitions

    def compact_all(self) -> int:
        """`Compactions.run_all`."""
        return self.compactions.run_all()

    # --- becoming a member -----------------------------------------------------------------------------------------

    def as_member(self, journal_id: str) -> Store:
        """Closes the store and opens it again as that of a member of a cluster. Not for the event loop.

        journal_id: of the cluster; where it is not this store's, there must be no data. Nobody may use the store any
        more. Raises InternalError, ReadOnlyError, ConfigError; then the directory is what it was, or a member's.
        """
        self.health.check()
        if self.replicas is None:
            self.triggers.bury(self.dead_letters)
            self.compact_all()
            if any(one.delta_events for one in self._partitions.values()):
                raise InternalError("not everything could be brought into the files of the partitions")
            if self.triggers.waits():
                raise InternalError("triggers have not run for all inserts")
            own = journal_id == self.journal_id
            if not own and self._partitions:
                raise ConfigError("only a node without data can join a cluster")
        self.close()
        if self.replicas is None:
            make_member_locked(self.data_dir, self._catalog, self._files, None if own else journal_id)
        return Store.open(self.data_dir, files=self._unwatched_files, policy=self.policy)
