"""Random events of a small table, and the many ways to cut them into Blocks.

Doubles are small multiples of a quarter, so that sums of them are exact in any order. Stamps repeat, lie on both sides
of a session's gap, and cross months and years.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from support.choices import Choices
from support_blocks import block_of

from openset_format.block import Block, ColumnType

COLUMNS: dict[str, ColumnType] = {"kind": "text", "label": "text", "amount": "int", "price": "double", "flag": "bool"}
Z_ORDER = ("view", "cart")
NOW_MS = 1_718_000_000_000
Event = dict[str, Any]
Person = str | int

ACTIONS = ("view", "cart", "buy", "Log in")
KINDS = ("red", "blue", "redish", "7", "3.5")
LABELS = (
    "mug",
    "tent",
    "",
    " mug ",
    "ünï",
    "Ω 🐫",
    "7",
    "7.0",
    "-1",
    "true",
    "None",
    "a b c",
    "é",
    "10%",
    "https://e.io/p%20q?x=7&y",
)
AMOUNTS = (0, 1, 2, 3, 5, 7, -1, -3, 10, 100)
HUGE = ((1 << 63) - 1, -(1 << 63), (1 << 62) + 1, 1 << 53, (1 << 53) + 1, -(1 << 40), 10**11)
PRICES = (0.0, 0.5, 1.0, 1.25, 2.5, 3.5, 7.0, -1.5, -0.25, 99.75, -0.0)
PEOPLE: tuple[Person, ...] = ("ada", "ben", 7, "7", -3, "Ωμ", 0, 1 << 62, "zoë", "person with blanks", 12, "B")
STARTS = (
    1_704_067_199_000,
    1_711_846_799_000,
    1_729_990_799_000,
    1_709_164_700_000,
    1_711_000_000_000,
    1_717_999_990_000,
    864_000_000_000,
)
GAPS_MS = (
    0,
    0,
    0,
    1,
    1_000,
    60_000,
    1_799_999,
    1_800_000,
    1_800_001,
    3_600_000,
    86_400_000,
    259_200_000,
    3_000_000_000,
)


def make_people(choices: Choices) -> list[Person]:
    """One to nine people, text and int ids mixed in most cases; now and then a crowd."""
    count = choices.weighted(((2, 1), (4, 2), (8, 4), (6, 6), (4, 9), (1, 60)))
    crowd: list[Person] = [*PEOPLE, *(f"p{number}" for number in range(20, 50)), *range(100, 118)]
    return choices.shuffled(PEOPLE)[:count] if count <= len(PEOPLE) else crowd


def make_events(choices: Choices, people: Sequence[Person]) -> list[Event]:
    """Events of some people, in no order of stamps; some people may get none."""
    complex_events = choices.chance(45)
    huge = choices.chance(12)
    events = []
    for person in people:
        count = choices.weighted(((2, 0), (4, 1), (6, 3), (8, 6), (6, 10), (1, 40 if len(people) > 20 else 15)))
        stamp = choices.pick(STARTS) + choices.pick(GAPS_MS)
        for _ in range(count):
            events.append(
                {
                    "person": person,
                    "stamp": stamp,
                    "action": choices.pick(ACTIONS),
                    "attr": _attributes(choices, complex_events, huge),
                }
            )
            stamp += choices.pick(GAPS_MS)
    return choices.shuffled(events) if choices.chance(30) else events


def _attributes(choices: Choices, complex_event: bool, huge: bool) -> dict[str, Any]:
    attributes = {name: _value(choices, name, complex_event, huge) for name in COLUMNS if choices.chance(85)}
    if complex_event and choices.chance(35):
        attributes["_"] = [_group(choices, huge) for _ in range(choices.integer(1, 3))]
    return attributes


def _group(choices: Choices, huge: bool) -> dict[str, Any]:
    group = {name: _value(choices, name, choices.chance(30), huge) for name in COLUMNS if choices.chance(40)}
    if choices.chance(15):
        group["_"] = [{"label": choices.pick(LABELS)}, {"amount": choices.pick(AMOUNTS), "label": None}]
    return group


def _value(choices: Choices, name: str, lists: bool, huge: bool) -> Any:
    if lists and choices.chance(20):
        return [_plain(choices, name, huge) for _ in range(choices.integer(0, 3))]
    return None if choices.chance(8) else _plain(choices, name, huge)


def _plain(choices: Choices, name: str, huge: bool) -> Any:
    if name == "flag":
        return choices.chance(50)
    if name == "amount":
        return choices.pick(HUGE if huge and choices.chance(30) else AMOUNTS)
    if name == "price":
        return choices.pick(PRICES)
    return choices.pick(KINDS if name == "kind" else LABELS)


# ---------------------------------------------------------------- Blocks


def whole(events: Sequence[Event], people: Sequence[Person]) -> Block:
    """All people in one Block, those without events too."""
    return block_of(events, COLUMNS, Z_ORDER, people=people)


def cut(choices: Choices, events: Sequence[Event], people: Sequence[Person]) -> list[Block]:
    """The same people in several Blocks.

    Parts that share memory, Blocks with dictionaries of their own, pairs of Blocks that answer for one part of their
    people each; columns without a value may be missing.
    """
    way = choices.integer(0, 3)
    if way == 0:
        return _parts(choices, whole(events, people))
    if way == 1:
        return _masked(choices, whole(events, people))
    groups: list[list[Person]] = [[] for _ in range(choices.integer(2, 3))]
    for person in people:
        choices.pick(groups).append(person)
    blocks = [whole([e for e in events if e["person"] in group], group) for group in groups]
    blocks = [without_empty_columns(block) if choices.chance(50) else block for block in blocks]
    if way == 2:
        return blocks
    return [piece for block in blocks for piece in _masked(choices, block)]


def _parts(choices: Choices, block: Block) -> list[Block]:
    edges = sorted({0, block.people, *(choices.integer(0, block.people) for _ in range(choices.integer(1, 3)))})
    return [block.part(first, last) for first, last in pairwise(edges)]


def _masked(choices: Choices, block: Block) -> list[Block]:
    include = np.array([choices.chance(50) for _ in range(block.people)], dtype=np.bool_)
    return [replace(block, include=include), replace(block, include=~include)]


def without_empty_columns(block: Block) -> Block:
    """The Block without columns that have no value on any row."""
    kept = {
        name: column
        for name, column in block.columns.items()
        if name == "action" or column.valid is None or column.valid.any()
    }
    return replace(block, columns=kept)
