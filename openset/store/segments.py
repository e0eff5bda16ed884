"""The stored segments of a node: which there are, until when, and their files. On the side of the daemon.

A segment is who belonged to it when it was computed; a newer computation of the same name replaces it. Every
computation is a file of its own (`tables/<table id>/segments/<version>.segment`), so that queries that still read the
one before are not disturbed. What is damaged is reported and left out: a segment can be computed again.

In a cluster a removal is written down (`removals`) before the file goes: from then on it counts, here and for what
other nodes send.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from pyroaring import BitMap

from openset.errors import InternalError, OpenSetError, QueryError, ReadOnlyError
from openset.log import get_logger
from openset.store.health import Health
from openset.store.partition import NO_RECORD
from openset.store.removals import REMEMBERED_MS, Removal, Removals
from openset.store.segment import (
    LEAST_REFRESH_SECONDS,
    SEGMENT_SUFFIX,
    SEGMENTS_DIRECTORY,
    Computed,
    Erased,
    Segment,
    StoredSegment,
    segment_path,
    without,
)
from openset.store.snapshot import TABLES_DIRECTORY
from openset.store.unfinished import begin, finish, undo
from openset_format.decoding import json_decoder
from openset_format.errors import FormatError
from openset_format.files import FILES, TEMPORARY_SUFFIX, FileLayer
from openset_format.membership import MembershipFile, write_membership

log = get_logger("openset.store")

SEGMENTS_PER_TABLE = 10_000


class DamagedSegmentError(InternalError):
    """The file of a stored segment is not what was written."""


class Segments:
    """All stored segments of a data directory. Methods may be called from any thread."""

    def __init__(
        self,
        data_dir: Path,
        table_ids: Iterable[int],
        journal_id: str,
        last_sequence: int | None,
        files: FileLayer = FILES,
        health: Health | None = None,
    ):
        """Reads what is there. Segments that know events which the journal does not have are removed.

        last_sequence: None on a member of a cluster. Its segments know only what all copies have agreed on.
        """
        self._in_cluster = last_sequence is None
        self._data_dir = data_dir
        self._files = files
        self._health = health or Health()
        # Guards everything below; held for moments only.
        self._lock = threading.Lock()
        # Held by the one who writes files or removes them.
        self._writing = threading.RLock()
        self._stored: dict[tuple[int, str], StoredSegment] = {}
        self._next_version: dict[int, int] = {}
        self._failures: dict[tuple[int, str], _Failure] = {}
        self._pinned: dict[Path, int] = {}
        self._superseded: set[Path] = set()
        self._dropped_tables: set[int] = set()
        # By table: people who were erased since the node started, for segments that are being computed without knowing.
        self._erased: dict[int, list[Erased]] = {}
        # What was removed: other nodes may not have heard of it. Changed by the one who writes.
        self._removals = Removals(data_dir, files)
        now_ms = time.time() * 1_000
        for table_id in table_ids:
            self._read_table(table_id, journal_id, last_sequence, now_ms)

    # --- looking up ------------------------------------------------------------------------------------------------

    def all(self, table_id: int, now_ms: float) -> list[StoredSegment]:
        """The segments of a table within their ttl, by name."""
        with self._lock:
            found = [stored for (table, _), stored in self._stored.items() if table == table_id]
            return sorted(
                (stored for stored in found if self._is_alive(stored, now_ms)), key=lambda each: each.segment.name
            )

    def failure(self, stored: StoredSegment) -> str | None:
        """Why the last refresh of this segment failed, None when it did not."""
        with self._lock:
            failure = self._failure_of(stored)
            return None if failure is None else failure.reason

    @contextmanager
    def pinned(self, table_id: int, names: Iterable[str], now_ms: float) -> Iterator[dict[str, StoredSegment]]:
        """Those of these names that there are within their ttl. Their files stay until the context is left."""
        with self._lock:
            wanted = [self._stored.get((table_id, name)) for name in dict.fromkeys(names)]
            found = [stored for stored in wanted if stored is not None and self._is_alive(stored, now_ms)]
            for stored in found:
                self._pinned[stored.ref.file] = self._pinned.get(stored.ref.file, 0) + 1
        try:
            yield {stored.segment.name: stored for stored in found}
        finally:
            with self._lock:
                for stored in found:
                    self._pinned[stored.ref.file] -= 1
                    if not self._pinned[stored.ref.file]:
                        del self._pinned[stored.ref.file]
                idle = self._idle()
            self._unlink(idle)

    # --- changing --------------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raises ReadOnlyError when nothing can be stored now."""
        self._health.check()

    def put(
        self,
        table_id: int,
        computed: Sequence[Computed],
        replaces: StoredSegment | None = None,
        described: Sequence[tuple[StoredSegment, Segment]] = (),
    ) -> None:
        """Stores segments durably, each in place of the one of its name; all or none. Syncs: not for the event loop.

        replaces: only when this one is still the stored one. described: stored ones that get another description (ttl,
        refresh), those of them that are still stored. Raises InternalError, ReadOnlyError, QueryError for too many
        segments and for a dropped table.
        """
        with self._health.writing(), self._writing:
            with self._lock:
                if table_id in self._dropped_tables:
                    raise QueryError("the table was dropped while its segments were computed")
                if replaces is not None and not self._is_stored(replaces):
                    return
                again = [(stored, segment) for stored, segment in described if self._is_stored(stored)]
            computed = [*computed, *(Computed(segment, self._read(stored).members) for stored, segment in again)]
            if not computed:
                return
            with self._lock:
                computed = [self._later(table_id, one) for one in computed]
                self._check_room(table_id, computed)
                first = self._next_version.get(table_id, 1)
                self._next_version[table_id] = first + len(computed)
                erased = list(self._erased.get(table_id, ()))
            computed = [without(one, [each for each in erased if each.is_news_to(one.segment)]) for one in computed]
            written = [
                StoredSegment(table_id, first + position, one.segment) for position, one in enumerate(computed)
            ]  # fmt: skip
            self._write(table_id, written, computed)
            with self._lock:
                for stored in written:
                    self._replace((table_id, stored.segment.name), stored)
                idle = self._idle()
            self._unlink(idle)

    def _later(self, table_id: int, one: Computed) -> Computed:
        """A shared computation is later than what it replaces or was removed, whatever clocks say. The lock is held."""
        key = (table_id, one.segment.name)
        stored, edition = self._stored.get(key), one.segment.edition
        removed = self._removals.get(*key)
        before = max(
            (0, "") if removed is None else removed.edition, (0, "") if stored is None else stored.segment.edition
        )
        if (
            not one.segment.computation
            or before < edition
            or (stored is not None and stored.segment.edition == edition)
        ):
            return one
        return Computed(msgspec.structs.replace(one.segment, published_at_ms=before[0] + 1), one.members)

    def receive(self, table_id: int, computed: Sequence[Computed]) -> list[str]:
        """Stores what another node has computed; the names of those that were computed later or removed here.

        Of a computation that is here already those people stay whom both nodes have: the others were erased.
        Syncs: not for the event loop. Raises as `put`.
        """
        with self._writing:
            with self._lock:
                refused = [one.segment.name for one in computed if self._is_past(table_id, one.segment)]
                known = {
                    one.segment.name: stored
                    for one in computed
                    if (stored := self._stored.get((table_id, one.segment.name))) is not None
                    and stored.segment.edition == one.segment.edition
                }
            for one in computed:
                if one.segment.name in known and one.segment.lost != known[one.segment.name].segment.lost:
                    self._meet(known[one.segment.name], one)
            news = [one for one in computed if one.segment.name not in known and one.segment.name not in refused]
            if news:
                self.put(table_id, news)
            return refused

    def _meet(self, stored: StoredSegment, other: Computed) -> None:
        """Takes out of a segment whom the same computation on another node does not have. Raises as `put`."""
        try:
            own = self._read(stored)
        except DamagedSegmentError:
            self.put(stored.table_id, [other], replaces=stored)
            return
        gone = [
            Erased(number, BitMap.deserialize(data) - BitMap.deserialize(other.members[number]), NO_RECORD, True)
            for number, data in own.members.items()
            if number in other.members
        ]
        remaining = without(own, gone)
        if remaining is not own:
            self.put(stored.table_id, [remaining], replaces=stored)

    def _is_past(self, table_id: int, segment: Segment) -> bool:
        """Whether a later computation is stored, or this one was removed. The lock is held."""
        key = (table_id, segment.name)
        stored, removed = self._stored.get(key), self._removals.get(*key)
        return (stored is not None and stored.segment.edition > segment.edition) or (
            removed is not None and removed.hides(segment)
        )

    def read(self, stored: StoredSegment) -> Computed:
        """A stored segment with its members, for another node. Raises InternalError."""
        return self._read(stored)

    def removed(self, now_ms: float) -> dict[tuple[int, str], Removal]:
        """What was removed and is remembered, by table and name."""
        with self._lock:
            return self._removals.all(now_ms)

    def _is_stored(self, stored: StoredSegment) -> bool:
        """Whether nothing has replaced it. The lock is held."""
        held = self._stored.get((stored.table_id, stored.segment.name))
        return held is not None and held.version == stored.version

    def forget_people(self, table_id: int, partition: int, ordinals: Collection[int], sequence: int) -> None:
        """Takes people who were erased out of every segment of a table, durably. Syncs: not for the event loop.

        sequence: of the record that erased them; segments that knew it do not have them. Raises InternalError,
        ReadOnlyError, when all segments were tried: those that were not written have other counts at least, and another
        call writes them. A segment whose file is damaged is left to those who read it.
        """
        if not ordinals:
            return
        with self._writing:
            with self._lock:
                news = self._erased.setdefault(table_id, [])
                news.append(Erased(partition, BitMap(ordinals), sequence, self._in_cluster))
                held = [stored for (table, _), stored in self._stored.items() if table == table_id]
            failure: OpenSetError | None = None
            for stored in held:
                try:
                    computed = self._read(stored)
                except DamagedSegmentError as error:
                    log.error("a stored segment cannot be read", segment=stored.segment.name, reason=error.message)
                    continue
                remaining = without(computed, [each for each in news if each.is_news_to(computed.segment)])
                if remaining is computed:
                    continue
                try:
                    self.put(table_id, [remaining], replaces=stored)
                except (InternalError, ReadOnlyError) as error:
                    failure = failure or error
                    with self._lock:
                        self._stored[table_id, stored.segment.name] = replace(stored, segment=remaining.segment)
            if failure is not None:
                raise failure

    def _read(self, stored: StoredSegment) -> Computed:
        """What the file of a segment holds. Raises InternalError, DamagedSegmentError."""
        try:
            file = MembershipFile.open(self._data_dir / stored.ref.file)
            members = {partition: file.serialized(partition) for partition in file.partitions}
            return Computed(json_decoder(Segment).decode(file.description), members)
        except OSError as error:
            raise InternalError(f"segment {stored.segment.name!r} cannot be read: {error}") from error
        except (FormatError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedSegmentError(f"segment {stored.segment.name!r} is damaged: {error}") from error

    def remove(self, table_id: int, name: str, now_ms: float) -> StoredSegment | None:
        """Removes a segment durably; None when there is none within its ttl. Raises InternalError, ReadOnlyError.

        In a cluster that is remembered, for nodes that have not heard of it.

        Its file goes at once, for a crash would bring it back: a query that has it pinned and not read may fail.
        """
        with self._health.writing(), self._writing:
            with self._lock:
                stored = self._stored.get((table_id, name))
                if stored is None or not self._is_alive(stored, now_ms):
                    return None
                removals = None
                if self._in_cluster or stored.segment.computation:
                    removal = Removal(stored.segment.edition, int(now_ms) + REMEMBERED_MS)
                    removals = self._removals.joined(table_id, {name: removal}, self._described(table_id), now_ms)
            self._take_away(table_id, [stored], removals)
            return stored

    def hear_removed(self, table_id: int, removed: Mapping[str, Removal], now_ms: float) -> None:
        """Removes what other nodes have removed, and refuses what of it comes late, durably. Not for the event loop.

        Nothing that was computed later. One sync for all; none where all is known. Raises InternalError, ReadOnlyError.
        """
        with self._writing:
            with self._lock:
                if table_id in self._dropped_tables:
                    return
                gone = [
                    stored
                    for name, removal in removed.items()
                    if (stored := self._stored.get((table_id, name))) is not None and removal.hides(stored.segment)
                ]
                removals = self._removals.joined(table_id, removed, self._described(table_id), now_ms)
            if gone or removals is not None:
                with self._health.writing():
                    self._take_away(table_id, gone, removals)

    def _take_away(self, table_id: int, gone: Sequence[StoredSegment], removals: dict[str, Removal] | None) -> None:
        """Removes segments durably; `_writing` is held. removals: of the table from now on, None where nothing changes.

        Raises InternalError; when removals were written, they count all the same.
        """
        directory = self._data_dir / segment_path(table_id, 0).parent
        if removals is not None:
            try:
                self._make_directory(directory)
                self._removals.write(table_id, removals)
            except OSError as error:
                raise InternalError(f"the removal of segments could not be stored: {error}") from error
            with self._lock:
                self._removals.keep(table_id, removals)
                for stored in gone:
                    self._replace((table_id, stored.segment.name), None)
        for stored in gone:
            try:
                self._files.discard(self._data_dir / stored.ref.file)
            except OSError as error:
                raise InternalError(f"segment {stored.segment.name!r} cannot be removed: {error}") from error
            with self._lock:
                self._replace((table_id, stored.segment.name), None)
                self._superseded.discard(stored.ref.file)
        try:
            if gone:
                self._files.sync_directory(directory)
        except OSError as error:
            raise InternalError(f"segment {gone[0].segment.name!r} may come back after a restart: {error}") from error

    def _described(self, table_id: int) -> dict[str, Segment]:
        """What a table has, by name. The lock is held."""
        return {name: stored.segment for (table, name), stored in self._stored.items() if table == table_id}

    def drop_table(self, table_id: int) -> None:
        """Forgets the segments of a table that was dropped, and takes no more; its files go with its directory."""
        directory = segment_path(table_id, 0).parent
        with self._writing, self._lock:
            self._dropped_tables.add(table_id)
            self._removals.drop_table(table_id)
            for key in [key for key in self._stored if key[0] == table_id]:
                del self._stored[key]
                self._failures.pop(key, None)
            self._superseded = {path for path in self._superseded if path.parent != directory}

    def remove_expired(self, now_ms: float) -> None:
        """Removes the files of segments beyond their ttl."""
        with self._writing:
            with self._lock:
                for key, stored in list(self._stored.items()):
                    if not self._is_alive(stored, now_ms):
                        self._replace(key, None)
                idle = self._idle()
            self._unlink(idle)

    # --- refreshing ------------------------------------------------------------------------------------------------

    def next_refresh(
        self, now_ms: float, is_ours: Callable[[StoredSegment], bool] = lambda stored: True
    ) -> StoredSegment | None:  # fmt: skip
        """The segment whose refresh is due for longest, oldest computation first; None when none is.

        is_ours: whether this node refreshes it.
        """
        with self._lock:
            due = [
                (self._refresh_at(stored), stored.version, stored)
                for stored in self._stored.values()
                if stored.segment.refresh_seconds is not None
                and self._is_alive(stored, now_ms)
                and self._refresh_at(stored) <= now_ms
                and is_ours(stored)
            ]
            return min(due, key=lambda entry: entry[:2])[2] if due else None

    def refresh_failed(self, stored: StoredSegment, reason: str, now_ms: float) -> None:
        """Notes why a segment could not be computed again; the next attempt comes after its refresh time."""
        with self._lock:
            self._failures[stored.table_id, stored.segment.name] = _Failure(stored.version, reason, now_ms)

    def _refresh_at(self, stored: StoredSegment) -> float:
        failure = self._failure_of(stored)
        if failure is None or stored.segment.refresh_seconds is None:
            return stored.segment.refresh_at_ms
        return failure.at_ms + 1_000 * max(stored.segment.refresh_seconds, LEAST_REFRESH_SECONDS)

    def _failure_of(self, stored: StoredSegment) -> _Failure | None:
        failure = self._failures.get((stored.table_id, stored.segment.name))
        return failure if failure is not None and failure.version == stored.version else None

    # --- inside; the lock is held where nothing else is said ----------------------------------------------------

    def _is_alive(self, stored: StoredSegment, now_ms: float) -> bool:
        """Within its ttl, or about to be computed again: a refresh that comes a little late leaves no gap."""
        if now_ms < stored.segment.expires_at_ms:
            return True
        return stored.segment.is_kept_fresh and self._failure_of(stored) is None

    def _replace(self, key: tuple[int, str], stored: StoredSegment | None) -> None:
        before = self._stored.pop(key, None)
        self._failures.pop(key, None)
        if before is not None:
            self._superseded.add(before.ref.file)
        if stored is not None:
            self._stored[key] = stored

    def _idle(self) -> list[Path]:
        """Files that nobody needs any more, for the caller to remove without the lock."""
        idle = [path for path in self._superseded if path not in self._pinned]
        self._superseded.difference_update(idle)
        return idle

    def _unlink(self, paths: Iterable[Path]) -> None:
        """Without the lock. What cannot be removed is removed at the next start."""
        for path in paths:
            try:
                self._files.unlink(self._data_dir / path)
            except OSError as error:
                log.warning("a segment file cannot be removed", file=str(path), reason=str(error))

    def _check_room(self, table_id: int, computed: Sequence[Computed]) -> None:
        names = {name for table, name in self._stored if table == table_id} | {one.segment.name for one in computed}
        if len(names) > SEGMENTS_PER_TABLE:
            raise QueryError(f"a table has at most {SEGMENTS_PER_TABLE:,} segments; give them a ttl or delete some")

    def _write(self, table_id: int, written: Sequence[StoredSegment], computed: Sequence[Computed]) -> None:
        """Without the lock. All files or none, durably."""
        directory = self._data_dir / TABLES_DIRECTORY / str(table_id) / SEGMENTS_DIRECTORY
        paths = [self._data_dir / stored.ref.file for stored in written]
        counts_together = len(paths) > 1
        try:
            self._make_directory(directory)
            if counts_together:
                begin(directory, [path.name for path in paths], self._files)
            for path, one in zip(paths, computed, strict=True):
                write_membership(path, msgspec.json.encode(one.segment), one.members, self._files)
            self._files.sync_directory(directory)
            if counts_together:
                finish(directory, self._files)
        except (OSError, FormatError) as error:
            with suppress(OSError):  # the first error is the one to report; a start takes the newest of a name
                if counts_together:
                    undo(directory, self._files)
                else:
                    self._files.discard(paths[0])
            raise InternalError(f"the segments could not be stored: {error}") from error

    def _make_directory(self, directory: Path) -> None:
        """Without the lock. Raises OSError."""
        if directory.is_dir():
            return
        self._files.make_directory(directory)
        for parent in (directory.parent, directory.parent.parent, self._data_dir):
            self._files.sync_directory(parent)

    # --- opening ---------------------------------------------------------------------------------------------------

    def _read_table(self, table_id: int, journal_id: str, last_sequence: int | None, now_ms: float) -> None:
        """The newest file of each name stays, the others go, and so does what was removed. Raises ConfigError."""
        directory = self._data_dir / TABLES_DIRECTORY / str(table_id) / SEGMENTS_DIRECTORY
        undo(directory, self._files)
        self._removals.read(table_id)
        for leftover in directory.glob(f"*{TEMPORARY_SUFFIX}"):
            self._files.unlink(leftover)
        for path in sorted(directory.glob(f"*{SEGMENT_SUFFIX}")):
            if not path.stem.isdigit():
                continue
            version = int(path.stem)
            self._next_version[table_id] = version + 1
            try:
                segment = json_decoder(Segment).decode(MembershipFile.open(path).description)
            except (FormatError, OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                log.error("a stored segment cannot be read", file=str(path), reason=str(error))
                continue
            self._replace((table_id, segment.name), StoredSegment(table_id, version, segment))
            removal = self._removals.get(table_id, segment.name)
            if now_ms >= segment.expires_at_ms or (removal is not None and removal.hides(segment)):
                self._replace((table_id, segment.name), None)
            if last_sequence is None or not segment.sequence:
                continue
            if segment.journal_id != journal_id or segment.sequence > last_sequence:
                log.error("a stored segment knows events that are lost", segment=segment.name)
                self._replace((table_id, segment.name), None)
        self._unlink(self._idle())


@dataclass(frozen=True, slots=True)
class _Failure:
    """Of a refresh: of which version, why and when."""

    version: int
    reason: str
    at_ms: float
