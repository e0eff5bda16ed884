"""Flat tokens of an expression → raw tree, by the precedence of Python.

Precedence climbing: it recurses once per level of precedence and once per `where` of an inline aggregation, never per
operand; contents of brackets were folded before, inner ones first. `and` and `or` chains become balanced trees, because
generated conditions have hundreds of parts; other chains stay left-deep and are bounded by the depth of an expression.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from openset.pyql.names import DURATION_UNITS_MS
from openset.pyql.syntax import syntax
from openset.pyql.syntax.grammar import Tokens
from openset.pyql.syntax.limits import MAX_EXPRESSION_DEPTH, MAX_NESTED_WHERE
from openset.pyql.syntax.messages import quoted
from openset.pyql.syntax.source import Source

Groups: TypeAlias = "Mapping[int, Entries]"

_OR, _AND, _NOT, _COMPARISON, _SUM, _PRODUCT = range(1, 7)
_POWER = {
    "or": _OR, "and": _AND, "+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "//": _PRODUCT, "%": _PRODUCT,
}  # fmt: skip
_SPELLINGS = {"is": "==", "is not": "!=", "<>": "!="}
_ESCAPES = {"t": "\t", "n": "\n", "r": "\r", "\\": "\\", "'": "'", '"': '"'}
_CONSTANTS = {"True": True, "False": False, "None": None, "true": True, "false": False, "none": None}
_TRAILERS = ("call", "subscript", "method")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_INT_DIGITS = 19
_INT_MIN, _INT_MAX = -(2**63), 2**63 - 1


@dataclass(slots=True, eq=False)
class Entry:
    """One entry between brackets: `value`, `value: after`, `: after` or `value:`. colon: its offset, or None."""

    at: int
    value: syntax.Expression | None
    colon: int | None = None
    after: syntax.Expression | None = None


@dataclass(slots=True, eq=False)
class Entries:
    """The folded contents of a pair of brackets."""

    opener: str
    entries: list[Entry]


class Fold:
    """Reads the flat tokens of one text. `base`: offset of that text in the script; `groups`: contents of the brackets
    inside it, by the offset of the opening bracket."""

    __slots__ = ("_base", "_groups", "_index", "_source", "_tokens", "_wheres")

    def __init__(self, source: Source, tokens: Tokens, base: int, groups: Groups):
        self._source = source
        self._tokens = tokens
        self._base = base
        self._groups = groups
        self._index = 0
        self._wheres = 0

    # -------------------------------------------------- reading tokens

    def kind(self) -> str | None:
        """The kind of the next token, None at the end."""
        return self._tokens[self._index].lastgroup if self._index < len(self._tokens) else None

    def end(self) -> None:
        """Asserts that all tokens were read: a grammar that allows more than its reader reads is a defect."""
        assert self._index == len(self._tokens), self._tokens[self._index]

    def take(self) -> re.Match[str]:
        """The next token, which there must be."""
        token = self._tokens[self._index]
        self._index += 1
        return token

    def take_if(self, kind: str) -> re.Match[str] | None:
        """The next token if it is of a kind."""
        return self.take() if self.kind() == kind else None

    def at(self, token: re.Match[str]) -> int:
        """The offset of a token in the script."""
        return self._base + token.start()

    def name(self) -> syntax.Name:
        """The next token, a name."""
        token = self.take()
        return syntax.Name(self.at(token), token.group())

    def group(self, token: re.Match[str]) -> Entries:
        """The contents of the brackets that a token stands for."""
        return self._groups[self.at(token)]

    def entries(self, opener: str) -> Entries:
        """All tokens, as the contents of a pair of brackets."""
        found: list[Entry] = []
        while self.kind() is not None:
            at = self.at(self._tokens[self._index])
            entry = Entry(at, None if self.kind() == "colon" else self.expression())
            colon = self.take_if("colon")
            if colon is not None:
                entry.colon = self.at(colon)
                if self.kind() not in ("comma", None):
                    entry.after = self.expression()
            self.take_if("comma")
            found.append(entry)
        return Entries(opener, found)

    # -------------------------------------------------- operators

    def expression(self, level: int = _OR) -> syntax.Expression:
        """The next expression, of operators that bind at least as strongly as `level`."""
        left = self._prefixed(level)
        while self.kind() == "operator":
            token = self._tokens[self._index]
            operator = " ".join(token.group().split())
            operator = _SPELLINGS.get(operator, operator)
            power = _POWER.get(operator, _COMPARISON)
            if power < level:
                break
            self._index += 1
            if power <= _AND:
                left = self._chain(left, operator, self.at(token), power)
                continue
            right = self.expression(power + 1)
            left = self._operation(operator, self.at(token), left, right)
            if power == _COMPARISON:
                self._refuse_comparison_chain()
        return left

    def _chain(self, first: syntax.Expression, operator: str, at: int, power: int) -> syntax.Expression:
        operands = [first, self.expression(power + 1)]
        while self.kind() == "operator" and self._tokens[self._index].group() == operator:
            self._index += 1
            operands.append(self.expression(power + 1))
        return self._balanced(operator, at, operands)

    def _balanced(self, operator: str, at: int, operands: list[syntax.Expression]) -> syntax.Expression:
        if len(operands) == 1:
            return operands[0]
        half = (len(operands) + 1) // 2
        left = self._balanced(operator, at, operands[:half])
        return self._operation(operator, at, left, self._balanced(operator, at, operands[half:]))

    def _refuse_comparison_chain(self) -> None:
        if self.kind() == "operator":
            token = self._tokens[self._index]
            operator = " ".join(token.group().split())
            if operator not in _POWER:
                raise self._source.error(
                    self.at(token), "Comparisons cannot be chained; write `a < b and b < c` instead of `a < b < c`."
                )

    def _operation(self, operator: str, at: int, left: syntax.Expression, right: syntax.Expression) -> syntax.Operation:
        return syntax.Operation(left.at, operator, at, left, right, self._depth(left.at, left, right))

    def _depth(self, at: int, *children: syntax.Expression | None) -> int:
        depth = 1 + max((child.depth for child in children if child is not None), default=0)
        if depth > MAX_EXPRESSION_DEPTH:
            raise self._source.error(
                at, f"This expression has more than {MAX_EXPRESSION_DEPTH} steps; put parts of it into variables."
            )
        return depth

    # -------------------------------------------------- operands

    def _prefixed(self, level: int) -> syntax.Expression:
        token = self._tokens[self._index]
        if token.lastgroup != "prefix":
            return self._operand()
        if token.group() != "not":
            return self._signed()
        if level > _NOT:
            raise self._source.error(self.at(token), "`not` needs brackets here; write (not …).")
        starts = []
        while self.kind() == "prefix" and self._tokens[self._index].group() == "not":
            starts.append(self.at(self.take()))
        operand = self.expression(_COMPARISON)
        for at in reversed(starts):
            operand = syntax.Prefix(at, "not", operand, self._depth(at, operand))
        return operand

    def _signed(self) -> syntax.Expression:
        signs = []
        while self.kind() == "prefix":
            sign = self.take()
            if sign.group() == "not":
                raise self._source.error(self.at(sign), "`not` needs brackets here; write (not …).")
            signs.append(sign)
        token = self._tokens[self._index]
        following = self._tokens[self._index + 1].lastgroup if self._index + 1 < len(self._tokens) else None
        literal = token.lastgroup in ("number", "unit") and following not in _TRAILERS
        if literal and signs[-1].group() == "-":
            sign = signs.pop()
            self._index += 1
            operand: syntax.Expression = syntax.Constant(self.at(sign), self._number(token, negative=True))
        else:
            operand = self._operand()
        for sign in reversed(signs):
            at = self.at(sign)
            operand = syntax.Prefix(at, sign.group(), operand, self._depth(at, operand))
        return operand

    def _operand(self) -> syntax.Expression:
        operand = self._atom()
        while True:
            kind = self.kind()
            if kind in ("call", "subscript"):
                operand = self._trailer(operand, self.take())
            elif kind == "method":
                operand = self._method(operand, self.take())
            else:
                return operand

    def _atom(self) -> syntax.Expression:
        token = self.take()
        at = self.at(token)
        kind = token.lastgroup
        if kind == "name":
            text = token.group()
            return syntax.Constant(at, _CONSTANTS[text]) if text in _CONSTANTS else syntax.Name(at, text)
        if kind == "string":
            return syntax.Constant(at, self._unescaped(token))
        if kind in ("number", "unit"):
            return syntax.Constant(at, self._number(token))
        if kind == "parameter":
            return syntax.Placeholder(at, token.group()[2:-2].strip())
        if kind == "inline":
            return self._inline(token)
        assert kind == "group", kind
        return self._display(at, self.group(token))

    def _number(self, token: re.Match[str], *, negative: bool = False) -> int | float:
        text = token.group("number").replace("_", "")
        sign = -1 if negative else 1
        value: int | float
        if text.isdigit() and len(text) <= _INT_DIGITS:
            value = sign * int(text)
        else:
            value = sign * float(text)
        if token.group("unit"):
            value *= DURATION_UNITS_MS[token.group("unit")]
            value = round(value) if abs(value) < _INT_MAX else value
        if isinstance(value, int) and not _INT_MIN <= value <= _INT_MAX:
            value = float(value)
        if isinstance(value, float) and value - value != 0:
            raise self._source.error(self.at(token), "This number is too large for a double; write a smaller one.")
        return value

    def _unescaped(self, token: re.Match[str]) -> str:
        text = token.group()[1:-1]
        if "\\" not in text:
            return text

        def character(match: re.Match[str]) -> str:
            escaped = match.group(1)
            if escaped not in _ESCAPES:
                raise self._source.error(
                    self.at(token) + 1 + match.start(),
                    f"{quoted(match.group())} means nothing in a text; for the backslash itself write \\\\.",
                )
            return _ESCAPES[escaped]

        return _ESCAPE.sub(character, text)

    def _inline(self, token: re.Match[str]) -> syntax.Aggregation:
        at = self.at(token)
        column = self.name()
        key: syntax.Name | None = None
        every = False
        while (kind := self.kind()) in ("with", "all"):
            option = self.take()
            if (kind == "with" and key is not None) or (kind == "all" and every):
                raise self._source.error(self.at(option), f"`{kind}` stands here twice; remove one.")
            if kind == "with":
                key = self.name()
            else:
                every = True
        where: syntax.Expression | None = None
        if self.take_if("where"):
            self._wheres += 1
            if self._wheres > MAX_NESTED_WHERE:
                raise self._source.error(
                    at, f"Inline aggregations may be nested {MAX_NESTED_WHERE} deep; put inner ones into variables."
                )
            where = self.expression()
        return syntax.Aggregation(at, token.group(), column, key, every, where, self._depth(at, where))

    # -------------------------------------------------- brackets

    def _display(self, at: int, group: Entries) -> syntax.Expression:
        if group.opener == "{":
            return self._braces(at, group)
        items = self.items(group)
        if group.opener == "[":
            return syntax.ListOf(at, items, self._depth(at, *items))
        if len(items) != 1:
            message = (
                "These brackets are empty; write a value in them."
                if not items
                else ("Several values need a list; write [a, b] instead of (a, b).")
            )
            raise self._source.error(at, message)
        return items[0]

    def items(self, group: Entries) -> list[syntax.Expression]:
        """Entries that may not have colons: arguments or elements."""
        items = []
        for entry in group.entries:
            if entry.colon is not None or entry.value is None:
                raise self._source.error(
                    entry.at if entry.colon is None else entry.colon,
                    "A : does not belong here; write , between values, or {key: value} for a dict.",
                )
            items.append(entry.value)
        return items

    def _braces(self, at: int, group: Entries) -> syntax.Expression:
        if group.entries and all(entry.colon is None for entry in group.entries):
            items = self.items(group)
            return syntax.SetOf(at, items, self._depth(at, *items))
        pairs = []
        for entry in group.entries:
            if entry.value is None or entry.after is None or entry.colon is None:
                raise self._source.error(entry.at, "A dict needs key: value here.")
            pairs.append((entry.value, entry.after))
        return syntax.DictOf(at, pairs, self._depth(at, *(part for pair in pairs for part in pair)))

    def _trailer(self, operand: syntax.Expression, token: re.Match[str]) -> syntax.Expression:
        group = self.group(token)
        if token.lastgroup == "subscript":
            return self._subscript(operand, self.at(token), group)
        if not isinstance(operand, syntax.Name):
            raise self._source.error(
                self.at(token), "Only functions and methods can be called; write an operator before this bracket."
            )
        arguments = self.items(group)
        return syntax.Call(operand.at, operand.name, arguments, self._depth(operand.at, *arguments))

    def _subscript(self, operand: syntax.Expression, bracket: int, group: Entries) -> syntax.Expression:
        if len(group.entries) != 1:
            raise self._source.error(bracket, "Write one index or a:b in these brackets, as in x[1] or x[1:3].")
        entry = group.entries[0]
        if entry.colon is not None:
            depth = self._depth(operand.at, operand, entry.value, entry.after)
            return syntax.Cut(operand.at, operand, entry.value, entry.after, depth)
        assert entry.value is not None
        return syntax.Subscript(operand.at, operand, entry.value, self._depth(operand.at, operand, entry.value))

    def _method(self, target: syntax.Expression, token: re.Match[str]) -> syntax.Expression:
        written = token.group()
        name = written[1:].lstrip()
        method = syntax.Name(self.at(token) + len(written) - len(name), name)
        if self.kind() != "call":
            raise self._source.error(
                method.at, f"A method needs brackets; write .{name}(…), or an element as x['{name}']."
            )
        arguments = self.items(self.group(self.take()))
        return syntax.Method(target.at, target, method, arguments, self._depth(target.at, target, *arguments))
