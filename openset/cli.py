"""The command line: `openset serve | load | query | counts | segments | person | format`.

All but serve, format and the commands of openset_tools, which work on files, talk HTTP to a daemon.

Responsible for options, exit codes and for what is printed where: answers go to standard output, everything else to
standard error. Exit codes: 0 done, 1 refused or bad input, 2 wrong usage, 3 no daemon.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from openset import __version__
from openset.client import (
    backtest_command,
    cluster_commands,
    explain_command,
    subscribe_command,
    table_commands,
    trigger_commands,
)
from openset.client.connection import Connection, Refused, Unreachable
from openset.client.options import integer_id_option, json_option, person_parameters, print_json, url_option
from openset.client.scripts import script_text
from openset.client.serve_options import cluster_options, read_cluster_options
from openset.errors import InternalError, OpenSetError
from openset.recursion import enlarge_stacks
from openset_tools.commands import register

EXIT_REFUSED = 1
EXIT_NO_DAEMON = 3

Command = TypeVar("Command", bound=Callable[..., Any])


class _Group(click.Group):
    """A group whose commands end with a readable message and an exit code when an operating error is raised."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OpenSetError as error:
            print_error(error)
            ctx.exit(EXIT_NO_DAEMON if isinstance(error, Unreachable) else EXIT_REFUSED)
        except BrokenPipeError:
            # The reader of our output (head, less) has gone: not an error, but nothing more can be written.
            sys.stdout = None
            ctx.exit(0)
        except Exception as error:
            # Only commands that read files load what reads them.
            reading = sys.modules.get("openset_format.errors")
            if reading is None or not isinstance(error, reading.FormatError):
                raise
            print_error(InternalError(str(error)))
            ctx.exit(EXIT_REFUSED)


def print_error(error: OpenSetError) -> None:
    """An error with its class, its place in the script and, below, its detail (the line and a caret, reasons)."""
    place = f" in line {error.line}, column {error.column}" if error.line is not None else ""
    click.echo(f"error ({error.error_class}){place}: {error.message}", err=True)
    for line in _detail_lines(error.detail):
        click.echo(f"  {line}", err=True)


def _detail_lines(detail: Any) -> list[str]:
    if detail is None:
        return []
    if isinstance(detail, list):
        return [str(entry) for entry in detail]
    return str(detail).splitlines()


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="openset")
def main() -> None:
    """OpenSet: behavioural questions over event streams."""
    enlarge_stacks()


@main.command()
@click.option(
    "--data",
    "data_dir",
    envvar="OPENSET_DATA",
    required=True,
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of the node's files; made when missing.",
)
@click.option("--host", envvar="OPENSET_HOST", default="127.0.0.1", show_default=True, show_envvar=True)
@click.option(
    "--port", envvar="OPENSET_PORT", default=8080, show_default=True, show_envvar=True, type=click.IntRange(0, 65535)
)
@click.option(
    "--init",
    "partitions",
    metavar="N",
    type=click.IntRange(1, 1000),
    help="Initialise a fresh data directory with N partitions.",
)
@click.option(
    "--workers", envvar="OPENSET_WORKERS", show_envvar=True, type=click.IntRange(1, 1024), help="Default: one a core."
)
@click.option(
    "--trigger-errors",
    envvar="OPENSET_TRIGGER_ERRORS",
    default=10,
    show_default=True,
    show_envvar=True,
    type=click.IntRange(min=1),
    help="After so many errors in a row a trigger is disabled.",
)
@click.option(
    "--webhook-allow",
    envvar="OPENSET_WEBHOOK_ALLOW",
    default="",
    metavar="HOST,...",
    show_envvar=True,
    help="Where webhooks may send to: hosts, patterns like *.example.com, beginnings of addresses. Default: nowhere.",
)
@click.option(
    "--scrub-rate",
    envvar="OPENSET_SCRUB_RATE",
    default=16.0,
    show_default=True,
    show_envvar=True,
    metavar="MIB",
    type=click.FloatRange(min=0),
    help="MiB per second that are read in the background to verify checksums; 0: none.",
)
@click.option(
    "--scrub-interval",
    envvar="OPENSET_SCRUB_INTERVAL",
    default=24.0,
    show_default=True,
    show_envvar=True,
    metavar="HOURS",
    type=click.FloatRange(min=0),
    help="Hours from the beginning of one such pass over all files to that of the next.",
)
@cluster_options
def serve(
    data_dir: Path,
    host: str,
    port: int,
    partitions: int | None,
    workers: int | None,
    trigger_errors: int,
    webhook_allow: str,
    scrub_rate: float,
    scrub_interval: float,
    **cluster: Path | str | None,
) -> None:
    """Serve a data directory over HTTP until SIGTERM."""
    gc.disable()  # nothing that is loaded now is garbage; the daemon enables it
    from openset.http.server import serve as serve_until_told
    from openset.store.scrub import Scrubbing

    code = serve_until_told(
        data_dir,
        host,
        port,
        partitions,
        workers=workers,
        trigger_errors=trigger_errors,
        webhook_allow=webhook_allow,
        scrubbing=Scrubbing(scrub_rate * 1024 * 1024, scrub_interval * 3_600),
        cluster=read_cluster_options(cluster),
    )
    sys.exit(code)


@main.command()
@click.argument("table")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@url_option
@click.option("--create", is_flag=True, help="Create the table, with the column types the events need.")
@click.option("--z-order", metavar="A,B", help="With --create: order of actions that share a stamp.")
@click.option("--skip-bad-events", is_flag=True, help="Load the good events and report the others.")
@click.option("--batch", default=5_000, show_default=True, type=click.IntRange(1, 1_000_000), help="Events a request.")
def load(
    table: str, files: Sequence[str], url: str, create: bool, z_order: str | None, skip_bad_events: bool, batch: int
) -> None:
    """Load events: JSON arrays or newline-delimited JSON, gzipped or not; - is standard input."""
    from openset.client.load import Spool, load_files
    from openset.client.progress import shown_progress
    from openset.client.query import stored_counts

    if z_order is not None and not create:
        raise click.UsageError("--z-order belongs to --create")
    with Connection(url) as connection, Spool(files if create else ()) as copies:
        connection.get("/ping")
        sources = copies or files
        if create:
            _create(connection, table, sources, z_order, skip_bad_events)
        try:
            stored_before, _ = stored_counts(connection, table)
        except Refused as refusal:
            if refusal.error_class == "query":
                refusal.detail = "openset load --create makes a table with the columns its events need"
            raise
        with shown_progress() as on_progress:
            report = load_files(
                connection, table, sources, batch_events=batch, skip_bad_events=skip_bad_events, on_progress=on_progress
            )
        stored, people = stored_counts(connection, table)
    replaced = report.accepted - (stored - stored_before)
    click.echo(
        f"{report.accepted:,} events accepted in {report.seconds:.1f} s ({report.events_per_second:,.0f} events/s), "
        f"{replaced:,} of them replaced an event, {report.rejected:,} rejected"
    )
    click.echo(f"table {table} holds {stored:,} events of {people:,} people")
    for file, number, reason in report.reasons:
        click.echo(f"rejected: {file}, event {number}: {reason}", err=True)


def _create(
    connection: Connection, table: str, sources: Sequence[str], z_order: str | None, skip_bad_events: bool
) -> None:
    from openset.client.load import create_table, infer_columns

    inference = infer_columns(sources, skip_bad_events)
    columns = inference.columns()
    actions = [action.strip() for action in z_order.split(",") if action.strip()] if z_order else []
    if not create_table(connection, table, columns, actions):
        click.echo(f"table {table} is there already and stays as it is", err=True)
        return
    shown = ", ".join(f"{column['name']} {column['type']}" for column in columns)
    click.echo(f"created table {table}: {shown or 'no columns'}", err=True)
    for name in inference.only_null:
        click.echo(f"column {name} is null in every event: text", err=True)


@main.command()
@click.argument("table")
@click.argument("script")
@url_option
@click.option("--param", "parameters", multiple=True, metavar="K=V", help="{{K}} as int, double, bool, else as text.")
@click.option(
    "--param-str", "text_parameters", multiple=True, metavar="K=V", help="{{K}} as text, whatever V reads as."
)
@click.option("--sort", help="Alias or column to sort by; key sorts by key.")
@click.option("--order", type=click.Choice(["asc", "desc"]), help="Order of siblings (default: desc).")
@click.option("--trim", type=click.IntRange(min=0), help="Children kept per node.")
@json_option
@click.option("--debug", is_flag=True, help="Print how the script would run instead of running it.")
def query(
    table: str,
    script: str,
    url: str,
    parameters: Sequence[str],
    text_parameters: Sequence[str],
    sort: str | None,
    order: str | None,
    trim: int | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Run a PyQL script: a file, - for standard input, or the text itself where there is no such file."""
    from openset.client.parameters import query_parameters
    from openset.client.query import aggregator_names, run_query
    from openset.client.tree_table import tree_table

    request = query_parameters(parameters, text_parameters)
    options = {"sort": sort, "order": order, "trim": None if trim is None else str(trim)}
    request |= {name: value for name, value in options.items() if value is not None}
    if debug:
        request["debug"] = "true"
    text = script_text(script)
    with Connection(url) as connection:
        answer = run_query(connection, table, text, request)
        if as_json:
            print_json(answer.body)
            return
        if debug:
            print_debug(answer.body)
            return
        header, lines = tree_table(answer.nodes, aggregator_names(connection, table, text))
    click.echo(click.style(header, bold=True))
    for line in lines:
        click.echo(line)
    click.echo(f"{len(lines):,} rows in {answer.seconds * 1000:,.1f} ms", err=True)


@main.command()
@click.argument("table")
@click.argument("script")
@url_option
@click.option("--param", "parameters", multiple=True, metavar="K=V", help="{{K}} as int, double, bool, else as text.")
@click.option(
    "--param-str", "text_parameters", multiple=True, metavar="K=V", help="{{K}} as text, whatever V reads as."
)
@json_option
@click.option("--debug", is_flag=True, help="Print how the sections would be answered instead of running them.")
def counts(
    table: str,
    script: str,
    url: str,
    parameters: Sequence[str],
    text_parameters: Sequence[str],
    as_json: bool,
    debug: bool,
) -> None:
    """Make segments of @segment sections and count their people. SCRIPT as for query."""
    from openset.client.parameters import query_parameters
    from openset.client.query import run_query
    from openset.client.tree_table import tree_table

    request = query_parameters(parameters, text_parameters)
    if debug:
        request["debug"] = "true"
    with Connection(url) as connection:
        answer = run_query(connection, table, script_text(script), request, "counts")
    if as_json:
        print_json(answer.body)
        return
    if debug:
        print_debug(answer.body)
        return
    header, lines = tree_table(answer.nodes, ["people"])
    click.echo(click.style(header, bold=True))
    for line in lines:
        click.echo(line)
    click.echo(f"{len(lines):,} segments in {answer.seconds * 1000:,.1f} ms", err=True)


@main.command()
@click.argument("table")
@url_option
@json_option
def segments(table: str, url: str, as_json: bool) -> None:
    """Show the stored segments of a table."""
    from openset.client.connection import segment
    from openset.client.segment_text import segment_lines

    with Connection(url) as connection:
        answer = connection.get(f"/v1/table/{segment(table)}/segments")
    if as_json:
        print_json(answer)
        return
    for line in segment_lines(answer["segments"]):
        click.echo(line)


@main.command()
@click.argument("table")
@click.argument("column")
@url_option
@click.option("--gt", help="Numbers greater than this.")
@click.option("--gte", help="Numbers of at least this.")
@click.option("--lt", help="Numbers less than this.")
@click.option("--lte", help="Numbers of at most this.")
@click.option("--eq", help="Values equal to this.")
@click.option("--between", nargs=2, metavar="LOW HIGH", help="Numbers from LOW to below HIGH.")
@click.option("--rx", help="Texts in which this regular expression is found.")
@click.option("--sub", help="Texts that contain this.")
@click.option("--bucket", help="Width of the buckets in which numbers are grouped.")
@click.option("--segments", metavar="A,B", help="Segments to compare; * is everyone.")
@click.option("--order", type=click.Choice(["asc", "desc"]), help="By people (default: desc).")
@click.option("--trim", type=click.IntRange(min=0), help="Values kept.")
@json_option
def column(
    table: str, column: str, url: str, between: tuple[str, str] | None, as_json: bool, **parameters: str | int | None
) -> None:
    """Show the values of a column and how many people have each."""
    from openset.client.connection import segment
    from openset.client.tree_table import tree_table

    request = {name: str(value) for name, value in parameters.items() if value is not None}
    if between is not None:
        request["between"], request["and"] = between
    with Connection(url) as connection:
        answer = connection.get(f"/v1/query/{segment(table)}/column/{segment(column)}", request)
    if as_json:
        print_json(answer)
        return
    compared = (request.get("segments") or "").split(",")
    header, lines = tree_table(answer["_"], compared if len(compared) > 1 else ["people"])
    click.echo(click.style(header, bold=True))
    for line in lines:
        click.echo(line)


@main.command()
@click.argument("table")
@click.argument("person_id", metavar="ID")
@url_option
@integer_id_option
@json_option
def person(table: str, person_id: str, url: str, is_integer: bool, as_json: bool) -> None:
    """Show one person's events."""
    from openset.client.connection import segment
    from openset.client.person_text import person_lines

    with Connection(url) as connection:
        answer = connection.get(f"/v1/query/{segment(table)}/person", person_parameters(person_id, is_integer))
    if as_json:
        print_json(answer)
        return
    for line in person_lines(answer):
        click.echo(line)


@main.command("format")
@click.argument("script")
@click.option("--write", is_flag=True, help="Rewrite the file SCRIPT instead of printing.")
@click.option("--check", is_flag=True, help="Print nothing; exit with 1 when the script is not in canonical form.")
def format_command(script: str, write: bool, check: bool) -> None:
    """Print a PyQL script in canonical form. SCRIPT is a file, - for standard input, or the script itself."""
    from openset.pyql.syntax.format_script import format_script

    text = script_text(script)
    formatted = format_script(text)
    if check:
        sys.exit(0 if formatted == text else EXIT_REFUSED)
    if not write:
        click.echo(formatted, nl=False)
        return
    if script == "-" or not Path(script).is_file():
        raise click.UsageError("--write needs a file")
    Path(script).write_text(formatted, encoding="utf-8")


def print_debug(body: dict[str, Any]) -> None:
    """What the daemon says about how it would run a script: texts as text, everything else as JSON."""
    for name, value in body.items():
        if isinstance(value, str):
            click.echo(f"{name}:\n{value}" if "\n" in value else f"{name}: {value}")
        else:
            click.echo(f"{name}:")
            print_json(value)


table_commands.register(main)
subscribe_command.register(main)
explain_command.register(main)
backtest_command.register(main)
trigger_commands.register(main)
cluster_commands.register(main)
register(main)

if __name__ == "__main__":
    main()
