"""What is in a partition file, a segment of the journal or a whole data directory: `openset inspect`.

Read-only, without a lock and without a daemon. Names of columns are in the catalog, so a file that stands in its data
directory is shown with them, another one with the ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from openset.errors import ConfigError, InternalError, OpenSetError
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.offline import open_views, read_data_dir
from openset.store.schema import TableSchema
from openset.store.snapshot import partition_path
from openset_format.block import Block, ColumnType
from openset_format.errors import FormatError
from openset_format.reader import ACTION_GROUP, PartitionFile
from openset_format.revent_file import REVENT_SUFFIX
from openset_format.segment import SEGMENT_SUFFIX, scan_segment
from openset_tools.summary import Summary
from openset_tools.triggers import inspect_sidecar, read_offline, triggers_of

_BAR_CHARACTERS = 40


def inspect(path: Path) -> dict[str, Any]:
    """Everything about a file or directory, as JSON. Raises ConfigError, InternalError."""
    if path.is_dir():
        return inspect_directory(path)
    try:
        if path.suffix == SEGMENT_SUFFIX:
            return inspect_segment(path)
        if path.suffix == REVENT_SUFFIX:
            return inspect_sidecar(path)
        return inspect_file(path)
    except FormatError as error:
        raise InternalError(str(error)) from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error


def inspect_file(path: Path) -> dict[str, Any]:
    """A partition file. Raises FormatError, OSError."""
    file = PartitionFile.open(path)
    names = column_names(file)
    summary = Summary({name: file.schema[column_id] for column_id, name in names.items()})
    summary.add([file_block(file, names)])
    shown = summary.shown()
    stored = {"action": stored_form(file, ACTION_GROUP, "text")}
    for column_id, name in names.items():
        stored[name] = stored_form(file, f"/columns/{column_id}", file.schema[column_id])
    for name, facts in stored.items():
        shown["columns"].setdefault(name, {"type": "text"}).update(facts)
    return {"file": str(path), "header": header(file), **shown}


def header(file: PartitionFile) -> dict[str, Any]:
    """What the seal and the manifest say."""
    return {
        "table_id": file.table_id,
        "partition": file.partition,
        "generation": file.generation,
        "journal_id": file.journal_id,
        "applied_sequence": file.applied_sequence,
        "size_bytes": file.size_bytes,
        "people": file.people,
        "rows": file.rows,
        "z_order": file.z_order,
    }


def inspect_segment(path: Path) -> dict[str, Any]:
    """A segment file of the journal. Raises FormatError, OSError."""
    scan = scan_segment(path)
    return {
        "file": str(path),
        "journal_id": scan.header.journal_id,
        "size_bytes": scan.size_bytes,
        "records": [
            {"sequence": ref.sequence, "kind": kind, "table_id": table, "offset": ref.offset, "bytes": ref.size_bytes}
            for ref, kind, table in scan.entries
        ],
        "unsound_from": None if scan.damage is None else scan.end,
        "problem": scan.damage,
    }


def inspect_directory(data_dir: Path) -> dict[str, Any]:
    """A data directory: its journal, and every table with what the journal adds to the files."""
    store = read_data_dir(data_dir)
    scans = store.journal.scans
    problems = list(store.problems)
    tables = []
    try:
        triggers = read_offline(store)
    except OpenSetError as error:
        triggers = None
        problems.append(error.message)
    for schema in store.catalog.tables():
        try:
            moment, views, found = open_views(data_dir, schema.name)
        except OpenSetError as error:
            problems.append(error.message)
            continue
        problems += found
        summary = Summary(schema.column_types)
        for view in views.values():
            summary.add(view.blocks())
        shown = summary.shown()
        files = _files(data_dir, schema, sorted(number for table, number in moment.partitions if table == schema.id))
        for name, facts in _stored_together(schema, files).items():
            shown["columns"].setdefault(name, {}).update(facts)
        waiting = {
            number: len(partition.records)
            for (table, number), partition in moment.partitions.items()
            if table == schema.id
        }
        tables.append(
            {
                "table": schema.name,
                "table_id": schema.id,
                "z_order": list(schema.z_order),
                "partitions": [
                    {"partition": number, "journal_records": waiting[number]}
                    | ({} if number not in files else header(files[number]))
                    for number in waiting
                ],
                "triggers": [] if triggers is None else triggers_of(triggers, schema),
                **shown,
            }
        )
    return {
        "directory": str(data_dir),
        "partitions": store.catalog.partitions,
        "journal": {
            "id": store.journal.id,
            "segments": len(scans),
            "records": sum(len(scan.entries) for scan in scans),
            "first_sequence": store.journal.first_sequence,
            "last_sequence": store.journal.last_sequence,
            "size_bytes": sum(scan.size_bytes for scan in scans),
            "unfinished_bytes": store.journal.unfinished_bytes,
        },
        "tables": tables,
        "problems": list(dict.fromkeys(problems)),
    }


def column_names(file: PartitionFile) -> dict[int, str]:
    """A name per column id: from the catalog the file belongs to, else made of the id."""
    known: dict[int, str] = {}
    data_dir = file.path.resolve().parent.parent.parent
    if (data_dir / CATALOG_NAME).is_file():
        try:
            tables = Catalog(data_dir).tables()
        except OpenSetError:
            tables = []  # a damaged catalog is told by who inspects the directory; the file can be shown without
        for table in tables:
            if table.id == file.table_id:
                known = {column.id: column.name for column in table.columns}
    return {column_id: known.get(column_id, f"column {column_id}") for column_id in file.schema}


def file_block(file: PartitionFile, names: Mapping[int, str]) -> Block:
    """All people of a file as one Block, with columns by name."""
    columns = {names[column_id]: column for column_id, column in file.columns.items()}
    return Block(file.persons, file.row_start, file.stamp, file.event_start, {"action": file.action, **columns})


def stored_form(file: PartitionFile, group: str, column_type: ColumnType) -> dict[str, Any]:
    """encoding, bytes, and the bytes of the index of a column in a file."""
    datasets = {name: place for name, place in file.manifest.datasets.items() if name.startswith(f"{group}/")}
    if not datasets:
        return {"encoding": "not stored", "bytes": 0, "index_bytes": 0}
    values = datasets.get(f"{group}/values")
    width = "no values" if values is None else values.dtype.lstrip("<|")
    entries = datasets.get(f"{group}/dictionary/hashes")
    encoding = width
    if column_type == "text":
        encoding = f"{width} codes of {0 if entries is None else entries.count} texts"
    if f"{group}/valid" in datasets:
        encoding += " + null mask"
    index = sum(place.size_bytes for name, place in datasets.items() if name.startswith(f"{group}/index/"))
    return {
        "encoding": encoding,
        "bytes": sum(place.size_bytes for place in datasets.values()) - index,
        "index_bytes": index,
    }


def _files(data_dir: Path, schema: TableSchema, partitions: list[int]) -> dict[int, PartitionFile]:
    files: dict[int, PartitionFile] = {}
    for number in partitions:
        path = data_dir / partition_path(schema.id, number)
        if path.exists():
            try:
                files[number] = PartitionFile.open(path)
            except FormatError:
                continue  # among the problems already
    return files


def _stored_together(schema: TableSchema, files: Mapping[int, PartitionFile]) -> dict[str, dict[str, Any]]:
    """Bytes of each column over all files, and the encodings that occur."""
    groups: dict[str, tuple[str, ColumnType]] = {"action": (ACTION_GROUP, "text")}
    groups |= {column.name: (f"/columns/{column.id}", column.type) for column in schema.columns}
    together = {}
    for name, (group, column_type) in groups.items():
        forms = [stored_form(file, group, column_type) for file in files.values()]
        together[name] = {
            "encoding": "; ".join(dict.fromkeys(form["encoding"] for form in forms)) or "in the journal only",
            "bytes": sum(form["bytes"] for form in forms),
            "index_bytes": sum(form["index_bytes"] for form in forms),
        }
    return together


def inspect_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """`inspect`'s answer for people."""
    if "directory" in found:
        journal = found["journal"]
        yield f"{found['directory']}: {found['partitions'] or 0} partitions a table"
        yield (
            f"journal {journal['id'][:8]}: {journal['records']:,} records ({journal['first_sequence']} to "
            f"{journal['last_sequence']}) in {journal['segments']} segments, {journal['size_bytes']:,} bytes"
        )
        for table in found["tables"]:
            yield ""
            yield f"table {table['table']} (id {table['table_id']})"
            for entry in table["partitions"]:
                yield "  " + _partition_line(entry)
            for one in table["triggers"]:
                done = f"{one['emissions']:,} emissions, {one['schedules']:,} schedules"
                yield f"  trigger {one['trigger']}: {one['state']}, {done}"
            yield from _summary_lines(table)
        for problem in found["problems"]:
            yield f"problem: {problem}"
    elif "records" in found:
        yield f"{found['file']}: journal {found['journal_id'][:8]}, {found['size_bytes']:,} bytes"
        for record in found["records"]:
            yield "  record {sequence}, kind {kind}, table {table_id}, {bytes:,} bytes at {offset:,}".format(**record)
        if found["problem"] is not None:
            yield f"problem: offset {found['unsound_from']}: {found['problem']}"
    elif "state" in found:
        head = found["header"]
        yield (
            f"{found['file']}: triggers of table {head['table_id']}, partition {head['partition']}, records up to "
            f"{head['applied_sequence']} of journal {head['journal_id'][:8]}, {head['size_bytes']:,} bytes"
        )
        yield from (f"  {name.replace('_', ' ')}: {count:,}" for name, count in found["state"].items())
    else:
        yield f"{found['file']}: table {found['header']['table_id']}, {_partition_line(found['header'])}"
        yield from _summary_lines(found)


def _partition_line(entry: Mapping[str, Any]) -> str:
    line = f"partition {entry['partition']}: "
    if "generation" in entry:
        line += (
            f"generation {entry['generation']}, {entry['size_bytes']:,} bytes, "
            f"records up to {entry['applied_sequence']} of journal {entry['journal_id'][:8]}"
        )
    else:
        line += "no file"
    if entry.get("journal_records"):
        line += f", {entry['journal_records']:,} newer records"
    return line


def _summary_lines(shown: Mapping[str, Any]) -> Iterator[str]:
    yield f"  {shown['people']:,} people, {shown['events']:,} events, {shown['rows']:,} rows"
    if shown["first"] is not None:
        yield f"  from {shown['first']} to {shown['last']}"
    for name, column in shown["columns"].items():
        stored = f"{column['encoding']}, {column['bytes']:,} bytes, index {column['index_bytes']:,}"
        yield f"  {name}: {column['type']}, {stored}"
        if column.get("distinct"):
            line = (
                f"    {column['distinct']:,} distinct, {column['nulls']:,} null, "
                f"{_text(column['min'])} to {_text(column['max'])}"
            )
            # Where every value occurs once, some of them say nothing.
            top = ", ".join(f"{_text(entry['value'])} ({entry['rows']:,})" for entry in column["top"])
            yield line if column["top"][0]["rows"] == 1 < column["distinct"] else f"{line}; most: {top}"
    if shown["events"]:
        yield "  events per person"
        yield from _bars(
            [(_range(entry["from"], entry["to"]), entry["people"]) for entry in shown["events_per_person"]]
        )
        yield "  events over time"
        yield from _bars([(entry["from"], entry["events"]) for entry in shown["events_over_time"]])


def _range(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _bars(entries: list[tuple[str, int]]) -> Iterator[str]:
    """A histogram of lines: label, bar, count."""
    longest, most = max(len(label) for label, _ in entries), max(count for _, count in entries)
    for label, count in entries:
        bar = "█" * -(-count * _BAR_CHARACTERS // most)
        yield f"    {label.rjust(longest)} {bar}{' ' if bar else ''}{count:,}"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value if len(value) <= 40 and value.isprintable() else f"{value[:40]!a}"
    return str(value).lower() if isinstance(value, bool) else str(value)
