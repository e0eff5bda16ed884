"""What the people index can say about a script: who belongs to a segment, and whom a script can do nothing for.

An index knows who ever has a value, so it answers an `or` of facts about single rows. Two conditions joined by `and`
on one row are not two facts about a person, and a nested match says nothing about people tallied outside of it: such
scripts have candidates at most. Small shortcut: a number compared with a text column is left to the engine, since many
texts may read as that number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import and_, or_

from pyroaring import BitMap

from openset.pyql import tree
from openset.pyql.lanes.analysis import cannot_fail, conjuncts
from openset.pyql.meaning.text import read_number
from openset.pyql.settings import ParameterValue
from openset.store.lookup import ColumnValue
from openset.store.views import PartitionView
from openset_format.block import ColumnType

Parameters = Mapping[str, ParameterValue]


class Unanswerable:
    """Instead of a value to look up."""


# No row can have it.
NOBODY = Unanswerable()
# Rows may have it that no single look-up finds.
UNKNOWN = Unanswerable()


@dataclass(frozen=True, slots=True)
class EverCondition:
    """A person has a row with this value, of the column's own type."""

    column: str
    value: ColumnValue


@dataclass(frozen=True, slots=True, eq=False)
class HasValue:
    """A row has this value in a column. strict: as `in` compares, else as `==` does."""

    column: str
    type: ColumnType
    value: tree.Literal_ | tree.Parameter
    strict: bool = False

    def looked_up(self, parameters: Parameters) -> ColumnValue | Unanswerable:
        """The value to look up."""
        value = self.value
        given = parameters[value.name] if isinstance(value, tree.Parameter) else value.value
        return _column_value(self.type, given, self.strict)


@dataclass(frozen=True, slots=True, eq=False)
class EverHas:
    """A person has a row that satisfies one of these."""

    alternatives: tuple[HasValue, ...]

    def conditions(self, parameters: Parameters) -> list[EverCondition] | None:
        """What to look up, without what nobody has; None where a value cannot be looked up."""
        found = [(each.column, each.looked_up(parameters)) for each in self.alternatives]
        if any(value is UNKNOWN for _, value in found):
            return None
        return [EverCondition(column, value) for column, value in found if not isinstance(value, Unanswerable)]

    def people(self, view: PartitionView, parameters: Parameters) -> BitMap | None:
        """Exactly these people of a partition, None when an index does not know. Shared: do not change it."""
        conditions = self.conditions(parameters)
        if conditions is None:
            return None
        found = []
        for condition in conditions:
            people = view.people_with(condition.column, condition.value)
            if people is None:
                return None
            found.append(people)
        return reduce(or_, found) if found else BitMap()

    @property
    def columns(self) -> list[str]:
        """The columns that are asked, each once."""
        return list(dict.fromkeys(alternative.column for alternative in self.alternatives))


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """People for whom a script may do anything: those who satisfy all facts of any of its matches."""

    matches: tuple[tuple[EverHas, ...], ...]

    def people(self, view: PartitionView, parameters: Parameters) -> BitMap | None:
        """These people and perhaps more, None when the indexes rule nobody out. Shared: do not change it."""
        found = []
        for facts in self.matches:
            known = [people for fact in facts if (people := fact.people(view, parameters)) is not None]
            if not known:
                return None
            found.append(reduce(and_, known))
        return reduce(or_, found)

    @property
    def columns(self) -> list[str]:
        """The columns that are asked, each once."""
        return list(dict.fromkeys(name for facts in self.matches for fact in facts for name in fact.columns))


def membership(script: tree.Script) -> EverHas | None:
    """The facts that decide alone who belongs to a segment, None when it takes more than facts.

    The script is one or several `match where FACT or FACT …:` whose body tallies first, or returns what is true.
    """
    alternatives: list[HasValue] = []
    for statement in script.body:
        if not isinstance(statement, tree.Match) or isinstance(statement.limit, tree.Parameter):
            return None
        fact = ever_has(statement.where) if _only_takes_in(statement.body) else None
        if fact is None:
            return None
        alternatives += fact.alternatives
    return EverHas(tuple(alternatives))


def candidates(script: tree.Script) -> Candidates | None:
    """What the indexes may say about whom a script does anything for, None when they cannot say anything.

    Everything the script does is inside its top-level matches. Each needs a fact that the row must satisfy before
    anything is evaluated that could fail or act: an error or a log line of somebody left out would be missed.
    """
    matches: list[tuple[EverHas, ...]] = []
    for statement in script.body:
        if isinstance(statement, tree.Match) and not isinstance(statement.limit, tree.Parameter):
            facts = _facts_before_anything(statement.where)
            if not facts:
                return None
            matches.append(facts)
        elif not _does_nothing(statement):
            return None
    return Candidates(tuple(matches)) if matches else None


def ever_has(condition: tree.Expression | None) -> EverHas | None:
    """A condition on a row that is an `or` of facts, else None."""
    alternatives = _alternatives(condition)
    return None if alternatives is None else EverHas(alternatives)


def _facts_before_anything(where: tree.Expression | None) -> tuple[EverHas, ...]:
    facts: list[EverHas] = []
    for part in conjuncts(where):
        fact = ever_has(part)
        if fact is not None:
            facts.append(fact)
        elif not cannot_fail(part):
            break
    return tuple(facts)


def _only_takes_in(body: tree.Body) -> bool:
    """Whether a body makes whoever reaches it a member, and does nothing that could fail."""
    statements = [statement for statement in body if not isinstance(statement, tree.Pass)]
    if not statements or not all(_is_harmless(statement) for statement in statements):
        return False
    first = statements[0]
    return isinstance(first, tree.Tally) or (
        isinstance(first, tree.Return) and isinstance(first.value, tree.Literal_) and bool(first.value.value)
    )


def _is_harmless(statement: tree.Statement) -> bool:
    match statement:
        case tree.Tally():
            return all(cannot_fail(key) for key in statement.keys)
        case tree.Return():
            return statement.value is None or isinstance(statement.value, tree.Literal_)
    return isinstance(statement, tree.Break | tree.Continue | tree.Exit)


def _does_nothing(statement: tree.Statement) -> bool:
    """Nothing that a result could show: variables are set to what cannot fail."""
    match statement:
        case tree.Pass():
            return True
        case tree.Assign(target=tree.Variable(), operator=None, value=value):
            return _is_plain(value)
    return False


def _is_plain(value: tree.Expression) -> bool:
    match value:
        case tree.ListDisplay(items=items):
            return all(cannot_fail(item) for item in items)
        case tree.DictDisplay(pairs=()):
            return True
        case tree.Call(function="list" | "set" | "dict", arguments=()):
            return True
    return cannot_fail(value)


# ---------------------------------------------------------------- facts about a row


def _alternatives(condition: tree.Expression | None) -> tuple[HasValue, ...] | None:
    match condition:
        case tree.Binary(operator="or", left=left, right=right):
            return _joined(_alternatives(side) for side in (left, right))
        case tree.Binary(operator="==", left=tree.ColumnRead() as column, right=value):
            return _joined([_has_value(column, value)])
        case tree.Binary(operator="==", left=value, right=tree.ColumnRead() as column):
            return _joined([_has_value(column, value)])
        case tree.Binary(operator="in", left=tree.ColumnRead() as column, right=tree.ListDisplay(items=items)):
            return _joined(_has_value(column, item, strict=True) for item in items) if items else None
        case tree.ColumnRead(type="bool"):
            return _has_value(condition, tree.Literal_(True, at=condition.at))
    return None


def _joined(parts: Iterable[tuple[HasValue, ...] | None]) -> tuple[HasValue, ...] | None:
    found: tuple[HasValue, ...] = ()
    for part in parts:
        if part is None:
            return None
        found += part
    return found


def _has_value(column: tree.ColumnRead, value: tree.Expression, strict: bool = False) -> tuple[HasValue, ...] | None:
    if column.name in ("person", "stamp", "session") or column.type in (None, "double"):
        return None
    if not isinstance(value, tree.Literal_ | tree.Parameter):
        return None
    fact = HasValue(column.name, column.type, value, strict)
    # A literal that can never be looked up is seen now, a parameter only with its value.
    known = isinstance(value, tree.Parameter) or _column_value(column.type, value.value, strict) is not UNKNOWN
    return (fact,) if known else None


def _column_value(kind: ColumnType, value: ParameterValue | None, strict: bool) -> ColumnValue | Unanswerable:
    """The value of a column of this type that equals a value of the script."""
    if value is None:
        return UNKNOWN
    if kind == "text":
        if isinstance(value, str):
            return value
        return NOBODY if isinstance(value, bool) else UNKNOWN
    if strict and type(value) is not {"int": int, "bool": bool}[kind]:
        return UNKNOWN
    if isinstance(value, str):
        number = read_number(value) if kind == "int" else None
        return NOBODY if number is None else _column_value(kind, number, strict)
    if not math.isfinite(value) or value != int(value) or (kind == "bool" and value not in (0, 1)):
        return NOBODY
    return bool(value) if kind == "bool" else int(value)
