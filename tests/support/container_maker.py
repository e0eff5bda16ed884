"""Random PyQL about lists, sets and dicts: statements that change them, expressions that read them, loops over them.

Variables have fixed roles: l a list of numbers, s a set, d a dict of numbers, q a dict of containers, w whatever was
put there last, to see that assignment copies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from support.expression_maker import ExpressionMaker

FIRST_VALUES = {"l": "[1, 2, 3]", "d": "{}", "s": "set()", "q": "{'a': [1, 2], 'b': {}}", "w": "[]"}
GROWN = ["def grown(w, g):", "    w.append(g)", "    return w"]


class ContainerMaker:
    """Makes text with the expressions of an ExpressionMaker."""

    def __init__(self, make: ExpressionMaker):
        self.make = make
        self.choices = make.choices

    def number(self) -> str:
        """A number that a container holds, or how many it holds; maybe None."""
        choices, read = self.choices, self.make.variable
        ways: list[Callable[[], str]] = [
            lambda: f"{read(('l',))}[{self._position()}]",
            lambda: f"{read(('d',))}[{self.make.anything(0)}]",
            lambda: f"len({read(('l', 'd', 's', 'q', 'w'))})",
            lambda: f"{read(('q',))}['a'][{choices.pick(('0', '1', '-1'))}]",
            lambda: f"{read(('q',))}['b'][{self.make.anything(0)}]",
            lambda: f"len({read(('l',))}[{choices.pick(('1:', ':2', '-2:', '0:1', ':', 'n:'))}])",
            lambda: f"len({read(('d',))}.keys())",
            lambda: f"len({self.value()})",
            lambda: f"[{self.make.number(0)}, {self.make.number(0)}][{self._position()}]",
        ]
        made = choices.pick(ways)()
        if "[n:" in made:
            read(("n",))
        return made

    def _position(self) -> str:
        if self.choices.chance(30):
            return self.make.variable(("n",))
        return self.choices.pick(("0", "1", "-1", "5", "None"))

    def value(self) -> str:
        """A container."""
        choices, read = self.choices, self.make.variable
        number, anything = self.make.number, self.make.anything
        ways: list[Callable[[], str]] = [
            lambda: read(("l", "s", "d", "q")),
            lambda: f"{read(('q',))}['{choices.pick('ab')}']",
            lambda: f"{read(('l',))}[{choices.pick(('1:', ':-1', ':'))}]",
            lambda: f"{read(('d',))}.keys()",
            lambda: f"[{number(0)}, {anything(0)}]",
            lambda: f"list({anything(0)})",
            lambda: f"set({anything(0)}, {anything(0)})",
            lambda: f"{{ {anything(0)}: {number(0)}}}",
            lambda: f"({read(('l',))} {choices.pick('+-')} {choices.pick((number(0), read(('l', 's'))))})",
            lambda: f"({read(('s',))} {choices.pick('+-')} {choices.pick((anything(0), read(('l', 's', 'd'))))})",
            lambda: f"({read(('d',))} - {choices.pick((anything(0), read(('l', 's'))))})",
            lambda: f"label.split({choices.pick((repr(' '), repr('e')))})",
        ]
        return choices.pick(ways)()

    def condition(self) -> str:
        """A condition on containers that columns cannot answer."""
        read = self.make.variable
        way = self.choices.integer(0, 3)
        if way == 0:
            return f"{read(('l', 'w', 's'))} {self.choices.pick(('==', '!='))} {self.value()}"
        if way == 1:
            return f"str({read(('l', 's', 'd', 'q'))}) {self.choices.pick(('==', '<', '!='))} {self.make.text(0)}"
        if way == 2:
            return f"{read(('l', 's', 'd', 'w'))}"
        return f"[{self.make.number(0)}] in [{read(('l',))}, [1]]"

    def change(self) -> list[str]:
        """Lines that change a container."""
        name = self.choices.pick("lddssqw")
        self.make.names.read |= {name, "n"}
        return {"l": self._list, "d": self._dict, "s": self._set, "q": self._nested, "w": self._copy}[name]()

    def _list(self) -> list[str]:
        number = self.make.number
        return [
            self.choices.pick(
                (f"l.append({number(1)})", f"l += {number(0)}", "l.pop()", "l.clear()", f"l.remove({number(0)})",
                 f"l -= {number(0)}", "del l[0]", "del l[-1]", "l[0:0]", "n = l.pop()", "l[0] = n", "l[-1] += 1",
                 f"l = [{number(0)}, {number(0)}] + l", f"l += {self.value()}", "l = l[1:]", "l = [n] - 1")
            )
        ]  # fmt: skip

    def _dict(self) -> list[str]:
        key, number = self.make.anything(0), self.make.number
        if self.choices.chance(50):
            return [f"if {key} not in d:", f"    d[{key}] = 0", f"d[{key}] += 1"]
        return [
            self.choices.pick(
                (f"d[{key}] = {number(1)}", f"del d[{key}]", "d.pop()", f"d.remove({key})", "d.clear()",
                 f"d.update({{ {key}: {number(0)}}})", f"d -= [{key}]", f"d += {{ {key}: 1}}", "d = d - d.keys()")
            )
        ]  # fmt: skip

    def _set(self) -> list[str]:
        item = self.make.anything(0)
        return [
            self.choices.pick(
                (f"s.add({item})", f"s += {item}", f"s.remove({item})", f"s -= {item}", "x = s.pop()", "s.clear()",
                 f"s = s + [{item}, {self.make.anything(0)}]", f"s = set({item}, 1)", f"s.add({self.value()})",
                 f"s -= {self.value()}")
            )
        ]  # fmt: skip

    def _nested(self) -> list[str]:
        number = self.make.number
        return [
            self.choices.pick(
                (f"q['a'].append({number(0)})", f"q['b'][{self.make.anything(0)}] = {number(0)}", "q['a'].pop()",
                 f"q['a'][0] += {number(0)}", "del q['b']", "q['a'] = [0, 1]", "q['a'] += 3", "q['b'] = {'z': 1}",
                 f"q['a'] = {self.value()}", "q['a'].append([1, 2])")
            )
        ]  # fmt: skip

    def _copy(self) -> list[str]:
        """Puts a container into w, changes one of the two."""
        source = self.make.variable(("l", "s", "q"))
        way = self.choices.integer(0, 4)
        if way == 0:
            return [f"w = {self.value()}"]
        if way == 1 and source != "q":
            return [f"w = {source}", f"{self.choices.pick((source, 'w'))}.add(7)"]
        if way == 2:
            return ["w = q", "q['a'].append(9)", "tally('copy', len(w['a']), len(q['a']))"]
        if way == 3:
            return ["w = [q['a'], l]", "w[0].append(5)", "l.append(6)", "tally('copies', len(w[1]), len(l))"]
        return ["w.clear()"]

    def source(self) -> tuple[str, str]:
        """Names and source of a for line."""
        choices, make = self.choices, self.make
        way = choices.integer(0, 8)
        if way <= 2:
            return "e", make.variable(("l", "s", "d"))
        if way == 3:
            return "e, g", make.variable(("d",))
        if way == 4:
            return "e", f"[{make.anything(0)}, {make.anything(0)}]"
        if way == 5:
            return "e", choices.pick(("label", make.text(0)))
        if way == 6:
            return "e, g", f"{{ {make.anything(0)}: 1, 'k': {make.anything(0)}}}"
        return "e", self.value()
