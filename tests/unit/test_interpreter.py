"""The scalar interpreter on small scripts: control, cursor, scopes, distinctness, errors, budgets."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support_blocks import block_of

from openset.errors import RunTimeError
from openset.pyql.interpreter.interpreter import evaluate_people, evaluate_person, interpret
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_script
from openset_format.block import Block, ColumnType

COLUMNS: dict[str, ColumnType] = {"product": "text", "price": "double", "units": "int", "gift": "bool"}
DAY_MS = 86_400_000
START_MS = 1_709_510_400_000  # 2024-03-04T00:00Z, a Monday


def event(person: str | int, day: float, action: str, **attributes: Any) -> dict[str, Any]:
    return {"person": person, "stamp": START_MS + round(day * DAY_MS), "action": action, "attr": attributes}


# ann: view | cart (two rows) | purchase (three rows) | login; bob: one purchase.
EVENTS = [
    event("ann", 0, "view", product="tent"),
    event("ann", 1, "cart", product=["tent", "mug"]),
    event("ann", 2, "purchase", units=7, _=[{"product": "tent", "price": 100.0}, {"product": "tent", "price": 90.0},
                                            {"product": "mug", "price": 5.0}]),
    event("ann", 2.01, "login"),
    event("bob", 1, "purchase", product="rug", price=20.0, units=1, gift=True),
]  # fmt: skip
SETTINGS = RunSettings(now_ms=START_MS + 10 * DAY_MS)


def run(text: str, events: list[dict[str, Any]] = EVENTS, settings: RunSettings = SETTINGS) -> Partial:
    return run_on(text, block_of(events, COLUMNS), settings)


def run_on(text: str, block: Block, settings: RunSettings = SETTINGS) -> Partial:
    script = parse_script(text, COLUMNS)
    partial = Partial(script.aggregators)
    interpret(script, block, settings, partial)
    return partial


def leaves(text: str, events: list[dict[str, Any]] = EVENTS) -> dict[tuple[Any, ...], list[Any]]:
    """Every path of keys that ends in a leaf, with its aggregates."""
    partial = run(text, events)
    below = partial.children()
    found = {}
    for node in range(1, len(partial)):
        if not below[node]:
            path: list[Any] = []
            above = node
            while above:
                path.insert(0, partial.keys[above])
                above = partial.parents[above]
            found[tuple(path)] = partial.values(node)
    return found


def ann(text: str) -> list[tuple[Any, ...]]:
    """The keys that a script tallies for ann, in the order the nodes were made."""
    return list(leaves(text, EVENTS[:4]))


# ---------------------------------------------------------------- match and the cursor


def test_match_visits_rows_from_the_cursor_and_leaves_it() -> None:
    assert ann("match:\n    tally(iter_get())\ntally('at', iter_get())") == [(n,) for n in range(7)] + [("at", 0)]
    assert ann("iter_next()\nmatch:\n    tally(iter_get())") == [(n,) for n in range(1, 7)]


def test_match_limit_counts_events_from_mid_event() -> None:
    assert ann("iter_set(2)\nmatch 2:\n    tally(iter_get())") == [(2,), (3,), (4,), (5,)]
    assert ann("match 1 where product is 'mug':\n    tally(iter_get())") == [(2,)]
    assert ann("match 1 where product is 'tent' and action is 'purchase':\n    tally(iter_get())") == [(3,), (4,)]


def test_where_is_tested_after_the_body_before() -> None:
    assert ann("n = 0\nmatch where n < 2:\n    n += 1\n    tally(iter_get())") == [(0,), (1,)]


def test_where_after_the_limit_is_not_tested() -> None:
    script = """
def noted():
    n += 1
    return True
n = 0
match 1 where noted():
    pass
tally(n)
"""
    assert ann(script) == [(1,)]


def test_moving_inside_a_block_does_not_move_the_match() -> None:
    assert ann("match where action is 'view':\n    iter_move_last()\n    tally(action)\ntally(action, 'after')") == [
        ("login",),
        ("view", "after"),
    ]
    assert ann("match 2:\n    at = iter_get()\n    iter_move_last()\n    tally(at, iter_get())") == [
        (0, 6),
        (1, 6),
        (2, 6),
    ]


def test_moves() -> None:
    script = "iter_move_last()\ntally(iter_get())\niter_prev()\ntally(iter_get())\niter_prev()\ntally(iter_get())"
    assert ann(script) == [(6,), (3,), (1,)]
    assert ann("iter_set(5)\niter_reset_event()\ntally(iter_get())\niter_move_first()\ntally(iter_get())") == [
        (3,),
        (0,),
    ]


@pytest.mark.parametrize("move", ["iter_set(7)", "iter_set(-1)", "iter_prev()"])
def test_running_out_at_the_front_or_by_position(move: str) -> None:
    assert ann(f"tally(1)\n{move}\ntally(2)") == [(1,)]
    assert ann(f"match:\n    tally(iter_get())\n    {move}\n    tally('no')\ntally('on')")[:1] == [(0,)]


def test_running_out_leaves_the_innermost_match_through_functions_and_for() -> None:
    script = """
def go():
    for x in [1, 2, 3]:
        iter_move_last()
        iter_next()
        tally('never')
    return 1
match 2:
    match:
        y = go()
        tally('never')
    tally('outer', iter_get())
tally('end', iter_get())
"""
    assert ann(script) == [("outer", 0), ("outer", 1), ("outer", 2), ("end", 0)]


def test_enclosing_matches_are_dynamic_through_calls() -> None:
    script = """
def show():
    tally('at', action, prev_match == event_time, to_days(first_match - first_event))
tally('outside', prev_match is None, first_match is None)
match where action is 'cart':
    show()
    iter_next()
    match 1 where prev_match < event_time:
        show()
"""
    assert ann(script) == [
        ("outside", True, True),
        ("at", "cart", True, 1),
        ("at", "purchase", True, 1),
    ]


def test_prev_match_in_where_is_the_match_around() -> None:
    assert ann("match where prev_match is None and first_match is None:\n    tally(iter_get())") == [
        (n,) for n in range(7)
    ]
    script = (
        "match where action is 'view':\n    match where event_time - prev_match > 1 day:\n        tally(iter_get())"
    )
    assert ann(script) == [(3,), (4,), (5,), (6,)]


def test_breaks_and_continue_in_for_and_match() -> None:
    script = """
for x in [1, 2, 3]:
    match:
        for y in ['a', 'b', 'c']:
            if x == 1 and y == 'b':
                break
            if x == 2 and y == 'b':
                break 2
            if x == 3:
                break all
            tally(x, y, iter_get())
tally('end', x)
"""
    assert ann(script) == [(1, "a", n) for n in range(7)] + [(2, "a", 0), ("end", 3)]
    assert ann("for x in [1, 2, 3]:\n    if x == 2:\n        continue\n    tally(x)") == [(1,), (3,)]


def test_break_top_goes_on_in_the_outermost() -> None:
    script = (
        "for x in [1, 2]:\n    for y in [1, 2]:\n        for z in [1, 2]:\n            break top\n    tally(x, y, z)"
    )
    assert ann(script) == [(1, 1, 1), (2, 1, 1)]


def test_exit_in_a_function_and_return_at_top_level() -> None:
    assert ann("def f():\n    exit\nmatch:\n    tally(1)\n    f()\ntally(2)") == [(1,)]
    assert ann("match:\n    tally(1)\n    return\ntally(2)") == [(1,)]


def test_return_in_a_match_of_a_function_restores_the_cursor() -> None:
    script = """
def f():
    match where action is 'purchase':
        return iter_get()
tally(f(), iter_get(), prev_match is None)
"""
    assert ann(script) == [(3, 0, True)]


# ---------------------------------------------------------------- variables, functions, containers


def test_variables_are_global_and_parameters_are_not_restored() -> None:
    script = """
def f(a, b):
    a += 1
    c = a + b
    return
tally(a is None, c is None)
x = f(1, 2)
tally(a, b, c, x is None)
"""
    assert ann(script) == [(True, True), (2, 2, 4, True)]


def test_every_person_starts_anew() -> None:
    assert leaves("n += 1\nif n is None:\n    n = 1\ntally(n)") == {(1,): [2]}


def test_recursion_has_a_limit() -> None:
    script = "def f(n):\n    if n == 0:\n        return 0\n    return f(n - 1) + 1\ntally(f({}))"
    assert ann(script.format(63)) == [(63,)]
    with pytest.raises(RunTimeError, match="64 calls") as raised:
        ann(script.format(64))
    assert (raised.value.line, raised.value.column) == (4, 12)


def test_assignment_and_calls_copy() -> None:
    script = """
def grow(l):
    l.append(9)
    return l
a = [1, [2]]
b = a
b[1].append(3)
c = grow(a)
l.append(10)
d = {'a': a}
a.append(4)
tally(str(a), str(b), str(c), str(l), str(d))
"""
    assert ann(script) == [("[1, [2], 4]", "[1, [2, 3]]", "[1, [2], 9]", "[1, [2], 9, 10]", "{'a': [1, [2]]}")]


def test_container_statements() -> None:
    script = """
d = {'n': {'l': [1, 2, 3]}}
d['n']['l'][-1] += 5
d['n']['l'] += 4
d['n']['l'] -= [1]
d['s'] = set()
d['s'] += 'x'
d['missing'] += 1
del d['n']['none']
del d['n']['l'][0]
t = []
t += [1, 2]
t.append([3])
t += t
t -= 1
tally(str(d), str(t))
"""
    assert ann(script) == [("{'n': {'l': [8, 4]}, 's': {'x'}, 'missing': None}", "[2, [3], 2, [3]]")]


def test_loops_go_over_a_copy() -> None:
    assert ann("l = [1, 2]\nfor x in l:\n    l.append(x)\n    tally('x', x)\ntally('len', len(l))") == [
        ("x", 1),
        ("x", 2),
        ("len", 4),
    ]
    assert ann("d = {'a': 1}\nfor k, v in d:\n    d[k] = v + 1\n    d['b'] = 0\ntally(str(d))") == [
        ("{'a': 2, 'b': 0}",)
    ]
    assert ann("for x in None:\n    tally(x)\ntally('none')") == [("none",)]
    assert ann("for x in set('b', 'a', 'b'):\n    tally(x)") == [("b",), ("a",)]


def test_and_or_give_an_operand_and_stop_early() -> None:
    script = (
        "def f():\n    n += 1\n    return 'f'\nn = 0\nx = None or 0 or 'y' or f()\nz = 1 and '' and f()\ntally(x, z, n)"
    )
    assert ann(script) == [("y", "", 0)]


def test_missing_elements_are_none() -> None:
    script = (
        "l = [1]\nd = {'a': 1}\ntally(l[5] is None, l[-2] is None, d['b'] is None, d['b']['c'] is None, product[9])"
    )
    assert ann(script) == [(True,) * 4]
    assert ann("l = [1, 2, 3]\ntally(str(l[1:]), str(l[:-1]), 'abc'[-2:], str(l[5:9]))") == [
        ("[2, 3]", "[1, 2]", "bc", "[]")
    ]


# ---------------------------------------------------------------- tally and aggregators


def test_distinct_by_event_and_key() -> None:
    script = """
agg:
    people
    count product
    count product as rows all
    sum price
    sum price as revenue with product
    sum units as units_once
    avg price as mean with product
    count product as kinds with units
match where action is 'purchase':
    tally('all')
    tally('all')
"""
    assert leaves(script) == {("all",): [2, 3, 8, 215.0, 125.0, 8, 125 / 3, 2]}


def test_the_first_row_with_a_value_wins() -> None:
    events = [
        event("a", 0, "buy", _=[{"product": "x"}, {"product": "x", "price": 3.0}, {"price": 9.0}, {"price": 8.0}])
    ]
    script = "agg:\n    sum price with product\n    count price as n with product\nmatch:\n    tally(1)"
    assert leaves(script, events) == {(1,): [12.0, 2]}


def test_none_key_ends_the_path() -> None:
    assert leaves("match:\n    tally('all', gift, product)") == {("all", True, "rug"): [1]}
    assert run("match:\n    tally('all', gift, product)").values(1) == [2]
    assert leaves("tally(None, 1)") == {}


def test_count_person_and_session() -> None:
    script = "agg:\n    people\n    count session\n    count session as s all\nmatch:\n    tally('all')"
    assert leaves(script) == {("all",): [2, 4, 8]}


def test_value_and_var_keep_the_latest() -> None:
    script = """
agg:
    value product
    var number << units
    var word << action
    min price
    max product as last
match:
    tally('all')
"""
    assert leaves(script) == {("all",): ["mug", 22, "login", 5.0, "tent"]}


def test_equal_stamps_are_settled_by_person_id() -> None:
    events = [event(7, 0, "a", product="seven"), event("b", 0, "a", product="b"), event("a", 0, "a", product="a")]
    assert leaves("agg:\n    value product\nmatch:\n    tally(1)", events) == {(1,): ["b"]}


def test_kinds_of_keys() -> None:
    partial = run("tally(True)\ntally(1.0)\ntally(1)\ntally('1')")
    assert [(type(key), key) for key in partial.keys[1:]] == [(bool, True), (int, 1), (str, "1")]
    assert [partial.values(node) for node in (1, 2, 3)] == [[2], [2], [2]]


def test_partial_counts_what_was_run() -> None:
    partial = run("tally(1)")
    assert (partial.people, partial.rows, partial.events) == (2, 8, 5)


# ---------------------------------------------------------------- inline aggregations


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("SUM price", 195.0),
        ("SUM price with product", 105.0),
        ("SUM units", 7),
        ("SUM units all", 21),
        ("COUNT product", 5),
        ("COUNT product all", 6),
        ("COUNT person", 1),
        ("COUNT session", 3),
        ("DISTINCT product", 2),
        ("MIN price", 5.0),
        ("MAX product", "tent"),
        ("AVG price with product", 52.5),
        ("COUNT product where action is 'cart'", 2),
        ("COUNT product where action is wanted", 1),
        ("COUNT gift", 0),
    ],
)
def test_inline_aggregations(expression: str, expected: Any) -> None:
    assert ann(f"wanted = 'view'\niter_move_last()\ntally({expression}, iter_get())") == [(expected, 6)]


def test_inline_without_values() -> None:
    assert ann("tally((SUM gift) is None, (MIN gift) is None, (AVG gift) is None)") == [(True, True, True)]


def test_inline_follows_variables() -> None:
    script = "for p in ['tent', 'mug', 'rug']:\n    tally(p, COUNT product where product is p)"
    assert ann(script) == [("tent", 3), ("mug", 2), ("rug", 0)]


# ---------------------------------------------------------------- time, parameters, log, outcomes


def test_windows() -> None:
    assert ann("match where iter_within(1 day, first_event):\n    tally(iter_get())") == [(0,), (1,), (2,)]
    assert ann("match where iter_between('2024-03-05', '2024-03-06'):\n    tally(iter_get())") == [(1,), (2,)]
    assert ann("match where iter_between(1709596800, 1709683200000):\n    tally(iter_get())") == [(1,), (2,)]
    assert ann("match where iter_between('2024-03-05t00:00:00z', '20240306'):\n    tally(iter_get())") == [(1,), (2,)]
    assert ann("tally(iter_within(None, now), iter_within(1, None), iter_between(None, '2030-01-01'))") == [
        (False, False, False)
    ]
    with pytest.raises(RunTimeError, match="ISO 8601"):
        ann("tally(iter_between('yesterday', '2030-01-01'))")


def test_parameters_are_values() -> None:
    settings = RunSettings(now_ms=0, parameters={"p": "rug", "n": 1})
    partial = run("match {{n}} where product is {{p}}:\n    tally({{p}})", settings=settings)
    assert partial.keys[1:] == ["rug"]
    with pytest.raises(RunTimeError, match="whole number"):
        run("match {{n}}:\n    tally(1)", settings=RunSettings(now_ms=0, parameters={"n": 0}))


def test_log_lines() -> None:
    assert run("log('n', event_count, None, [1, 'a'])").log == ["n 4 None [1, 'a']", "n 1 None [1, 'a']"]


def test_outcomes_for_segments_and_histograms() -> None:
    block = block_of(EVENTS, COLUMNS)
    script = parse_script("if event_count > 1:\n    tally\nelse:\n    return SUM price", COLUMNS, segment=True)
    outcomes = [
        (person, outcome.tallied, outcome.returned) for person, outcome in evaluate_people(script, block, SETTINGS)
    ]
    assert outcomes == [(0, True, None), (1, False, 20.0)]
    assert evaluate_person(script, block, SETTINGS, 1).returned == 20.0


def test_only_the_chosen_people_run() -> None:
    script = parse_script("tally(person)", COLUMNS)
    partial = Partial(script.aggregators)
    interpret(script, block_of(EVENTS, COLUMNS), SETTINGS, partial, [1])
    assert partial.keys[1:] == ["bob"]


def test_columns_that_the_block_lacks_are_none() -> None:
    block = block_of(EVENTS, {})
    assert run_on("tally(product is None, price is None)", block).keys[1:] == [True, True]


# ---------------------------------------------------------------- errors and budgets


@pytest.mark.parametrize(
    ("script", "line", "column", "message"),
    [
        ("x = 1\ntally(x, 'a' + x)", 2, 10, "text + a number"),
        ("x = 'a'\nif -x:\n    pass", 2, 4, "needs a number"),
        ("l = [1]\nl[3] = 2", 2, 1, "its length is 1"),
        ("x = None\nx.append(1)", 2, 1, "None"),
        ("tally([1])", 1, 1, "a list"),
        ("for x in 5:\n    pass", 1, 1, "a number"),
        ("iter_set('a')", 1, 1, "text"),
        ("agg:\n    var x << [1]\ntally(1)", 3, 1, "a list"),
        ("x = round('a')", 1, 5, "round()"),
    ],
)
def test_errors_have_a_place(script: str, line: int, column: int, message: str) -> None:
    with pytest.raises(RunTimeError) as raised:
        ann(script)
    assert message in raised.value.message
    assert raised.value.line == line
    assert raised.value.column is not None
    assert raised.value.column >= column


def test_errors_count_only_for_people_who_reach_them() -> None:
    assert ann("if person is 'bob':\n    x = 'a' * 2\ntally('fine')") == [("fine",)]


def test_the_deadline_ends_a_runaway_script() -> None:
    many = [event("a", day, "x") for day in range(300)]
    settings = RunSettings(now_ms=0, deadline=time.monotonic() + 0.2, timeout_ms=200)
    started = time.monotonic()
    with pytest.raises(RunTimeError, match="time budget of 200 ms"):
        run("match:\n    match:\n        match:\n            match:\n                pass", many, settings)
    assert time.monotonic() - started < 5


def test_the_row_budget_ends_a_runaway_script() -> None:
    many = [event("a", day, "x") for day in range(300)]
    with pytest.raises(RunTimeError, match="budget of 10000 rows"):
        run("match:\n    match:\n        pass", many, RunSettings(now_ms=0, max_expanded_rows=10_000))


@pytest.mark.parametrize(
    "body",
    ["l += [l]", "l += l", "l.append(l)", "d[iter_get()] = l\n    l += d", "l += product + 'x'", "l = [l, l]"],
)
def test_the_memory_budget_ends_growing_containers(body: str) -> None:
    many = [event("a", day, "x", product="p" * 1000) for day in range(1000)]
    script = f"l = [1]\nd = {{}}\nmatch:\n    {body}"
    settings = RunSettings(now_ms=0, max_memory_bytes=500_000)
    with pytest.raises(RunTimeError, match=r"memory budget of 500000 bytes|nested deeper"):
        run(script, many, settings)


def test_containers_that_are_dropped_free_their_memory() -> None:
    many = [event("a", day, "x") for day in range(2000)]
    script = "match:\n    l = [1, 2, 3]\n    l.append(4)\n    s = l + l\ntally(len(s))"
    assert run(script, many, RunSettings(now_ms=0, max_memory_bytes=20_000)).keys[1:] == [8]


def test_a_result_tree_beyond_the_memory_budget_is_refused() -> None:
    many = [event("a", day, "x") for day in range(2000)]
    with pytest.raises(RunTimeError, match="memory budget"):
        run("match:\n    tally(stamp)", many, RunSettings(now_ms=0, max_memory_bytes=100_000))


def test_deep_recursion_through_long_expressions_runs() -> None:
    steps = " + ".join(["1"] * 150)
    assert ann(f"def f(n):\n    if n == 0:\n        return 0\n    return f(n - 1) + {steps}\ntally(f(63))") == [(9450,)]
