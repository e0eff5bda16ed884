"""Parameters of a request: typed, once, none unknown."""

from __future__ import annotations

import pytest

from openset.errors import ConfigError, QueryError
from openset.query.parameters import RequestParameters


def test_typed_script_values_keep_their_kind() -> None:
    parameters = RequestParameters.parse("str_a=7&int_b=-3&dbl_c=2e3&bool_d=true&str_e=&str_f=%E2%82%AC%20%26")
    values = parameters.script_values({"a", "b", "c", "d", "e", "f"})
    parameters.finish()
    assert values == {"a": "7", "b": -3, "c": 2000.0, "d": True, "e": "", "f": "€ &"}
    assert [type(value) for value in values.values()] == [str, int, float, bool, str, str]


@pytest.mark.parametrize(
    "query, says",
    [
        ("int_n=2.5", "int_n=2.5 is not an integer"),
        ("int_n=", "not an integer"),
        ("int_n=9223372036854775808", "64 bits"),
        ("int_n=٣", "not an integer"),
        ("int_n=1_000", "not an integer"),
        ("dbl_n=nan", "not a number"),
        ("dbl_n=1e999", "not a number"),
        ("bool_n=yes", "true or false"),
        ("str_n=a&int_n=1", "two parameters"),
        ("str_n=a&str_n=b", "more than once"),
        ("str_m=a&str_n=b", "no {{m}}"),
        ("", "{{n}} has no value"),
        ("str_=a&str_n=b", "no name"),
    ],
)
def test_wrong_script_values_are_refused(query: str, says: str) -> None:
    with pytest.raises(QueryError) as raised:
        RequestParameters.parse(query).script_values({"n"})
    assert says in raised.value.message


def test_an_unknown_parameter_suggests_the_nearest() -> None:
    parameters = RequestParameters.parse("tirm=3")
    assert parameters.integer("trim", 0, 10) is None
    with pytest.raises(QueryError, match="unknown parameter 'tirm'; did you mean 'trim'"):
        parameters.finish()


def test_parameters_read_by_name_are_not_unknown() -> None:
    parameters = RequestParameters.parse("trim=3&debug=true&order=asc")
    assert parameters.integer("trim", 0, 10) == 3
    assert parameters.flag("debug") is True
    assert parameters.choice("order", ("asc", "desc")) == "asc"
    parameters.finish()


@pytest.mark.parametrize("query", ["trim=11", "trim=-1", "trim=x", "trim="])
def test_integers_out_of_bounds_are_refused(query: str) -> None:
    with pytest.raises(ConfigError):
        RequestParameters.parse(query, ConfigError).integer("trim", 0, 10)


def test_a_wrong_choice_names_the_choices() -> None:
    with pytest.raises(QueryError, match="order=ascending must be asc or desc"):
        RequestParameters.parse("order=ascending").choice("order", ("asc", "desc"))


def test_what_is_not_utf_8_is_refused() -> None:
    with pytest.raises(QueryError, match="not UTF-8"):
        RequestParameters.parse("str_a=%ff")
