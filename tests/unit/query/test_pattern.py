"""Regular expressions: what ECMAScript means by them, which engine has them, that none hangs."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openset.errors import QueryError, RunTimeError
from openset.query.pattern import Pattern
from openset.query.pattern import _backtracking as backtracking
from openset.query.pattern_syntax import PatternError, translate


def found(source: str, text: str) -> bool:
    return Pattern.parse(source).found_in(text, None)


@pytest.mark.parametrize(
    "source, texts, others",
    [
        ("", ["", "a"], []),
        ("b", ["abc"], ["aBc"]),
        ("^b", ["bc"], ["ab", "a\nb"]),
        ("c$", ["abc"], ["c\n", "cb"]),
        ("a.c", ["abc", "a c", "aéc", "a😀c"], ["a\nc", "a\rc", "a\u2028c", "ac"]),
        ("[^]", ["\n", "a"], [""]),
        ("[]", [], ["", "a"]),
        (r"^\d+$", ["123"], ["١٢٣", "12a"]),
        (r"^\w+$", ["aZ_9"], ["é", "a-b"]),
        (r"^\s$", [" ", "\t", "\u00a0", "\ufeff", "\u2003"], ["a", "\u200b"]),
        (r"^\S$", ["a", "\u200b"], [" ", "\u00a0"]),
        (r"\bcat\b", ["a cat!"], ["concat"]),
        (r"\Bcat", ["concat"], ["cat"]),
        (r"^[\w.-]+@[a-z]+\.(com|org)$", ["a.b-c@site.org"], ["a b@site.org"]),
        (r"^[a\-z]$", ["a", "-", "z"], ["m"]),
        (r"^[a-c-e]$", ["b", "-", "e"], ["d"]),
        (r"^[\d-x]$", ["5", "-", "x"], ["a"]),
        (r"^[^\d\s]$", ["a"], ["5", " "]),
        (r"^[\D]$", ["a"], ["5"]),
        (r"[\b]", ["\b"], ["b"]),
        (r"^(ab){2,3}$", ["abab", "ababab"], ["ab"]),
        (r"^a{,2}$", ["a{,2}"], ["aa"]),
        (r"^a{2}?$", ["aa"], ["a"]),
        (r"^x{1500}$", ["x" * 1500], ["x" * 1499]),
        (r"^(a|b|)$", ["a", "b", ""], ["c"]),
        (r"^\u00e9\xe9\u{1F600}\ud83d\ude00$", ["éé😀😀"], ["é"]),
        (r"\t\n\v\f\r\0\cJ", ["\t\n\v\f\r\0\n"], []),
        (r"\/\.\*\{\}\[\]\^\$\|\?\+\(\)\-", ["/.*{}[]^$|?+()-"], []),
        (r"^]}$", ["]}"], []),
        ("^a#b c$", ["a#b c"], ["a"]),
        (r"^(?:a|b)c$", ["ac"], ["c"]),
        (r"(?i:ab)C", ["aBC"], ["abc"]),
        (r"^(?=.*\d)(?!x)\w+$", ["abc1"], ["abc", "xbc1"]),
        (r"(?<=\$)\d+(?!\d|€)", ["$12"], ["12", "$1€"]),
        (r"(?<!a)b", ["cb", "b"], ["ab"]),
        (r"^(.)(.)\2\1$", ["abba"], ["abab"]),
        (r"^(?<first>.)\k<first>$", ["aa"], ["ab"]),
        (r"^\k<later>(?<later>a)$", ["a"], ["aa"]),
        (r"^(a)?b\1$", ["b", "aba"], ["ab"]),
    ],
)
def test_meaning(source: str, texts: list[str], others: list[str]) -> None:
    assert [text for text in texts if not found(source, text)] == []
    assert [text for text in others if found(source, text)] == []


@pytest.mark.parametrize(
    "source, reason, offset",
    [
        ("a(b", "not closed", 1),
        ("ab)", "without its (", 2),
        ("a[b", "not closed", 1),
        ("a**", "nothing to repeat", 2),
        ("+a", "nothing to repeat", 0),
        ("a|*", "nothing to repeat", 2),
        ("^*", "nothing to repeat", 1),
        (r"\b+", "nothing to repeat", 2),
        ("(?=a)?", "nothing to repeat", 5),
        ("{2}", "nothing to repeat", 0),
        ("a{3,2}", "out of order", 1),
        ("[z-a]", "out of order", 2),
        ("a\\", "nothing follows", 1),
        (r"a\q", "no meaning", 1),
        (r"\x1", "hexadecimal", 0),
        (r"\u{110000}", "no such character", 0),
        (r"\ud83d", "surrogate", 0),
        (r"(a)\2", "no group 2", 3),
        (r"\k<a>", "name of a group", 0),
        ("(?<a>x)(?<a>y)", "two groups", 7),
        ("(?P<a>x)", "not known", 0),
        ("(?#x)", "not known", 0),
        ("(" * 200, "nested", 101),
        ("((a{100}){100}){2}", "written out", 1),
        ("x(?=a)(b{999}){999}", "written out", 6),
        ("a{999999999}", "written out", 0),
        ("(a|b{20}){500}", "written out", 0),
    ],
)
def test_what_is_no_pattern(source: str, reason: str, offset: int) -> None:
    with pytest.raises(QueryError) as raised:
        Pattern.parse(source)
    assert reason in raised.value.message
    shown, caret = raised.value.detail.splitlines()
    assert (shown, caret) == (source, " " * offset + "^")


def test_very_long_patterns_are_refused() -> None:
    with pytest.raises(QueryError, match="10,000"):
        Pattern.parse("a" * 10_001)


@pytest.mark.parametrize("source", ["(a+)+$", "(a|aa)+$", "(.*a){12}$", "(a*)*b", "(x+x+)+y", "^(([a-z])+.)+[A-Z]$"])
def test_patterns_without_references_are_linear(source: str) -> None:
    assert not translate(source).backtracks
    started = time.monotonic()
    assert not found(source, "a" * 50_000 + "!")
    assert time.monotonic() - started < 5


def test_patterns_with_references_have_a_time_limit() -> None:
    started = time.process_time()  # which is what the engine counts, too
    with pytest.raises(RunTimeError, match="rx= needs more than its time budget"):
        found(r"^(?=a)((a|aa)+)+\1$", "a" * 60 + "!")
    assert time.process_time() - started < 5


def test_the_deadline_of_the_query_ends_the_search() -> None:
    with pytest.raises(RunTimeError, match="timeout="):
        Pattern.parse("a").found_in("b", time.monotonic() - 1)


# What Python's own engine means the same by; it is the yardstick for random patterns.
_SIMPLE = st.recursive(
    st.sampled_from(["a", "b", "-", r"\d", r"\.", "[ab]", "[^a]", "[a-]", "(a|b)", "(?:)", "0"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.builds("(?:{}|{})".format, inner, inner),
        st.builds("(?:{}){}".format, inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "*?"])),
        inner.map(lambda one: f"^{one}"),
        inner.map(lambda one: f"{one}$"),
        inner.map(lambda one: f"(?={one})"),
    ),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(_SIMPLE, st.text("ab-0.", max_size=8))
def test_random_patterns_equal_those_of_python(source: str, text: str) -> None:
    assert found(source, text) == (re.search(source.replace("$", r"\Z"), text, re.ASCII) is not None)


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=20) | st.text(r"ab\(){}[]?*+|^$.<>=!:,-019dwsbkux", max_size=15))
@example("\x00[")
@example("\U0010ffff-")
def test_any_text_is_a_pattern_or_an_error(source: str) -> None:
    """An error says where; of a pattern both engines say the same."""
    text = "aab-01 é\n"
    try:
        pattern = Pattern.parse(source)
    except QueryError as error:
        assert error.message.startswith("rx= is no regular expression: ")
        shown, caret = error.detail[: len(source)], error.detail[len(source) :]
        assert shown == source and re.fullmatch(r"\n *\^", caret) and len(caret) - 2 <= len(source)
        return
    assert pattern.found_in(text, None) is backtracking(translate(source))(text)


def test_errors_of_the_syntax_carry_their_place() -> None:
    with pytest.raises(PatternError) as raised:
        translate("abc[")
    assert (raised.value.offset, raised.value.reason) == (3, "the set is not closed")
