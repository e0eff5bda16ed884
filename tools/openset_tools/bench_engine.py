"""How long the engine alone takes per script: `python -m openset_tools.bench_engine`.

Responsible for two comparisons over made-up events in memory, without HTTP, files or worker processes: scripts with
containers against scripts that ask something of the same kind without them, and every example of the language
reference. The engine's times are the minimum of a few runs. Not a test: a machine's load decides the figures.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from urllib.parse import parse_qsl

import click
import numpy as np

from openset.pyql.lanes.engine import Plan, compile_plan, run
from openset.pyql.settings import ParameterValue, RunSettings
from openset.pyql.syntax.parse import parse_script
from openset_format.block import Block, Column, ColumnType, PersonIds, TextDictionary

COLUMN_TYPES: dict[str, ColumnType] = {
    "product": "text", "kind": "text", "link": "text", "price": "double", "units": "int", "gift": "bool",
}  # fmt: skip
_RUNS = 3

# Name, with containers, without.
PAIRS = [
    (
        "first time of each product",
        """\
seen = set()
match where action is 'view':
    if product not in seen:
        seen.add(product)
        tally('new', kind)
""",
        """\
last = None
match where action is 'view':
    if product != last:
        last = product
        tally('new', kind)
""",
    ),
    (
        "how often each kind",
        """\
d = {}
match where action is 'purchase':
    if kind in d:
        d[kind] += 1
    else:
        d[kind] = 1
for k, n in d:
    tally(k, n)
""",
        """\
match where action is 'purchase':
    here = kind
    tally(kind, COUNT stamp where action is 'purchase' and kind is here)
""",
    ),
    (
        "the first four kinds",
        """\
path = []
match where action is 'view':
    if len(path) < 4:
        path.append(kind)
tally(path[0], path[1], path[2], path[3])
""",
        """\
a = None
b = None
c = None
d = None
match where action is 'view':
    if a is None:
        a = kind
    elif b is None:
        b = kind
    elif c is None:
        c = kind
    elif d is None:
        d = kind
tally(a, b, c, d)
""",
    ),
    (
        "a list of what was bought",
        """\
bought = []
match where action is 'purchase':
    if product not in bought:
        bought.append(product)
tally(len(bought))
""",
        """\
n = 0
match where action is 'purchase':
    here = product
    at = stamp
    if (COUNT stamp where action is 'purchase' and product is here and stamp < at) == 0:
        n += 1
tally(n)
""",
    ),
]


def made_up_block(events: int, people: int) -> Block:
    """Flat events, uniform over people, of ten actions and 200 products in eight kinds."""
    source = np.random.default_rng(7)
    counts = source.multinomial(events, np.ones(people) / people)
    row_start = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    stamp = source.integers(1_700_000_000_000, 1_705_000_000_000, events)
    stamp = stamp[np.lexsort((stamp, np.repeat(np.arange(people), counts)))]
    product = source.integers(0, 200, events)
    actions = ["view", "cart", "purchase", *(f"other {i}" for i in range(7))]
    columns = {
        "action": Column("text", source.integers(0, 10, events).astype(np.uint8), None, TextDictionary(actions)),
        "product": _texts(product, [f"product {i}" for i in range(200)]),
        "kind": _texts(product % 8, [f"kind {i}" for i in range(8)]),
        "link": _texts(product % 50, [f"https://shop.example/p/{i}?ref=mail&page={i}" for i in range(50)]),
        "price": Column("double", np.round(source.random(events) * 100, 2)),
        "units": Column("int", source.integers(1, 10, events)),
        "gift": Column("bool", source.integers(0, 2, events).astype(np.uint8)),
    }
    return Block(PersonIds.of([f"u{i}" for i in range(people)]), row_start, stamp, None, columns)


def _texts(codes: np.ndarray[tuple[int], np.dtype[np.int64]], texts: list[str]) -> Column:
    return Column("text", codes.astype(np.uint8), None, TextDictionary(texts))


def seconds(plan: Plan, block: Block, parameters: dict[str, ParameterValue]) -> float:
    """The shortest of a few runs."""
    best = float("inf")
    for _ in range(_RUNS):
        blocks = _parts(block, plan.block_rows)
        started = time.perf_counter()
        run(plan, blocks, RunSettings(now_ms=1_720_000_000_000, parameters=parameters))
        best = min(best, time.perf_counter() - started)
    return best


def _parts(block: Block, rows: int) -> list[Block]:
    parts, first = [], 0
    while first < block.people:
        last = int(np.searchsorted(block.row_start, block.row_start[first] + rows, side="right")) - 1
        last = max(first + 1, min(last, block.people))
        parts.append(block.part(first, last))
        first = last
    return parts


def reference_scripts(page: Path) -> list[tuple[int, str, dict[str, ParameterValue]]]:
    """Line, script and parameters of every example of the language reference."""
    text = page.read_text(encoding="utf-8")
    found = []
    for fence in re.finditer(r"^```pyql([^\n]*)\n(.*?)\n---\n.*?^```$", text, re.DOTALL | re.MULTILINE):
        parameters: dict[str, ParameterValue] = {}
        for name, value in parse_qsl(fence[1].strip()):
            kind, _, rest = name.partition("_")
            if kind in ("str", "int", "dbl", "bool"):
                parameters[rest] = {"str": str, "int": int, "dbl": float, "bool": bool}[kind](value)
        found.append((text.count("\n", 0, fence.start()) + 1, fence[2] + "\n", parameters))
    return found


@click.command()
@click.option("--events", default=1_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--people", default=20_000, show_default=True, type=click.IntRange(min=1))
@click.option(
    "--reference",
    default="spec/pyql.md",
    show_default=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The language reference, whose examples are timed too.",
)
def main(events: int, people: int, reference: Path) -> None:
    """Time scripts with containers against scripts without, and every example of the language reference."""
    block = made_up_block(events, people)
    click.echo(f"{events:,} events of {people:,} people, one core, in memory")
    for name, with_containers, without in PAIRS:
        first, second = (
            seconds(compile_plan(parse_script(script, COLUMN_TYPES)), block, {})
            for script in (with_containers, without)
        )
        click.echo(
            f"{name}: {first * 1000:.0f} ms with containers, {second * 1000:.0f} ms without, ratio {first / second:.1f}"
        )
    for line, script, parameters in reference_scripts(reference):
        elapsed = seconds(compile_plan(parse_script(script, COLUMN_TYPES)), block, parameters)
        click.echo(f"example in line {line} of the reference: {elapsed * 1000:.0f} ms")


if __name__ == "__main__":
    main()
