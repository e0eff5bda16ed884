"""Canonical PyQL: one statement per line, four blanks per block, one way to write blanks and quotes; comments stay.

It works on the tokens of lines that follow the grammar, not on the tree: names need no table, and nothing the author
chose (`is` or `==`, `30 days`, brackets) changes. Long lines go on after a comma, `and` or `or`. A comment inside a
statement moves before it, because the lines of a statement are joined.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator

from openset.pyql.names import INLINE_AGGREGATIONS, KEYWORDS
from openset.pyql.syntax.layout import TAB_WIDTH, TOKEN, Block, Line, logical_lines, nest
from openset.pyql.syntax.reader import Reader
from openset.pyql.syntax.sections import is_header, section_lines
from openset.pyql.syntax.source import Source

MAX_LINE_CHARACTERS = 100
_INDENT = " " * 4

_LEXEME = re.compile(
    r"'[^'\\]*(?:\\.[^'\\]*)*'|\"[^\"\\]*(?:\\.[^\"\\]*)*\"|\{\{[ \t]*\w+[ \t]*\}\}"
    r"|(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9_]+)?"
    r"|\w+|//=|<<|[-+*/%]=|//|[=!<>]=|<>|[^ \t]"
)
_BLANK_KINDS = ("newline", "comment", "joined")
_CONSTANTS = frozenset({"True", "False", "None"})
_WORDS = (KEYWORDS | frozenset(INLINE_AGGREGATIONS)) - _CONSTANTS
_SPELLINGS = {"<>": "!=", "true": "True", "false": "False", "none": "None"}
_SIGNS = ("+", "-")


def format_script(text: str) -> str:
    """The canonical text of a script, or of the sections of a counts request. Formatting it again changes nothing.

    Raises:
        ParseError: for text that does not follow the grammar. What names mean is not looked at.
    """
    source = Source(text)
    lines = logical_lines(source)
    writer = _Writer(source)
    if any(is_header(line) for line in lines):
        for header, body in section_lines(source, lines):
            writer.section(header)
            writer.script(body, 1)
    else:
        writer.script(lines, 0)
    return writer.finish()


class _Writer:
    """Writes statements in their order, and the comments between them as it passes them.

    `_passed`: offset behind what was written last.  `_levels`: indentation, as the author wrote it, and depth of the
    last statement and of those around it.
    """

    def __init__(self, source: Source):
        self._source = source
        self._out: list[str] = []
        self._comments: list[tuple[int, str]] = []
        parts = []
        for match in TOKEN.finditer(source.text):
            token = match.group()
            parts.append(" " * len(token) if match.lastgroup in _BLANK_KINDS else token)
            if match.lastgroup == "comment":
                self._comments.append((match.start(), token.rstrip()))
        self._joined = "".join(parts)
        self._next_comment = 0
        self._passed = 0
        self._levels: list[tuple[int, int]] = []

    def section(self, line: Line) -> None:
        """A @segment line."""
        assert line.colon is not None
        words = " ".join(self._joined[line.start : line.colon].split())
        stop = line.colon + 1
        self._write([re.sub(r" ?= ?", "=", words) + ":"], line, 0, line.start, stop)

    def script(self, lines: list[Line], depth: int) -> None:
        """The lines of one script, its outermost ones at a depth."""
        blocks = nest(self._source, lines)
        Reader(self._source).script(blocks)
        self._blocks(blocks, depth)

    def finish(self) -> str:
        """The formatted text, with a line end after each line."""
        self._pass_to(len(self._source.text), 0)
        return "\n".join(self._out).strip("\n") + "\n"

    def _blocks(self, blocks: list[Block], depth: int) -> None:
        for block in blocks:
            line = block.line
            start, inner = line.start, depth
            if line.colon is not None:
                start, inner = line.colon + 1, depth + 1
                header = spaced(_LEXEME.findall(self._joined[line.start : start]))
                if header[0] == "aggregate:":
                    header = ["agg:"]
                if header[0].startswith("def ") and self._out and not self._out[-1].startswith("#"):
                    self._empty_line()
                self._write(header, line, depth, line.start, start)
            for first, stop in _pieces(line, start):
                self._write(spaced(_LEXEME.findall(self._joined[first:stop])), line, inner, first, stop)
                self._levels[-1] = (line.indent, depth)
            self._blocks(block.body, depth + 1)

    def _write(self, chunks: list[str], line: Line, depth: int, start: int, stop: int) -> None:
        self._pass_to(start, depth)
        margin = _INDENT * depth
        while self._next_comment < len(self._comments) and self._comments[self._next_comment][0] < stop:
            self._out.append(margin + self._comments[self._next_comment][1])
            self._next_comment += 1
        self._out += wrapped(chunks, margin)
        self._passed = stop
        if self._next_comment < len(self._comments):
            at, comment = self._comments[self._next_comment]
            if not self._source.text[stop:at].strip(" \t;"):
                self._out[-1] += "  " + comment
                self._next_comment += 1
                self._passed = at + len(comment)
        self._levels = [level for level in self._levels if level[1] < depth and level[0] < line.indent]
        self._levels.append((line.indent, depth))

    # -------------------------------------------------- comments and empty lines

    def _pass_to(self, offset: int, depth: int) -> None:
        """Writes the comments before an offset, and one empty line where there were some."""
        while self._next_comment < len(self._comments) and self._comments[self._next_comment][0] < offset:
            at, comment = self._comments[self._next_comment]
            self._next_comment += 1
            self._keep_empty_line(at)
            self._out.append(_INDENT * self._comment_depth(at, depth) + comment)
            self._passed = at + len(comment)
        self._keep_empty_line(offset)

    def _comment_depth(self, at: int, depth: int) -> int:
        """The depth of a comment on a line of its own: that of what follows, or of a block that ends here if it is
        indented like it."""
        start = at - self._source.position(at).column + 1
        indent = sum(TAB_WIDTH if character == "\t" else 1 for character in self._source.text[start:at])
        return max([depth, *(level[1] for level in self._levels if level[0] <= indent)])

    def _keep_empty_line(self, offset: int) -> None:
        between = self._source.text[self._passed : offset].replace("\r\n", "\n").replace("\r", "\n")
        if between.count("\n") > 1:
            self._empty_line()

    def _empty_line(self) -> None:
        if self._out and self._out[-1]:
            self._out.append("")


def _pieces(line: Line, start: int) -> Iterator[tuple[int, int]]:
    """The statements of a line from an offset on, as offsets."""
    for stop in (*line.breaks[bisect_left(line.breaks, start) :], line.end):
        text = line.text[start - line.start : stop - line.start]
        if text.strip(" "):
            yield start + len(text) - len(text.lstrip(" ")), stop
        start = stop + 1


def wrapped(chunks: list[str], margin: str) -> list[str]:
    """Chunks → lines of at most MAX_LINE_CHARACTERS, where chunks allow it. Further lines are indented twice."""
    lines = [margin + chunks[0]]
    for chunk in chunks[1:]:
        if len(lines[-1]) + 1 + len(chunk) > MAX_LINE_CHARACTERS:
            lines.append(margin + _INDENT * 2 + chunk)
        else:
            lines[-1] += " " + chunk
    return lines


def spaced(lexemes: list[str]) -> list[str]:
    """Lexemes with canonical blanks, cut into chunks where a line may go on: behind commas, `and` and `or`."""
    if lexemes[0] == "exit":
        return ["exit"]
    chunks = [""]
    before = ""
    unary = False
    brackets: list[str] = []
    for index, written in enumerate(lexemes):
        lexeme = _canonical(written)
        following = lexemes[index + 1] if index + 1 < len(lexemes) else ""
        if lexeme == "," and following in (")", "]", "}"):
            continue
        if lexeme in (")", "]", "}"):
            brackets.pop()
        if chunks[-1] and _has_blank(before, unary, lexeme, brackets):
            chunks[-1] += " "
        chunks[-1] += lexeme
        unary = lexeme in _SIGNS and _is_unary(before)
        if lexeme in ("(", "[", "{"):
            brackets.append("index" if lexeme == "[" and _ends_value(before) else lexeme)
        if lexeme in (",", "and", "or"):
            chunks.append("")
        before = lexeme
    return chunks


def _has_blank(before: str, unary: bool, lexeme: str, brackets: list[str]) -> bool:
    """Whether a blank stands between two lexemes. unary: `before` is a sign of one value."""
    if before == "{" and lexeme.startswith("{"):
        return True  # {{ would begin a parameter
    if before in ("(", "[", "{", ".") or lexeme in (")", "]", "}", ",", "."):
        return False
    if unary:
        return lexeme in _SIGNS
    if lexeme == ":" or (before == ":" and brackets[-1:] == ["index"]):
        return False
    return not (lexeme in ("(", "[") and _ends_value(before))


def _is_unary(before: str) -> bool:
    return not _ends_value(before)


def _ends_value(lexeme: str) -> bool:
    if lexeme in _WORDS:
        return False
    return bool(lexeme) and (lexeme[-1] in ")]}'\"" or lexeme[-1] == "_" or lexeme[-1].isalnum() or lexeme[-1] == ".")


def _canonical(lexeme: str) -> str:
    if lexeme.startswith("{{"):
        return "{{" + lexeme[2:-2].strip() + "}}"
    if lexeme.startswith('"') and "'" not in lexeme:
        return "'" + lexeme[1:-1].replace('\\"', '"') + "'"
    return _SPELLINGS.get(lexeme, lexeme)
