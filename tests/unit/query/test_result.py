"""The JSON result tree: order of siblings, trimming, names of sort=."""

from __future__ import annotations

import msgspec
import pytest

from openset.errors import QueryError, RunTimeError
from openset.pyql import tree
from openset.pyql.partial import ROOT, Partial
from openset.pyql.states import CountState, ExtremeState, Value
from openset.query.result import Order, encode, result_tree, sort_index

AT = tree.Position(1, 1)


def aggregator(kind: tree.AggregatorKind, column: str, alias: str) -> tree.Aggregator:
    read = tree.ColumnRead(column, "int", at=AT)
    return tree.Aggregator(kind=kind, alias=alias, column=read, expression=None, key=None, every=False, at=AT)


AGGREGATORS = (aggregator("count", "person", "people"), aggregator("max", "price", "dearest"))


def partial_of(*entries: tuple[tuple[Value, ...], int, Value | None]) -> Partial:
    """A Partial with a count and a maximum at the node of each path."""
    partial = Partial(AGGREGATORS)
    for path, count, greatest in entries:
        node = ROOT
        for key in path:
            node = partial.child(node, key)
        counts, extremes = partial.states
        assert isinstance(counts, CountState) and isinstance(extremes, ExtremeState)
        for _ in range(count):
            counts.add_value(node, 1)
        extremes.add_value(node, greatest)
    return partial


def keys(partial: Partial, order: Order) -> list[object]:
    return [entry["g"] for entry in result_tree(partial, order)["_"]]


MIXED = partial_of((("b",), 2, 5), (("a",), 2, None), ((3,), 1, 9), ((True,), 2, 7), ((2.5,), 2, 5))


def test_the_first_aggregator_descending_and_ties_by_key() -> None:
    assert keys(MIXED, Order()) == [True, 2.5, "a", "b", 3]


def test_ascending_keeps_ties_by_key_ascending() -> None:
    assert keys(MIXED, Order(ascending=True)) == [3, True, 2.5, "a", "b"]


def test_none_sorts_last_in_both_directions() -> None:
    assert keys(MIXED, Order(1)) == [3, True, 2.5, "b", "a"]
    assert keys(MIXED, Order(1, ascending=True)) == [2.5, "b", True, 3, "a"]


def test_by_key_bool_then_number_then_text() -> None:
    assert keys(MIXED, Order(None, ascending=True)) == [True, 2.5, 3, "a", "b"]
    assert keys(MIXED, Order(None)) == ["b", "a", 3, 2.5, True]


def test_trim_keeps_so_many_children_of_every_node() -> None:
    partial = partial_of((("x",), 3, 1), (("x", "p"), 1, 1), (("x", "q"), 2, 1), (("y",), 1, 1), (("z",), 2, 1))
    assert result_tree(partial, Order(trim=1)) == {"_": [{"g": "x", "c": [3, 1], "_": [{"g": "q", "c": [2, 1]}]}]}
    assert result_tree(partial, Order(trim=0)) == {"_": []}


def test_an_empty_result_is_an_empty_list() -> None:
    assert encode(result_tree(Partial(AGGREGATORS), Order())) == b'{"_":[]}'


def test_sort_names_an_alias_then_a_column_then_the_key() -> None:
    assert sort_index(AGGREGATORS, None) == 0
    assert sort_index(AGGREGATORS, "dearest") == 1
    assert sort_index(AGGREGATORS, "price") == 1
    assert sort_index(AGGREGATORS, "g") is None
    assert sort_index(AGGREGATORS, "key") is None
    assert sort_index((aggregator("count", "person", "people"), aggregator("sum", "price", "key")), "key") == 1


def test_an_unknown_sort_suggests_the_nearest() -> None:
    with pytest.raises(QueryError, match="did you mean 'dearest'"):
        sort_index(AGGREGATORS, "deerest")


def test_deep_trees_are_written_or_refused_never_a_crash() -> None:
    path = tuple(range(200))
    answer = encode(result_tree(partial_of((path, 1, 1)), Order()))
    assert msgspec.json.decode(answer)["_"][0]["g"] == 0
    with pytest.raises(RunTimeError, match="nested too deeply"):
        encode(result_tree(partial_of((tuple(range(100_000)), 1, 1)), Order()))
