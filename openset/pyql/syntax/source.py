"""The text of a script: offsets to line and column, and errors that show the line with a caret.

Columns count characters from 1, a tab being one character. A very long line is shown as a window around the column.
"""

from __future__ import annotations

import re
from bisect import bisect_right

from openset.errors import ParseError
from openset.pyql.syntax.limits import MAX_DETAIL_CHARACTERS
from openset.pyql.tree import Position

_LINE_END = re.compile(r"\r\n|\n|\r")


class Source:
    """A script's text. Offsets are indexes into `text`."""

    __slots__ = ("_line_starts", "text")

    def __init__(self, text: str):
        self.text = text
        self._line_starts = [0, *(match.end() for match in _LINE_END.finditer(text))]

    def position(self, offset: int) -> Position:
        """Line and column, from 1, of an offset."""
        line = bisect_right(self._line_starts, offset)
        return Position(line, offset - self._line_starts[line - 1] + 1)

    def line(self, number: int) -> str:
        """The text of a line, counted from 1, without its line end."""
        start = self._line_starts[number - 1]
        stop = self._line_starts[number] if number < len(self._line_starts) else len(self.text)
        return self.text[start:stop].rstrip("\r\n")

    def error(self, offset: int, message: str) -> ParseError:
        """The error to raise for a mistake at an offset: with line, column, and the line over a caret."""
        at = self.position(min(max(offset, 0), len(self.text)))
        line = self.line(at.line)
        column = min(at.column, len(line) + 1)
        return ParseError(message, detail=_with_caret(line, column - 1), line=at.line, column=column)


def _with_caret(line: str, index: int) -> str:
    if len(line) > MAX_DETAIL_CHARACTERS:
        first = max(0, index - MAX_DETAIL_CHARACTERS // 2)
        last = min(len(line), first + MAX_DETAIL_CHARACTERS)
        lead = "…" if first else ""
        line = lead + line[first:last] + ("…" if last < len(line) else "")
        index = index - first + len(lead)
    # Tabs stay tabs, so that the caret stands under its character whatever the width of a tab.
    margin = "".join("\t" if character == "\t" else " " for character in line[:index])
    return f"{line}\n{margin}^"
