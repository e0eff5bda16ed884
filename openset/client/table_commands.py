"""Commands about what is in a table: `openset erase` and `openset compact`."""

from __future__ import annotations

import click

from openset.client.connection import Connection, segment
from openset.client.options import integer_id_option, json_option, person_parameters, print_json, url_option

# A compaction writes whole files; whoever asked for it waits.
_COMPACTION_TIMEOUT_SECONDS = 3_600.0


def register(group: click.Group) -> None:
    """Adds the commands to a group."""
    for command in (erase, compact):
        group.add_command(command)


@click.command()
@click.argument("table")
@click.argument("person_id", metavar="ID")
@url_option
@integer_id_option
@json_option
def erase(table: str, person_id: str, url: str, is_integer: bool, as_json: bool) -> None:
    """Erase a person: gone from every answer at once, from the files with the next compaction."""
    with Connection(url) as connection:
        parameters = person_parameters(person_id, is_integer)
        answer = connection.request("DELETE", f"/v1/table/{segment(table)}/person", parameters=parameters)
    if as_json:
        print_json(answer)
    else:
        click.echo(f"erased {person_id}; openset compact {table} removes what is left in the files")


@click.command()
@click.argument("table")
@url_option
@json_option
def compact(table: str, url: str, as_json: bool) -> None:
    """Bring the files of a table up to date; nothing that was erased, dropped or has expired is left in them."""
    with Connection(url, timeout_seconds=_COMPACTION_TIMEOUT_SECONDS) as connection:
        answer = connection.request("POST", f"/v1/table/{segment(table)}/compact")
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{answer['compacted']} files written")
