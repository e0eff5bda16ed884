"""@segment sections of a counts request: their headers, set algebra over segments, and the scripts below them.

A section runs to the next @segment line; its script may be indented or not.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Literal, cast

from openset.pyql import names, tree
from openset.pyql.syntax import syntax
from openset.pyql.syntax.checks import check_script
from openset.pyql.syntax.layout import Line, nest
from openset.pyql.syntax.limits import MAX_SEGMENT_NAME_CHARACTERS
from openset.pyql.syntax.messages import did_you_mean, listed, nearest, quoted
from openset.pyql.syntax.reader import Reader
from openset.pyql.syntax.source import Source
from openset_format.block import ColumnType

_HEADER = re.compile(r"@segment\b[ \t]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?![\w-])")
_OPTION = re.compile(r"[ \t]+(?P<name>[A-Za-z_]\w*)(?:[ \t]*=[ \t]*(?P<value>[\w.]+))?(?=[ \t]|$)")
_SPAN = re.compile(r"(?P<number>[0-9]{1,12}(?:\.[0-9]{1,6})?)(?P<unit>[smhd]?)")
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_OPTIONS = ("ttl", "refresh", "use_cached")
_SPELLINGS = {"compliment": "complement"}
_OPERANDS = {
    "population": (1, 1),
    "complement": (1, 1),
    "difference": (2, 2),
    "intersection": (2, None),
    "union": (2, None),
}

Operation = Literal["population", "intersection", "union", "complement", "difference"]


def is_header(line: Line) -> bool:
    """Whether a line starts a section."""
    return _HEADER.match(line.text) is not None


def read_sections(source: Source, lines: list[Line], columns: Mapping[str, ColumnType]) -> tuple[tree.Section, ...]:
    """All sections of a counts request.

    Raises:
        ParseError: no section, a wrong header, two sections of one name, a wrong script.
    """
    sections: dict[str, tree.Section] = {}
    for header, body in section_lines(source, lines):
        section = _section(source, header, body, columns)
        if section.name in sections:
            raise source.error(header.start, f"Two sections are named {quoted(section.name)}; rename one.")
        sections[section.name] = section
    return tuple(sections.values())


def section_lines(source: Source, lines: list[Line]) -> list[tuple[Line, list[Line]]]:
    """The @segment lines, each with the lines of its script. What follows the colon of a @segment line is one of them.

    Raises:
        ParseError: something stands before the first @segment line, or one has no colon.
    """
    if not lines or not is_header(lines[0]):
        at = lines[0].start if lines else 0
        raise source.error(at, "A counts request consists of sections; begin with @segment name:")
    found: list[tuple[Line, list[Line]]] = []
    for line in lines:
        if not is_header(line):
            found[-1][1].append(line)
            continue
        if line.colon is None:
            raise source.error(line.end, "A colon is missing at the end of the @segment line; write : there.")
        inline = _after_colon(line)
        found.append((line, [] if inline is None else [inline]))
    return found


def _section(source: Source, header: Line, lines: list[Line], columns: Mapping[str, ColumnType]) -> tree.Section:
    name, ttl_seconds, refresh_seconds, use_cached = _header(source, header)
    blocks = nest(source, lines)
    if not blocks:
        raise source.error(header.end, f"The section {quoted(name)} has no script; write one below its @segment line.")
    script = Reader(source).script(blocks)
    algebra = _algebra_of(source, script)
    at = blocks[0].line.start
    end = lines[-1].end if lines else header.end
    return tree.Section(
        name=name, ttl_seconds=ttl_seconds, refresh_seconds=refresh_seconds, use_cached=use_cached,
        script=None if algebra else check_script(source, script, columns, segment=True, at=at),
        algebra=algebra, text=_text(source, header, at, end), at=source.position(header.start),
    )  # fmt: skip


def _text(source: Source, header: Line, at: int, end: int) -> str:
    """The script of a section without the indentation it has in the request."""
    margin = at - source.position(at).column + 1
    if source.text[margin:at].strip():  # it begins behind the colon of the @segment line
        margin, text = at, " " * header.indent
    else:
        text = ""
    # A comment at the margin keeps the indentation of all lines, the first included.
    return textwrap.dedent(text + source.text[margin:end]).rstrip()


def _after_colon(header: Line) -> Line | None:
    """What follows the colon of a @segment line, as a line of its own."""
    assert header.colon is not None
    offset = header.colon - header.start + 1
    text = header.text[offset:]
    blank = len(text) - len(text.lstrip(" "))
    if blank == len(text):
        return None
    start = header.colon + 1 + blank
    groups = [group for group in header.groups if group.start > start]
    breaks = [at for at in header.breaks if at >= start]
    colon = text.find(":", blank)
    return Line(header.indent, start, text[blank:], header.colon + 1 + colon if colon >= 0 else None, breaks, groups)


# ---------------------------------------------------------------- headers


def _header(source: Source, line: Line) -> tuple[str, float | None, float | None, bool]:
    assert line.colon is not None
    text = line.text[: line.colon - line.start].rstrip(" ")
    start = _HEADER.match(text)
    assert start is not None
    found = _NAME.match(text, start.end())
    if found is None:
        raise source.error(
            line.start + start.end(), "A segment has a name of letters, digits and _; write @segment name:"
        )
    name = found.group()
    if len(name) > MAX_SEGMENT_NAME_CHARACTERS:
        at = line.start + found.start()
        raise source.error(at, f"A segment's name has at most {MAX_SEGMENT_NAME_CHARACTERS} characters; shorten it.")
    spans: dict[str, float | None] = {}
    use_cached = False
    index = found.end()
    while index < len(text):
        option = _OPTION.match(text, index)
        if option is None:
            at = index + len(text[index:]) - len(text[index:].lstrip(" "))
            raise source.error(
                line.start + at, "After the name stand ttl=300s, refresh=60s and use_cached, then a colon."
            )
        word, value = option.group("name"), option.group("value")
        at = line.start + option.start("name")
        if word not in _OPTIONS:
            hint = did_you_mean(word, _OPTIONS, f"write {listed(_OPTIONS)}.")
            raise source.error(at, f"{quoted(word)} is no option of a section; {hint}")
        if word in spans or (word == "use_cached" and use_cached):
            raise source.error(at, f"{quoted(word)} stands here twice; remove one.")
        if word == "use_cached":
            if value not in (None, "true", "True"):
                raise source.error(at, "`use_cached` stands alone; leave it out for a section that is always computed.")
            use_cached = True
        else:
            spans[word] = _span(source, line.start + option.start("value") if value else at, word, value)
        index = option.end()
    return name, spans.get("ttl"), spans.get("refresh"), use_cached


def _span(source: Source, at: int, word: str, value: str | None) -> float | None:
    if value == "forever" and word == "ttl":
        return None
    span = _SPAN.fullmatch(value or "")
    if span is None:
        example = "ttl=300s, 5m, 1h, 7d or forever" if word == "ttl" else "refresh=60s, 5m, 1h or 7d"
        raise source.error(at, f"{quoted(word)} takes a time, as in {example}.")
    return float(span.group("number")) * _UNIT_SECONDS[span.group("unit")]


# ---------------------------------------------------------------- set algebra


def _algebra_of(source: Source, script: syntax.Script) -> tree.SetAlgebra | None:
    """The set algebra that a section consists of, None where it is a script."""
    first = script.body[0] if script.body else None
    expression: syntax.Expression | None = None
    if isinstance(first, syntax.Evaluate):
        expression = first.expression
    elif isinstance(first, syntax.Return):
        expression = first.value
    if not isinstance(expression, syntax.Call):
        return None
    if any(definition.name.name == expression.name for definition in script.functions):
        return None
    if expression.name not in names.SEGMENT_NAMES:
        _check_misspelt(source, expression)
        return None
    if len(script.body) > 1 or script.functions or script.aggregators is not None or script.sort is not None:
        at = script.body[1].at if len(script.body) > 1 else expression.at
        raise source.error(
            at, f"{quoted(expression.name)} makes up a whole section; put other statements into a section of their own."
        )
    return _algebra(source, expression)


def _check_misspelt(source: Source, call: syntax.Call) -> None:
    """Raises ParseError for a call of something unknown that reads like an operation on segments."""
    known = {*names.FUNCTIONS, *names.FUNCTION_SYNONYMS, *names.MOVES, *names.STATEMENT_CALLS}
    meant = None if call.name in known else nearest(call.name, names.SEGMENT_NAMES)
    if meant is not None:
        raise source.error(call.at, f"There is no function {quoted(call.name)}; did you mean {quoted(meant)}?")


def _algebra(source: Source, call: syntax.Call) -> tree.SetAlgebra:
    operation = _SPELLINGS.get(call.name, call.name)
    if operation not in _OPERANDS:
        hint = did_you_mean(call.name, names.SEGMENT_NAMES, f"write {listed(sorted(_OPERANDS))}.")
        raise source.error(call.at, f"There is no operation {quoted(call.name)} on segments; {hint}")
    minimum, maximum = _OPERANDS[operation]
    found = len(call.arguments)
    if found < minimum or (maximum is not None and found > maximum):
        takes = f"{minimum} segment{'s' if minimum > 1 else ''}" if maximum else f"at least {minimum} segments"
        raise source.error(call.at, f"{quoted(call.name)} takes {takes}, but here it gets {found or 'none'}.")
    operands: list[str | tree.SetAlgebra] = []
    for argument in call.arguments:
        if isinstance(argument, syntax.Name):
            operands.append(argument.name)
        elif isinstance(argument, syntax.Call):
            operands.append(_algebra(source, argument))
        else:
            raise source.error(argument.at, f"{quoted(call.name)} takes names of segments; write {call.name}(a).")
    return tree.SetAlgebra(cast(Operation, operation), tuple(operands), at=source.position(call.at))
