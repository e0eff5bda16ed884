"""The state of a scalar run: variables, cursor, budgets, what the current person has done.

Statements and expressions are compiled into Python closures over a Run (`scalar_statements`, `scalar_expressions`).
A statement gives a signal: NORMAL, CONTINUE, RETURN, or the number of loops that a `break` still has to leave.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openset.errors import RunTimeError
from openset.pyql import tree
from openset.pyql.actions import Emission, Scheduling
from openset.pyql.interpreter.budget import Budget
from openset.pyql.interpreter.cursor import PersonCursor
from openset.pyql.meaning.containers import CONTAINERS, ELEMENT_BYTES, Value, copy_value, deep_bytes
from openset.pyql.meaning.functions import pure_functions
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset_format.block import Block

if TYPE_CHECKING:
    from openset.pyql.interpreter.tracing import Tracer

NORMAL = 0
CONTINUE = -1
RETURN = -2

Evaluator = Callable[["Run"], Value]
Executor = Callable[["Run"], int]


class ExitPerson(Exception):
    """`exit`: the script ends for this person."""


@dataclass(frozen=True, slots=True)
class CompiledFunction:
    """A function of the script."""

    parameters: tuple[str, ...]
    body: Executor


@dataclass(frozen=True, slots=True)
class Program:
    """A script as closures. expressions: of the `var` aggregators, by their place in agg:, None for the others."""

    script: tree.Script
    body: Executor
    functions: dict[str, CompiledFunction]
    expressions: tuple[Evaluator | None, ...]


@dataclass(slots=True)
class Outcome:
    """What the script did for one person: whether it called tally, and what it returned at top level."""

    tallied: bool = False
    returned: Value = None


class Run:
    """One program running over the people of one block, one after the other."""

    def __init__(self, program: Program, block: Block, settings: RunSettings, partial: Partial):
        self.program = program
        self.settings = settings
        self.functions = pure_functions(settings.zone)
        self.partial = partial
        self.cursor = PersonCursor(block, settings.session_time_ms)
        self.budget = Budget(settings, self._variable_bytes)
        self.variables: dict[str, Value] = {}
        # Inline aggregations that are the same wherever the person's cursor stands, by their node of the tree.
        self.fixed_inlines: dict[tree.Inline, Value] = {}
        # What aggregators have taken for the current person: (aggregator, node, event, key).
        self.marks: set[tuple[object, ...]] = set()
        self.call_depth = 0
        self.tallied = False
        self.returned: Value = None
        # What a trigger does for the current person.
        self.emitted: Emission | None = None
        self.schedulings: dict[str, Scheduling] = {}
        self.person = 0
        self.now_ms = settings.now_ms
        # Somebody who wants to know every step; nearly always nobody does.
        self.tracer: Tracer | None = None

    def start(self, person: int) -> None:
        """Goes to a person: every variable is None, the cursor on the first row."""
        self.cursor.start(person)
        self.now_ms = self.cursor.moment(self.settings.now_ms)
        self.budget.start_person()
        self.variables = {}
        self.fixed_inlines = {}
        self.marks = set()
        self.call_depth = 0
        self.tallied = False
        self.returned = None
        self.emitted = None
        self.schedulings = {}
        self.person = person

    def schedule(self, function: str, span_ms: int | None) -> None:
        """Notes a schedule or a cancel; an earlier one of the function does not count any more."""
        self.schedulings.pop(function, None)
        self.schedulings[function] = Scheduling(self.person, function, span_ms)

    def copied(self, value: Value) -> Value:
        """A value to keep in a variable: containers are copied and count for the memory budget."""
        return copy_value(value, self.budget.hold)

    def copied_element(self, value: Value) -> Value:
        """A value to put into a container."""
        if not isinstance(value, CONTAINERS):
            self.budget.hold(ELEMENT_BYTES + (len(value) if isinstance(value, str) else 0))
        return self.copied(value)

    def _variable_bytes(self) -> int:
        return sum(deep_bytes(value) for value in self.variables.values())


def placed(error: RunTimeError, at: tree.Position) -> RunTimeError:
    """The error with a position; one that it has already is the more exact one."""
    if error.line is not None:
        return error
    return type(error)(error.message, detail=error.detail, line=at.line, column=at.column)
