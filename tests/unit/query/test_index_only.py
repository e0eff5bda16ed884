"""Which scripts the people index may answer, and which only look as if it could."""

from __future__ import annotations

import pytest

from openset.pyql.syntax.parse import parse_script
from openset.query.index_only import candidates, membership
from openset_format.block import ColumnType

COLUMNS: dict[str, ColumnType] = {"product": "text", "units": "int", "price": "double", "gift": "bool"}
PARAMETERS = {"what": "rug", "many": 3, "much": 2.5, "yes": True}


def conditions_of(text: str) -> list[tuple[str, object]] | None:
    fact = membership(parse_script(text, COLUMNS, segment=True))
    found = None if fact is None else fact.conditions(PARAMETERS)
    return None if found is None else [(one.column, one.value) for one in found]


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("product is 'rug'", [("product", "rug")]),
        ("'rug' == product", [("product", "rug")]),
        ("action is 'view'", [("action", "view")]),
        ("product is 'rug' or units is 3 or gift", [("product", "rug"), ("units", 3), ("gift", True)]),
        ("product in ['rug', 'mug']", [("product", "rug"), ("product", "mug")]),
        ("product is {{what}}", [("product", "rug")]),
        ("units is {{many}}", [("units", 3)]),
        ("gift is {{yes}}", [("gift", True)]),
        ("gift is 0", [("gift", False)]),
        ("units is 3.0", [("units", 3)]),
        ("units is ' 3 '", [("units", 3)]),
        ("units is True", [("units", 1)]),
        ("units is {{much}}", []),
        ("units is 'many'", []),
        ("gift is 'true'", []),
        ("gift is 2", []),
        ("product is True", []),
        ("product is 7", None),
        ("product is {{many}}", None),
        ("product is None", None),
        ("product != 'rug'", None),
        ("product not in ['rug']", None),
        ("product in ['rug', 7]", None),
        ("product in ['rug', None]", None),
        ("units in [1, True]", None),
        ("units in [1.0]", None),
        ("product in 'rugs'", None),
        ("not gift", None),
        ("units", None),
        ("price is 2.5", None),
        ("stamp is 7", None),
        ("session is 1", None),
        ("person is 'ada'", None),
        ("units > 2", None),
        ("product is 'rug' and units is 3", None),
        ("product is 'rug' and product is 'rug'", None),
        ("product is 'rug' or units > 2", None),
        ("product is str('rug')", None),
        ("product is product", None),
    ],
)
def test_conditions(condition: str, expected: list[tuple[str, object]] | None) -> None:
    assert conditions_of(f"match where {condition}:\n    tally") == expected


@pytest.mark.parametrize(
    "body",
    [
        "tally",
        "tally()",
        "tally(product, 1)",
        "return True",
        "return 'x'",
        "tally\n    exit",
        "tally\n    return False",
    ],
)
@pytest.mark.parametrize("head", ["match", "match 1", "match 7"])
def test_bodies_that_only_take_in(head: str, body: str) -> None:
    assert conditions_of(f"{head} where product is 'rug':\n    {body}") == [("product", "rug")]


def test_matches_one_after_the_other() -> None:
    text = "match where product is 'rug':\n    tally\nmatch 1 where units is 2:\n    return True\n"
    assert conditions_of(text) == [("product", "rug"), ("units", 2)]


@pytest.mark.parametrize(
    "text",
    [
        "tally",
        "return True",
        "match:\n    tally",
        "match {{many}} where product is 'rug':\n    tally",
        "match where product is 'rug':\n    return False",
        "match where product is 'rug':\n    return 0",
        "match where product is 'rug':\n    return units",
        "match where product is 'rug':\n    exit\n    tally",
        "match where product is 'rug':\n    tally(units + 'x')",
        "match where product is 'rug':\n    if units is 2:\n        tally",
        "match where product is 'rug':\n    iter_next()\n    tally",
        "match where product is 'rug':\n    log(1)\n    tally",
        "match where product is 'rug':\n    tally\n    log(1)",
        "match where product is 'rug':\n    match where units is 2:\n        tally",
        "match where product is 'rug':\n    tally\ntally",
        "match where product is 'rug':\n    tally\nreturn True",
        "x = 1\nmatch where product is x:\n    tally",
        "match where product is 'rug':\n    tally\nmatch where units > 2:\n    tally",
        "match where f():\n    tally\ndef f():\n    return product is 'rug'",
    ],
)
def test_scripts_that_ask_for_more(text: str) -> None:
    assert conditions_of(text) is None
    assert membership(parse_script(text, COLUMNS, segment=True)) is None


def asked(text: str) -> list[str] | None:
    found = candidates(parse_script(text, COLUMNS))
    return None if found is None else found.columns


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("product is 'rug'", ["product"]),
        ("product is 'rug' and units > 2", ["product"]),
        ("units > 2 and product is 'rug'", ["product"]),
        ("x and product is 'rug' and action is 'view'", ["product", "action"]),
        ("(product is 'rug' or gift) and units is 2", ["product", "gift", "units"]),
        ("units > 2", None),
        ("product is 'rug' or units > 2", None),
        ("not (product is 'rug')", None),
        ("units + price > 2 and product is 'rug'", None),
        ("len(x) > 2 and product is 'rug'", None),
        ("f() and product is 'rug'", None),
        ("product is 'rug' and f() and units is 2", ["product"]),
    ],
)
def test_whom_a_match_can_do_anything_for(where: str, expected: list[str] | None) -> None:
    assert asked(f"x = 1\nmatch where {where}:\n    tally(action)\ndef f():\n    log(1)\n    return 1\n") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x = 0\ny = []\nz = {}\nmatch where gift:\n    x += 1\n    tally(x)", ["gift"]),
        ("match where gift:\n    tally('a')\nmatch where units is 2:\n    tally('b')", ["gift", "units"]),
        ("match where gift:\n    match where units > 2:\n        tally(action)\n    log(1)", ["gift"]),
        ("x = 0\nmatch where gift:\n    x += 1\ntally(x)", None),
        ("x = units + 1\nmatch where gift:\n    tally(x)", None),
        ("tally('all')\nmatch where gift:\n    tally('b')", None),
        ("log(1)\nmatch where gift:\n    tally('b')", None),
        ("match:\n    match where gift:\n        tally('b')", None),
        ("match where gift:\n    tally('a')\nmatch where units > 2:\n    tally('b')", None),
        ("match {{many}} where gift:\n    tally('b')", None),
        ("if now > 0:\n    match where gift:\n        tally('b')", None),
        ("x = 1", None),
    ],
)
def test_scripts_that_act_only_in_matches(text: str, expected: list[str] | None) -> None:
    assert asked(text) == expected
