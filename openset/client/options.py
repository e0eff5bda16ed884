"""What commands that talk to a daemon share: the option that says where it is, and how JSON is printed."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from openset.client.connection import DEFAULT_URL

url_option = click.option(
    "--url",
    envvar="OPENSET_URL",
    default=DEFAULT_URL,
    show_default=True,
    show_envvar=True,
    help="The daemon's address.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print the daemon's JSON.")
integer_id_option = click.option("--id", "is_integer", is_flag=True, help="ID is an integer, not text.")


def person_parameters(person_id: str, is_integer: bool) -> dict[str, str]:
    """The parameters of a request that name a person, of the options ID and --id."""
    return {"id" if is_integer else "sid": person_id}


def print_json(answer: Any) -> None:
    """An answer as it is, on lines a person can read."""
    click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
