"""The offline commands of `openset`: inspect, verify, cat, ... over files, without a daemon.

Responsible for options and for what is printed where. What does the work is imported when a command runs, so that
the others start quickly.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openset_tools.export_command import export
from openset_tools.importing.command import import_command
from openset_tools.options import EXIT_DAMAGED, existing_directory, existing_path, json_option, person_of, print_json

if TYPE_CHECKING:
    from openset_tools.backup import Backup

person_option = click.option("--person", "person_id", metavar="ID", required=True, help="The person.")


def register(group: click.Group) -> None:
    """Adds the commands to a group."""
    for command in (inspect, verify, cat, export, import_command, backup, restore):
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


@click.command()
@click.argument("data_dir", type=existing_directory, metavar="DIR")
@click.argument("target", type=click.Path(file_okay=False, path_type=Path), metavar="DEST")
@json_option
def backup(data_dir: Path, target: Path, as_json: bool) -> None:
    """Add a backup of a data directory to a backup directory, also while a daemon runs."""
    from openset_tools.backup import backup as made_of
    from openset_tools.progress import shown_progress

    with shown_progress("backup", "bytes") as advance:
        outcome = made_of(data_dir, target, advance)
    made = outcome.backup
    if as_json:
        facts = {"id": made.id, "files": len(made.files), "bytes": made.size_bytes}
        print_json(facts | {"copied_files": outcome.copied_files, "copied_bytes": outcome.copied_bytes})
        return
    click.echo(
        f"backup {made.id}: {len(made.files):,} files, {made.size_bytes:,} bytes; "
        f"{outcome.copied_files:,} files, {outcome.copied_bytes:,} bytes of them copied"
    )


@click.command()
@click.argument("source", type=existing_directory, metavar="SRC")
@click.argument("data_dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", required=False)
@click.option("--backup", "backup_id", metavar="ID", help="Which backup (default: the newest).")
@click.option("--list", "only_list", is_flag=True, help="Show the backups there are instead.")
@json_option
def restore(source: Path, data_dir: Path | None, backup_id: str | None, only_list: bool, as_json: bool) -> None:
    """Make a new data directory of a backup, or list the backups of a directory."""
    from openset_tools.backup import backups
    from openset_tools.backup import restore as restored
    from openset_tools.progress import shown_progress

    if only_list == (data_dir is not None):
        raise click.UsageError("name the directory to restore to, or --list")
    if data_dir is None:
        found = backups(source)
    else:
        with shown_progress("restore", "bytes") as advance:
            found = [restored(source, data_dir, backup_id, advance)]
    if as_json:
        print_json({"backups": [_backup_facts(one) for one in found]})
        return
    for one in found:
        tables = ", ".join(one.tables) or "no tables"
        click.echo(f"{one.id}  {len(one.files):,} files  {one.size_bytes:,} bytes  {one.server_name}: {tables}")


def _backup_facts(one: Backup) -> dict[str, Any]:
    return {
        "id": one.id,
        "made_at": one.made_at,
        "server_name": one.server_name,
        "tables": one.tables,
        "last_sequence": one.last_sequence,
        "files": len(one.files),
        "bytes": one.size_bytes,
    }
