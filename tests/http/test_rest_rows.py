"""The parameters of queries, row by row as the description of the REST interface lists them, each quoted by a test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.daemon import Daemon

STAMP = 1_700_000_000_000
EVENTS: list[tuple[str | int, str, dict[str, Any]]] = [
    ("ann", "buy", {"product": "mug", "price": 7.25, "units": 2, "gift": False}),
    ("ann", "buy", {"product": "tent", "price": 249.0, "units": 1, "gift": True}),
    ("ann", "view", {"product": "rug", "price": -12.5, "units": -3}),
    ("bob", "buy", {"product": "mug", "price": 8.5, "units": 4}),
    ("bob", "view", {"product": "mug"}),
    (7, "buy", {"product": "rug", "price": 8.5, "units": 2}),
    ("7", "login", {}),
]
PIVOT = "agg:\n    people\n    sum price as spent\nmatch:\n    tally(product, action)\n"
SEGMENT = "@segment buyers:\n    match where action is 'buy':\n        tally\n"
SECOND = "@segment ann_only:\n    match where person is 'ann':\n        tally\n"


@pytest.fixture(scope="module")
def shop(daemon: Daemon) -> Iterator[Daemon]:
    daemon.create("rows", {"product": "text", "price": "double", "units": "int", "gift": "bool"})
    daemon.insert(
        "rows",
        [
            {"person": person, "stamp": STAMP + number * 1_000, "action": action, "attr": attributes}
            for number, (person, action, attributes) in enumerate(EVENTS)
        ],
    )
    made = daemon.request("POST", "/v1/query/rows/counts", SEGMENT + SECOND)
    assert made.json == {"_": [{"g": "buyers", "c": [3]}, {"g": "ann_only", "c": [1]}]}
    yield daemon


def column(shop: Daemon, name: str, **parameters: Any) -> tuple[list[int], dict[Any, Any]]:
    """The counts of the root, and those of the values in the order of the answer."""
    parameters = {key.rstrip("_"): value for key, value in parameters.items()}
    answer = shop.request("GET", f"/v1/query/rows/column/{name}", **parameters)
    assert answer.status == 200, answer.body
    (root,) = answer.json["_"]
    assert root["g"] == name
    return root["c"], {node["g"]: node["c"][0] for node in root["_"]}


def keys(tree: Any) -> list[Any]:
    return [node["g"] for node in tree["_"]]


# ---------------------------------------------------------------- POST /v1/query/{table}/events


def test_events_debug(shop: Daemon) -> None:
    """|`debug=`| `true/false` | will return the assembly for the query rather than the results|"""
    assert shop.events("rows", PIVOT, debug="true").keys() == {"debug"}
    assert shop.events("rows", PIVOT, debug="false").keys() == {"_"}


def test_events_segments(shop: Daemon) -> None:
    """| `segments=`| `segment, segment` | comma separted segment list. Segment must be created with a `counts` query.
    The segment `*` represents all people. |"""
    answer = shop.events("rows", "match:\n    tally(action)", segments="*, buyers,ann_only", sort="key", order="asc")
    assert answer["_"] == [
        {"g": "buy", "c": [3], "c2": [3], "c3": [1]},
        {"g": "login", "c": [1], "c2": [0], "c3": [0]},
        {"g": "view", "c": [2], "c2": [2], "c3": [1]},
    ]
    assert "byers" in shop.request("POST", "/v1/query/rows/events", PIVOT, segments="byers").error["message"]


def test_events_sort(shop: Daemon) -> None:
    """|`sort=`| `column_name`      | sort by column name.|"""
    assert keys(shop.events("rows", PIVOT, sort="price")) == ["tent", "mug", "rug"]
    assert keys(shop.events("rows", PIVOT, sort="spent")) == ["tent", "mug", "rug"]


def test_events_order(shop: Daemon) -> None:
    """|`order=`| `asc/desc`         | default is descending order.|"""
    assert keys(shop.events("rows", PIVOT)) == ["mug", "rug", "tent"]
    assert keys(shop.events("rows", PIVOT, order="desc")) == ["mug", "rug", "tent"]
    assert keys(shop.events("rows", PIVOT, order="asc")) == ["tent", "mug", "rug"]


def test_events_trim(shop: Daemon) -> None:
    """|`trim=`| `# limit`          | clip long branches at a certain count. Root nodes will still include totals
    for the entire branch. |"""
    (mug,) = shop.events("rows", PIVOT, trim=1)["_"]
    assert (mug["g"], mug["c"], len(mug["_"])) == ("mug", [2, 15.75], 1)


def test_events_str(shop: Daemon) -> None:
    """|`str_{var_name}` | `text`             | replace `{{var_name}}` string in script (will be automatically
    quoted)|"""
    script = "match where product is {{which}}:\n    tally(product)"
    assert shop.events("rows", script, str_which="rug")["_"] == [{"g": "rug", "c": [2]}]


def test_events_int(shop: Daemon) -> None:
    """|`int_{var_name}` | `integer`          | replace `{{var_name}}` numeric value in script|"""
    script = "match where units > {{least}}:\n    tally(product)"
    assert shop.events("rows", script, int_least=2)["_"] == [{"g": "mug", "c": [1]}]


def test_events_dbl(shop: Daemon) -> None:
    """|`dbl_{var_name}` | `double`           | replace `{{var_name}}` numeric value in script|"""
    script = "match where price >= {{least}}:\n    tally(product)"
    assert shop.events("rows", script, dbl_least="8.75")["_"] == [{"g": "tent", "c": [1]}]


def test_events_bool(shop: Daemon) -> None:
    """|`bool_{var_name}` | `true/false`       | replace `{{var_name}}` boolean value in script|"""
    script = "match where gift == {{wanted}}:\n    tally(product)"
    assert shop.events("rows", script, bool_wanted="true")["_"] == [{"g": "tent", "c": [1]}]


# ---------------------------------------------------------------- POST /v1/query/{table}/counts


def test_counts_debug(shop: Daemon) -> None:
    """|`debug=` | `true/false` |  will return the assembly for the query rather than the results|"""
    answer = shop.request("POST", "/v1/query/rows/counts", "@segment never:\n    tally\n", debug="true")
    assert answer.json.keys() == {"debug"}
    assert "never" in shop.request("POST", "/v1/query/rows/events", PIVOT, segments="never").error["message"]


# ---------------------------------------------------------------- GET /v1/query/{table}/column/{column_name}


def test_column_segments(shop: Daemon) -> None:
    """| `segments=` | `segment, segment`| comma separted segment list. Segment must be created with a `counts` query.
    The segment `*` represents all people. |"""
    answer = shop.request("GET", "/v1/query/rows/column/action", segments="ann_only,*").json
    assert answer == {
        "_": [
            {
                "g": "action",
                "c": [1],
                "c2": [4],
                "_": [
                    {"g": "buy", "c": [1], "c2": [3]},
                    {"g": "view", "c": [1], "c2": [2]},
                    {"g": "login", "c": [0], "c2": [1]},
                ],
            }
        ]
    }


def test_column_order(shop: Daemon) -> None:
    """|`order=` | `asc/desc` |  default is descending order. |"""
    assert list(column(shop, "product")[1].items()) == [("mug", 2), ("rug", 2), ("tent", 1)]
    assert list(column(shop, "product", order="desc")[1]) == ["mug", "rug", "tent"]
    assert list(column(shop, "product", order="asc")[1]) == ["tent", "mug", "rug"]


def test_column_trim(shop: Daemon) -> None:
    """|`trim=` | `# limit`| clip long branches at a certain count. Root nodes will still include totals for the entire
    branch. |"""
    assert column(shop, "product", trim=1) == ([3], {"mug": 2})
    assert column(shop, "product", trim=0) == ([3], {})


def test_column_gt(shop: Daemon) -> None:
    """|`gt=` | `#` | return values greater than `#` |"""
    assert column(shop, "units", gt=2) == ([1], {4: 1})
    assert column(shop, "units", gt="1.5") == ([3], {2: 2, 4: 1})


def test_column_gte(shop: Daemon) -> None:
    """|`gte=` | `#` | return values greater than or equal to `#` |"""
    assert column(shop, "price", gte="8.5") == ([3], {8.5: 2, 249: 1})


def test_column_lt(shop: Daemon) -> None:
    """|`lt=` | `#` | return values less than `#` |"""
    assert column(shop, "units", lt=1) == ([1], {-3: 1})


def test_column_lte(shop: Daemon) -> None:
    """|`lte=` | `#` | return values less than or equal to `#` |"""
    assert column(shop, "units", lte=1) == ([1], {-3: 1, 1: 1})


def test_column_eq(shop: Daemon) -> None:
    """|`eq=` | `#` | return value equal to `#` |"""
    assert column(shop, "units", eq=2) == ([2], {2: 2})
    assert column(shop, "units", eq="2.0") == ([2], {2: 2})
    assert column(shop, "units", eq="2.5") == ([0], {})
    assert column(shop, "price", eq="8.5") == ([2], {8.5: 2})
    assert column(shop, "product", eq="mug") == ([2], {"mug": 2})
    assert column(shop, "gift", eq="true") == ([1], {True: 1})


def test_column_between_and(shop: Daemon) -> None:
    """|`between=` `and=` | `#` and `#` | return value greater than or equal to `#` and less than the second number
    provided by `and=`|"""
    assert column(shop, "price", between="7.25", and_="8.5") == ([1], {7.25: 1})
    for lonely in ({"between": "1"}, {"and": "1"}):
        error = shop.request("GET", "/v1/query/rows/column/price", **lonely).error
        assert error["class"] == "query" and "between" in error["message"] and "and" in error["message"]


def test_column_rx(shop: Daemon) -> None:
    """|`rx=` | `regular expression` | return values matching an`ECMAScript` style regex expression. |"""
    assert column(shop, "product", rx="^[mr]ug$") == ([3], {"mug": 2, "rug": 2})
    assert column(shop, "product", rx=r"(?!m)\wug") == ([2], {"rug": 2})
    assert column(shop, "action", rx="^(b+)+x") == ([0], {})


def test_column_sub(shop: Daemon) -> None:
    """|`sub=` | `text` | return value containing the search string in `sub` |"""
    assert column(shop, "product", sub="en") == ([1], {"tent": 1})
    assert column(shop, "product", sub=".") == ([0], {})


def test_column_bucket(shop: Daemon) -> None:
    """|`bucket=` | `#` |  cluster values by `#`,  all user counts will remain distinct for each group. Useful for
    creating histograms or condensing results (i.e. values to nearest dollar) |"""
    assert column(shop, "price", bucket=10) == ([3], {0: 3, -20: 1, 240: 1})
    assert column(shop, "units", bucket="2.5") == ([3], {0: 2, -5: 1, 2.5: 1})
    assert column(shop, "price", bucket=10, gt=8) == ([3], {0: 2, 240: 1})


# ---------------------------------------------------------------- GET /v1/query/{table}/person


def test_person_sid(shop: Daemon) -> None:
    """| `sid=` | `string` | If you are using textual IDs use the `sid=` parameter |"""
    answer = shop.request("GET", "/v1/query/rows/person", sid="7").json
    assert (answer["person"], [event["action"] for event in answer["events"]]) == ("7", ["login"])


def test_person_id(shop: Daemon) -> None:
    """|`id=` | `number` | If you are using numeric IDs use the `id=` parameter |"""
    answer = shop.request("GET", "/v1/query/rows/person", id=7).json
    assert (answer["person"], [event["action"] for event in answer["events"]]) == (7, ["buy"])
