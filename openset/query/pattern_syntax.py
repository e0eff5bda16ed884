"""ECMAScript's regular expressions, read character by character and written for two other engines.

Sets of characters become explicit ranges, groups numbers, so that what is written means the same in both. Follows the
grammar without the flag `u`, with braces and brackets that close nothing as plain characters; letters after a backslash
that mean nothing are refused. Characters are code points, not halves of surrogate pairs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

Ranges = list[tuple[int, int]]

DEPTH_LIMIT = 100
# What a pattern comes to when counted repetitions are written out, in characters and sets.
SIZE_LIMIT = 10_000
_LAST = 0x10FFFF
_DIGITS: Ranges = [(0x30, 0x39)]
_WORD: Ranges = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE: Ranges = [(0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029),
                  (0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)]  # fmt: skip
_LINE_ENDS: Ranges = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_SETS = {"d": _DIGITS, "w": _WORD, "s": _SPACE}
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D}
_LOOKS = ("(?=", "(?!", "(?<=", "(?<!")
_COUNTED = re.compile(r"\{([0-9]{1,9})(,([0-9]{0,9}))?\}", re.ASCII)
_GROUP_NAME = re.compile(r"\(\?<([A-Za-z_$][A-Za-z0-9_$]*)>", re.ASCII)


class PatternError(Exception):
    """What is wrong, and at which character (from 0)."""

    def __init__(self, reason: str, offset: int):
        super().__init__(reason)
        self.reason = reason
        self.offset = offset


@dataclass(frozen=True, slots=True)
class Translation:
    """The same pattern for a linear and for a backtracking engine. backtracks: the first one cannot have it."""

    linear: str
    backtracking: str
    backtracks: bool


def translate(source: str) -> Translation:
    """Raises PatternError."""
    reader = _Reader(source)
    text = reader.alternatives(0)
    if reader.at < len(source):
        raise PatternError("there is a ) without its (", reader.at)
    for number, offset in reader.references:
        if number > reader.groups:
            raise PatternError(f"there is no group {number}", offset)
    return Translation(text.replace(_END, r"\z"), text.replace(_END, r"\Z"), reader.backtracks)


# Stands for the end of the value, which the engines spell differently; a lone surrogate is in no pattern.
_END = "\ud800"


class _Reader:
    """Reads one pattern from left to right.

    at: the next character.  groups: how many have been opened.  size: of what was read, repetitions written out.
    """

    def __init__(self, source: str):
        self.source = source
        self.at = 0
        self.groups = 0
        self.size = 0
        self.backtracks = False
        self.references: list[tuple[int, int]] = []
        self._names = self._group_names()

    def _group_names(self) -> dict[str, int]:
        """Numbers of the named groups; they may be referred to before they are opened."""
        names: dict[str, int] = {}
        number, at, in_set = 0, 0, False
        while at < len(self.source):
            here = self.source[at]
            if here == "\\":
                at += 1
            elif in_set or here == "[":
                in_set = here != "]"
            elif here == "(":
                named = _GROUP_NAME.match(self.source, at)
                if named is not None and named[1] in names:
                    raise PatternError(f"two groups are called {named[1]}", at)
                if named is not None or not self.source.startswith("(?", at):
                    number += 1
                if named is not None:
                    names[named[1]] = number
            at += 1
        return names

    def _starts(self, text: str) -> bool:
        return self.source.startswith(text, self.at)

    # ------------------------------------------------------------ structure

    def alternatives(self, depth: int) -> str:
        """Up to the end of the pattern or of the group."""
        if depth > DEPTH_LIMIT:
            raise PatternError(f"groups are nested more than {DEPTH_LIMIT} deep", self.at)
        parts: list[str] = []
        while self.at < len(self.source) and self.source[self.at] != ")":
            if self.source[self.at] == "|":
                self.at += 1
                parts.append("|")
            else:
                parts.append(self._term(depth))
        return "".join(parts)

    def _term(self, depth: int) -> str:
        start = self.at
        here = self.source[start]
        if here in "*+?" or _COUNTED.match(self.source, start):
            raise PatternError("there is nothing to repeat", start)
        if here in "^$":
            self.at += 1
            return self._unrepeatable("^" if here == "^" else _END)
        if self.source[start : start + 2] in (r"\b", r"\B"):
            self.at += 2
            return self._unrepeatable(self.source[start : start + 2])
        look = next((opening for opening in _LOOKS if self._starts(opening)), None)
        if look is not None:
            self.backtracks = True
            return self._unrepeatable(self._group(look, look, depth))
        before = self.size
        atom = self._atom(depth)
        self.size += 1
        quantifier, times = self._quantifier()
        self.size = before + times * (self.size - before)
        if self.size > SIZE_LIMIT:
            raise PatternError(f"it has more than {SIZE_LIMIT:,} characters when repetitions are written out", start)
        return atom + quantifier

    def _unrepeatable(self, text: str) -> str:
        if self.at < len(self.source) and (
            self.source[self.at] in "*+?" or _COUNTED.match(self.source, self.at) is not None
        ):
            raise PatternError("there is nothing to repeat", self.at)
        return text

    def _quantifier(self) -> tuple[str, int]:
        """What repeats the atom before, and how often it is written out."""
        start = self.at
        times = 1
        counted = _COUNTED.match(self.source, start)
        if counted is not None:
            least, most = counted[1], counted[3]
            if most and int(most) < int(least):
                raise PatternError("the numbers in braces are out of order", start)
            self.at = counted.end()
            times = max(int(most or 0), int(least), 1)
            found = counted[0]
        elif start < len(self.source) and self.source[start] in "*+?":
            self.at += 1
            found = self.source[start]
        else:
            return "", 1
        if self._starts("?"):
            self.at += 1
            found += "?"
        return self._unrepeatable(found), times

    def _group(self, opening: str, written: str, depth: int) -> str:
        start = self.at
        self.at += len(opening)
        inside = self.alternatives(depth + 1)
        if not self._starts(")"):
            raise PatternError("the group is not closed", start)
        self.at += 1
        return f"{written}{inside})"

    def _atom(self, depth: int) -> str:
        here = self.source[self.at]
        if here == "(":
            return self._opened(depth)
        if here == "[":
            return self._set()
        if here == ".":
            self.at += 1
            return _written(_others(_LINE_ENDS))
        if here == "\\":
            return self._escape()
        self.at += 1
        return _written([(ord(here), ord(here))])

    def _opened(self, depth: int) -> str:
        for opening in ("(?:", "(?i:"):
            if self._starts(opening):
                return self._group(opening, opening, depth)
        named = _GROUP_NAME.match(self.source, self.at)
        if named is None and self._starts("(?"):
            raise PatternError("what follows (? is not known", self.at)
        self.groups += 1
        return self._group("(" if named is None else named[0], "(", depth)

    # ------------------------------------------------------------ characters

    def _escape(self) -> str:
        start = self.at
        following = self.source[start + 1 : start + 2]
        if following and following in "123456789":
            digits = re.compile("[0-9]{1,4}", re.ASCII).match(self.source, start + 1)
            assert digits is not None
            self.at = digits.end()
            return self._reference(int(digits[0]), start)
        if following == "k":
            named = re.compile(r"\\k<([^>]*)>").match(self.source, start)
            if named is None or named[1] not in self._names:
                raise PatternError(r"\k needs the name of a group: \k<name>", start)
            self.at = named.end()
            return self._reference(self._names[named[1]], start)
        return _written(self._escaped_characters())

    def _reference(self, number: int, offset: int) -> str:
        self.backtracks = True
        self.references.append((number, offset))
        return f"(?({number})\\{number}|)"  # a group that has matched nothing yet matches the empty text

    def _escaped_characters(self) -> Ranges:
        """What a backslash and what follows it stand for, in a set or outside."""
        start = self.at
        letter = self.source[start + 1 : start + 2]
        self.at += 2
        if letter.lower() in _SETS and letter:
            ranges = _SETS[letter.lower()]
            return ranges if letter.islower() else _others(ranges)
        code = self._escaped_code(letter, start)
        return [(code, code)]

    def _escaped_code(self, letter: str, start: int) -> int:
        if letter in _CONTROLS and letter:
            return _CONTROLS[letter]
        if letter == "0" and not self.source[self.at : self.at + 1].isdigit():
            return 0
        if letter == "c" and (control := self.source[self.at : self.at + 1]).isascii() and control.isalpha():
            self.at += 1
            return ord(control) % 32
        if letter == "x":
            return self._hexadecimal("([0-9A-Fa-f]{2})", start)
        if letter == "u":
            return self._unicode(start)
        if not letter:
            raise PatternError("nothing follows the \\", start)
        if letter.isascii() and letter.isalnum():
            raise PatternError(f"\\{letter} has no meaning", start)
        return ord(letter)

    def _hexadecimal(self, shape: str, start: int) -> int:
        found = re.compile(shape).match(self.source, self.at)
        if found is None:
            raise PatternError(f"{self.source[start : start + 2]} needs hexadecimal digits", start)
        self.at = found.end()
        code = int(found[1], 16)
        if code > _LAST:
            raise PatternError("there is no such character", start)
        return code

    def _unicode(self, start: int) -> int:
        if self._starts("{"):
            code = self._hexadecimal(r"\{([0-9A-Fa-f]{1,8})\}", start)
        else:
            code = self._hexadecimal("([0-9A-Fa-f]{4})", start)
            if 0xD800 <= code < 0xDC00 and self._starts("\\u"):
                self.at += 2
                low = self._hexadecimal("([0-9A-Fa-f]{4})", start)
                code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00) if 0xDC00 <= low < 0xE000 else code
        if 0xD800 <= code < 0xE000:
            raise PatternError("half of a surrogate pair is no character", start)
        return code

    def _set(self) -> str:
        start = self.at
        self.at += 1
        negated = self._starts("^")
        self.at += negated
        ranges: Ranges = []
        while not self._starts("]"):
            if self.at >= len(self.source):
                raise PatternError("the set is not closed", start)
            first = self._set_member()
            if self._starts("-") and self.source[self.at + 1 : self.at + 2] not in ("]", ""):
                dash = self.at
                self.at += 1
                last = self._set_member()
                ranges += _range(first, last, dash)
            else:
                ranges += first
        self.at += 1
        return _written(_others(ranges) if negated else ranges)

    def _set_member(self) -> Ranges:
        if self._starts("\\b"):
            self.at += 2
            return [(8, 8)]
        if self._starts("\\"):
            return self._escaped_characters()
        self.at += 1
        code = ord(self.source[self.at - 1])
        return [(code, code)]


def _range(first: Ranges, last: Ranges, dash: int) -> Ranges:
    """`a-z`; with a set on either side the dash is a character like others."""
    if any(len(side) != 1 or side[0][0] != side[0][1] for side in (first, last)):
        return [*first, (0x2D, 0x2D), *last]
    if last[0][0] < first[0][0]:
        raise PatternError("the range is out of order", dash)
    return [(first[0][0], last[0][0])]


def _others(ranges: Ranges) -> Ranges:
    """All characters that are in none of the ranges."""
    rest: Ranges = []
    following = 0
    for first, last in sorted(ranges):
        if first > following:
            rest.append((following, first - 1))
        following = max(following, last + 1)
    return [*rest, (following, _LAST)] if following <= _LAST else rest


def _written(ranges: Ranges) -> str:
    """A set of characters as both engines read it; surrogates, which no text has, are left out."""
    parts: list[str] = []
    for first, last in ranges:
        for low, high in ((first, min(last, 0xD7FF)), (max(first, 0xE000), last)):
            if low <= high:
                parts.append(_character(low) if low == high else f"{_character(low)}-{_character(high)}")
    if not parts:
        return f"[^{_character(0)}-{_character(_LAST)}]"
    if len(parts) == 1 and len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return parts[0]
    return f"[{''.join(parts)}]"


def _character(code: int) -> str:
    """A character that stands for itself, in a set or outside."""
    character = chr(code)
    if character.isascii() and not character.isalnum() and character.isprintable() and character != " ":
        return f"\\{character}"
    return f"\\x{code:02x}" if code < 0x20 else character
