"""`--param k=v` to typed query parameters."""

from __future__ import annotations

import pytest

from openset.client.parameters import query_parameters
from openset.errors import QueryError


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("n=5", {"int_n": "5"}),
        ("n=-5", {"int_n": "-5"}),
        ("n=2.5", {"dbl_n": "2.5"}),
        ("n=1e3", {"dbl_n": "1e3"}),
        ("n=.5", {"dbl_n": ".5"}),
        ("on=true", {"bool_on": "true"}),
        ("on=False", {"bool_on": "false"}),
        ("name=mug", {"str_name": "mug"}),
        ("name=", {"str_name": ""}),
        ("name=a=b", {"str_name": "a=b"}),
        ("name=nan", {"str_name": "nan"}),
        ("name=1_000", {"str_name": "1_000"}),
        ("name=12 ", {"str_name": "12 "}),
    ],
)
def test_the_kind_is_read_off_the_value(assignment: str, expected: dict[str, str]) -> None:
    assert query_parameters([assignment], []) == expected


def test_text_parameters_are_text_whatever_they_read_as() -> None:
    assert query_parameters(["a=1"], ["b=1", "c=true"]) == {"int_a": "1", "str_b": "1", "str_c": "true"}


@pytest.mark.parametrize(
    ("guessed", "text"), [(["mug"], []), (["=mug"], []), (["my-name=1"], []), (["a=1", "a=2"], []), (["a=1"], ["a=x"])]
)
def test_what_is_no_assignment_or_twice_is_an_error(guessed: list[str], text: list[str]) -> None:
    with pytest.raises(QueryError):
        query_parameters(guessed, text)
