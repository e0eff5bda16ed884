"""What the daemon knows of each partition: the generation of its file and the journal records that are newer.

Only numbers and references: the daemon does not open the data to answer for it, workers do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from openset.store.records import ERASURE_RECORD, Share
from openset.store.schema import TableSchema
from openset.store.snapshot import PartitionSnapshot, RecordLog
from openset_format.segment import RecordRef

NO_RECORD = 1 << 64


@dataclass(slots=True)
class Partition:
    """A partition of a table. Changed and read under the store's lock.

    generation, applied_sequence, base_rows: of the file; 0 when there is none.
    delta_events: how many events the records hold that are not in the file, replaced ones and erasures counted.
    waiting_since: monotonic seconds, when the oldest of them arrived (or the store was opened).
    damage: why the file cannot be read, "" when it can. Whoever opens a snapshot of it meets the damage.
    lineage: see PartitionSnapshot.
    """

    table_id: int
    partition: int
    generation: int = 0
    applied_sequence: int = 0
    base_rows: int = 0
    delta_events: int = 0
    waiting_since: float = 0.0
    damage: str = ""
    lineage: int = 0
    records: RecordLog = field(default_factory=RecordLog)
    # The records among them that erase somebody, oldest first.
    erasures: list[int] = field(default_factory=list)
    # The event counts of the records, oldest first, so that a compaction can take its share away.
    _counts: list[tuple[int, int]] = field(default_factory=list)

    @property
    def oldest_sequence(self) -> int:
        """The oldest record that is not in the file; where there is none, a number above all."""
        return self._counts[0][0] if self._counts else NO_RECORD

    def add(self, ref: RecordRef, kind: int, share: Share) -> None:
        """A durable record that touches this partition."""
        if not self.delta_events:
            self.waiting_since = time.monotonic()
        self.records.append(ref)
        if kind == ERASURE_RECORD:
            self.erasures.append(ref.sequence)
        self._counts.append((ref.sequence, share.events))
        self.delta_events += share.events

    def publish(self, generation: int, applied_sequence: int, rows: int) -> None:
        """A new generation of the file is in place, with the records up to a sequence in it."""
        assert generation > self.generation
        self.generation, self.applied_sequence, self.base_rows = generation, applied_sequence, rows
        self.records.drop(applied_sequence)
        self._counts = [entry for entry in self._counts if entry[0] > applied_sequence]
        self.erasures = [sequence for sequence in self.erasures if sequence > applied_sequence]
        self.delta_events = sum(count for _, count in self._counts)
        self.waiting_since = time.monotonic()

    def restart(self, lineage: int) -> None:
        """The records of the file are all there is, and others may come under the sequences of those behind them."""
        self.records = RecordLog()
        self._counts, self.erasures, self.delta_events = [], [], 0
        self.lineage = lineage

    def event_counts(self) -> dict[int, int]:
        """How many events each record holds, by sequence."""
        return dict(self._counts)

    def events_before(self, sequence: int | None) -> int:
        """How many events the records below this one (None: all records) hold."""
        if sequence is None:
            return self.delta_events
        return sum(count for number, count in self._counts if number < sequence)

    def snapshot(
        self, schema: TableSchema, journal_id: str, now_ms: int | None = None, before: int | None = None
    ) -> PartitionSnapshot:
        """This partition as it is now. now_ms: what the table's retention counts from, by default the time of day.

        before: without the records from this sequence on.
        """
        now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
        return PartitionSnapshot(
            schema,
            self.partition,
            self.generation,
            journal_id,
            self.applied_sequence,
            self.records.view() if before is None else self.records.view().before(before),
            schema.expired_before(now_ms),
            self.lineage,
        )
