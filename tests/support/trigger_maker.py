"""Random trigger scripts: a random script's statements in on_insert(), with deeds in place of most of its tallies."""

from __future__ import annotations

import re
from dataclasses import replace

from support.choices import Choices
from support.expression_maker import Features
from support.script_maker import make_script

_TALLY = re.compile(r"^( *)tally\((.*)\)$")
_INDENT = "    "
# What emits a container, or may be wrong, is left to the interpreter; the rest must not be.
_VECTOR_DEEDS = (
    "emit('seen')", "emit(action)", "emit('price', price)", "emit('kind', kind)", "emit('n', amount)",
    "emit(action, flag)", "schedule(30 days, 'later')", "schedule(amount * amount, 'later')", "schedule(0, 'again')",
    "cancel('later')", "cancel('again')", "emit('new', is_new)",
)  # fmt: skip
_OTHER_DEEDS = (
    "emit('keys', [{}])", "emit(kind)", "emit(label, {{'k': {}}})", "schedule(amount, 'again')", "emit(label)",
)  # fmt: skip


def make_trigger(choices: Choices) -> str:
    """A trigger script with the functions on_insert, later and again."""
    features = replace(Features.chosen(choices), parameters=False)
    lines = make_script(choices, features).splitlines()
    functions: list[str] = []
    body: list[str] = []
    where = body
    for line in lines:
        if not line.startswith(" "):
            where = functions if line.startswith("def ") else _NOWHERE if line.startswith("agg:") else body
        if where is not _NOWHERE:
            where.append(_deed(choices, line))
    new = "is_new" if choices.chance(60) else "not is_new"
    main = [_INDENT + line for line in body]
    if choices.chance(40):
        main = [f"{_INDENT}match where {new}:", f"{_INDENT * 2}t = 'new'", *main]
    others = []
    for name in ("later", "again"):
        others += [f"def {name}():", f"{_INDENT}match:", f"{_INDENT * 2}{_deed(choices, 'tally(action)')}"]
    return "\n".join([*functions, "def on_insert():", *main, f"{_INDENT}pass", *others]) + "\n"


_NOWHERE: list[str] = []


def _deed(choices: Choices, line: str) -> str:
    found = _TALLY.match(line)
    if found is None:
        return line
    if choices.chance(75):
        deed = choices.pick(_VECTOR_DEEDS)
    else:
        deed = choices.pick(_OTHER_DEEDS).format(found[2].split(",")[0] if found[2].count("(") == 0 else "1")
    return found[1] + deed
