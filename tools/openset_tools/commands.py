"""The offline commands of `openset`: inspect, verify, cat, ... over files, without a daemon.

Responsible for options and for what is printed where. What does the work is imported when a command runs, so that
the others start quickly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from openset.errors import ConfigError
from openset_tools.importing.command import import_command

if TYPE_CHECKING:
    from openset_tools.backup import Backup

EXIT_DAMAGED = 1

_existing = click.Path(exists=True, path_type=Path)
_directory = click.Path(exists=True, file_okay=False, path_type=Path)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
person_option = click.option("--person", "person_id", metavar="ID", required=True, help="The person.")


def register(group: click.Group) -> None:
    """Adds the commands to a group."""
    for command in (inspect, verify, cat, export, import_command, backup, restore):
        group.add_command(command)


@click.command()
@click.argument("path", type=_existing, metavar="FILE|DIR")
@json_option
def inspect(path: Path, as_json: bool) -> None:
    """Show what is in a partition file, a journal segment or a data directory."""
    from openset_tools.inspect import inspect as inspected
    from openset_tools.inspect import inspect_lines

    found = inspected(path)
    if as_json:
        _print_json(found)
        return
    for line in inspect_lines(found):
        click.echo(line)


@click.command()
@click.argument("data_dir", type=_directory, metavar="DIR")
@click.option("--deep", is_flag=True, help="Also merge files and journal and check everybody's partition and order.")
@json_option
def verify(data_dir: Path, deep: bool, as_json: bool) -> None:
    """Check every checksum and rule of the files of a data directory; exit with 1 when something is wrong."""
    from openset_tools.verify import shown
    from openset_tools.verify import verify as verified

    problems = verified(data_dir, deep=deep, on_file=lambda path: _status(f"reading {path}"))
    if as_json:
        _print_json({"sound": not problems, "problems": [shown(problem) for problem in problems]})
    else:
        for problem in problems:
            click.echo(str(problem))
        click.echo(f"{len(problems)} problems" if problems else "sound")
    sys.exit(EXIT_DAMAGED if problems else 0)


@click.command()
@click.argument("path", type=_existing, metavar="FILE|DIR")
@person_option
@click.option("--id", "is_integer", is_flag=True, help="ID is an integer, not text.")
@click.option("--table", help="Of a directory with more than one.")
@json_option
def cat(path: Path, person_id: str, is_integer: bool, table: str | None, as_json: bool) -> None:
    """Show one person's events, from a partition file or a data directory."""
    from openset.client.person_text import person_lines
    from openset_tools.cat import cat as found_in

    found = found_in(path, _person(person_id, is_integer), table)
    if as_json:
        _print_json(found)
        return
    for line in person_lines(found):
        click.echo(line)


@click.command()
@click.argument("data_dir", type=_directory, metavar="DIR")
@click.argument("table")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["ndjson", "csv", "parquet", "arrow"]),
    default="ndjson",
    show_default=True,
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="A file instead of standard output.")
@click.option("--person", "person_ids", metavar="ID", multiple=True, help="Only this person; may be repeated.")
@click.option("--id", "is_integer", is_flag=True, help="The IDs are integers, not text.")
def export(
    data_dir: Path, table: str, output_format: str, output: Path | None, person_ids: Sequence[str], is_integer: bool
) -> None:
    """Write the events of a table, as they are at one moment."""
    from openset_tools.export import export as exported
    from openset_tools.progress import shown_progress

    persons = [_person(person_id, is_integer) for person_id in person_ids]
    with shown_progress("export", "rows") as advance, _target(output) as target:
        problems = exported(data_dir, table, target, output_format, persons, advance)
    for problem in problems:
        click.echo(f"left out: {problem}", err=True)
    sys.exit(EXIT_DAMAGED if problems else 0)


@click.command()
@click.argument("data_dir", type=_directory, metavar="DIR")
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
        _print_json(facts | {"copied_files": outcome.copied_files, "copied_bytes": outcome.copied_bytes})
        return
    click.echo(
        f"backup {made.id}: {len(made.files):,} files, {made.size_bytes:,} bytes; "
        f"{outcome.copied_files:,} files, {outcome.copied_bytes:,} bytes of them copied"
    )


@click.command()
@click.argument("source", type=_directory, metavar="SRC")
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
        _print_json({"backups": [_backup_facts(one) for one in found]})
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


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Standard output, or a file that gets its name when it is complete."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    partial = output.with_name(f"{output.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(output)
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def _person(text: str, is_integer: bool) -> str | int:
    if not is_integer:
        return text
    try:
        return int(text)
    except ValueError:
        raise click.UsageError(f"--id: {text} is not an integer") from None


def _status(line: str) -> None:
    """What is being done, where somebody watches."""
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{line}", err=True, nl=False)


def _print_json(value: Mapping[str, Any]) -> None:
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
