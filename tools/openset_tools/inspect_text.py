"""What `openset inspect` prints for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_BAR_CHARACTERS = 40


def inspect_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """`inspect`'s answer for people."""
    if "directory" in found:
        yield from _directory(found)
    elif "records" in found:
        yield from _segment(found)
    elif "state" in found:
        yield from _sidecar(found)
    elif "segment" in found:
        yield from _stored_segment(found)
    elif "catalog" in found:
        yield f"{found['file']}: node {found['server_name']}, {found['partitions'] or 0} partitions a table"
        for table in found["catalog"]:
            columns = ", ".join(f"{column['name']} {column['type']}" for column in table["columns"])
            yield f"  table {table['table']} (id {table['table_id']}, version {table['version']}): {columns}"
    elif "triggers" in found:
        yield f"{found['file']}: {len(found['triggers'])} triggers"
        yield from (f"  {_text(one['name'])} (id {one['id']})" for one in found["triggers"])
    else:
        yield from _file(found)
    for problem in found.get("problems", ()):
        yield f"problem: {problem}"


def _directory(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['directory']}: {found['partitions'] or 0} partitions a table"
    if "lacks" in found:
        yield found["lacks"]
    journal = found["journal"]
    if journal is not None:
        kinds = ", ".join(f"{count:,} {name}" for name, count in journal["kinds"].items())
        range_ = f" ({journal['first_sequence']} to {journal['last_sequence']})" if "first_sequence" in journal else ""
        yield (
            f"journal {journal['id'][:8]}: {journal['records']:,} records{range_} in {journal['segments']} segments, "
            f"{journal['size_bytes']:,} bytes{': ' if kinds else ''}{kinds}"
        )
        for log in journal.get("partitions", ()):
            yield (
                f"  partition {log['partition']} in {log['directory']}: records {log['first_sequence']} to "
                f"{log['last_sequence']}, the last of term {log['last_term']}; in the files up to {log['index']} "
                f"(term {log['term']})"
            )
    for file in found.get("files", ()):
        yield ""
        yield from _file(file)
    for table in found["tables"]:
        yield ""
        kept = "" if table["retention_days"] is None else f", events kept for {table['retention_days']:,} days"
        yield f"table {table['table']} (id {table['table_id']}){kept}"
        for entry in table["partitions"]:
            yield "  " + _partition_line(entry)
        for one in table["triggers"]:
            done = f"{one['emissions']:,} emissions, {one['schedules']:,} schedules"
            yield f"  trigger {one['trigger']}: {one['state']}, {done}"
        for one in table["segments"]:
            yield f"  segment {_text(one['segment'])}: {one['people']:,} people, made at {one['made_at']}"
        yield from _summary_lines(table)


def _segment(found: Mapping[str, Any]) -> Iterator[str]:
    yield f"{found['file']}: journal {found['journal_id'][:8]}, {found['size_bytes']:,} bytes"
    for record in found["records"]:
        line = "  record {sequence}: {name}, table {table_id}, {bytes:,} bytes at {offset:,}".format(**record)
        if "events" in record:
            line += f"; {record['events']:,} events of {record['people']:,} people"
        elif "person" in record:
            line += f"; person {record['person']!a}"
        elif "changes" in record:
            line += "; " + ", ".join(f"{count:,} {name}" for name, count in record["changes"].items())
        yield line


def _sidecar(found: Mapping[str, Any]) -> Iterator[str]:
    head = found["header"]
    yield (
        f"{found['file']}: triggers of table {head['table_id']}, partition {head['partition']}, records up to "
        f"{head['applied_sequence']} of journal {head['journal_id'][:8]}, {head['size_bytes']:,} bytes"
    )
    yield from (f"  {name.replace('_', ' ')}: {count:,}" for name, count in found["state"].items())


def _stored_segment(found: Mapping[str, Any]) -> Iterator[str]:
    segment = found["segment"]
    yield f"{found['file']}: segment {_text(segment['name'])}, {segment['people']:,} people"
    yield from (f"  partition {number}: {people:,} people" for number, people in found["people"].items())
    yield from (f"  | {line}" for line in segment["script"].splitlines())


def _file(found: Mapping[str, Any]) -> Iterator[str]:
    head = found["header"]
    yield f"{found['file']}: format {head['version']}, table {head['table_id']}, {_partition_line(head)}"
    if "columns" in found:
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
        line += f", {entry['journal_records']:,} newer records with {entry['journal_events']:,} events"
    if entry.get("journal_erasures"):
        line += f" and {entry['journal_erasures']:,} erasures"
    return line


def _summary_lines(shown: Mapping[str, Any]) -> Iterator[str]:
    if shown["people"] is None:
        yield f"  {shown['rows']:,} rows"
    else:
        yield f"  {shown['people']:,} people, {shown['events']:,} events, {shown['rows']:,} rows"
    if shown["first"] is not None:
        yield f"  from {shown['first']} to {shown['last']}"
    for name, column in shown["columns"].items():
        stored = f"{column['encoding']}, {column['bytes']:,} bytes, index {column['index_bytes']:,}"
        yield f"  {name}: {column['type']}, {stored}{', damaged' if column.get('damaged') else ''}"
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
        return value if 0 < len(value) <= 40 and value.isprintable() else f"{value[:40]!a}"
    return str(value).lower() if isinstance(value, bool) else str(value)
