"""Why a line does not parse: the place where pyparsing gave up → one sentence that says what to write instead.

It runs on the error path only, so it looks at the tokens around the place afresh and asks simple questions in order.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from openset.errors import ParseError
from openset.pyql.names import (
    AGGREGATORS,
    DURATION_UNITS_MS,
    INLINE_AGGREGATIONS,
    KEYWORDS,
    STATEMENT_CALLS,
    TRIGGER_CALLS,
)
from openset.pyql.syntax.layout import BLOCK_WORDS, first_word
from openset.pyql.syntax.messages import nearest, quoted
from openset.pyql.syntax.source import Source

# Whole pieces as the user wrote them: runs of signs stay together, so that `&&` is one.
_PIECE = re.compile(
    r"'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\"|\{\{[ \t]*\w+[ \t]*\}\}"
    r"|[0-9][\w.]*|\w+|:=|[-+*/%=<>!&|^~?$@]+|\.|[^ \t]"
)
_VALUE_WORDS = frozenset({"True", "False", "None", "true", "false", "none"})

# What other languages have and PyQL has not, as the first word of a line.
_FOREIGN_STATEMENTS = {
    "while": "There is no `while`; write match: to walk over rows, or for x in list: over elements.",
    "import": "There is no `import`; all functions are built in.",
    "from": "There is no `import`; all functions are built in.",
    "class": "There are no classes; use a dict for what belongs together.",
    "try": "There is no `try`; values that cannot be used become None or 0, so test for these.",
    "except": "There is no `try`; values that cannot be used become None or 0, so test for these.",
    "finally": "There is no `try`; values that cannot be used become None or 0, so test for these.",
    "raise": "There is no `raise`; write exit to end the script for this person.",
    "lambda": "There is no `lambda`; define a function with def name(a, b):",
    "function": "A function is defined with def name(a, b):",
    "func": "A function is defined with def name(a, b):",
    "fn": "A function is defined with def name(a, b):",
    "async": "There is no `async`; a script simply runs for each person.",
    "await": "There is no `await`; a script simply runs for each person.",
    "yield": "There is no `yield`; collect values in a list and return it.",
    "global": "All variables are global; leave this line out.",
    "nonlocal": "All variables are global; leave this line out.",
    "assert": "There is no `assert`; write if …: exit to leave out a person.",
    "let": "Variables need no declaration; write name = value.",
    "const": "Variables need no declaration; write name = value.",
    "var": "Variables need no declaration; write name = value. (`var` belongs under agg:)",
    "int": "Variables need no declaration; write name = value.",
    "switch": "There is no `switch`; write if, elif and else.",
    "case": "There is no `case`; write if, elif and else.",
    "elseif": "Write elif instead of `elseif`.",
    "elsif": "Write elif instead of `elsif`.",
    "elf": "Write elif instead of `elf`.",
    "then": "There is no `then`; end the condition with a colon.",
    "end": "There is no `end`; blocks end where the indentation does.",
    "print": "There is no `print`; write log(…), and ask for info=true to see the lines.",
    "select": "PyQL is no SQL; walk over the rows with match where …: and count with tally(…).",
    "SELECT": "PyQL is no SQL; walk over the rows with match where …: and count with tally(…).",
    "with": "`with` belongs to aggregators, as in: sum price with product.",
    "where": "`where` follows match; write match where …:",
    "foreach": "Write for x in list: instead of `foreach`.",
    "delete": "Write del x[k] instead of `delete`.",
    "unless": "There is no `unless`; write if not …:",
    "do": "There is no `do`; write match: to walk over rows.",
    "goto": "There is no `goto`; use break, continue, or a function.",
}
# Signs of other languages, wherever they stand.
_FOREIGN_SIGNS = {
    "&&": "Write and instead of &&.",
    "||": "Write or instead of ||.",
    "&": "Write and instead of &; there are no operations on bits.",
    "|": "Write or instead of |; there are no operations on bits.",
    "^": "There is no ^; powers are written as repeated *.",
    "~": "There is no ~; write not.",
    "!": "Write not instead of !.",
    "**": "There is no **; powers are written as repeated *.",
    "++": "There is no ++; write x += 1.",
    "--": "There is no --; write x -= 1.",
    "===": "Write == instead of ===.",
    "!==": "Write != instead of !==.",
    "=<": "Write <= instead of =<.",
    "=>": "Write >= instead of =>.",
    "=!": "Write != instead of =!.",
    "<<": "`<<` belongs to `var` under agg:, as in: var name << value; shifts do not exist.",
    ">>": "There is no >>; there are no operations on bits.",
    "->": "Functions declare no type of their result; leave -> out.",
    ":=": "An assignment is a line of its own; write name = value before this line.",
    "?": "There is no ?; write if, else and two assignments.",
    "@": "A @ starts only a @segment section of a counts request; remove it.",
    "$": "Names have no $; write a parameter of the request as {{name}}.",
    "//": "Comments start with #, not //.",
    "/*": "Comments start with #, not /*.",
    "`": "Text stands in ' or \", not in `.",
    "‘": "Text stands in straight quotes; write ' instead of ‘.",
    "’": "Text stands in straight quotes; write ' instead of ’.",
    "“": 'Text stands in straight quotes; write " instead of “.',
    "”": 'Text stands in straight quotes; write " instead of ”.',
    "–": "Write - instead of the long dash –.",
    "—": "Write - instead of the long dash —.",
    "−": "Write - instead of the sign −.",
    "≤": "Write <= instead of ≤.",
    "≥": "Write >= instead of ≥.",
    "≠": "Write != instead of ≠.",
    "×": "Write * instead of ×.",
    "…": "The … stands for something that is left out; write it.",
    "...": "The ... stands for something that is left out; write it.",
}
_AUGMENTED = ("+=", "-=", "*=", "/=", "//=", "%=")


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where the grammar gave up. here: the piece there (empty at the end); before, earlier: the two pieces before it;
    after: the piece behind it. value_missing: a value was due here, rather than an operator or the end.
    glued: nothing stands between before and here. assigned, inline: an = or an inline aggregation stands before."""

    at: int
    here: str
    before: str
    earlier: str
    after: str
    first: str
    place: str
    value_missing: bool
    glued: bool
    assigned: bool
    inline: bool


def explain(source: Source, text: str, base: int, loc: int, place: str) -> ParseError:
    """The error for a text that the grammar refused at `loc`.

    `base`: offset of the text in the script.  `place`: "statement", "brackets", "agg", "sort", or the header's word.
    """
    spot = _spot(text, base, loc, place)
    for question in _QUESTIONS:
        message = question(spot)
        if message is not None:
            at = base if question in _ABOUT_THE_FIRST_WORD else spot.at
            return source.error(at, message)
    raise AssertionError("the last question always has an answer")


def _spot(text: str, base: int, loc: int, place: str) -> _Spot:
    stop = len(text.rstrip())
    loc = min(loc, stop)
    while loc < stop and text[loc] in " \t":
        loc += 1
    pieces = [(match.start(), match.group()) for match in _PIECE.finditer(text)]
    index = next((number for number, (start, piece) in enumerate(pieces) if start + len(piece) > loc), len(pieces))

    def piece(number: int) -> str:
        return pieces[number][1] if 0 <= number < len(pieces) else ""

    at = min(pieces[index][0], loc) if index < len(pieces) else stop
    before = piece(index - 1)
    glued = index > 0 and index < len(pieces) and pieces[index - 1][0] + len(before) == pieces[index][0]
    assigned = any(word in ("=", *_AUGMENTED) for _, word in pieces[:index])
    inline = any(word in INLINE_AGGREGATIONS for _, word in pieces[:index])
    return _Spot(
        base + at, piece(index), before, piece(index - 2), piece(index + 1), first_word(text), place,
        not _ends_value(before), glued, assigned, inline,
    )  # fmt: skip


def _ends_value(piece: str) -> bool:
    if piece in KEYWORDS or piece in INLINE_AGGREGATIONS:
        return piece in _VALUE_WORDS or piece in ("top", "all", "continue", "exit", "pass")
    return bool(piece) and (piece[-1] in "'\")]}" or piece[-1].isalnum() or piece[-1] == "_")


def _is_word(piece: str) -> bool:
    return piece.isidentifier()


def _begins_value(piece: str) -> bool:
    """Whether a piece is a word, a number, a text or a parameter."""
    return piece[:1].isalnum() or piece[:1] in ("_", "'", '"') or piece.startswith("{{")


# ---------------------------------------------------------------- the questions, in the order they are asked


def _foreign_statement(spot: _Spot) -> str | None:
    if spot.place != "statement" or spot.first not in _FOREIGN_STATEMENTS:
        return None
    if spot.before == "" or (spot.before == spot.first and spot.here not in ("=", ".", *_AUGMENTED)):
        return _FOREIGN_STATEMENTS[spot.first]
    return None


def _else_if(spot: _Spot) -> str | None:
    return "Write elif instead of `else if`." if spot.place == "else" and spot.here == "if" else None


def _format_text(spot: _Spot) -> str | None:
    if spot.glued and spot.here[:1] in "'\"" and spot.before.lower() in ("f", "r", "b", "u", "rb", "fr"):
        return f"Text has no prefix {quoted(spot.before)}; join parts with +, as in 'a' + str(b)."
    return None


def _triple_quotes(spot: _Spot) -> str | None:
    if spot.glued and spot.before in ("''", '""') and spot.here[:1] == spot.before[0]:
        return "Text has no triple quotes; write it on one line in ' or \", with \\n for a line end."
    return None


def _number(spot: _Spot) -> str | None:
    if not spot.here[:1].isdigit() or not spot.value_missing:
        return None
    digits = re.match(r"[0-9_]*", spot.here)
    assert digits is not None
    rest = spot.here[digits.end() :]
    if rest in DURATION_UNITS_MS:
        return f"A duration needs a space before its unit; write {digits.group()} {rest}."
    if rest.lower() in ("ms", "s", "m", "h", "d", "w", "sec", "min"):
        return "Durations are written out, as in 30 seconds, 5 minutes, 12 hours or 30 days."
    if rest[:1] in ("x", "o", "b") and digits.group() == "0":
        return "Numbers are decimal; write this one without a prefix."
    return f"{quoted(spot.here)} is no number; write it as 12, 2.5 or 1_000, and begin names with a letter."


def _unit(spot: _Spot) -> str | None:
    if spot.here in DURATION_UNITS_MS and not spot.value_missing:
        return f"A unit of time follows a number only; write {spot.before} * 1 {spot.here.removesuffix('s')}."
    if not spot.before[:1].isdigit() or not _is_word(spot.here):
        return None
    unit = nearest(spot.here, (unit for unit in DURATION_UNITS_MS if unit.endswith("s")))
    if unit is not None and spot.here not in KEYWORDS:
        return f"{quoted(spot.here)} is no unit of time; did you mean {quoted(unit)}?"
    if spot.here.lower() in ("ms", "millisecond", "milliseconds"):
        return "Milliseconds have no unit; write the number alone."
    if spot.here.lower() in ("month", "months", "year", "years", "quarter", "quarters"):
        return "Durations are in seconds, minutes, hours, days or weeks; write 30 days or 365 days."
    return None


def _equals(spot: _Spot) -> str | None:
    if spot.here not in ("=", *_AUGMENTED):
        return None
    if spot.value_missing and spot.before == "":
        return f"A name is missing before {spot.here}; write name {spot.here} value."
    if spot.before == "=":
        return "Write == instead of = =."
    if spot.before in KEYWORDS and spot.before not in _VALUE_WORDS:
        return f"`{spot.before}` is a word of the language and cannot be a variable; choose another name."
    if spot.before in INLINE_AGGREGATIONS or spot.earlier in INLINE_AGGREGATIONS:
        return "The names of inline aggregations cannot be variables; choose another name."
    if spot.place == "brackets":
        return "A = cannot stand in brackets; write == to compare, and arguments without their names."
    if spot.place == "statement":
        if spot.assigned:
            return "One line assigns one variable; write a line for each, or == to compare."
        return "A = cannot stand here; write == to compare."
    if spot.place == "agg":
        return "Aggregators are named with as, as in: sum price as spent."
    return "A = assigns; to compare write ==."


def _foreign_sign(spot: _Spot) -> str | None:
    sign = spot.here
    if sign == "//" and not spot.value_missing:
        return None
    if sign in _FOREIGN_SIGNS:
        if sign == "--" and spot.after:
            return "There is no --; write x -= 1, or a - (-b)."
        return _FOREIGN_SIGNS[sign]
    for known in ("&&", "||", "++", "--", "**", "!"):
        if sign.startswith(known) and not sign.startswith("!="):
            return _FOREIGN_SIGNS[known]
    return None


def _ternary(spot: _Spot) -> str | None:
    if spot.value_missing:
        return None
    if spot.here == "if":
        return "There is no `a if b else c`; write an if and an else line with an assignment each."
    if spot.here == "for":
        return "There are no comprehensions; write a for loop that appends to a list."
    return None


def _aggregator_line(spot: _Spot) -> str | None:
    if spot.place == "statement" and spot.first in (*AGGREGATORS, "people") and _is_word(spot.before):
        if spot.before == spot.first and (_is_word(spot.here) or not spot.here):
            return f"An aggregator such as {quoted(spot.first)} belongs in the agg: section; write it there, indented."
        if spot.here in ("as", "with", "all"):
            return f"An aggregator such as {quoted(spot.first)} belongs in the agg: section; write it there, indented."
    if spot.place != "agg":
        return None
    if spot.here in (",", ";"):
        return "Each aggregator stands on a line of its own; split this line."
    kinds = ", ".join(AGGREGATORS[:-1]) + " or " + AGGREGATORS[-1]
    if spot.before == "":
        known = nearest(spot.here, (*AGGREGATORS, "people")) if _is_word(spot.here) else None
        if spot.here in INLINE_AGGREGATIONS:
            return f"Under agg: aggregators are written in small letters; write {spot.here.lower()}."
        suggestion = f"did you mean {quoted(known)}?" if known else f"write {kinds}."
        return f"{quoted(spot.here)} is no aggregator; {suggestion}"
    if spot.here == "(":
        return "Aggregators take a column without brackets, as in: sum price."
    if spot.before in AGGREGATORS and not spot.value_missing and not spot.earlier and not spot.here:
        return f"A column is missing after {quoted(spot.before)}; write {spot.before} column."
    if spot.here == "where":
        return "Aggregators have no where; put the condition on the match, or write var name << SUM column where …"
    if spot.value_missing:
        return f"A name is missing after {quoted(spot.before)}; write it."
    return f"I do not understand {quoted(spot.here)} here; an aggregator is: sum column as name with column all."


def _misspelt_statement(spot: _Spot) -> str | None:
    if spot.place != "statement" or spot.assigned or spot.value_missing or spot.before != spot.first:
        return None
    if spot.first in STATEMENT_CALLS or spot.first in TRIGGER_CALLS:
        return f"{quoted(spot.first)} needs brackets around what follows; write {spot.first}(…)."
    if spot.first in KEYWORDS or not (_begins_value(spot.here) or spot.here == ":"):
        return None
    close = nearest(spot.first, BLOCK_WORDS | {"return", "break", "del", "continue"})
    return f"{quoted(spot.first)} is unknown; did you mean {quoted(close)}?" if close else None


def _small_aggregation(spot: _Spot) -> str | None:
    name = spot.before.upper()
    if spot.place != "agg" and name in INLINE_AGGREGATIONS and not spot.value_missing and _is_word(spot.here):
        return f"Aggregations over all rows of the person are written in capitals; write {name} {spot.here}."
    return None


def _lambda(spot: _Spot) -> str | None:
    return _FOREIGN_STATEMENTS["lambda"] if "lambda" in (spot.here, spot.before) else None


def _keyword(spot: _Spot) -> str | None:
    if spot.here == "where" and spot.inline:
        return "A condition must follow `where`, as in: SUM price where units > 1."
    if spot.here == "where" and spot.first != "match":
        return "`where` follows match or an inline aggregation, as in: match where …: or SUM price where …"
    if spot.value_missing and spot.before in INLINE_AGGREGATIONS:
        return f"A column must follow {quoted(spot.before)}, as in: {spot.before} price where …"
    if spot.value_missing and spot.here in INLINE_AGGREGATIONS:
        return None
    if spot.value_missing and spot.here in KEYWORDS:
        if spot.before == "":
            return f"{quoted(spot.here)} cannot begin a line; write a statement."
        return f"{quoted(spot.here)} cannot stand after {quoted(spot.before)}; write a value there."
    return None


def _header(spot: _Spot) -> str | None:
    place = spot.place
    if place == "for" and (spot.value_missing or spot.here != ":"):
        if spot.before in ("for", ",") and spot.here[:1] == "(":
            return "The names of a for line have no brackets; write for k, v in d:"
        if spot.before != "in" and (not spot.assigned) and spot.earlier in ("for", ",", ""):
            return "A for line is written for x in list: or for k, v in dict:"
    if place == "def":
        return "A def line is written def name(a, b):"
    if place == "else":
        return "Nothing may stand between `else` and its colon; for another condition write elif."
    if place == "match" and spot.before == "match" and spot.here:
        if spot.here[:1] in "0123456789-":
            return "The number after `match` counts events; write a whole number from 1 on."
        if _is_word(spot.here) and spot.here not in KEYWORDS:
            close = nearest(spot.here, ("where",))
            if close:
                return f"{quoted(spot.here)} is unknown; did you mean `where`?"
            return "After `match` comes a number or {{parameter}}, or where and a condition; write match where …:"
        return "After `match` comes a number, or where and a condition; write match where …:"
    if place == "match" and spot.earlier == "match" and not spot.value_missing and spot.here:
        return f"After the number of events comes where and a condition; write match {spot.before} where …:"
    return None


def _single_words(spot: _Spot) -> str | None:
    if spot.place == "sort":
        return "sort: takes one name, that of an aggregator; write it alone, order= of the request turns it round."
    if spot.place != "statement":
        return None
    if spot.first == "break" and spot.here:
        return "After `break` comes nothing, a number of loops, top or all."
    if spot.first in ("continue", "exit", "pass") and spot.here:
        return f"{quoted(spot.first)} stands alone; put what follows on a line of its own."
    if spot.first == "del" and spot.before == "del":
        return "`del` removes an element; write del x[k]."
    return None


def _value(spot: _Spot) -> str | None:
    if not spot.value_missing:
        return None
    if not spot.here:
        if spot.before in ("", ","):
            return "A value is missing here; write one, or remove the comma."
        return f"A value is missing after {quoted(spot.before)}; write it."
    if spot.here == ",":
        return "A value is missing before this comma; write it, or remove the comma."
    if spot.before == "":
        return f"{quoted(spot.here)} cannot stand here; a value is expected."
    return f"{quoted(spot.here)} cannot stand after {quoted(spot.before)}; write a value there."


def _between(spot: _Spot) -> str | None:
    here = spot.here
    if here == ":" and spot.place == "brackets":
        return "A colon stands once in a slice x[a:b], which has no step, and once in an entry {key: value}; remove it."
    if here == ":":
        return "A colon ends only if, elif, else, match, for and def lines; remove it."
    if here == ",":
        if spot.place == "statement":
            return "One line has one value; write a list [a, b], or a line for each assignment."
        return "A comma cannot stand here; put several values into a list [a, b]."
    if here[:1] in "{}":
        return "Blocks are made by a colon and indentation, not by braces."
    if here[:1] == "." or spot.before[-1:] == ".":
        return "I do not understand this dot; methods are called as x.name(…)."
    return None


def _invisible(spot: _Spot) -> str | None:
    if spot.here and not spot.here.isprintable():
        return f"The invisible character U+{ord(spot.here[0]):04X} cannot stand here; write a blank, or remove it."
    return None


def _sign(spot: _Spot) -> str | None:
    here = spot.here
    if here and not _is_word(here) and here[:1] not in "'\"0123456789([{":
        return f"{quoted(here)} cannot stand here; remove it."
    return None


def _otherwise(spot: _Spot) -> str | None:
    if not spot.here:
        return "This line is not complete; write what is missing at its end."
    if spot.place in BLOCK_WORDS and _is_word(spot.here):
        return (
            f"Before {quoted(spot.here)} an operator is missing, or the colon that ends the {quoted(spot.place)} line."
        )
    return f"An operator is missing before {quoted(spot.here)}; write one, such as and, == or a comma between values."


_QUESTIONS: tuple[Callable[[_Spot], str | None], ...] = (
    _foreign_statement,
    _else_if,
    _format_text,
    _triple_quotes,
    _equals,
    _foreign_sign,
    _invisible,
    _header,
    _number,
    _unit,
    _ternary,
    _lambda,
    _single_words,
    _aggregator_line,
    _small_aggregation,
    _misspelt_statement,
    _keyword,
    _value,
    _between,
    _sign,
    _otherwise,
)

_ABOUT_THE_FIRST_WORD = (_foreign_statement, _misspelt_statement)
