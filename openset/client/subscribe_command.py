"""`openset subscribe`: the messages of a trigger, a line each."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from openset.client.connection import Connection, segment
from openset.client.options import url_option

_POLL_MS = 20_000


def register(group: click.Group) -> None:
    """Adds the command to a group."""
    group.add_command(subscribe)


@click.command()
@click.argument("table")
@click.argument("trigger")
@click.argument("name")
@url_option
@click.option("--follow", is_flag=True, help="Wait for further messages until interrupted.")
@click.option("--no-ack", is_flag=True, help="Only show the messages: they come again.")
@click.option(
    "--max", "most", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Messages a request."
)
@click.option("--json", "as_json", is_flag=True, help="Print each message as a line of JSON.")
def subscribe(
    table: str, trigger: str, name: str, url: str, follow: bool, no_ack: bool, most: int, as_json: bool
) -> None:
    """Show the messages of a trigger or stored segment for subscription NAME, and acknowledge them."""
    path = f"/v1/subscription/{segment(table)}/{segment(trigger)}/{segment(name)}"
    acknowledged: list[str] = []
    with Connection(url) as connection:
        while True:
            # What was printed is acknowledged by the next request, so that nothing is lost on the way.
            waits = _POLL_MS if follow else 0
            parameters = {"max": str(most), "timeout": str(waits)}
            answer = connection.request("POST", path, parameters=parameters, body=msgspec.json.encode(acknowledged))
            for message in answer["messages"]:
                click.echo(msgspec.json.encode(message).decode() if as_json else _line(message))
            acknowledged = [] if no_ack or not answer["messages"] else [answer["ack"]]
            if not follow and (no_ack or not answer["messages"]):
                return


def _line(message: dict[str, Any]) -> str:
    value = "" if message["value"] is None else f"  {msgspec.json.encode(message['value']).decode()}"
    return f"{message['stamp_iso']}  {message['person']}  {message['name']}{value}"
