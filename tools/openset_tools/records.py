"""The records of a journal segment, each with what it is about: `openset inspect` of a segment."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from openset.errors import OpenSetError
from openset.store.records import EMITTED_RECORD, ERASURE_RECORD, INSERT_RECORD, REVENT_RECORD, decode_erasure
from openset.store.trigger_changes import decode_changes
from openset_format.batch import decode_batch
from openset_format.errors import FormatError
from openset_format.segment import read_records, scan_segment

_NAMES = {INSERT_RECORD: "insert", ERASURE_RECORD: "erasure", REVENT_RECORD: "triggers", EMITTED_RECORD: "emitted"}


def kind_name(kind: int) -> str:
    """What a kind of record is called."""
    return _NAMES.get(kind, f"kind {kind}")


def inspect_segment(path: Path) -> dict[str, Any]:
    """A segment file of the journal. Raises FormatError, OSError."""
    scan = scan_segment(path)
    problems = [] if scan.damage is None else [f"{path}, offset {scan.end}: {scan.damage}"]
    records: list[dict[str, Any]] = []
    payloads = read_records(path.parent, (ref for ref, _, _ in scan.entries))
    for (ref, kind, table), (_, _, payload) in zip(scan.entries, payloads, strict=True):
        facts: dict[str, Any] = {}
        try:
            facts = record_facts(kind, payload)
        except (FormatError, OpenSetError, ValueError) as error:
            problems.append(f"record {ref.sequence} cannot be read: {error}")
        records.append(
            {
                "sequence": ref.sequence,
                "kind": kind,
                "name": kind_name(kind),
                "table_id": table,
                "offset": ref.offset,
                "bytes": ref.size_bytes,
                **facts,
            }
        )
    return {
        "file": str(path),
        "journal_id": scan.header.journal_id,
        "first_sequence": scan.header.first_sequence,
        "size_bytes": scan.size_bytes,
        "records": records,
        "unsound_from": None if scan.damage is None else scan.end,
        "problem": scan.damage,
        "problems": problems,
    }


def record_facts(kind: int, payload: memoryview) -> dict[str, Any]:
    """What a record is about; nothing for an unknown kind. Raises FormatError, InternalError."""
    if kind in (INSERT_RECORD, EMITTED_RECORD):
        batch = decode_batch(payload)
        return {
            "events": sum(place.event_count for place in batch.partitions),
            "people": len(batch.persons),
            "partitions": [place.partition for place in batch.partitions],
        }
    if kind == ERASURE_RECORD:
        erasure = decode_erasure(payload)
        return {"person": erasure.person, "partitions": [erasure.partition]}
    if kind == REVENT_RECORD:
        parts = decode_changes(payload)
        changes = Counter(type(change).__name__.lower() for part in parts.values() for change in part)
        return {"changes": dict(sorted(changes.items())), "partitions": list(parts)}
    return {}
