"""`openset backup` and `openset restore`: their options, and what they print."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from openset_tools.options import EXIT_DAMAGED, json_option, print_json

if TYPE_CHECKING:
    from openset_tools.backups.lists import Backup, Listed
    from openset_tools.backups.make import Outcome
    from openset_tools.backups.prune import Pruned

_AGE = re.compile(r"([0-9]{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def _age(context: click.Context, parameter: click.Parameter, value: str | None) -> timedelta | None:
    """A number and a unit: 90m, 12h, 30d, 8w."""
    if value is None:
        return None
    match = _AGE.fullmatch(value)
    if match is None:
        raise click.BadParameter(f"{value} is not an age such as 90m, 12h, 30d or 8w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="[DIR] DEST")
@click.option("--list", "only_list", is_flag=True, help="Show the backups in DEST instead.")
@click.option("--prune", "wants_prune", is_flag=True, help="Remove old backups (after the new one, if DIR is given).")
@click.option("--keep", type=click.IntRange(1), metavar="N", help="With --prune: keep the newest N.")
@click.option(
    "--older-than", callback=_age, metavar="AGE", help="With --prune: only those older than 90m, 12h, 30d, 8w."
)
@json_option
@click.pass_context
def backup(
    context: click.Context,
    paths: Sequence[str],
    only_list: bool,
    wants_prune: bool,
    keep: int | None,
    older_than: timedelta | None,
    as_json: bool,
) -> None:
    """Add a backup of the data directory DIR to DEST, also while a daemon runs; list or prune those in DEST.

    DEST is a directory or a URL such as s3://bucket/prefix.
    """
    if (keep is not None or older_than is not None) and not wants_prune:
        raise click.UsageError("--keep and --older-than belong to --prune")
    if only_list and wants_prune:
        raise click.UsageError("give --list or --prune, not both")
    if len(paths) > 2 or (len(paths) == 2 and only_list) or (len(paths) == 1 and not (only_list or wants_prune)):
        raise click.UsageError("give DIR and DEST; with --list only DEST; with --prune DEST, or both")
    from openset_tools.backups.places import place_of

    place = place_of(paths[-1])
    if only_list:
        context.exit(_print_list(_listed(place), as_json))
    facts: dict[str, Any] = {}
    lines: list[str] = []
    if len(paths) == 2:
        facts |= _made(paths[0], place, lines)
    if wants_prune:
        facts |= _pruned(place, keep, older_than, lines)
    if as_json:
        print_json(facts)
    else:
        click.echo("\n".join(lines))


def _made(data_dir: str, place: Any, lines: list[str]) -> dict[str, Any]:
    from openset_tools.backups.make import make_backup
    from openset_tools.progress import shown_progress

    if not Path(data_dir).is_dir():
        raise click.UsageError(f"there is no directory {data_dir}")
    with shown_progress("backup", "bytes") as advance:
        outcome: Outcome = make_backup(Path(data_dir), place, advance)
    made = outcome.backup
    lines.append(
        f"backup {made.id}: {len(made.files):,} files, {made.size_bytes:,} bytes; "
        f"{outcome.copied_files:,} files, {outcome.copied_bytes:,} bytes of them copied"
    )
    return {
        "id": made.id,
        "files": len(made.files),
        "bytes": made.size_bytes,
        "copied_files": outcome.copied_files,
        "copied_bytes": outcome.copied_bytes,
    }


def _pruned(place: Any, keep: int | None, older_than: timedelta | None, lines: list[str]) -> dict[str, Any]:
    from openset_tools.backups.prune import prune
    from openset_tools.progress import shown_progress

    with shown_progress("prune", "contents") as advance:
        pruned: Pruned = prune(place, keep, older_than, advance)
    lines += [f"removed backup {one.id}" for one in pruned.removed]
    lines.append(
        f"{len(pruned.removed):,} backups removed, {len(pruned.kept):,} kept; "
        f"{pruned.contents:,} contents, {pruned.size_bytes:,} bytes removed"
    )
    return {
        "removed": [one.id for one in pruned.removed],
        "kept": [one.id for one in pruned.kept],
        "removed_contents": pruned.contents,
        "removed_bytes": pruned.size_bytes,
    }


@click.command()
@click.argument("source", metavar="SRC")
@click.argument("data_dir", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", required=False)
@click.option("--backup", "backup_id", metavar="ID", help="Which backup (default: the newest).")
@click.option("--table", metavar="NAME", help="Only this table; DIR may then be a data directory that lacks it.")
@click.option("--as", "new_name", metavar="NAME", help="With --table: the name it gets in DIR.")
@click.option("--list", "only_list", is_flag=True, help="Show the backups there are instead.")
@json_option
@click.pass_context
def restore(
    context: click.Context,
    source: str,
    data_dir: Path | None,
    backup_id: str | None,
    table: str | None,
    new_name: str | None,
    only_list: bool,
    as_json: bool,
) -> None:
    """Make a data directory of a backup, or put one table of it into a data directory; no daemon may run on that.

    SRC is a directory or a URL such as s3://bucket/prefix.
    """
    if only_list == (data_dir is not None):
        raise click.UsageError("name the directory to restore to, or --list")
    if new_name is not None and table is None:
        raise click.UsageError("--as belongs to --table")
    from openset_tools.backups.places import place_of
    from openset_tools.backups.restore import restore as restored
    from openset_tools.backups.table import restore_table
    from openset_tools.progress import shown_progress

    place = place_of(source)
    if data_dir is None:
        context.exit(_print_list(_listed(place), as_json))
    with shown_progress("restore", "bytes") as advance:
        if table is None:
            one = restored(place, data_dir, backup_id, advance)
        else:
            one = restore_table(place, data_dir, table, new_name, backup_id, advance)
    if as_json:
        print_json({"backups": [_facts(one)]} | ({} if table is None else {"table": new_name or table}))
    elif table is None:
        click.echo(_line(one))
    else:
        click.echo(f"table {new_name or table} of backup {one.id} is in {data_dir}")


def _listed(place: Any) -> Listed:
    from openset.errors import ConfigError
    from openset_tools.backups.lists import listed

    try:
        return listed(place)
    except OSError as error:
        raise ConfigError(f"{place} cannot be read: {error}") from error


def _print_list(found: Listed, as_json: bool) -> int:
    """Prints the backups of a place; the exit code."""
    if as_json:
        print_json({"backups": [_facts(one) for one in found.backups], "damaged": list(found.damaged.values())})
    else:
        for one in found.backups:
            click.echo(_line(one))
        for message in found.damaged.values():
            click.echo(f"problem: {message}", err=True)
    return EXIT_DAMAGED if found.damaged else 0


def _line(one: Backup) -> str:
    tables = ", ".join(one.tables) or "no tables"
    return f"{one.id}  {len(one.files):,} files  {one.size_bytes:,} bytes  {one.server_name}: {tables}"


def _facts(one: Backup) -> dict[str, Any]:
    return {
        "id": one.id,
        "made_at": one.made_at,
        "server_name": one.server_name,
        "partitions": one.partitions,
        "tables": one.tables,
        "last_sequence": one.last_sequence,
        "files": len(one.files),
        "bytes": one.size_bytes,
    }
