"""The parser survives everything: arbitrary text, damaged scripts, nesting, long lines.

Only ParseError comes out of it, with a place in the text, and 64 KB never take more than a second.
"""

from __future__ import annotations

import pickle
import time
from pathlib import Path

import pytest
from golden_runner import GOLDEN, read_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from support.show_tree import show

from openset.errors import ParseError
from openset.pyql.syntax.format_script import format_script
from openset.pyql.syntax.limits import MAX_EXPRESSION_DEPTH
from openset.pyql.syntax.parse import parse_script, parse_sections
from openset_format.block import ColumnType

COLUMNS: dict[str, ColumnType] = {
    "product": "text", "kind": "text", "tags": "text", "price": "double", "units": "int", "gift": "bool",
}  # fmt: skip
SIZE = 65_536
SCRIPTS = [case.given for name in ("trees.txt", "errors.txt") for case in read_golden(GOLDEN / name)]
SCRIPTS += [case.given for case in read_golden(Path(GOLDEN) / "conformance" / "pyql.txt")]
WORDS = [
    "match", "where", "if", "elif", "else", "for", "in", "not", "is", "and", "or", "def", "return", "break", "continue",
    "exit", "del", "agg:", "sort:", "@segment", "tally", "SUM", "COUNT", "with", "all", "as", "var", "<<", "people",
    "price", "product", "x", "f", "n", "None", "True", "1", "2.5", "30 days", "'a'", '"', "'", "{{p}}", "{{", "}}",
    "(", ")", "[", "]", "{", "}", ",", ":", ";", ".", "=", "==", "+=", "-", "+", "*", "/", "//", "%", "<", ">=", "<>",
    "\\", "#", "\n", "\n    ", "\n        ", "\t", " ", "\r\n", "&&", "!", "é", "\u2028", "\x00", ".add", "iter_next()",
]  # fmt: skip


def assert_tree_or_error(text: str) -> str:
    """What both entry points make of a text; anything but a tree or a proper ParseError fails the test."""
    shown = []
    for parse in (parse_script, parse_sections):
        try:
            shown.append(show(parse(text, COLUMNS)))
        except ParseError as error:
            lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
            assert error.line is not None and error.column is not None
            assert 1 <= error.line <= len(lines)
            assert 1 <= error.column <= len(lines[error.line - 1]) + 1
            above, caret = error.detail.split("\n")
            assert caret.strip(" \t") == "^"
            if len(lines[error.line - 1]) <= 200:
                assert above == lines[error.line - 1]
                assert len(caret) == error.column
            assert error.message and "\n" not in error.message
            shown.append(error.message)
    return "\n".join(shown)


@given(st.text())
def test_arbitrary_text(text: str) -> None:
    assert_tree_or_error(text)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WORDS), max_size=60), st.sampled_from(["", " "]))
def test_arbitrary_words(words: list[str], glue: str) -> None:
    assert_tree_or_error(glue.join(words))


@settings(max_examples=300)
@given(st.data())
def test_damaged_scripts(data: st.DataObject) -> None:
    assert_tree_or_error(damaged(data))


def damaged(data: st.DataObject) -> str:
    """A script of the golden files with a few characters changed."""
    text = data.draw(st.sampled_from(SCRIPTS))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        stop = data.draw(st.integers(start, min(len(text), start + 12)))
        replacement = data.draw(st.sampled_from(["", *WORDS]) | st.text(max_size=3))
        text = text[:start] + replacement + text[stop:]
    return text


@settings(max_examples=200)
@given(st.data())
def test_formatting_is_stable_and_keeps_the_meaning(data: st.DataObject) -> None:
    text = damaged(data)
    try:
        formatted = format_script(text)
    except ParseError:
        return
    assert format_script(formatted) == formatted
    for parse in (parse_script, parse_sections):
        try:
            meaning = show(parse(text, COLUMNS))
        except ParseError:
            continue
        assert show(parse(formatted, COLUMNS)) == meaning


@given(st.sampled_from(SCRIPTS), st.sampled_from(["\r\n", "\r"]))
def test_line_ends_do_not_matter(script: str, line_end: str) -> None:
    assert assert_tree_or_error(script) == assert_tree_or_error(script.replace("\n", line_end))


LARGE = {
    "sums": "x = 1" + " + 1" * (SIZE // 4),
    "sums without blanks": "tally(" + "a+" * (SIZE // 2 - 10) + "a)",
    "conditions": "match where " + " or ".join(["units == 1"] * (SIZE // 14)) + ":\n    tally(1)",
    "list of numbers": "tally(units in [" + ",".join("7" for _ in range(SIZE // 2)) + "])",
    "list of texts": "tally(product in [" + ", ".join(f"'item {n}'" for n in range(SIZE // 16)) + "])",
    "open brackets": "(" * SIZE,
    "pairs of brackets": "()" * (SIZE // 2),
    "lists of lists": "x = [" + "[]," * (SIZE // 3) + "]",
    "brackets in brackets": "x = [" + "(1)," * (SIZE // 4) + "]",
    "deep brackets again and again": ("x = " + "[" * 32 + "]" * 32 + "\n") * (SIZE // 69),
    "subscripts": "x = [1]\ntally(x" + "[0]" * (SIZE // 3) + ")",
    "methods": "x = 'a'\ntally(x" + ".strip()" * (SIZE // 8) + ")",
    "nots": "tally(" + "not " * (SIZE // 4) + "1)",
    "minuses": "tally(" + "- " * (SIZE // 2) + "1)",
    "wheres": "tally(" + "SUM price where " * (SIZE // 16) + "1)",
    "names": "\n".join("abcdefgh" for _ in range(SIZE // 9)),
    "short lines": "x=1\n" * (SIZE // 4),
    "semicolons": "x=1;" * (SIZE // 4),
    "nested blocks": "\n".join(" " * depth + "if 1:" for depth in range(350)),
    "elifs": "if 1: pass\n" + "elif 1: pass\n" * (SIZE // 13) + "tally(1)",
    "a long name": "x" * SIZE,
    "a long number": "tally(" + "9" * SIZE + ")",
    "a long text": "tally('" + "a" * SIZE + "')",
    "escapes": "tally('" + "\\n" * (SIZE // 2) + "')",
    "quotes": "'" * SIZE,
    "a text without an end": "tally('" + "\\'" * (SIZE // 2),
    "braces": "{{" * (SIZE // 2),
    "parameters": "tally(" + ",".join(["{{a}}"] * (SIZE // 6)) + ")",
    "commas": "," * SIZE,
    "colons": "match" + ":" * SIZE,
    "blanks": " " * SIZE,
    "newlines": "\n" * SIZE,
    "comments": "#\n" * (SIZE // 2),
    "backslashes": "\\\n" * (SIZE // 2),
    "zeros": "\x00" * SIZE,
    "misspelt names": "\n".join(f"tally(prodcu{n})" for n in range(SIZE // 15)),
    "functions": "".join(f"def f{n}(): pass\n" for n in range(SIZE // 18)) + "tally(1)",
    "aggregators": "agg:\n" + "".join(f"    sum price as a{n}\n" for n in range(SIZE // 24)) + "tally(1)",
    "sections": "".join(f"@segment a{n}: tally\n" for n in range(SIZE // 22)),
    "algebra": "@segment a: " + "union(a," * (SIZE // 8),
    "dict of dicts": "x = {" + "'a': {}, " * (SIZE // 9) + "}",
    "dollars": "$" * SIZE,
    "operators": "=" * SIZE,
}


@pytest.mark.parametrize("name", LARGE)
def test_64_kilobytes_take_no_time_to_speak_of(name: str) -> None:
    for parse in (parse_script, parse_sections):
        start = time.process_time()
        try:
            parse(LARGE[name][:SIZE], COLUMNS)
        except ParseError as error:
            assert len(error.message) < 300
            assert len(error.detail) < 1_000
        assert time.process_time() - start < 5.0  # under 1 on a machine of its own


def test_the_deepest_expression_can_be_walked_and_sent() -> None:
    script = parse_script("x = " + "1 + " * (MAX_EXPRESSION_DEPTH - 1) + "1", COLUMNS)
    assert show(script).count("(+ ") == MAX_EXPRESSION_DEPTH - 1
    assert show(pickle.loads(pickle.dumps(script))) == show(script)
    with pytest.raises(ParseError, match="steps"):
        parse_script("x = " + "1 + " * MAX_EXPRESSION_DEPTH + "1", COLUMNS)


def test_long_conditions_stay_shallow() -> None:
    script = parse_script("match where " + " or ".join(["units == 1"] * 2_000) + ":\n    tally(1)", COLUMNS)
    assert show(script).count("(== ") == 2_000


def test_a_script_of_forty_lines_compiles_quickly() -> None:
    script = (GOLDEN / "forty_lines.pyql").read_text()
    parse_script(script, COLUMNS)
    start = time.process_time()
    parse_script(script, COLUMNS)
    assert time.process_time() - start < 0.5  # 0.02 on a machine of its own
