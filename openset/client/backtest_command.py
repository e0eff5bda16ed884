"""`openset backtest`: what a trigger would have emitted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click
import msgspec

from openset.client.connection import Connection, segment
from openset.client.options import json_option, print_json, url_option
from openset.client.scripts import script_text


def register(group: click.Group) -> None:
    """Adds the command to a group."""
    group.add_command(backtest)


@click.command()
@click.argument("table")
@click.argument("name")
@click.argument("script", required=False)
@url_option
@click.option("--from", "from_", metavar="STAMP", help="Events from here on.")
@click.option("--to", metavar="STAMP", help="Events before this, and runs due before it.")
@click.option("--once/--always", "once", default=None, help="Whether on_insert emits once for a person.")
@click.option("--filter", "filter_", metavar="SEGMENT", help="Only people of this segment.")
@click.option("--timeout", "timeout_ms", type=click.IntRange(1), metavar="MS", help="How long it may take.")
@click.option("--lines", is_flag=True, help="Print every emission as a line of JSON.")
@json_option
def backtest(
    table: str,
    name: str,
    script: str | None,
    url: str,
    from_: str | None,
    to: str | None,
    once: bool | None,
    filter_: str | None,
    timeout_ms: int | None,
    lines: bool,
    as_json: bool,
) -> None:
    """Show what trigger NAME, or SCRIPT in its place, would have emitted for the events there are."""
    emits_once = None if once is None else str(once).lower()
    wanted = {"from": from_, "to": to, "once": emits_once, "filter": filter_, "timeout": timeout_ms}
    parameters = {key: str(value) for key, value in wanted.items() if value is not None}
    path = f"/v1/table/{segment(table)}/revent/{segment(name)}/backtest"
    body = b"" if script is None else script_text(script).encode()
    with Connection(url) as connection:
        if lines:
            found, facts = connection.request_bytes(
                "POST", path, "application/x-ndjson", parameters=parameters, body=body
            )
            click.echo(found.decode(), nl=False)
            for line in _errors(facts):
                click.echo(line, err=True)
            return
        answer = connection.request("POST", path, parameters=parameters, body=body, content_type="text/plain")
    if as_json:
        print_json(answer)
        return
    click.echo(
        f"{answer['emissions']:,} emissions of {answer['emitting_people']:,} people, "
        f"{answer['people']:,} people replayed, {answer['errors']:,} errors"
    )
    for line in _errors(answer):
        click.echo(line)
    for day in answer["days"]:
        click.echo(f"{day['day']}  {day['name']}  {day['count']:,}")
    for message in answer["sample"]:
        click.echo(_line(message))


def _errors(facts: dict[str, Any]) -> Iterator[str]:
    """What went wrong."""
    if facts["errors"]:
        yield f"{facts['errors']:,} runs failed, the last with: {facts['last_error']}"
    if facts["disabled_at"] is not None:
        yield f"so many errors in a row would have disabled the trigger at {facts['disabled_at_iso']}"


def _line(message: dict[str, Any]) -> str:
    value = "" if message["value"] is None else f"  {msgspec.json.encode(message['value']).decode()}"
    return f"{message['stamp_iso']}  {message['person']}  {message['name']}{value}"
