"""`openset export`: its options, and what it prints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from openset_tools.options import (
    EXIT_DAMAGED,
    binary_output,
    existing_directory,
    json_option,
    person_of,
    print_json,
)


@click.command()
@click.argument("data_dir", type=existing_directory, metavar="DIR")
@click.argument("table")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["ndjson", "csv", "parquet", "arrow"]),
    default="ndjson",
    show_default=True,
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of standard output.")
@click.option("--script", help="Only people for whom this script (as of a segment) calls tally or returns true.")
@click.option("--param", "parameters", multiple=True, metavar="K=V", help="{{K}} as int, double, bool, else as text.")
@click.option(
    "--param-str", "text_parameters", multiple=True, metavar="K=V", help="{{K}} as text, whatever V reads as."
)
@click.option("--person", "person_ids", metavar="ID", multiple=True, help="Only this person; may be repeated.")
@click.option("--id", "is_integer", is_flag=True, help="The IDs are integers, not text.")
@json_option
@click.pass_context
def export(
    context: click.Context,
    data_dir: Path,
    table: str,
    output_format: str,
    output: Path | None,
    script: str | None,
    parameters: Sequence[str],
    text_parameters: Sequence[str],
    person_ids: Sequence[str],
    is_integer: bool,
    as_json: bool,
) -> None:
    """Write the events of a table, as they are at one moment."""
    from openset.client.parameters import query_parameters
    from openset.client.scripts import script_text
    from openset_tools import selection
    from openset_tools.export import export as exported
    from openset_tools.progress import shown_progress

    if script is not None and person_ids:
        raise click.UsageError("give --script or --person, not both")
    if script is None and (parameters or text_parameters):
        raise click.UsageError("--param and --param-str belong to --script")
    if as_json and output is None:
        raise click.UsageError("--json needs --output: standard output has the events")
    chosen: selection.Selection = selection.everyone
    if script is not None:
        chosen = selection.script_members(script_text(script), query_parameters(parameters, text_parameters))
    elif person_ids:
        chosen = selection.people([person_of(person_id, is_integer) for person_id in person_ids])
    with shown_progress("export", "rows") as advance, binary_output(output) as target:
        done = exported(data_dir, table, target, output_format, chosen, advance)
    facts = {"table": done.table, "people": done.people, "events": done.events, "rows": done.rows}
    if as_json:
        print_json(facts | ({"lacks": done.lacks} if done.lacks else {}) | {"problems": done.problems})
    else:
        click.echo(f"{done.events:,} events of {done.people:,} people exported, {done.rows:,} rows", err=True)
        if done.lacks:
            click.echo(done.lacks, err=True)
        for problem in done.problems:
            click.echo(f"left out: {problem}", err=True)
    context.exit(EXIT_DAMAGED if done.problems else 0)
