"""Commands about triggers: `openset trigger` and `openset triggers`."""

from __future__ import annotations

from typing import Any

import click

from openset.client.connection import Connection, segment
from openset.client.options import json_option, print_json, url_option


def register(group: click.Group) -> None:
    """Adds the commands to a group."""
    for command in (trigger, triggers):
        group.add_command(command)


@click.command()
@click.argument("table")
@click.argument("name")
@click.argument("script", required=False, type=click.File("rb"), metavar="[SCRIPT]")
@url_option
@json_option
@click.option("--enable/--disable", "enabled", default=None, help="Whether it runs.")
@click.option("--once/--always", "once", default=None, help="Whether on_insert emits once for a person. Default: once.")
@click.option("--emit-as-event/--no-event", "emit_as_event", default=None, help="Insert what it emits as events, too.")
@click.option("--filter", "filter_", metavar="SEGMENT", help='Run for people of a stored segment only; "" for all.')
@click.option("--reset", is_flag=True, help="Forget who has emitted.")
@click.option("--delete", is_flag=True, help="Delete the trigger with its schedules and messages.")
def trigger(
    table: str,
    name: str,
    script: Any,
    url: str,
    as_json: bool,
    enabled: bool | None,
    once: bool | None,
    emit_as_event: bool | None,
    filter_: str | None,
    reset: bool,
    delete: bool,
) -> None:
    """Make or change the trigger NAME with the PyQL file SCRIPT (- is standard input); without one, show it."""
    options = {"enabled": enabled, "once": once, "emit_as_event": emit_as_event}
    given: dict[str, str] = {key: str(value).lower() for key, value in options.items() if value is not None}
    if filter_ is not None:
        given["filter"] = filter_
    if delete and (script or given or reset):
        raise click.UsageError("--delete stands alone")
    address = f"/v1/table/{segment(table)}/revent/{segment(name)}"
    with Connection(url) as connection:
        if delete:
            answer = connection.request("DELETE", address)
        else:
            answer = None
            if script is not None or given:
                body = b"" if script is None else script.read()
                answer = connection.request("POST", address, parameters=given, body=body, content_type="text/plain")
            if reset:
                answer = connection.request("POST", f"{address}/reset")
            if answer is None:
                answer = connection.request("GET", address)
    if as_json:
        print_json(answer)
    elif delete:
        click.echo(f"deleted {answer['deleted']}")
    else:
        click.echo("\n".join(_lines(answer)))


@click.command()
@click.argument("table")
@url_option
@json_option
def triggers(table: str, url: str, as_json: bool) -> None:
    """The triggers of a table, whether they run, and what they have done."""
    with Connection(url) as connection:
        answer = connection.request("GET", f"/v1/table/{segment(table)}/revents")
    if as_json:
        print_json(answer)
    elif not answer["triggers"]:
        click.echo("no triggers")
    for one in () if as_json else answer["triggers"]:
        counts = one["counts"]
        click.echo(f"{one['name']}  {_state(one)}, {counts['emissions']:,} emissions, {counts['errors']:,} errors")


def _state(one: dict[str, Any]) -> str:
    return one["state"] if "reason" not in one else f"{one['state']} ({one['reason']})"


def _lines(one: dict[str, Any]) -> list[str]:
    counts, backlog = one["counts"], one["backlog"]
    lines = [
        f"{one['name']}  {_state(one)}",
        f"once: {str(one['once']).lower()}, emit_as_event: {str(one['emit_as_event']).lower()}, "
        f"filter: {one['filter'] or 'none'}",
        f"ran for people {counts['people']:,} times, {counts['emissions']:,} emissions, {counts['errors']:,} errors",
        f"{counts['emitted_people']:,} people have emitted, {counts['schedules']:,} schedules wait",
        f"backlog: {backlog['records']:,} inserts, the oldest for {backlog['age']:.1f} s",
    ]
    if "last_error" in one:
        lines.append(f"last error: {one['last_error']['message']}")
    return [*lines, "", *one["script"].splitlines()]
