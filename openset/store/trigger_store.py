"""The triggers of a data directory: their catalogs, the state of every partition, and what still has to be evaluated.

A partition's state is its sidecar file and the journal records above it. Changes go through `append`: one record,
durable, then in memory, in the order of the journal. Which inserts wait is known here too, because a compaction must
leave them in the journal until triggers have run for them: afterwards nobody could tell which rows a record brought.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from openset.errors import InternalError, QueryError
from openset.log import get_logger
from openset.store.catalog import Catalog
from openset.store.dead_letters import DeadLetter, DeadLetters
from openset.store.health import Health
from openset.store.journals import Mark, first_of
from openset.store.partition import Partition
from openset.store.records import EMITTED_RECORD, ERASURE_RECORD, INSERT_RECORD, REVENT_RECORD, Share, decode_erasure
from openset.store.recovery import NoRecords, Records
from openset.store.snapshot import TABLES_DIRECTORY
from openset.store.trigger_catalog import (
    CatalogContents,
    Trigger,
    TriggerCatalog,
    with_trigger,
    without_trigger,
)
from openset.store.trigger_changes import Change, Letter, decode_changes, encode_changes, message_place
from openset.store.trigger_state import TriggerState
from openset_format.errors import FormatError
from openset_format.files import FILES, FileLayer
from openset_format.revent_file import REVENT_SUFFIX, ReventHead, read_revent_file, write_revent_file

log = get_logger("openset.store")

# A sidecar is written again when the records above it take more than it does, and more than the floor, or by age.
SIDECAR_FLOOR_BYTES = 4 * 1024 * 1024
SIDECAR_AGE_SECONDS = 3_600.0

Key = tuple[int, int]


def revent_path(table_id: int, partition: int) -> Path:
    """Where the sidecar of a partition is, relative to the data directory."""
    return Path(TABLES_DIRECTORY) / str(table_id) / f"p{partition:04d}{REVENT_SUFFIX}"


@dataclass(frozen=True, slots=True)
class Pending:
    """An insert that triggers have not run for, in one partition. arrived_ms: when it became visible, 0 when unknown.

    emitted: it is what a trigger with emit_as_event emitted. events: how many it has for the partition.
    """

    sequence: int
    arrived_ms: int
    emitted: bool
    events: int


@dataclass(slots=True)
class _Held:
    """A partition's state and how much of it only the journal has.

    saved: the record up to which the sidecar has it. first_unsaved: the oldest record above it, 0 when there is none.
    """

    state: TriggerState = field(default_factory=TriggerState)
    applied: int = 0
    saved: int = 0
    saved_bytes: int = 0
    first_unsaved: int = 0
    unsaved_bytes: int = 0
    unsaved_since: float = 0.0
    pending: deque[Pending] = field(default_factory=deque)

    def note(self, sequence: int, size_bytes: int) -> None:
        """A record was applied."""
        if not self.first_unsaved:
            self.first_unsaved, self.unsaved_since = sequence, time.monotonic()
        self.applied = sequence
        self.unsaved_bytes += size_bytes

    @property
    def is_due(self) -> bool:
        if not self.first_unsaved:
            return False
        waited_s = time.monotonic() - self.unsaved_since
        return self.unsaved_bytes > max(SIDECAR_FLOOR_BYTES, self.saved_bytes) or waited_s > SIDECAR_AGE_SECONDS


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Triggers:
    """Everything a node knows of its triggers. Methods may be called from any thread."""

    def __init__(
        self,
        data_dir: Path,
        catalog: Catalog,
        journal: Records,
        partitions: Mapping[Key, Partition],
        submit: Callable[[int, bytes], Future[int]],
        files: FileLayer = FILES,
        health: Health | None = None,
    ):
        """Reads catalogs and sidecars and applies what the journal has above them. Raises InternalError, ConfigError.

        submit: hands the payload of a record for a table to the writer of the journal.
        """
        self._data_dir = data_dir
        self._files = files
        self._health = health or Health()
        self._journal_id = journal.id
        self._submit = submit
        # Whether every partition has sequences of its own.
        self._is_member = isinstance(journal, NoRecords)
        # Guards states, pending inserts and the set of tables that collect them; held for moments only.
        self._lock = threading.RLock()
        # Held by the one who changes a catalog. Taken before _lock.
        self._changing = threading.RLock()
        self._catalogs: dict[int, TriggerCatalog] = {}
        self._known: dict[int, dict[int, Trigger]] = {}  # by table and trigger
        self._held: dict[Key, _Held] = {}
        self._collecting: set[int] = set()
        self._erasures: dict[int, int] = {}  # by table
        self._listeners: list[Callable[[int, Collection[int], Collection[int]], None]] = []
        self.clock: Callable[[], int] = now_ms
        for schema in catalog.tables():
            self._open_table(schema.id, catalog.partitions or 0)
        try:
            self._replay(journal)
        except FormatError as error:
            raise InternalError(str(error)) from error
        self._find_pending(journal, partitions)

    # --- opening ---------------------------------------------------------------------------------------------------

    def _open_table(self, table_id: int, partitions: int) -> None:
        catalog = TriggerCatalog(self._data_dir, table_id, self._files)
        self._catalogs[table_id] = catalog
        known = self._known[table_id] = {trigger.id: trigger for trigger in catalog.all()}
        if any(trigger.runs for trigger in known.values()):
            self._collecting.add(table_id)
        for number in range(partitions):
            path = self._data_dir / revent_path(table_id, number)
            if path.exists():
                self._held[table_id, number] = self._read_sidecar(path, table_id, number, known)

    def _read_sidecar(self, path: Path, table_id: int, number: int, known: Mapping[int, Trigger]) -> _Held:
        try:
            file = read_revent_file(path)
            state = TriggerState.decode(file.body)
        except (FormatError, OSError) as error:
            raise InternalError(f"{path}: {error}") from error
        head = file.head
        if (head.table_id, head.partition, head.journal_id) != (table_id, number, self._journal_id):
            raise InternalError(f"{path} is of partition {head.partition} of table {head.table_id}, or another journal")
        state.retain(known)
        return _Held(state, head.applied_sequence, head.applied_sequence, len(file.body))

    def _replay(self, journal: Records) -> None:
        """Applies the records that the sidecars lack. Raises FormatError."""
        for key, held in self._held.items():
            if held.saved > journal.last_sequence:
                raise InternalError(
                    f"{revent_path(*key)} holds record {held.saved}, the journal ends at {journal.last_sequence}"
                )
        for ref, kind, table_id in journal.records():
            if table_id not in self._known:
                continue  # dropped
            if kind == ERASURE_RECORD:
                self.erased(table_id, ref.sequence, journal.read(ref))
            elif kind == REVENT_RECORD:
                self._apply(table_id, ref.sequence, journal.read(ref))

    def _find_pending(self, journal: Records, partitions: Mapping[Key, Partition]) -> None:
        kinds = {ref.sequence: kind for ref, kind, _ in journal.records()}
        for key, partition in partitions.items():
            if key[0] not in self._collecting:
                continue
            events = partition.event_counts()
            done = max(self._state_of(key).state.evaluated, self._from_sequence(key[0]))
            for sequence in partition.records.view().fields[:, 0].tolist():
                if sequence > done and kinds[sequence] in (INSERT_RECORD, EMITTED_RECORD):
                    self._state_of(key).pending.append(
                        Pending(sequence, 0, kinds[sequence] == EMITTED_RECORD, events[sequence])
                    )

    def _from_sequence(self, table_id: int) -> int:
        """No trigger that runs wants an insert up to this record."""
        return min((one.from_sequence for one in self._known[table_id].values() if one.runs), default=0)

    # --- what the writer of the journal tells; the store calls it in journal order -------------------------------

    def inserted(self, table_id: int, kind: int, sequence: int, shares: Sequence[Share]) -> None:
        """An insert is visible."""
        assert kind in (INSERT_RECORD, EMITTED_RECORD)
        with self._lock:
            if table_id not in self._collecting:
                return
            now_ms, emitted = self.clock(), kind == EMITTED_RECORD
            for share in shares:
                held = self._state_of((table_id, share.partition))
                # A member is shown again after a start what is in its journal.
                if sequence > held.state.evaluated:
                    held.pending.append(Pending(sequence, now_ms, emitted, share.events))
        self._tell(table_id, [share.partition for share in shares], ())

    def changed(self, table_id: int, sequence: int, payload: bytes) -> list[int]:
        """A record of changes is durable. Returns the partitions it is about."""
        with self._lock:
            if table_id not in self._known:
                return []  # dropped
            numbers, told = self._apply(table_id, sequence, payload)
        self._tell(table_id, numbers, told)
        return numbers

    def _apply(self, table_id: int, sequence: int, payload: bytes | memoryview) -> tuple[list[int], set[int]]:
        """Takes a record into memory; the partitions and the triggers with new messages. Raises FormatError."""
        told: set[int] = set()
        parts = decode_changes(payload)
        for number, changes in parts.items():
            held = self._state_of((table_id, number))
            if sequence <= held.saved:
                continue
            told |= held.state.apply(changes, self._known[table_id], sequence)
            held.note(sequence, len(payload) // len(parts))
            while held.pending and held.pending[0].sequence <= held.state.evaluated:
                held.pending.popleft()
        return list(parts), told

    def _state_of(self, key: Key) -> _Held:
        if key not in self._held:
            self._held[key] = _Held()
        return self._held[key]

    def listen(self, callback: Callable[[int, Collection[int], Collection[int]], None]) -> Callable[[], None]:
        """Calls back, in whatever thread, with table id, partitions and the triggers that have new messages.

        Also when an insert waits in these partitions or when triggers of the table were changed. Returns what ends it.
        """
        self._listeners.append(callback)

        def unlisten() -> None:
            if callback in self._listeners:
                self._listeners.remove(callback)

        return unlisten

    def _tell(self, table_id: int, partitions: Collection[int], triggers: Collection[int]) -> None:
        for listener in list(self._listeners):
            listener(table_id, partitions, triggers)

    # --- changing --------------------------------------------------------------------------------------------------

    def append(self, table_id: int, changes: Mapping[int, Sequence[Change]]) -> Future[int]:
        """Makes changes durable in one record, then applies them. The future gives its sequence, or InternalError."""
        return self._submit(table_id, encode_changes(changes))

    def put(
        self, table_id: int, trigger: Trigger, replaces: Trigger | None, visible_sequence: Callable[[], int]
    ) -> Trigger:
        """Saves a trigger durably, and returns it. Syncs: not for the event loop. Raises QueryError, ReadOnlyError,
        InternalError.

        replaces: what the change was made of; when it is not what there is any more, nothing happens. A new trigger
        (id 0) gets its id. One that did not run before runs for inserts after this moment only.
        """
        with self._health.writing(), self._changing:
            catalog = self._catalog(table_id)
            with self._lock:
                if trigger.runs:
                    # First inserts are collected, then it is said from where on; none falls between.
                    self._collecting.add(table_id)
            try:
                changed, trigger = with_trigger(
                    catalog.contents,
                    trigger,
                    replaces,
                    lambda one: msgspec.structs.replace(one, from_sequence=visible_sequence()),
                )
                catalog.replace(changed)
            finally:
                self._take_over(table_id)
        self._tell(table_id, (), (trigger.id,))
        return trigger

    def remove(self, table_id: int, trigger_id: int) -> None:
        """Removes a trigger durably, with everything of it. Raises InternalError, ReadOnlyError."""
        with self._health.writing(), self._changing:
            catalog = self._catalog(table_id)
            catalog.replace(without_trigger(catalog.contents, trigger_id))
            self._take_over(table_id)
        self._tell(table_id, (), (trigger_id,))

    def contents(self, table_id: int) -> CatalogContents:
        """The triggers of a table as a cluster's coordinator keeps them. Raises QueryError."""
        return self._catalog(table_id).contents

    def adopt(self, table_id: int, contents: CatalogContents) -> None:
        """Has these triggers from now on, durably; nothing where the table is not here. Raises InternalError,
        ReadOnlyError.
        """
        with self._health.writing(), self._changing:
            catalog = self._catalogs.get(table_id)
            if catalog is None or catalog.contents == contents:
                return
            before = {one.id: one for one in catalog.contents.triggers}
            after = {one.id: one for one in contents.triggers}
            catalog.replace(contents)
            self._take_over(table_id)
        changed = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
        self._tell(table_id, (), changed)

    def _take_over(self, table_id: int) -> None:
        """Makes the catalog of a table known to everything in memory."""
        with self._lock:
            known = self._known[table_id] = {one.id: one for one in self._catalogs[table_id].all()}
            runs = any(one.runs for one in known.values())
            if runs:
                self._collecting.add(table_id)
            else:
                self._collecting.discard(table_id)
            for held in self._held_of(table_id).values():
                held.state.retain(known)
                if not runs:
                    held.pending.clear()

    def _catalog(self, table_id: int) -> TriggerCatalog:
        if table_id not in self._catalogs:
            raise QueryError("the table was dropped meanwhile")
        return self._catalogs[table_id]

    def create_table(self, table_id: int) -> None:
        """A table that is new."""
        with self._changing, self._lock:
            self._open_table(table_id, 0)

    def drop_table(self, table_id: int) -> None:
        """Forgets a table; its files go with its directory."""
        with self._changing, self._lock:
            self._catalogs.pop(table_id, None)
            self._known.pop(table_id, None)
            self._collecting.discard(table_id)
            for number in self._held_of(table_id):
                del self._held[table_id, number]
        self._tell(table_id, (), ())

    def erased(self, table_id: int, sequence: int, payload: bytes | memoryview) -> None:
        """A person was erased by a record. Raises InternalError."""
        erasure = decode_erasure(payload)
        with self._lock:
            self._erasures[table_id] = self._erasures.get(table_id, 0) + 1
            held = self._held.get((table_id, erasure.partition))
            if held is not None and sequence > held.saved:
                held.state.erase(erasure.person)
                held.note(sequence, len(payload))

    # --- looking up ------------------------------------------------------------------------------------------------

    def of_table(self, table_id: int) -> list[Trigger]:
        """Triggers and watched segments of a table, in the order they were made."""
        with self._lock:
            return list(self._known.get(table_id, {}).values())

    def erasures(self, table_id: int) -> int:
        """How many people of a table have been erased since the start: what was found out before may be about them."""
        with self._lock:
            return self._erasures.get(table_id, 0)

    def tables(self) -> list[int]:
        """The tables that have triggers which run."""
        with self._lock:
            return sorted(self._collecting)

    @contextmanager
    def state(self, table_id: int, partition: int) -> Iterator[TriggerState]:
        """The state of a partition, to be read until the context is left. Nothing waits for anything inside."""
        with self._lock:
            held = self._held.get((table_id, partition))
            yield TriggerState() if held is None else held.state

    @contextmanager
    def states(self, table_id: int) -> Iterator[dict[int, TriggerState]]:
        """The states of a table by partition, all at one moment."""
        with self._lock:
            yield {number: held.state for number, held in self._held_of(table_id).items()}

    def waits(self) -> bool:
        """Whether there is an insert that triggers have not run for."""
        with self._lock:
            return any(held.pending for held in self._held.values())

    def partitions(self, table_id: int) -> list[int]:
        """The partitions that have any state."""
        with self._lock:
            return sorted(self._held_of(table_id))

    def pending(self, table_id: int, partition: int, events: int) -> list[Pending]:
        """The oldest inserts that triggers have not run for: one, and more as long as they have so many events."""
        with self._lock:
            held = self._held.get((table_id, partition))
            found: list[Pending] = []
            for one in () if held is None else held.pending:
                events -= one.events
                if found and events < 0:
                    break
                found.append(one)
            return found

    def backlog(self, table_id: int, is_own: Callable[[int], bool] = lambda number: True) -> tuple[int, int]:
        """How many inserts wait, and for how long (ms) the oldest has. is_own: which partitions count.

        The same in several partitions counts once, but in a member, where it is a record of each.
        """
        with self._lock:
            waiting = {
                (number if self._is_member else 0, one.sequence): one
                for number, held in self._held_of(table_id).items()
                if is_own(number)
                for one in held.pending
            }
        arrived = [one.arrived_ms for one in waiting.values() if one.arrived_ms]
        return len(waiting), max(self.clock() - min(arrived), 0) if arrived else 0

    def _held_of(self, table_id: int) -> dict[int, _Held]:
        return {key[1]: held for key, held in list(self._held.items()) if key[0] == table_id}

    # --- compaction, journal and sidecars ----------------------------------------------------------------------

    def first_pending(self, table_id: int, partition: int) -> int | None:
        """The oldest record of a partition that must stay in the journal; None when none has to."""
        with self._lock:
            held = self._held.get((table_id, partition))
            return held.pending[0].sequence if held is not None and held.pending else None

    def waits_for(self, mark: Mark) -> bool:
        """Whether there is an insert before a mark that triggers have not run for."""
        with self._lock:
            return any(
                held.pending[0].sequence < first_of(mark, number)
                for (_, number), held in self._held.items()
                if held.pending
            )

    def needed_from(self) -> list[tuple[int, int]]:
        """Partitions of which only the journal has something of their state, with the oldest such record."""
        with self._lock:
            return [(key[1], held.first_unsaved) for key, held in self._held.items() if held.first_unsaved]

    def write_sidecars(self, forced: bool = False) -> int:
        """Writes the sidecars that are due, or all that lack something; how many. Syncs. Raises InternalError."""
        with self._lock:
            keys = [key for key, held in self._held.items() if held.is_due or (forced and held.first_unsaved)]
        for key in keys:
            self._write_sidecar(key)
        return len(keys)

    def _write_sidecar(self, key: Key) -> None:
        with self._changing:  # one at a time, and not while the table is dropped
            with self._lock:
                held = self._held.get(key)
                if held is None:
                    return
                body, applied, size_bytes = held.state.encode(), held.applied, held.unsaved_bytes
            path = self._data_dir / revent_path(*key)
            try:
                if not path.parent.is_dir():
                    self._files.make_directory(path.parent)
                    self._files.sync_directory(path.parent.parent)
                    self._files.sync_directory(self._data_dir)
                write_revent_file(path, ReventHead(*key, self._journal_id, applied), body, self._files)
            except (FormatError, OSError) as error:
                raise InternalError(str(error)) from error
            with self._lock:
                held.saved, held.saved_bytes = applied, len(body)
                held.unsaved_bytes -= size_bytes
                # Records that came meanwhile may have any sequence above this one.
                held.first_unsaved = applied + 1 if held.applied > applied else 0
                held.unsaved_since = time.monotonic()

    # --- becoming a member -----------------------------------------------------------------------------------------

    def bury(self, letters: DeadLetters) -> None:
        """Takes dead letters into the states, where a member has them, in place of those of an attempt before. Syncs.

        Raises InternalError.
        """
        changed: list[Key] = []
        with self._lock:
            for table_id in self._known:
                parts = _by_partition(*letters.all(table_id))
                for partition in parts.keys() | self._held_of(table_id).keys():
                    if self._state_of((table_id, partition)).state.replace_letters(parts.get(partition, {})):
                        changed.append((table_id, partition))
        for key in changed:
            self._write_sidecar(key)

    # --- copies ----------------------------------------------------------------------------------------------------

    @contextmanager
    def still(self) -> Iterator[None]:
        """No sidecar is written meanwhile. The store's lock is taken inside, never the other way round."""
        with self._changing:
            yield

    def save(self, partition: int) -> None:
        """Writes the sidecars of a partition that lack something. Syncs. Raises InternalError."""
        with self._lock:
            keys = [key for key, held in self._held.items() if key[1] == partition and held.first_unsaved]
        for key in keys:
            self._write_sidecar(key)

    def mend(self, partition: int) -> None:
        """Writes the sidecars of a partition again that are damaged: memory has what they should hold. Syncs.

        Raises InternalError.
        """
        with self._lock:
            keys = [key for key, held in self._held.items() if key[1] == partition and held.saved_bytes]
        for key in keys:
            path = self._data_dir / revent_path(*key)
            with self._changing:
                try:
                    TriggerState.decode(read_revent_file(path).body)
                except (FormatError, OSError) as error:
                    log.error("damage, which is mended", file=str(path), reason=str(error))
                    self._write_sidecar(key)

    def forget(self, partition: int) -> None:
        """The partition is not here any more."""
        with self._lock:
            for key in [key for key in self._held if key[1] == partition]:
                del self._held[key]

    def reload(self, partition: int) -> None:
        """Other sidecars of the partition are in place; the records above them are applied again.

        Raises InternalError.
        """
        with self._lock:
            self.forget(partition)
            for table_id, known in self._known.items():
                path = self._data_dir / revent_path(table_id, partition)
                if path.exists():
                    self._held[table_id, partition] = self._read_sidecar(path, table_id, partition, known)


def _by_partition(
    letters: Sequence[DeadLetter], fallen: Mapping[tuple[int, str], int]
) -> dict[int, dict[tuple[int, str], tuple[int, list[Letter]]]]:
    """As states have them. fallen: how many older ones fell out, by trigger and subscription."""
    parts: dict[int, dict[tuple[int, str], tuple[int, list[Letter]]]] = {}
    left = dict(fallen)
    for one in letters:
        partition, number = message_place(one.id)
        key, part = (one.trigger_id, one.subscription), parts.setdefault(partition, {})
        if key not in part:
            part[key] = (left.pop(key, 0), [])
        part[key][1].append(Letter(number, one.message, one.reason, one.tries, one.at_ms, one.again))
    for key, count in left.items():
        parts.setdefault(0, {})[key] = (count, [])
    return parts
