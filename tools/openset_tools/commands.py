"""The offline commands of `openset`: inspect, verify, cat, ... over files, without a daemon.

Responsible for options and for what is printed where. What does the work is imported when a command runs, so that
the others start quickly.
"""

from __future__ import annotations

from pathlib import Path

import click

from openset_tools.backups.command import backup, restore
from openset_tools.diff.command import diff
from openset_tools.export_command import export
from openset_tools.importing.command import import_command
from openset_tools.options import EXIT_DAMAGED, existing_directory, existing_path, json_option, person_of, print_json

person_option = click.option("--person", "person_id", metavar="ID", required=True, help="The person.")


def register(group: click.Group) -> None:
    """Adds the commands to a group."""
    for command in (inspect, verify, cat, diff, export, import_command, backup, restore):
        group.add_command(command)


@click.command()
@click.argument("path", type=existing_path, metavar="FILE|DIR")
@json_option
@click.pass_context
def inspect(context: click.Context, path: Path, as_json: bool) -> None:
    """Show what is in a file of a data directory, or in all of it; exit with 1 when something is damaged."""
    from openset_tools.inspect import inspect as inspected
    from openset_tools.inspect_text import inspect_lines
    from openset_tools.progress import shown_progress

    with shown_progress("inspect", "rows") as advance:
        found = inspected(path, advance)
    if as_json:
        print_json(found)
    else:
        for line in inspect_lines(found):
            click.echo(line)
    context.exit(EXIT_DAMAGED if found.get("problems") else 0)


@click.command()
@click.argument("data_dir", type=existing_directory, metavar="DIR")
@click.option("--deep", is_flag=True, help="Also merge files and journal and check everybody's partition and order.")
@json_option
@click.pass_context
def verify(context: click.Context, data_dir: Path, deep: bool, as_json: bool) -> None:
    """Check every checksum and rule of the files of a data directory; exit with 1 when something is wrong."""
    from openset_tools.progress import shown_progress
    from openset_tools.strangers import strangers
    from openset_tools.verify import shown
    from openset_tools.verify import verify as verified

    with shown_progress("verify", "bytes") as advance:
        problems = verified(data_dir, deep=deep, advance=advance)
    notes = strangers(data_dir)
    if as_json:
        print_json({"sound": not problems, "problems": [shown(problem) for problem in problems], "notes": notes})
    else:
        for problem in problems:
            click.echo(str(problem))
        for note in notes:
            click.echo(f"note: {note}", err=True)
        count = len(problems)
        click.echo(f"{count:,} problem{'' if count == 1 else 's'}" if problems else "sound")
    context.exit(EXIT_DAMAGED if problems else 0)


@click.command()
@click.argument("path", type=existing_path, metavar="FILE|DIR")
@person_option
@click.option("--id", "is_integer", is_flag=True, help="ID is an integer, not text.")
@click.option("--table", help="Of a directory with more than one.")
@json_option
@click.pass_context
def cat(context: click.Context, path: Path, person_id: str, is_integer: bool, table: str | None, as_json: bool) -> None:
    """Show one person's events, from a partition file or a data directory."""
    from openset.client.person_text import person_lines
    from openset_tools.cat import cat as found_in

    found, problems = found_in(path, person_of(person_id, is_integer), table)
    if as_json:
        print_json(found | ({"problems": problems} if problems else {}))
    else:
        for line in person_lines(found):
            click.echo(line)
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    context.exit(EXIT_DAMAGED if problems else 0)
