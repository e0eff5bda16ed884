"""`openset explain`: what a script does for one person."""

from __future__ import annotations

from collections.abc import Sequence

import click

from openset.client.connection import Connection, segment
from openset.client.options import integer_id_option, json_option, person_parameters, print_json, url_option
from openset.client.parameters import query_parameters
from openset.client.scripts import script_text
from openset.query.explained_text import explained_text


def register(group: click.Group) -> None:
    """Adds the command to a group."""
    group.add_command(explain)


@click.command()
@click.argument("table")
@click.argument("person_id", metavar="ID")
@click.argument("script")
@url_option
@integer_id_option
@click.option("--param", "parameters", multiple=True, metavar="K=V", help="{{K}} as int, double, bool, else as text.")
@click.option("--param-str", "text_parameters", multiple=True, metavar="K=V", help="{{K}} as text.")
@json_option
def explain(
    table: str,
    person_id: str,
    script: str,
    url: str,
    is_integer: bool,
    parameters: Sequence[str],
    text_parameters: Sequence[str],
    as_json: bool,
) -> None:
    """Show what a script does for one person: rows that matches visit, conditions that fail, tallies, emits."""
    request = query_parameters(parameters, text_parameters) | person_parameters(person_id, is_integer)
    path = f"/v1/query/{segment(table)}/explain"
    with Connection(url) as connection:
        body = script_text(script).encode()
        answer = connection.request("POST", path, parameters=request, body=body, content_type="text/plain")
    if as_json:
        print_json(answer)
    else:
        click.echo(explained_text(answer), nl=False)
