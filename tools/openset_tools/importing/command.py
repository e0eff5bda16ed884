"""`openset import`: its options, its progress and its summary."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from openset_tools.progress import shown_progress

if TYPE_CHECKING:
    from openset_tools.importing.importer import Advance, Report


@click.command("import")
@click.argument("data_dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.argument("table")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["ndjson", "csv", "parquet"]),
    help="Of all files; default: what each name ends in, ndjson for -.",
)
@click.option(
    "--partitions", metavar="N", type=click.IntRange(1, 1000), help="Initialise a fresh data directory with N."
)
@click.option("--create", is_flag=True, help="Create the table, with the column types the events need.")
@click.option("--z-order", metavar="A,B", help="With --create: order of actions that share a stamp.")
@click.option("--person", default="person", show_default=True, metavar="COLUMN", help="Of CSV and Parquet: the ids.")
@click.option("--id", "integer_ids", is_flag=True, help="The ids of CSV files are integers, not text.")
@click.option("--ignore", metavar="COLUMN", multiple=True, help="Of CSV and Parquet: leave out; may be repeated.")
@click.option("--skip-bad-events", is_flag=True, help="Import the good events and report the others.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes; default: one a core.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_command(
    data_dir: Path,
    table: str,
    files: Sequence[str],
    file_format: Any,
    partitions: int | None,
    create: bool,
    z_order: str | None,
    person: str,
    integer_ids: bool,
    ignore: Sequence[str],
    skip_bad_events: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Load files of events straight into a data directory, all or nothing; no daemon may run on it.

    NDJSON and CSV may be gzipped; - is standard input.
    """
    from openset_tools.importing.importer import Options, import_files
    from openset_tools.importing.reading import Mapping

    if z_order is not None and not create:
        raise click.UsageError("--z-order belongs to --create")
    options = Options(
        file_format=file_format,
        partitions=partitions,
        create=create,
        z_order=[action.strip() for action in z_order.split(",") if action.strip()] if z_order else [],
        mapping=Mapping(person, integer_ids, frozenset(ignore)),
        skip_bad_events=skip_bad_events,
        workers=workers or 0,
    )
    with _progress() as advance:
        report = import_files(data_dir, table, files, options, advance)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_facts(report)), indent=2).decode())
    else:
        _print(report)


def _facts(report: Report) -> dict[str, Any]:
    created = None if report.created is None else [{"name": name, "type": kind} for name, kind in report.created]
    return {
        "table": report.table,
        "accepted": report.accepted,
        "rejected": report.rejected,
        "partitions": report.partitions,
        "rows": report.rows,
        "created": created,
        "seconds": round(report.seconds, 3),
        "events_per_second": round(report.events_per_second),
        "bad": [{"where": place.where, "reason": place.reason} for place in report.bad],
    }


def _print(report: Report) -> None:
    if report.created is not None:
        shown = ", ".join(f"{name} {kind}" for name, kind in report.created)
        click.echo(f"created table {report.table}: {shown or 'no columns'}", err=True)
    click.echo(
        f"{report.accepted:,} events imported in {report.seconds:.1f} s ({report.events_per_second:,.0f} events/s), "
        f"{report.rejected:,} rejected"
    )
    click.echo(f"{report.partitions:,} partitions of table {report.table} written, {report.rows:,} rows in them")
    for place in report.bad:
        click.echo(f"rejected: {place.where}: {place.reason}", err=True)


@contextmanager
def _progress() -> Iterator[Advance]:
    """A bar for each part of the work, with the rate of events."""
    started = time.monotonic()
    shown: dict[str, Callable[..., None]] = {}
    bars: list[Any] = []

    def advance(what: str, done: int, total: int, events: int) -> None:
        if what not in shown:
            while bars:
                bars.pop().__exit__(None, None, None)
            bar = shown_progress(what, "partitions" if what.startswith("merge") else "bytes")
            shown[what] = bar.__enter__()
            bars.append(bar)
        rate = events / max(time.monotonic() - started, 1e-3)
        shown[what](done, total, f"{what}, {events:,} events, {rate:,.0f}/s" if events else what)

    try:
        yield advance
    finally:
        while bars:
            bars.pop().__exit__(None, None, None)
