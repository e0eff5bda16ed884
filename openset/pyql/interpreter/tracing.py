"""What a script does for one person, step by step: rows that matches visit, why they leave others out, what happens.

The interpreter tells a Tracer where it is; without one nothing is noted. Steps are bounded: beyond the bound they are
only counted. Conditions are asked part by part, each once, so that watching changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openset.pyql import tree
from openset.pyql.interpreter.scalar_run import Evaluator, Run
from openset.pyql.meaning.source_text import source_text
from openset.pyql.meaning.values import is_true

STEPS_KEPT = 2_000
# Of the rows that fail at one part of a condition, so many are shown.
FAILURES_SHOWN = 3

Compile = Callable[[tree.Expression], Evaluator]


class Tracer:
    """The steps of one run. depth: how many matches and functions are open."""

    def __init__(self, show_row: Callable[[int], dict[str, Any]], show_value: Callable[[Any], Any]):
        self.steps: list[dict[str, Any]] = []
        self.left_out = 0
        self.depth = 0
        self.show_row = show_row
        self.show_value = show_value

    def note(self, what: str, line: int, **facts: Any) -> dict[str, Any]:
        """A step; the facts may be added to later."""
        step = {"what": what, "line": line, "depth": self.depth, **facts}
        if len(self.steps) < STEPS_KEPT:
            self.steps.append(step)
        else:
            self.left_out += 1
        return step

    def visit(self, line: int, row: int) -> None:
        """A match runs its block on a row."""
        self.note("visit", line, **self.show_row(row))


class TracedMatch:
    """One execution of a match: counts the rows that fail, by the part of the condition that fails."""

    def __init__(self, tracer: Tracer, statement: tree.Match, from_row: int):
        self._tracer = tracer
        self._line = statement.at.line
        self._visited = 0
        self._failed: dict[str, dict[str, Any]] = {}
        condition = None if statement.where is None else source_text(statement.where)
        tracer.note("match", self._line, condition=condition, from_row=from_row)
        tracer.depth += 1

    def visited(self, row: int) -> None:
        """The block is about to run on a row."""
        self._visited += 1
        self._tracer.visit(self._line, row)
        self._tracer.depth += 1

    def left(self) -> None:
        """The block has run."""
        self._tracer.depth -= 1

    def failed(self, row: int, part: str, values: dict[str, Any]) -> None:
        """The condition does not hold on a row: at this part, which saw these values."""
        found = self._failed.setdefault(part, {"part": part, "rows": 0, "first": []})
        found["rows"] += 1
        if len(found["first"]) < FAILURES_SHOWN:
            found["first"].append({**self._tracer.show_row(row), "values": values})

    def end(self) -> None:
        """The match is over."""
        self._tracer.depth -= 1
        self._tracer.note("end", self._line, visited=self._visited, failed=list(self._failed.values()))


class TracedCondition:
    """A condition that is asked part by part. `failing` and `values` tell of the last time that it did not hold."""

    def __init__(self, condition: tree.Expression, compile_expression: Compile):
        self.failing = ""
        self.values: dict[str, Any] = {}
        self._holds = self._compiled(condition, compile_expression)

    def holds(self, run: Run) -> bool:
        """Whether the condition holds where the cursor stands."""
        return self._holds(run)

    def _compiled(self, part: tree.Expression, compile_expression: Compile) -> Callable[[Run], bool]:
        if isinstance(part, tree.Binary) and part.operator in ("and", "or"):
            left = self._compiled(part.left, compile_expression)
            right = self._compiled(part.right, compile_expression)
            return self._joined(part, left, right)
        evaluate = compile_expression(part)
        text = source_text(part)
        seen = [
            (node.name, compile_expression(node))
            for node in _parts(part)
            if isinstance(node, tree.ColumnRead | tree.Variable)
        ]

        def leaf(run: Run) -> bool:
            # Before the part itself, which may call functions that change what is seen.
            values = {name: look(run) for name, look in seen}
            if is_true(evaluate(run)):
                return True
            assert run.tracer is not None
            self.failing = text
            self.values = {name: run.tracer.show_value(value) for name, value in values.items()}
            return False

        return leaf

    def _joined(
        self, part: tree.Binary, left: Callable[[Run], bool], right: Callable[[Run], bool]
    ) -> Callable[[Run], bool]:
        def both(run: Run) -> bool:
            return left(run) and right(run)

        def either(run: Run) -> bool:
            if left(run):
                return True
            first, values = self.failing, self.values
            if right(run):
                return True
            self.failing, self.values = f"{first} or {self.failing}", {**values, **self.values}
            return False

        return both if part.operator == "and" else either


def _parts(expression: tree.Expression) -> list[tree.Expression]:
    """An expression and what it is made of, but for the conditions of inline aggregations, which see other rows."""
    found = [expression]
    children: tuple[tree.Expression | None, ...] = ()
    match expression:
        case tree.Unary():
            children = (expression.operand,)
        case tree.Binary():
            children = (expression.left, expression.right)
        case tree.ListDisplay():
            children = expression.items
        case tree.DictDisplay():
            children = tuple(each for pair in expression.pairs for each in pair)
        case tree.Index():
            children = (expression.container, expression.index)
        case tree.Slice():
            children = (expression.container, expression.start, expression.stop)
        case tree.Call() | tree.UserCall():
            children = expression.arguments
        case tree.MethodCall():
            children = (expression.target, *expression.arguments)
    for child in children:
        if child is not None:
            found += _parts(child)
    return found
