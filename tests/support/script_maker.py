"""Random PyQL scripts: grammar-directed, valid, small, and likely to tally something.

A script uses a random choice of the language's features (`Features`). Loops are bounded by the data, recursion by a
counter that only grows. What comes out is text; whoever runs it parses it like a user's.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from support.choices import Choices
from support.container_maker import FIRST_VALUES, GROWN
from support.event_maker import COLUMNS
from support.expression_maker import (
    ANYTHING,
    NUMBERS,
    TEXTS,
    Callable_,
    ExpressionMaker,
    Features,
)

_INDENT = "    "
_FUNCTION_NAMES = ("first_of", "helper", "check")
_MOST_DEPTH = 3
_ASSIGNED = re.compile(r" *(\w+) = ")


def make_script(choices: Choices, features: Features | None = None) -> str:
    """A script of 3 to about 25 lines. features: what it may use; None: some of it all."""
    return ScriptMaker(choices, features or Features.chosen(choices)).script()


class ScriptMaker:
    """Makes one script. lines_left: how many statements may still be made."""

    def __init__(self, choices: Choices, features: Features):
        self.choices = choices
        self.features = features
        self.expressions = ExpressionMaker(choices, features)
        self.lines_left = choices.weighted(((2, 4), (4, 8), (4, 13), (1, 20)))
        self.loops = 0
        self.matches = 0
        self.in_function: Callable_ | None = None
        self.tallies = 0

    # ------------------------------------------------------------ the whole

    def script(self) -> str:
        """The text of the script."""
        functions = self._functions() if self.features.functions else []
        body = self._body(0, 0)
        if self.choices.chance(25):
            body += self._match(0, 0)
        if not self.tallies or self.choices.chance(65):
            body += self._closing()
        if self.features.containers and self.choices.chance(15):
            functions += GROWN
            self.expressions.names.read.add("n")
            body.append(self.choices.pick(("l = grown(l, n)", "tally('grown', len(grown(l, n)), len(l))")))
        aggregators = self._aggregators()
        head = self._assignments({found[1] for line in (*functions, *body) if (found := _ASSIGNED.match(line))})
        if self.choices.chance(50):
            lines = [*aggregators, *functions, *head, *body]
        else:
            lines = [*aggregators, *head, *body, *functions]
        return "\n".join(lines) + "\n"

    def inside_matches(self) -> str:
        """A script that does everything inside of matches with conditions, as those that an index helps with."""
        self.expressions.names.callables = []
        body: list[str] = []
        for _ in range(self.choices.integer(1, 2)):
            self.lines_left = max(self.lines_left, 3)
            found = self._match(0, 0)
            if found[0].endswith("match:"):
                found[0] = f"match where {self.expressions.where(1)}:"
            body += found
        head = self._assignments({found[1] for line in body if (found := _ASSIGNED.match(line))})
        return "\n".join([*head, *body]) + "\n"

    def _closing(self) -> list[str]:
        """Tallies what the variables and containers hold in the end, and what a function gives."""
        make, choices = self.expressions, self.choices
        seen = sorted(make.names.read - {"p", "guard"})
        keys = [f"len({name})" if name in FIRST_VALUES else name for name in choices.shuffled(seen)[:2]]
        lines = [f"tally({', '.join([repr('end'), *keys])})"]
        if self.features.containers and choices.chance(60):
            lines.append(f"tally('in it', {make.containers.number()}, {make.containers.number()})")
        if make.names.callables and choices.chance(50):
            lines.append(f"tally('call', {make.call(choices.pick(make.names.callables), 1)})")
        self.tallies += len(lines)
        return choices.shuffled(lines)

    def _assignments(self, assigned: set[str]) -> list[str]:
        """What the script reads and nothing assigns, and sometimes a start value for the rest."""
        choices = self.choices
        lines = []
        containers = set(FIRST_VALUES) if self.features.containers or self.features.loops else {"l"}
        for name in sorted(self.expressions.names.read | containers):
            if name in FIRST_VALUES:
                if not (self.features.mistakes and name in assigned and choices.chance(20)):
                    lines.append(f"{name} = {FIRST_VALUES[name]}")
            elif name == "p":
                lines.append("p = iter_get()")
            elif name == "guard":
                lines.append("guard = 0")
            elif name not in assigned or choices.chance(40):
                start = "0" if name in NUMBERS else "''" if name in TEXTS else "None"
                lines.append(f"{name} = {start if choices.chance(90) else 'None'}")
        return lines

    def _aggregators(self) -> list[str]:
        choices = self.choices
        if choices.chance(25):
            return []
        lines = ["agg:"]
        for number in range(choices.weighted(((3, 1), (4, 2), (3, 3), (1, 5)))):
            lines.append(f"{_INDENT}{self._aggregator(number)}")
        return lines

    def _aggregator(self, number: int) -> str:
        choices = self.choices
        way = choices.weighted(((2, "people"), (12, "column"), (4, "var")))
        if way == "people":
            return f"count person as a{number}"
        if way == "var":
            # A variable that a tally may find unassigned is noted as read, like any other.
            self.expressions.names.local, self.expressions.names.loops = [], []
            makers = self.expressions.text if choices.chance(30) else self.expressions.number
            return f"var a{number} << {makers(1)}"
        kind = choices.pick(("count", "sum", "min", "max", "avg", "value", "sum", "count"))
        columns = ("amount", "price", "flag")
        if kind not in ("sum", "avg"):
            columns = (*columns, "kind", "label", "action", "person", "session", "stamp")
        words = [kind, choices.pick(columns), "as", f"a{number}"]
        if choices.chance(35):
            words += ["with", choices.pick((*COLUMNS, "action", "person", "session", "stamp"))]
        if choices.chance(30):
            words.append("all")
        return " ".join(words)

    # ------------------------------------------------------------ functions

    def _functions(self) -> list[str]:
        lines: list[str] = []
        for name in _FUNCTION_NAMES[: self.choices.integer(1, 3)]:
            kind = self.choices.pick(("number", "number", "text", "condition"))
            function = Callable_(name, kind, self.choices.integer(0, 2))
            lines += self._function(function)
            self.expressions.names.callables.append(function)
        return lines

    def _function(self, function: Callable_) -> list[str]:
        """A function; what it may call stands before it, and itself under a guard."""
        parameters = ["a", "b"][: function.parameters]
        names = self.expressions.names
        names.local, names.loops = parameters, parameters
        self.in_function = function
        whole, self.lines_left = self.lines_left, self.choices.integer(1, 3)
        body = self._body(1, _MOST_DEPTH - 2)
        if self.choices.chance(25):
            body += self._recursion(function)
        if self.choices.chance(75):
            body.append(f"{_INDENT}return {self._returned(function)}")
        self.in_function, self.lines_left = None, whole
        names.local, names.loops = [], []
        return [f"def {function.name}({', '.join(parameters)}):", *body]

    def _recursion(self, function: Callable_) -> list[str]:
        self.expressions.names.read.add("guard")
        again = self.expressions.call(function, 1)
        way = self.choices.pick((again, f"n = {again}", f"return {again}"))
        return [
            f"{_INDENT}if guard < {self.choices.pick(('2', '3', '5'))}:",
            f"{_INDENT * 2}guard += 1",
            f"{_INDENT * 2}{way}",
        ]

    def _returned(self, function: Callable_) -> str:
        if self.choices.chance(10):
            return "None"
        maker = {
            "number": self.expressions.number,
            "text": self.expressions.text,
            "condition": self.expressions.condition,
        }[function.kind]
        return maker(1)

    # ------------------------------------------------------------ bodies

    def _body(self, indent: int, depth: int) -> list[str]:
        """One to a few statements."""
        lines: list[str] = []
        for _ in range(self.choices.weighted(((3, 1), (5, 2), (4, 3), (1, 5)))):
            if self.lines_left <= 0 and lines:
                break
            self.lines_left -= 1
            statement, ends = self._statement(indent, depth)
            lines += statement
            if ends:
                break
        return lines

    def _statement(self, indent: int, depth: int) -> tuple[list[str], bool]:
        """A statement, and whether what follows in its body is never reached."""
        choices, features = self.choices, self.features
        blocks = depth < _MOST_DEPTH and self.lines_left > 0
        make: Callable[[int, int], list[str]] = choices.weighted(
            (
                (6 if self.matches or depth else 2, self._tally_line),
                (5, self._assign),
                (4 if blocks and depth else 1 if blocks else 0, self._if),
                ((7 if depth == 0 else 4) if blocks and self.matches < 3 else 0, self._match),
                (2 if blocks and features.loops else 0, self._for),
                (8 if features.containers else 0, self._change),
                (3 if features.moves else 0, self._move),
                (4 if self.expressions.names.callables else 0, self._call),
                (3 if features.log else 0, self._log),
                (2 if depth and blocks else 0, self._leave_if),
                (2 if features.mistakes else 0, self._mistake),
                (0 if self.choices.chance(95) else 1, self._pass),
            )
        )
        lines = make(indent, depth)
        if depth and self.loops and choices.chance(5):
            return [*lines, f"{_INDENT * indent}{self._jump()}"], True
        return lines, False

    # ------------------------------------------------------------ simple statements

    def _tally_line(self, indent: int, depth: int) -> list[str]:
        return [f"{_INDENT * indent}{self._tally()}"]

    def _tally(self) -> str:
        self.tallies += 1
        choices = self.choices
        keys = []
        for _ in range(choices.weighted(((4, 1), (4, 2), (2, 3)))):
            way = choices.integer(0 if keys else -5, 9)
            if way < 0:
                keys.append(choices.pick(("action", "'here'", "'there'", "person", "session", "iter_get()", "1")))
            elif way <= 4:
                keys.append(choices.pick(("action", "kind", "label", "person", "flag", "amount", "price", "'all'")))
            elif way <= 6:
                keys.append(self.expressions.variable(NUMBERS + TEXTS + ANYTHING))
            else:
                keys.append(self.expressions.anything(2))
        return f"tally({', '.join(keys)})"

    def _assign(self, indent: int, depth: int) -> list[str]:
        choices, make = self.choices, self.expressions
        way = choices.integer(0, 9)
        margin = _INDENT * indent
        if way <= 2:
            name = choices.pick(NUMBERS)
            if choices.chance(40):
                return [f"{margin}{name} = {make.number(2)}"]
            make.names.read.add(name)
            operator = choices.weighted(((6, "+="), (3, "-="), (1, "*="), (1, "/="), (1, "//="), (1, "%=")))
            return [f"{margin}{name} {operator} {choices.pick(('1', '1', make.number(1)))}"]
        if way <= 4:
            return [f"{margin}{choices.pick(NUMBERS)} = {make.number(2)}"]
        if way <= 6:
            name = choices.pick(TEXTS)
            if choices.chance(30):
                make.names.read.add(name)
                return [f"{margin}{name} += {make.text(0)}"]
            return [f"{margin}{name} = {make.text(2)}"]
        if way == 7 and self.features.moves:
            return [f"{margin}p = iter_get()"]
        return [f"{margin}{choices.pick(ANYTHING)} = {make.anything(2)}"]

    def _call(self, indent: int, depth: int) -> list[str]:
        function = self.choices.pick(self.expressions.names.callables)
        return [f"{_INDENT * indent}{self.expressions.call(function, 1)}"]

    def _log(self, indent: int, depth: int) -> list[str]:
        arguments = [self.expressions.anything(1) for _ in range(self.choices.integer(1, 2))]
        return [f"{_INDENT * indent}log({', '.join(arguments)})"]

    def _move(self, indent: int, depth: int) -> list[str]:
        way = self.choices.weighted(
            ((5, "iter_next()"), (3, "iter_prev()"), (1, "iter_move_first()"), (1, "iter_move_last()"),
             (1, "iter_reset_event()"), (2, "iter_set(p)"), (1, "iter_set(iter_get() + 1)"), (1, "iter_set(2)"))
        )  # fmt: skip
        if way == "iter_set(p)":
            self.expressions.names.read.add("p")
        lines = [f"{_INDENT * indent}{way}"]
        if self.choices.chance(40):
            lines.append(f"{_INDENT * indent}{self._tally()}")
        return lines

    def _change(self, indent: int, depth: int) -> list[str]:
        """Something that changes a container."""
        make = self.expressions.containers
        lines = [line for _ in range(self.choices.integer(1, 3)) for line in make.change()]
        return [_INDENT * indent + line for line in lines]

    def _pass(self, indent: int, depth: int) -> list[str]:
        return [f"{_INDENT * indent}pass"]

    def _mistake(self, indent: int, depth: int) -> list[str]:
        """Something that is a type error, or may be one; often only some people get there."""
        make, choices = self.expressions, self.choices
        name = choices.pick(("n", "t", "x", "l", "d"))
        make.names.read |= {name, "n", "l"}
        line = choices.pick(
            (f"iter_set({name})", "iter_set(0.5)", f"tally({name})", f"tally(flag, {name})", f"{name}.append(1)",
             f"x = {name}.strip()", f"x = len({name})", f"x = 1 in {name}", f"x = {name}[0]", f"x = {name}['k']",
             f"x = {name}[1.0]", f"{name}[0] = 1", f"del {name}[0]", f"x = {name}[0:1]", f"x = -{name}", f"x = +{name}",
             f"x = iter_within({name}, stamp)", f"x = iter_between({name}, now)", "x = iter_between('soon', now)",
             f"x = get_hour({name})", f"x = date_week({name})", f"x = to_days({name})", f"x = bucket({name}, 2)",
             f"x = round(price, {name})", "x = round(amount, 0.5)", f"x = fix(price, {name})", f"x = trunc({name})",
             f"x = {name}.find('a')", f"x = label.find({name})",
             f"x = label.split({name})", f"x = label.replace('a', {name})",
             f"x = {name} * 2", f"x = {name} % 2", f"x = {name}.keys()", f"x = {{ {name}: 1}}", f"x = set({name}, [1])",
             f"x = url_decode({name})", f"x = str({name})", f"l += {name}", f"x = {name} == [1]", f"{name} += 1",
             f"x = -{name} + {name}", f"x = {name} is l")
        )  # fmt: skip
        margin = _INDENT * indent
        if choices.chance(30):
            return [f"{margin}for e in {name}:", f"{margin}{_INDENT}x = e"]
        if choices.chance(50):
            return [f"{margin}if {make.column_test()}:", f"{margin}{_INDENT}{line}"]
        return [f"{margin}{line}"]

    # ------------------------------------------------------------ jumps

    def _jump(self) -> str:
        """A statement that goes on elsewhere, as the loops around it allow."""
        forms = [(1, "exit"), (1, "return")]
        if self.loops:
            forms += [(8, "break"), (5, "continue"), (2, "break all")]
        if self.loops >= 2:
            forms += [(4, "break 2"), (4, "break top")]
        if self.loops >= 3:
            forms.append((4, "break 3"))
        way = self.choices.weighted(forms)
        if way == "return" and self.in_function and self.choices.chance(70):
            return f"return {self._returned(self.in_function)}"
        return way

    def _leave_if(self, indent: int, depth: int) -> list[str]:
        margin = _INDENT * indent
        return [f"{margin}if {self.expressions.condition(1)}:", f"{margin}{_INDENT}{self._jump()}"]

    # ------------------------------------------------------------ blocks

    def _if(self, indent: int, depth: int) -> list[str]:
        choices, margin = self.choices, _INDENT * indent
        lines = [f"{margin}if {self.expressions.condition(2)}:", *self._body(indent + 1, depth + 1)]
        while choices.chance(20):
            lines += [f"{margin}elif {self.expressions.condition(1)}:", *self._body(indent + 1, depth + 1)]
        if choices.chance(35):
            lines += [f"{margin}else:", *self._body(indent + 1, depth + 1)]
        return lines

    def _match(self, indent: int, depth: int) -> list[str]:
        choices, margin = self.choices, _INDENT * indent
        words = ["match"]
        if choices.chance(30):
            limit = "{{half}}" if self.features.mistakes and choices.chance(20) else "{{events}}"
            by_parameter = self.features.parameters and choices.chance(40)
            words.append(limit if by_parameter else str(choices.integer(1, 3)))
        if choices.chance(60):
            words += ["where", self.expressions.where(2)]
        self.loops += 1
        self.matches += 1
        body = self._body(indent + 1, depth + 1)
        self.matches -= 1
        self.loops -= 1
        return [f"{margin}{' '.join(words)}:", *body]

    def _for(self, indent: int, depth: int) -> list[str]:
        make, margin = self.expressions, _INDENT * indent
        names, source = make.containers.source()
        before = make.names.loops
        make.names.loops = [*before, *names.split(", ")]
        self.loops += 1
        body = self._body(indent + 1, depth + 1)
        self.loops -= 1
        make.names.loops = before
        return [f"{margin}for {names} in {source}:", *body]
