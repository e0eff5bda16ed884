"""Lines, indentation and brackets: text → logical lines.

One pass over the tokens joins continued lines, drops comments, checks that brackets pair up, and cuts what stands in
brackets out of its surroundings: each bracket group becomes a piece of text of its own, in which the groups inside it
are blank. Positions stay offsets into the script throughout. So the grammar only ever sees flat text, and no nesting
of brackets, however deep, costs recursion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

from openset.errors import ParseError
from openset.pyql.syntax.limits import MAX_BLOCK_DEPTH, MAX_BRACKET_DEPTH, MAX_SCRIPT_CHARACTERS, MAX_TOKENS
from openset.pyql.syntax.messages import quoted
from openset.pyql.syntax.source import Source

TAB_WIDTH = 4

TOKEN = re.compile(
    r"""
    (?P<space>[ \t]+)
  | (?P<newline>\r\n|\n|\r)
  | (?P<comment>\#[^\n\r]*)
  | (?P<string>'[^'\\\n\r]*(?:\\[^\n\r][^'\\\n\r]*)*'|"[^"\\\n\r]*(?:\\[^\n\r][^"\\\n\r]*)*")
  | (?P<word>\w+)
  | (?P<parameter>\{\{[ \t]*[^\W\d]\w*[ \t]*\}\})
  | (?P<open>[(\[{])
  | (?P<close>[)\]}])
  | (?P<joined>\\[ \t]*(?:\r\n|\n|\r|\Z))
  | (?P<comma>,)
  | (?P<colon>:(?!=))
  | (?P<semicolon>;)
  | (?P<operator>[-+*/%=<>!&|^.]+)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_OPENING = {closing: opening for opening, closing in _CLOSING.items()}
_CONTINUING_WORDS = ("and", "or")


@dataclass(slots=True, eq=False)
class Group:
    """What stands between a pair of brackets: `text` starts at offset `start` (the opening bracket is one before)."""

    opener: str
    start: int
    text: str


@dataclass(slots=True, eq=False)
class Line:
    """A logical line. In `text` the contents of brackets, comments and line ends are blank.

    start: offset of `text` in the script.  colon: offset of the first colon outside brackets, or None.
    breaks: offsets of the semicolons outside brackets.  groups: its bracket groups, inner ones before outer ones.
    """

    indent: int
    start: int
    text: str
    colon: int | None
    breaks: list[int]
    groups: list[Group]

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def opens_block(self) -> bool:
        """Whether the line ends with its colon, so that an indented block must follow."""
        return self.colon is not None and not self.text[self.colon - self.start + 1 :].strip(" \t;")


@dataclass(slots=True, eq=False)
class Block:
    """A logical line and the lines indented below it."""

    line: Line
    body: list[Block] = field(default_factory=list)


class _Scanner:
    """One pass over the tokens of a script. `_levels` holds, per open bracket, its text so far."""

    def __init__(self, source: Source):
        self._source = source
        self._lines: list[Line] = []
        self._levels: list[list[str]] = [[]]
        self._openings: list[tuple[int, str]] = []
        self._groups: list[Group] = []
        self._breaks: list[int] = []
        self._colon: int | None = None
        self._start = -1
        self._indent = 0
        self._line_indent = 0
        self._continues = False

    def scan(self) -> list[Line]:
        source = self._source
        tokens = 0
        last, last_at = "", 0
        for match in TOKEN.finditer(source.text):
            kind = match.lastgroup
            text = match.group()
            at = match.start()
            if kind == "space":
                if self._start < 0:
                    self._line_indent += sum(TAB_WIDTH if character == "\t" else 1 for character in text)
                else:
                    self._levels[-1].append(" " * len(text))
                continue
            if kind in ("newline", "joined"):
                self._blank(text)
                if kind == "joined":
                    continue
                if not self._openings and not self._continues:
                    self._finish()
                if self._start < 0:
                    self._line_indent = 0
                continue
            if kind == "comment":
                self._blank(text)
                continue
            tokens += 1
            if tokens > MAX_TOKENS:
                raise source.error(at, f"A script may have at most {MAX_TOKENS:,} words and signs; shorten this one.")
            if self._start < 0:
                self._start, self._indent = at, self._line_indent
            self._continues = kind == "comma" or (kind == "word" and text in _CONTINUING_WORDS)
            if kind == "open":
                self._open(at, text)
            elif kind == "close":
                self._close(at, text)
            else:
                if kind == "other":
                    self._other(at, text)
                elif kind == "semicolon":
                    self._semicolon(at)
                elif kind == "colon" and not self._openings and self._colon is None:
                    self._colon = at
                self._levels[-1].append(text)
            last, last_at = text, at
        if self._openings:
            at, opener = self._openings[0]
            raise source.error(at, f"This {opener} is never closed; write {_CLOSING[opener]} where it ends.")
        if self._continues:
            raise source.error(last_at, f"The script ends after {quoted(last)}; write what follows it, or remove it.")
        self._finish()
        return self._lines

    def _blank(self, text: str) -> None:
        if self._start >= 0:
            self._levels[-1].append(" " * len(text))

    def _open(self, at: int, opener: str) -> None:
        if self._source.text.startswith("{{", at):
            raise self._source.error(
                at, "A parameter of the request is written {{name}}; write its name in the braces."
            )
        if len(self._openings) == MAX_BRACKET_DEPTH:
            raise self._source.error(
                at, f"Brackets may be nested {MAX_BRACKET_DEPTH} deep; put inner parts into variables."
            )
        self._openings.append((at, opener))
        self._levels.append([])

    def _close(self, at: int, closing: str) -> None:
        if not self._openings:
            raise self._source.error(
                at, f"This {closing} closes nothing; remove it, or write the {_OPENING[closing]} that it closes."
            )
        start, opener = self._openings.pop()
        if _CLOSING[opener] != closing:
            line = self._source.position(start).line
            raise self._source.error(
                at, f"Here {closing} stands where the {opener} of line {line} needs {_CLOSING[opener]}."
            )
        text = "".join(self._levels.pop())
        self._groups.append(Group(opener, start + 1, text))
        self._levels[-1].append(opener + " " * len(text) + closing)

    def _semicolon(self, at: int) -> None:
        if self._openings:
            _, opener = self._openings[-1]
            raise self._source.error(
                at, f"A ; cannot stand inside brackets; write , or the {_CLOSING[opener]} that is missing."
            )
        self._breaks.append(at)

    def _other(self, at: int, character: str) -> None:
        if character in "'\"":
            self._open_string(at, character)
        if character == "\\":
            raise self._source.error(
                at, "A \\ joins a line to the next one and may only stand at the end of a line; remove it."
            )

    def _open_string(self, at: int, quote: str) -> NoReturn:
        raise self._source.error(
            at, f"The text that starts here has no closing {quote}; write it at the end of the text, on the same line."
        )

    def _finish(self) -> None:
        """Ends the logical line."""
        if self._start >= 0:
            text = "".join(self._levels[0]).rstrip(" ")
            self._lines.append(Line(self._indent, self._start, text, self._colon, self._breaks, self._groups))
        self._levels = [[]]
        self._groups, self._breaks, self._colon, self._start, self._line_indent = [], [], None, -1, 0
        self._continues = False


def logical_lines(source: Source) -> list[Line]:
    """The logical lines of a script.

    Raises:
        ParseError: brackets that do not pair up, text without a closing quote, a script beyond the limits.
    """
    if len(source.text) > MAX_SCRIPT_CHARACTERS:
        raise source.error(0, f"A script may have at most {MAX_SCRIPT_CHARACTERS:,} characters; shorten this one.")
    return _Scanner(source).scan()


def nest(source: Source, lines: list[Line]) -> list[Block]:
    """Lines → blocks, by indentation. The first line sets the indentation of the outermost level.

    Raises:
        ParseError: indentation that no colon announced, that is missing after one, or that fits no outer block.
    """
    outermost: list[Block] = []
    levels: list[tuple[int, list[Block]]] = [(lines[0].indent if lines else 0, outermost)]
    previous: Block | None = None
    for line in lines:
        indent = levels[-1][0]
        if previous is not None and previous.line.opens_block():
            if line.indent > indent:
                if len(levels) > MAX_BLOCK_DEPTH:
                    raise source.error(
                        line.start, f"Blocks may be nested {MAX_BLOCK_DEPTH} deep; move inner ones into a function."
                    )
                levels.append((line.indent, previous.body))
            elif not _may_be_empty(previous.line):
                raise _missing_block(source, previous.line, line.start)
        elif line.indent > indent:
            raise _unexpected_indent(source, previous, line)
        while line.indent < levels[-1][0]:
            levels.pop()
            if not levels or line.indent > levels[-1][0]:
                raise source.error(
                    line.start, "This line is indented like none of the blocks around it; align it with one of them."
                )
        previous = Block(line)
        levels[-1][1].append(previous)
    if previous is not None and previous.line.opens_block() and not _may_be_empty(previous.line):
        raise _missing_block(source, previous.line, previous.line.end)
    return outermost


_FIRST_WORD = re.compile(r"@?\w*")
BLOCK_WORDS = frozenset({"if", "elif", "else", "match", "for", "def", "agg", "aggregate", "sort"})


def first_word(text: str) -> str:
    """The word a line starts with, or an empty text."""
    match = _FIRST_WORD.match(text)
    return match.group() if match else ""


def _may_be_empty(line: Line) -> bool:
    return first_word(line.text) in ("agg", "aggregate", "@segment")


def _missing_block(source: Source, header: Line, at: int) -> ParseError:
    word = first_word(header.text)
    if word not in BLOCK_WORDS:
        assert header.colon is not None
        return source.error(header.colon, "A colon ends only if, elif, else, match, for and def lines; remove it.")
    return source.error(at, f"An indented block is missing after the {quoted(word)} line; indent what belongs to it.")


def _unexpected_indent(source: Source, previous: Block | None, line: Line) -> ParseError:
    if previous is not None and previous.line.colon is None:
        word = first_word(previous.line.text)
        if word in BLOCK_WORDS:
            return source.error(
                previous.line.end, f"A colon is missing at the end of the {quoted(word)} line; write : there."
            )
    return source.error(
        line.start, "This line is indented, but no block starts above it; align it with the line before it."
    )
