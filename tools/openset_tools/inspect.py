"""What is in a file of a data directory, or in all of it: `openset inspect`.

Read-only, without a lock and without a daemon. Names of columns are in the catalog, so a file that stands in its data
directory is shown with them, another one with the ids. What is damaged is told in `problems`, and the rest is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from openset.errors import ConfigError, InternalError, OpenSetError
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.fold import iso_text
from openset.store.member_reading import MemberReading
from openset.store.offline import OfflineStore, OpenTable, read_data_dir
from openset.store.schema import TableSchema
from openset.store.segment import SEGMENT_SUFFIX as STORED_SEGMENT_SUFFIX
from openset.store.segment import SEGMENTS_DIRECTORY, Segment
from openset.store.snapshot import JOURNAL_DIRECTORY, TABLES_DIRECTORY
from openset.store.trigger_catalog import CATALOG_NAME as TRIGGERS_NAME
from openset.store.trigger_catalog import read_catalog
from openset.store.unfinished import unfinished_names
from openset_format.errors import DamageError, FormatError
from openset_format.journal_reading import JournalReading, read_journal
from openset_format.membership import MembershipFile
from openset_format.reader import PartitionFile
from openset_format.revent_file import REVENT_SUFFIX
from openset_format.segment import SEGMENT_SUFFIX
from openset_tools.inspect_file import header, inspect_partition, stored_together
from openset_tools.records import inspect_segment, kind_name
from openset_tools.summary import Summary
from openset_tools.triggers import inspect_sidecar, read_offline, triggers_of

Advance = Callable[[int, int], None]


def inspect(path: Path, advance: Advance = lambda done, total: None) -> dict[str, Any]:
    """Everything about a file or directory, as JSON; `problems` has what is damaged.

    advance: is told how many rows of a table are done and how many it has. Raises ConfigError for what is none of our
    files, InternalError for one of which nothing can be read.
    """
    if path.is_dir():
        return inspect_directory(path, advance)
    try:
        if path.suffix == SEGMENT_SUFFIX:
            return inspect_segment(path)
        if path.suffix == REVENT_SUFFIX:
            return inspect_sidecar(path)
        if path.suffix == STORED_SEGMENT_SUFFIX:
            return inspect_stored_segment(path)
        if path.name == CATALOG_NAME:
            return inspect_catalog(path)
        if path.name == TRIGGERS_NAME:
            return {"file": str(path), "triggers": msgspec.to_builtins(read_catalog(path).triggers)}
        return inspect_partition(path)
    except FormatError as error:
        raise InternalError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def inspect_catalog(path: Path) -> dict[str, Any]:
    """The catalog of a data directory. Raises ConfigError, InternalError."""
    catalog = Catalog(path.parent)
    return {
        "file": str(path),
        "server_name": catalog.server_name,
        "partitions": catalog.partitions,
        "catalog": [_schema(schema) for schema in catalog.tables()],
    }


def inspect_stored_segment(path: Path) -> dict[str, Any]:
    """The file of a stored segment. Raises FormatError, OSError."""
    file = MembershipFile.open(path)
    try:
        segment = msgspec.json.decode(file.description, type=Segment)
        people = {str(partition): len(file.members(partition)) for partition in file.partitions}
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise DamageError(f"it cannot be read: {error}", path) from error
    return {"file": str(path), "segment": msgspec.to_builtins(segment), "people": people}


def inspect_directory(data_dir: Path, advance: Advance = lambda done, total: None) -> dict[str, Any]:
    """A data directory: its journal, and every table with what the journal adds to the files."""
    try:
        store = read_data_dir(data_dir)
    except OpenSetError as error:
        return _without_catalog(data_dir, error)
    problems = list(store.problems)
    tables = []
    try:
        triggers = read_offline(store)
    except OpenSetError as error:
        triggers = None
        problems.append(error.message)
    for schema in store.catalog.tables():
        try:
            found = _table(data_dir, schema, problems, advance)
        except OpenSetError as error:
            problems.append(error.message)
            continue
        tables.append(found | {"triggers": [] if triggers is None else triggers_of(triggers, schema)})
    return {
        "directory": str(data_dir),
        "partitions": store.catalog.partitions,
        **({"lacks": store.lacks} if store.lacks else {}),
        "journal": _journals(store.journal) if isinstance(store.journal, MemberReading) else _journal(store.journal),
        "tables": tables,
        "problems": list(dict.fromkeys(problems)),
    }


def _table(data_dir: Path, schema: TableSchema, problems: list[str], advance: Advance) -> dict[str, Any]:
    summary = Summary(schema.column_types)
    files: dict[int, PartitionFile] = {}
    with OpenTable(data_dir, schema.name) as opened:
        files |= {number: view.file for number, view in opened.views.items() if view.file is not None}
        total, done = sum(view.rows for view in opened.views.values()), 0
        for _, view in opened.sound_views():
            for block in view.stream():
                summary.add(block)
                advance(done := done + block.rows, total)
        problems += opened.problems
        partitions = _partitions(opened.store, schema, files)
    shown = summary.shown()
    for name, facts in stored_together(schema, files).items():
        shown["columns"].setdefault(name, {}).update(facts)
    return {
        "table": schema.name,
        "table_id": schema.id,
        "z_order": list(schema.z_order),
        "retention_days": schema.retention_days,
        "partitions": partitions,
        "segments": _segments(data_dir, schema, problems),
        **shown,
    }


def _partitions(store: OfflineStore, schema: TableSchema, files: Mapping[int, PartitionFile]) -> list[dict[str, Any]]:
    return [
        {
            "partition": number,
            "journal_records": len(partition.records),
            "journal_events": partition.delta_events - len(partition.erasures),
            "journal_erasures": len(partition.erasures),
        }
        | ({} if number not in files else header(files[number]))
        for (table, number), partition in sorted(store.partitions.items())
        if table == schema.id
    ]


def _segments(data_dir: Path, schema: TableSchema, problems: list[str]) -> list[dict[str, Any]]:
    """The stored segments: of several files of one name the newest."""
    found: dict[str, dict[str, Any]] = {}
    directory = data_dir / TABLES_DIRECTORY / str(schema.id) / SEGMENTS_DIRECTORY
    unfinished = unfinished_names(directory)
    for path in sorted(directory.glob(f"*{STORED_SEGMENT_SUFFIX}")):
        if path.name in unfinished:
            continue
        try:
            segment = inspect_stored_segment(path)["segment"]
        except FileNotFoundError:
            continue  # computed again meanwhile
        except FormatError as error:
            problems.append(str(error))
            continue
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror}")
            continue
        found[segment["name"]] = {
            "segment": segment["name"],
            "people": segment["people"],
            "made_at": iso_text(segment["made_at_ms"]),
        }
    return [found[name] for name in sorted(found)]


def _journal(journal: JournalReading) -> dict[str, Any]:
    kinds = Counter(kind_name(kind) for _, kind, _ in journal.records())
    return {
        "id": journal.id,
        "segments": len(journal.scans),
        "records": sum(kinds.values()),
        "kinds": dict(sorted(kinds.items())),
        "first_sequence": journal.first_sequence,
        "last_sequence": journal.last_sequence,
        "size_bytes": sum(scan.size_bytes for scan in journal.scans),
        "unfinished_bytes": journal.unfinished_bytes,
    }


def _journals(journals: MemberReading) -> dict[str, Any]:
    """Those of a member's partitions, together and each."""
    read = {number: _journal(log.journal) for number, log in journals.logs.items()}
    kinds: Counter[str] = Counter()
    for one in read.values():
        kinds.update(one["kinds"])
    return {
        "id": journals.id,
        **{fact: sum(one[fact] for one in read.values()) for fact in ("segments", "records")},
        "kinds": dict(sorted(kinds.items())),
        **{fact: sum(one[fact] for one in read.values()) for fact in ("size_bytes", "unfinished_bytes")},
        "partitions": [
            {
                "partition": number,
                "directory": log.directory,
                **msgspec.to_builtins(log.base),
                "records": read[number]["records"],
                "first_sequence": read[number]["first_sequence"],
                "last_sequence": read[number]["last_sequence"],
                "last_term": log.terms[-1] if log.terms else log.base.term,
            }
            for number, log in journals.logs.items()
        ],
    }


def _without_catalog(data_dir: Path, error: OpenSetError) -> dict[str, Any]:
    """What can be said when the catalog cannot be read: the journal, and each file for itself. Raises the error."""
    paths = sorted((data_dir / TABLES_DIRECTORY).glob("*/p*.h5"))
    problems = [error.message]
    journal = None
    try:
        reading = read_journal(data_dir / JOURNAL_DIRECTORY)
        journal = _journal(reading)
        if reading.damage is not None:
            problems.append(str(reading.damage))
    except (FormatError, OSError) as second:
        if not paths:
            raise error from None
        problems.append(str(second))
    files = []
    for path in paths:
        try:
            files.append(inspect_partition(path))
        except (FormatError, OSError) as second:
            problems.append(str(second))
        else:
            problems += files[-1]["problems"]
    return {
        "directory": str(data_dir),
        "partitions": None,
        "journal": journal,
        "tables": [],
        "files": files,
        "problems": list(dict.fromkeys(problems)),
    }


def _schema(schema: TableSchema) -> dict[str, Any]:
    return {
        "table": schema.name,
        "table_id": schema.id,
        "version": schema.version,
        "z_order": list(schema.z_order),
        "retention_days": schema.retention_days,
        "columns": [{"id": column.id, "name": column.name, "type": column.type} for column in schema.columns],
    }
