"""Random PyQL expressions, by the kind of value they give, with few type errors.

Names have a fixed kind: n, m, k hold numbers, t, u texts, x, y anything, p a position; containers have names of their
own (`container_maker`). Any of them may hold None. The maker notes what it reads, so that the script can assign what is
left.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from support.choices import Choices
from support.container_maker import ContainerMaker
from support.event_maker import ACTIONS, KINDS, LABELS

NUMBERS, TEXTS, ANYTHING = ("n", "m", "k"), ("t", "u"), ("x", "y")
PARAMETERS: dict[str, int | float | str | bool] = {
    "whole": 3, "half": 2.5, "word": "mug", "seven": "7", "yes": True, "events": 2,
}  # fmt: skip

_INTS = ("0", "1", "2", "3", "5", "7", "10", "-1", "-3", "100", "1_000")
_HUGE = ("9223372036854775807", "-9223372036854775807", "4611686018427387905", "9007199254740993", "1e300", "1e-7")
_DOUBLES = ("0.5", "2.5", "1.0", "-0.25", "3.5", "0.0", "0.1", "2.675")
_SPANS = ("1 second", "30 minutes", "1 hour", "12 hours", "1 day", "3 days", "5 weeks", "1_800_000")
_DATES = (
    "'2024-02-29'",
    "'2024-01-01T00:00:00Z'",
    "'2023-12-31T23:59:59+02:00'",
    "'2024-06-10'",
    "1709164800",
    "1717999990000",
)
_PARTS = ("second", "minute", "hour", "day_of_week", "day_of_month", "day_of_year", "month", "quarter", "year")
_INTERVALS = ("second", "minute", "hour", "day", "week", "month", "quarter", "year")
_EQUALITIES = ("==", "!=", "!=")
_COMPARISONS = ("==", "!=", "<", "<=", ">", ">=", "is", "is not", "<>")


@dataclass(frozen=True)
class Features:
    """What a script may use. Scripts that use a few features each find more than scripts that use all."""

    functions: bool = False
    calls_in_where: bool = False
    moves: bool = False
    inline: bool = False
    dates: bool = False
    text: bool = False
    containers: bool = False
    odd_containers: bool = False
    loops: bool = False
    log: bool = False
    parameters: bool = False
    huge: bool = False
    mistakes: bool = False

    @classmethod
    def chosen(cls, choices: Choices) -> Features:
        """Some features."""
        shares = {"functions": 30, "moves": 30, "inline": 35, "dates": 25, "text": 35, "containers": 25, "log": 6,
                  "parameters": 15, "huge": 12, "mistakes": 15}  # fmt: skip
        on = {name: choices.chance(share) for name, share in shares.items()}
        on["calls_in_where"] = on["functions"] and choices.chance(35)
        on["odd_containers"] = on["containers"] and choices.chance(15)
        on["loops"] = on["containers"] or choices.chance(5)
        return cls(**on)

    @property
    def vectorised(self) -> bool:
        """Whether nothing in such scripts is left to the interpreter, type errors apart."""
        called_per_row = self.calls_in_where and self.inline
        return not (self.log or self.mistakes or self.odd_containers or called_per_row)


@dataclass(frozen=True)
class Callable_:
    """A function of the script. kind: of its value, number, text or condition."""

    name: str
    kind: str
    parameters: int


@dataclass
class Names:
    """What a script has read and assigned, and what it may call where the maker stands."""

    read: set[str] = field(default_factory=set)
    callables: list[Callable_] = field(default_factory=list)
    local: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)


class ExpressionMaker:
    """Makes expressions. in_where: whether the maker stands in a condition of a match or an inline aggregation."""

    def __init__(self, choices: Choices, features: Features):
        self.choices = choices
        self.features = features
        self.names = Names()
        self.in_where = 0
        self.containers = ContainerMaker(self)

    # ------------------------------------------------------------ helpers

    def variable(self, options: tuple[str, ...]) -> str:
        """One of some variables, noted as read."""
        name = self.choices.pick(options)
        self.names.read.add(name)
        return name

    def _call(self, kind: str, depth: int) -> str | None:
        """A call of a function of the script, where there is one of the kind and it may stand."""
        if self.in_where and not self.features.calls_in_where:
            return None
        fitting = [function for function in self.names.callables if function.kind == kind]
        if not fitting:
            return None
        return self.call(self.choices.pick(fitting), depth)

    def call(self, function: Callable_, depth: int) -> str:
        """name(arguments)"""
        arguments = [self.choices.pick((self.number, self.anything))(depth - 1) for _ in range(function.parameters)]
        return f"{function.name}({', '.join(arguments)})"

    # ------------------------------------------------------------ numbers

    def number(self, depth: int) -> str:
        """An expression that gives a number or None."""
        choices = self.choices
        if self.features.mistakes and choices.chance(15):
            return self.anything(depth)
        if depth <= 0 or choices.chance(40):
            return self._number_leaf()
        way = choices.integer(0, 11)
        if way <= 3:
            operator = choices.weighted(((5, "+"), (4, "-"), (3, "*"), (2, "/"), (2, "//"), (2, "%")))
            return f"({self.number(depth - 1)} {operator} {self.number(depth - 1)})"
        if way == 4:
            return self._rounding(depth)
        if way == 5:
            return f"{choices.pick(('int', 'float'))}({self.anything(depth - 1)})"
        if way == 6:
            return f"len({self.text(depth - 1)})"
        if way == 7 and self.features.dates:
            return self._date(depth)
        if way == 8 and self.features.inline:
            return self._inline_number(depth)
        if way == 9:
            return self._call("number", depth) or self._number_leaf()
        if way == 10 and self.features.containers:
            return self.containers.number()
        if way == 11 and self.features.text:
            return self._position_in_text(depth)
        return f"{choices.pick('--+')}({self._number_leaf()})" if choices.chance(20) else self._number_leaf()

    def _number_leaf(self) -> str:
        choices = self.choices
        way = choices.integer(0, 11)
        if self.features.huge and choices.chance(15):
            return choices.pick(_HUGE)
        if way <= 2:
            return choices.pick(_INTS)
        if way == 3:
            return choices.pick(_DOUBLES)
        if way <= 6:
            return choices.weighted(((4, "amount"), (3, "price"), (1, "session"), (1, "stamp")))
        if way <= 9:
            return self._number_variable()
        if way == 10:
            return choices.pick(("event_count", "session_count()", "iter_get()", "event_time"))
        if self.features.parameters:
            return choices.pick(("{{whole}}", "{{half}}"))
        return choices.pick(_SPANS)

    def _number_variable(self) -> str:
        if self.names.local and self.choices.chance(50):
            return self.choices.pick(self.names.local)
        return self.variable(NUMBERS)

    def _rounding(self, depth: int) -> str:
        inner = self.number(depth - 1)
        way = self.choices.integer(0, 4)
        if way == 0:
            return f"bucket({inner}, {self.choices.pick(('2', '5', '0.5', '10', '-3', '0', 'amount', '1 day'))})"
        if way == 1:
            return f"round({inner})"
        if way == 2:
            return f"round({inner}, {self.choices.pick(('0', '1', '2', '-1'))})"
        return f"trunc({inner})" if way == 3 else f"bucket({inner}, {self.choices.pick(_INTS)})"

    def _date(self, depth: int) -> str:
        way = self.choices.integer(0, 3)
        if way == 0:
            unit = self.choices.pick(("seconds", "minutes", "hours", "days", "weeks"))
            return f"to_{unit}({self.moment()} - {self.moment()})"
        if way == 1:
            return f"get_{self.choices.pick(_PARTS)}({self.moment()})"
        if way == 2:
            return f"date_{self.choices.pick(_INTERVALS)}({self.moment()})"
        stamp = self.number(depth - 1) if self.choices.chance(40) else f"{self.moment()} + {self.choices.pick(_SPANS)}"
        function = self.choices.pick((f"date_{self.choices.pick(_INTERVALS)}", f"get_{self.choices.pick(_PARTS)}"))
        return f"{function}({stamp})"

    def moment(self) -> str:
        """A stamp."""
        return self.choices.weighted(
            ((5, "event_time"), (2, "stamp"), (2, "prev_match"), (1, "last_match()"), (2, "first_match"),
             (1, "first_event()"), (1, "last_event"), (1, "now"))
        )  # fmt: skip

    def _inline_number(self, depth: int) -> str:
        kind = self.choices.pick(("SUM", "COUNT", "AVG", "MIN", "MAX", "DISTINCT", "SUM", "COUNT"))
        columns = ("amount", "price", "amount", "price", "flag")
        if kind in ("COUNT", "DISTINCT"):
            columns = (*columns, "kind", "label", "action", "person", "session", "session", "stamp")
        return self.inline(kind, self.choices.pick(columns if kind not in ("MIN", "MAX") else columns[:4]), depth)

    def inline(self, kind: str, column: str, depth: int) -> str:
        """An inline aggregation in brackets."""
        choices = self.choices
        words = [kind, column]
        if choices.chance(25):
            words += ["with", choices.pick(("kind", "label", "amount", "action", "person", "stamp", "flag"))]
        if choices.chance(25):
            words.append("all")
        if choices.chance(60):
            words += ["where", self.where(min(depth - 1, 1))]
        return f"({' '.join(words)})"

    def _position_in_text(self, depth: int) -> str:
        method = self.choices.pick(("find", "rfind"))
        more = self.choices.pick(("", "", ", 1", ", 0, 3", ", -2"))
        return f"{self._text_operand(depth)}.{method}({self._text_literal()}{more})"

    # ------------------------------------------------------------ texts

    def text(self, depth: int) -> str:
        """An expression that gives a text or None."""
        choices = self.choices
        if self.features.mistakes and choices.chance(15):
            return self.anything(depth)
        if depth <= 0 or not self.features.text or choices.chance(35):
            return self._text_leaf()
        way = choices.integer(0, 8)
        if way <= 1:
            return f"({self.text(depth - 1)} + {self.text(depth - 1)})"
        if way == 2:
            return f"str({self.anything(depth - 1)})"
        if way == 3:
            cut = choices.pick(("0:2", "-3:", ":1", "1:-1", ":", "2:1"))
            return f"{self._text_operand(depth)}[{cut}]"
        if way == 4:
            return f"{self._text_operand(depth)}[{choices.pick(('0', '-1', '2', '99'))}]"
        if way == 5:
            return f"{self._text_operand(depth)}.strip()"
        if way == 6:
            put = choices.pick(("''", "'-'", "'xx'"))
            return f"{self._text_operand(depth)}.replace({self._text_literal()}, {put})"
        if way == 7:
            return f"fix({self.number(depth - 1)}, {choices.pick(('0', '1', '2'))})"
        if self.features.containers and choices.chance(30):
            return f"url_decode({self._text_operand(depth)})[{choices.pick(('QpathQ', 'QqueryQ', 'QhostQ'))}]".replace(
                "Q", "'"
            )
        if self.features.containers:
            return f"{self._text_operand(depth)}.split(' ')[{choices.pick(('0', '1', '-1'))}]"
        return self._call("text", depth) or f"str({self.number(depth - 1)})"

    def _text_operand(self, depth: int) -> str:
        """Something a method or a slice may follow."""
        return self._text_leaf() if self.choices.chance(60) else f"str({self.anything(depth - 1)})"

    def _text_leaf(self) -> str:
        choices = self.choices
        way = choices.integer(0, 8)
        if way <= 3:
            return choices.weighted(((3, "kind"), (3, "label"), (2, "action")))
        if way <= 5:
            return self.variable(TEXTS)
        if self.features.parameters and way == 6:
            return choices.pick(("{{word}}", "{{seven}}"))
        return self._text_literal()

    def _text_literal(self) -> str:
        return _quoted(self.choices.pick((*KINDS, *LABELS, *ACTIONS, "e", " ", "1", "x'y")))

    # ------------------------------------------------------------ anything

    def anything(self, depth: int) -> str:
        """An expression of any kind but a container."""
        way = self.choices.integer(0, 10)
        if way <= 3:
            return self.number(depth)
        if way <= 6:
            return self.text(depth)
        if way == 7:
            return f"({self.condition(depth)})"
        if way == 8:
            return self.choices.pick(("None", "True", "False", "flag", "person", "people"))
        if way == 9 and self.features.inline and depth > 0:
            column = self.choices.pick(("kind", "label", "action", "person", "flag"))
            return self.inline(self.choices.pick(("MIN", "MAX")), column, depth)
        if self.names.loops and self.choices.chance(60):
            return self.choices.pick(self.names.loops)
        return self.variable(ANYTHING)

    # ------------------------------------------------------------ conditions

    def condition(self, depth: int) -> str:
        """An expression that is asked for its truth."""
        choices = self.choices
        if depth > 0 and choices.chance(30):
            word = choices.pick(("and", "or"))
            return f"({self.condition(depth - 1)} {word} {self.condition(depth - 1)})"
        way = choices.integer(0, 13)
        if way <= 2:
            return self.column_test()
        if way <= 5:
            return f"{self.number(depth - 1)} {choices.pick(_COMPARISONS)} {self.number(depth - 1)}"
        if way == 6:
            return f"{self.text(depth - 1)} {choices.pick(_COMPARISONS)} {self.text(depth - 1)}"
        if way == 7:
            return f"{self.anything(depth - 1)} {choices.pick(_COMPARISONS)} {self.anything(depth - 1)}"
        if way == 8:
            return self._membership(depth)
        if way == 9:
            return f"not {self.condition(depth - 1)}" if depth > 0 else "flag"
        if way == 10:
            return self._window()
        if way == 11:
            return f"{self.anything(depth - 1)} {choices.pick(('is None', 'is not None', '== None'))}"
        if way == 12:
            return self._call("condition", depth) or self.column_test()
        return self.anything(depth - 1)

    def column_test(self) -> str:
        """A test of a column that some rows pass and some do not."""
        choices = self.choices
        way = choices.integer(0, 8)
        if way <= 2:
            return f"action {choices.pick(('is', '==', 'is not'))} {_quoted(choices.pick(ACTIONS))}"
        if way == 3:
            return f"kind {choices.pick(('is', '!=', '!='))} {_quoted(choices.pick(KINDS))}"
        if way == 4:
            listed = ", ".join(_quoted(choices.pick(ACTIONS + KINDS)) for _ in range(choices.integer(1, 3)))
            return f"{choices.pick(('action', 'kind'))} {choices.pick(('in', 'not in'))} [{listed}]"
        if way == 5:
            return f"{choices.pick(('amount', 'price'))} {choices.pick(_COMPARISONS)} {choices.pick(_INTS + _DOUBLES)}"
        if way == 6:
            return choices.pick(("flag", "not flag", "label is not None", "kind is None", "amount", "label"))
        if way == 7:
            number = choices.pick(("7", "3.5", "-1", "7.0"))
            return f"{choices.pick(('kind', 'label'))} {choices.pick(_EQUALITIES)} {number}"
        return f"session {choices.pick(_COMPARISONS)} {choices.pick(('1', '2'))}"

    def _membership(self, depth: int) -> str:
        choices = self.choices
        operator = choices.pick(("in", "not in"))
        if self.features.containers and choices.chance(50):
            if self.features.odd_containers and choices.chance(50):
                return self.containers.condition()
            return f"{self.anything(0)} {operator} {self.variable(('l', 's', 'd'))}"
        if choices.chance(35):
            return f"{self.text(depth - 1)} {operator} {self.text(depth - 1)}"
        items = [self.anything(0) for _ in range(choices.integer(0, 3))]
        return f"{self.anything(depth - 1)} {operator} [{', '.join(items)}]"

    def _window(self) -> str:
        if self.choices.chance(60):
            return f"iter_within({self.choices.pick(_SPANS)}, {self.moment()})"
        return f"iter_between({self.choices.pick(_DATES)}, {self.choices.pick((*_DATES, 'now'))})"

    def where(self, depth: int) -> str:
        """A condition of a match or an inline aggregation: parts that follow from the row, parts that do not."""
        choices = self.choices
        self.in_where += 1
        parts = [self._where_part(depth) for _ in range(choices.weighted(((8, 1), (3, 2), (1, 3))))]
        self.in_where -= 1
        return choices.weighted(((3, " and "), (1, " or "))).join(parts)

    def _where_part(self, depth: int) -> str:
        choices = self.choices
        way = choices.integer(0, 9)
        if way <= 4:
            return self.column_test()
        if way == 5:
            return f"{self.moment()} {choices.pick(_COMPARISONS[2:6])} {self.moment()}"
        if way == 6:
            return self._window()
        if way == 7:
            variable = self.variable(NUMBERS + TEXTS + ANYTHING)
            column = choices.pick(("amount", "price", "kind", "label", "action", "stamp", "person"))
            return f"{column} {choices.pick(_COMPARISONS)} {variable}"
        return f"({self.condition(max(depth, 1))})"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
