"""Six shopping events: the answers are the same right after the insert, after a restart and for any partitions."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.daemon import Daemon

import openset

COLUMNS = {
    "product_name": "text", "product_price": "double", "product_shipping": "double", "shipper": "text",
    "total": "double", "shipping": "double", "product_tags": "text", "product_group": "text", "cart_size": "int",
}  # fmt: skip

AGGREGATORS = """
agg:
    count person
    count product_name as purchased
    sum product_price as total_spent with product_name

"""

BY_DAY = (
    AGGREGATORS
    + """
match where product_group is 'outdoor':
    tally(get_day_of_week(event_time()), product_name)
"""
)

NEXT_CART = (
    AGGREGATORS
    + """
match where action is 'purchase':
    first = product_name
    iter_next()
    match 1 where action is 'purchase' and product_name is not first:
        tally(first, product_name)
"""
)

DAYS = {
    2: (
        [1, 3, 155.93],
        {"triple hook jigger": [1, 1, 27.99], "fly rod": [1, 1, 99.95], "deluxe spinner": [1, 1, 27.99]},
    ),
    5: ([1, 1, 99.95], {"fly rod": [1, 1, 99.95]}),
    7: ([1, 3, 145.93], {"gilded spoon": [1, 1, 27.99], "fly rod": [1, 1, 99.95], "double spinner": [1, 1, 17.99]}),
}  # fmt: skip
CARTS = {
    "shag rug": [2, 4, 885.92],
    "panini press": [1, 3, 145.93],
    "fly rod": [1, 2, 45.98],
    "grommet": [1, 2, 717.98],
}
AFTER_SHAG_RUG = {
    "panini press": [2, 2, 135.98],
    "espresso mmachine": [1, 1, 649.99],
    "fly rod": [1, 1, 99.95],
}


def highstreet_events() -> list[dict[str, Any]]:
    path = Path(openset.__file__).parent / "demo" / "data" / "highstreet_events.json"
    events: list[dict[str, Any]] = json.loads(path.read_text())
    return events


def by_key(tree: dict[str, Any]) -> dict[Any, Any]:
    return {node["g"]: node for node in tree["_"]}


def cells(tree: dict[str, Any]) -> dict[Any, list[Any]]:
    return {node["g"]: pytest.approx(node["c"]) for node in tree["_"]}


def check_answers(daemon: Daemon) -> None:
    days = by_key(daemon.events("highstreet", BY_DAY))
    assert {day: (pytest.approx(node["c"]), cells(node)) for day, node in days.items()} == DAYS
    carts = by_key(daemon.events("highstreet", NEXT_CART))
    for product, expected in CARTS.items():
        assert carts[product]["c"] == pytest.approx(expected)
    assert cells(carts["shag rug"]) == AFTER_SHAG_RUG


@pytest.fixture(scope="module", params=[1, 7])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory with the events, in another order each time, as left by a daemon that was killed."""
    data = tmp_path_factory.mktemp("highstreet") / "data"
    daemon = Daemon(data, init=request.param)
    daemon.create("highstreet", COLUMNS)
    events = highstreet_events()
    random.Random(request.param).shuffle(events)
    for event in events:
        daemon.insert("highstreet", [event])
    check_answers(daemon)
    daemon.kill()
    yield data


def test_the_answers_survive_a_kill_and_a_restart(directory: Path) -> None:
    with Daemon(directory) as daemon:
        check_answers(daemon)


def test_the_answers_survive_inserting_everything_again(directory: Path) -> None:
    with Daemon(directory) as daemon:
        daemon.insert("highstreet", highstreet_events())
        check_answers(daemon)
