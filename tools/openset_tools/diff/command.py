"""`openset diff`: its options, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import click

from openset.errors import OpenSetError
from openset_tools.options import json_option, print_json

EXIT_SAME = 0
EXIT_DIFFERENT = 1
EXIT_TROUBLE = 2


@click.command()
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--table", metavar="NAME[:NAME]", help="Only this table; with two names: that of A with that of B.")
@click.option("--samples", type=click.IntRange(0, 1_000), default=5, show_default=True, help="People shown of a table.")
@json_option
@click.pass_context
def diff(context: click.Context, a: str, b: str, table: str | None, samples: int, as_json: bool) -> None:
    """Show what differs between two data directories, backups (PLACE or PLACE@ID) or partition files.

    Exit codes: 0 no difference, 1 some, 2 trouble.
    """
    from openset_tools.diff.compare import compare
    from openset_tools.diff.sides import opened_sides
    from openset_tools.progress import shown_progress

    pairs = None
    if table is not None:
        one, _, other = table.partition(":")
        pairs = [(one, other or one)]
    try:
        with shown_progress("diff", "rows") as advance, opened_sides(a, b) as (first, second):
            found = compare(first, second, pairs, samples, advance)
    except OpenSetError as error:
        click.echo(f"error ({error.error_class}): {error.message}", err=True)
        context.exit(EXIT_TROUBLE)
    if as_json:
        print_json(found)
    else:
        for line in diff_lines(found):
            click.echo(line)
        for problem in found["problems"]:
            click.echo(f"problem: {problem}", err=True)
    if found["problems"]:
        context.exit(EXIT_TROUBLE)
    context.exit(EXIT_SAME if found["same"] else EXIT_DIFFERENT)


def diff_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """`compare`'s answer for people: lines with - are in A only, with + in B only, with ! in both and not the same."""
    yield f"- {found['a']}"
    yield f"+ {found['b']}"
    yield from (f"- table {name}" for name in found["only_in_a"])
    yield from (f"+ table {name}" for name in found["only_in_b"])
    for table in found["tables"]:
        if not table["same"]:
            yield from _table_lines(table)
    if found["same"]:
        yield "no difference"


def _table_lines(table: Mapping[str, Any]) -> Iterator[str]:
    name = table["a"] if table["a"] == table["b"] else f"{table['a']} and {table['b']}"
    people, events = table["people"], table["events"]
    yield f"! table {name}"
    for column in table["columns"]:
        for sign, kind in (("-", column["a"]), ("+", column["b"])):
            if kind is not None:
                yield f"  {sign} column {column['column']} {kind}"
    for setting, values in table["settings"].items():
        yield f"  - {setting} {json.dumps(values['a'])}"
        yield f"  + {setting} {json.dumps(values['b'])}"
    for what, counts in (("people", people), ("events", events)):
        yield (
            f"  {what}: {counts['only_in_a']:,} only in A (of {counts['a']:,}), "
            f"{counts['only_in_b']:,} only in B (of {counts['b']:,}), {counts['different']:,} different"
        )
    for sample in table["samples"]:
        yield from _sample_lines(sample)


def _sample_lines(sample: Mapping[str, Any]) -> Iterator[str]:
    sign = "!" if sample["a"] and sample["b"] else "-" if sample["a"] else "+"
    count = sample["differing_events"]
    yield f"  {sign} person {sample['person']!a}: {count:,} {'event differs' if count == 1 else 'events differ'}"
    for event in sample["events"]:
        for sign, attributes in (("-", event["a"]), ("+", event["b"])):
            if attributes is not None:
                shown = json.dumps(attributes, ensure_ascii=True)
                yield f"    {sign} {event['stamp_iso']} {event['action']!a} {shown}"
    if len(sample["events"]) < sample["differing_events"]:
        yield f"    … {sample['differing_events'] - len(sample['events']):,} more"
