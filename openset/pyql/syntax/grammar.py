"""The grammar of one line, in pyparsing.

It is flat: what stands in brackets was cut out by the layout, and an expression is a sequence of operands and operators
whose precedence `fold.py` settles. Each token is a `re.Match`, whose `lastgroup` names its kind, so no parse action
runs. The grammar is built once, on import, and never recurses.
"""

from __future__ import annotations

import re
from typing import TypeAlias

import pyparsing as pp

Tokens: TypeAlias = list[re.Match[str]]

_RESERVED = (
    "and|or|not|in|is|if|elif|else|for|match|where|def|return|break|continue|exit|del|pass|as|with|all|"
    "SUM|COUNT|MIN|MAX|AVG|DISTINCT"
)
NAME = rf"(?!(?:{_RESERVED})\b)[^\W\d]\w*"
_DIGITS = r"[0-9]+(?:_[0-9]+)*"
_NUMBER = rf"(?:{_DIGITS}(?:\.(?:{_DIGITS})?)?|\.{_DIGITS})(?:[eE][+-]?{_DIGITS})?(?!\w)"
_UNIT = r"(?:second|minute|hour|day|week)s?"
_STRING = r"'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\""


def _token(pattern: str) -> pp.ParserElement:
    return pp.Regex(re.compile(pattern), as_match=True)


def _word(word: str) -> pp.ParserElement:
    return _token(rf"(?P<{word}>{word}\b)")


def _many(element: pp.ParserElement) -> pp.ParserElement:
    return pp.ZeroOrMore(element)


_ATOM = (
    rf"(?:(?P<name>{NAME})|(?P<string>{_STRING})|(?P<number>{_NUMBER})(?:[ \t]+(?P<unit>{_UNIT}\b))?"
    r"|(?P<parameter>\{\{[ \t]*[^\W\d]\w*[ \t]*\}\})|(?P<group>\( *\)|\[ *\]|\{ *\}))"
)
_atom = _token(_ATOM)
# Most operands have no trailer: one expression that sees so saves pyparsing three elements per operand.
_plain = _token(rf"(?>{_ATOM})(?![ \t]*[(\[.])")
_trailer = _token(r"(?P<call>\( *\))|(?P<subscript>\[ *\])|(?P<method>\.[ \t]*[^\W\d]\w*)")
_prefix = _token(r"(?P<prefix>not\b|[-+](?![-+=]))")
_operator = _token(
    r"(?P<operator>(?:and|or|in|is(?:[ \t]+not)?|not[ \t]+in)\b"
    r"|==(?!=)|!=(?!=)|<>|<=|>=|<(?![<])|>(?!>)|//(?!=)|/(?![/=])|\*(?![*=])|%(?!=)|\+(?![+=])|-(?![-=>]))"
)
_column = _token(rf"(?P<column>{NAME})")
_kind = _token(r"(?P<inline>(?:SUM|COUNT|MIN|MAX|AVG|DISTINCT)\b)")
# With a where, an inline aggregation binds like a prefix: all that follows is its condition. This form must be able to
# fail softly (no `-`), because the form without where is tried after it.
_filtering = _kind + _column + _many((_word("with") + _column) | _word("all")) + _word("where")
_inline = _kind - _column + _many((_word("with") - _column) | _word("all"))
_value = _plain | (_atom + _many(_trailer))
_operand = _value | (pp.OneOrMore(_prefix | _filtering) + (_value | _inline)) | _inline
_expression = _operand + _many(_operator - _operand)

_end = pp.StringEnd()
_comma = _token(r"(?P<comma>,)")
_colon = _token(r"(?P<colon>:)")
_open_colon = _token(r"(?P<colon>:)(?=[ \t]*(?:,|$))")
_name = _token(rf"(?P<name>{NAME})")
_entry = (_expression + pp.Opt(_open_colon | (_colon - _expression))) | _open_colon | (_colon - _expression)
_assignment = _token(r"(?P<assignment>(?://|[-+*/%])?=(?!=))")


def _whole(grammar: pp.ParserElement) -> pp.ParserElement:
    whole = (grammar + _end).parse_with_tabs()
    whole.streamline()
    return whole


# What stands in a pair of brackets: `a, b`, and where there is a colon `k: v, …` or `a:b`.
ITEMS = _whole(_expression + _many(_comma - _expression))
ENTRIES = _whole(_entry + _many(_comma - _entry))
EXPRESSION = _whole(_expression)
SIMPLE = _whole(_expression + pp.Opt(_assignment - _expression))
RETURN = _whole(_word("return") + (_end | _expression))
DELETE = _whole(_word("del") - _expression)
BREAK = _whole(_word("break") + pp.Opt(_token(r"(?P<levels>top\b|all\b|[0-9]+\b)")))
BARE_WORD = _whole(_token(r"(?P<word>continue\b|pass\b|exit\b)") + pp.Opt(_token(r"(?P<call>\( *\))")))

IF = _whole(_token(r"(?P<if>if\b|elif\b)") - _expression)
ELSE = _whole(_word("else"))
MATCH = _whole(
    _word("match")
    + pp.Opt(_token(r"(?P<limit>-?[0-9][0-9_]*(?![\w.]))|(?P<parameter>\{\{[ \t]*[^\W\d]\w*[ \t]*\}\})"))
    + pp.Opt(_word("where") - _expression)
)
FOR = _whole(_word("for") - _name + _many(_comma - _name) + _token(r"(?P<in>in\b)") - _expression)
DEF = _whole(_word("def") - _name - _token(r"(?P<call>\( *\))"))

_options = _many((_word("as") - _column) | (_word("with") - _column) | _word("all"))
AGGREGATOR = _whole(
    (_token(r"(?P<kind>(?:count|sum|min|max|avg|value)\b)") - _column + _options)
    | (_word("var") - _column + pp.Opt(_token(r"(?P<shift><<)") - _expression) + _options)
    | _token(r"(?P<people>people\b|person\b)")
)
SORT = _whole(_column)


def tokens(grammar: pp.ParserElement, text: str) -> Tokens:
    """The flat tokens of a text. Raises pyparsing's ParseBaseException, whose `loc` is where the text went wrong."""
    return list(grammar.parse_string(text))
