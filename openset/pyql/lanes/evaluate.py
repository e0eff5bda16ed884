"""Expressions on lanes. Every result is a vector over the lanes asked for, or a constant.

A type error stops the lanes it happens on and marks their people: the interpreter answers for those.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import tzinfo
from functools import partial
from typing import Any

import numpy as np

from openset.errors import RunTimeError
from openset.pyql import tree
from openset.pyql.lanes import vector_functions, vector_ops
from openset.pyql.lanes.block_run import BlockRun
from openset.pyql.lanes.frames import FAILED_LANE, Frame
from openset.pyql.lanes.inline import inline_values
from openset.pyql.lanes.vector_containers import ContainerOps, may_hold
from openset.pyql.lanes.vector_ops import binary, map_distinct, negate, truth
from openset.pyql.lanes.vectors import (
    BOOL,
    DOUBLE,
    ERROR,
    INT,
    NONE,
    NULL,
    TEXT,
    Const,
    Failure,
    Mask,
    Positions,
    Value,
    Vec,
    assemble,
    from_payloads,
)
from openset.pyql.meaning import containers, dates, functions
from openset.pyql.names import CHANGING_METHODS, FUNCTIONS

CallUser = Callable[[Frame, tree.UserCall, Positions | None], Value]


class Evaluator:
    """Evaluates expressions over one Block.

    call_user runs a function of the script, call_changing a method that changes a container; the executor sets both.
    """

    call_user: CallUser
    call_changing: Callable[[Frame, tree.MethodCall, Positions | None], Value]

    def __init__(self, run: BlockRun):
        self.run = run
        self.table = run.table
        self._zone = run.settings.zone
        self._pure = functions.pure_functions(self._zone)
        self.containers = ContainerOps(self, run.store)

    def release(self) -> None:
        """Lets go of the executor, so that what a run holds is freed at once and not by the garbage collector."""
        del self.call_user, self.call_changing

    # ------------------------------------------------------------ entry points

    def value(self, expression: tree.Expression, frame: Frame, lanes: Positions | None) -> Value:
        """The value of an expression on some lanes (None: all of the frame)."""
        return self.settled(self._value(expression, frame, lanes), frame, lanes)

    def settled(self, result: Value, frame: Frame, lanes: Positions | None) -> Value:
        """A result without type errors: the lanes that have one stop, their value is None."""
        if isinstance(result, Const):
            if isinstance(result.value, Failure):
                self.fail(frame, lanes)
                return NULL
        elif result.kinds is not None:
            wrong = result.kinds == ERROR
            if wrong.any():
                at = np.flatnonzero(wrong)
                self.fail(frame, at if lanes is None else lanes[at])
                return from_payloads(np.where(wrong, NONE, result.kinds).astype(np.uint8), result.data, self.table)
        return result

    def condition(self, expression: tree.Expression, frame: Frame, lanes: Positions | None) -> Mask:
        """bool per lane: the truth of an expression; `and` and `or` ask their right side only where it matters."""
        if isinstance(expression, tree.Binary) and expression.operator in ("and", "or"):
            return self._short_circuit(expression, frame, lanes)
        if isinstance(expression, tree.Unary) and expression.operator == "not":
            return ~self.condition(expression.operand, frame, lanes)
        return self.truth(self.value(expression, frame, lanes), self.count(frame, lanes))

    def truth(self, value: Value, count: int) -> Mask:
        """bool per lane: Python's truth, containers by their size."""
        return truth(self.containers.as_sizes(value), count, self.table)

    def fail(self, frame: Frame, lanes: Positions | None) -> None:
        """Stops lanes and leaves their people to the interpreter."""
        self.run.failed[self.run.persons(frame, lanes)] = True
        frame.stop(lanes, FAILED_LANE)

    def count(self, frame: Frame, lanes: Positions | None) -> int:
        return len(frame) if lanes is None else len(lanes)

    def lanes_at(self, frame: Frame, lanes: Positions | None, mask: Mask) -> Positions:
        """The lanes a mask over `lanes` selects."""
        chosen = np.flatnonzero(mask)
        return chosen if lanes is None else lanes[chosen]

    # ------------------------------------------------------------ expressions

    def _value(self, expression: tree.Expression, frame: Frame, lanes: Positions | None) -> Value:
        match expression:
            case tree.Literal_():
                return Const(expression.value)
            case tree.Parameter():
                return Const(self.run.settings.parameters[expression.name])
            case tree.ColumnRead():
                return self.run.column(expression, frame, lanes)
            case tree.Variable():
                return frame.read(expression.name, lanes)
            case tree.Unary():
                return self._unary(expression, frame, lanes)
            case tree.Binary():
                return self._binary(expression, frame, lanes)
            case tree.Call():
                return self._call(expression, frame, lanes)
            case tree.UserCall():
                return self.call_user(frame, expression, lanes)
            case tree.Inline():
                return inline_values(self, expression, frame, lanes)
            case tree.Index():
                return self._element(expression, frame, lanes)
            case tree.Slice():
                return self._slice(expression, frame, lanes)
            case tree.MethodCall():
                return self._method(expression, frame, lanes)
            case tree.ListDisplay():
                items = [self.value(item, frame, lanes) for item in expression.items]
                return self.containers.make_list(items, self.count(frame, lanes))
            case tree.DictDisplay():
                pairs = [(self.value(k, frame, lanes), self.value(v, frame, lanes)) for k, v in expression.pairs]
                return self.containers.make_dict(pairs, self.count(frame, lanes))
        raise AssertionError(f"no rule for {type(expression).__name__}")

    def _element(self, expression: tree.Index, frame: Frame, lanes: Positions | None) -> Value:
        count = self.count(frame, lanes)
        container = self.value(expression.container, frame, lanes)
        index = self.value(expression.index, frame, lanes)
        if may_hold(container):
            return self.containers.element(container, index, count)
        return map_distinct(containers.element, [container, index], count, self.table)

    def _slice(self, expression: tree.Slice, frame: Frame, lanes: Positions | None) -> Value:
        count = self.count(frame, lanes)
        container, start, stop = (
            NULL if part is None else self.value(part, frame, lanes)
            for part in (expression.container, expression.start, expression.stop)
        )
        if may_hold(container):
            return self.containers.slice_of(container, start, stop, count)
        return map_distinct(containers.slice_of, [container, start, stop], count, self.table)

    def _method(self, expression: tree.MethodCall, frame: Frame, lanes: Positions | None) -> Value:
        """Methods of text and `keys`; those that change a container are statements with a value."""
        if expression.method in CHANGING_METHODS:
            return self.call_changing(frame, expression, lanes)
        count = self.count(frame, lanes)
        target = self.value(expression.target, frame, lanes)
        if expression.method == "keys" and may_hold(target):
            return self.containers.keys(target, count)
        arguments = [target, *(self.value(argument, frame, lanes) for argument in expression.arguments)]

        def call(text: Any, *rest: Any) -> Any:
            return functions.call_method(text, expression.method, list(rest))

        if expression.method == "split":
            return self.containers.mapped(call, arguments, count)
        return map_distinct(call, arguments, count, self.table)

    def _unary(self, expression: tree.Unary, frame: Frame, lanes: Positions | None) -> Value:
        count = self.count(frame, lanes)
        if expression.operator == "not":
            return Vec(BOOL, ~self.condition(expression.operand, frame, lanes))
        operand = self.value(expression.operand, frame, lanes)
        if expression.operator == "-":
            return negate(operand, count, self.table)
        return binary("+", Const(0), operand, count, self.table)

    def _binary(self, expression: tree.Binary, frame: Frame, lanes: Positions | None) -> Value:
        operator = expression.operator
        if operator in ("and", "or"):
            return self._either_operand(expression, frame, lanes)
        if operator in ("in", "not in"):
            return self._membership(expression, frame, lanes)
        left = self.value(expression.left, frame, lanes)
        right = self.value(expression.right, frame, lanes)
        return self.operate(operator, left, right, self.count(frame, lanes))

    def operate(self, operator: str, left: Value, right: Value, count: int) -> Value:
        """left operator right, containers on the left of + and - included."""
        if operator in ("+", "-") and may_hold(left):
            return self.containers.arithmetic(operator, left, right, count)
        return binary(operator, left, right, count, self.table)

    def _short_circuit(self, expression: tree.Binary, frame: Frame, lanes: Positions | None) -> Mask:
        left = self.condition(expression.left, frame, lanes)
        asked = left if expression.operator == "and" else ~left
        if asked.all():
            return self.condition(expression.right, frame, lanes)
        result = left.copy()
        at = np.flatnonzero(asked)
        if len(at):
            result[at] = self.condition(expression.right, frame, at if lanes is None else lanes[at])
        return result

    def _either_operand(self, expression: tree.Binary, frame: Frame, lanes: Positions | None) -> Value:
        """`and` and `or` as values: one of the operands."""
        count = self.count(frame, lanes)
        left = self.value(expression.left, frame, lanes)
        asked = self.truth(left, count)
        if expression.operator == "or":
            asked = ~asked
        at, rest = np.flatnonzero(asked), np.flatnonzero(~asked)
        if not len(at):
            return left
        right = self.value(expression.right, frame, at if lanes is None else lanes[at])
        if not len(rest):
            return right
        kept = left if isinstance(left, Const) else left.take(rest)
        return assemble(count, [(rest, kept), (at, right)], self.table)

    # ------------------------------------------------------------ membership

    def _membership(self, expression: tree.Binary, frame: Frame, lanes: Positions | None) -> Value:
        count = self.count(frame, lanes)
        negative = expression.operator == "not in"
        if not isinstance(expression.right, tree.ListDisplay):
            item = self.value(expression.left, frame, lanes)
            container = self.value(expression.right, frame, lanes)
            found = self._contained(item, container, count)
        else:
            item = self.value(expression.left, frame, lanes)
            found = Const(False)
            for element in expression.right.items:
                same = self._strictly_equal(item, self.value(element, frame, lanes), count)
                found = same if isinstance(found, Const) and not found.value else self._or(found, same, count)
        if negative and isinstance(found, Const) and isinstance(found.value, bool):
            return Const(not found.value)
        if negative and isinstance(found, Vec):
            found = self.settled(found, frame, lanes)
            return Vec(BOOL, ~self.truth(found, count))
        return found

    def _contained(self, item: Value, container: Value, count: int) -> Value:
        if may_hold(container):
            return self.containers.contains(item, container, count)
        return map_distinct(lambda one, many: containers.contains(many, one), [item, container], count, self.table)

    def _or(self, left: Value, right: Value, count: int) -> Value:
        return Vec(BOOL, self.truth(left, count) | self.truth(right, count))

    def _strictly_equal(self, left: Value, right: Value, count: int) -> Value:
        """Equality without the loose rule between text and numbers, and with bools apart."""
        kinds = {vector_ops.kind(left), vector_ops.kind(right)}
        if kinds == {TEXT} or (kinds <= {INT, DOUBLE}) or kinds == {BOOL}:
            return binary("==", left, right, count, self.table)
        for side, other in ((left, right), (right, left)):
            if isinstance(side, Const) and side.value is None:
                return binary("==", other, NULL, count, self.table)
        return map_distinct(containers.strictly_equal, [left, right], count, self.table)

    # ------------------------------------------------------------ functions

    def _call(self, expression: tree.Call, frame: Frame, lanes: Positions | None) -> Value:
        name = expression.function
        if name == "iter_get":
            return Vec(INT, self.run.row_in_person(frame, lanes))
        if name in ("iter_within", "iter_between"):
            arguments = [self.value(argument, frame, lanes) for argument in expression.arguments]
            return self._window(name, arguments, frame, lanes)
        if not FUNCTIONS[name].pure:
            return self.run.time_value(name, frame, lanes)
        arguments = [self.value(argument, frame, lanes) for argument in expression.arguments]
        count = self.count(frame, lanes)
        if name in ("list", "set", "dict"):
            make = self.containers.make_set if name == "set" else self.containers.make_list
            return self.containers.make_dict([], count) if name == "dict" else make(arguments, count)
        if name == "len" and may_hold(arguments[0]):
            return self.containers.length(arguments[0], count)
        if name == "url_decode":
            return self.containers.mapped(self._pure[name], arguments, count)
        return vector_functions.call(name, self._pure[name], arguments, count, self.table, self._zone)

    def _window(self, name: str, arguments: list[Value], frame: Frame, lanes: Positions | None) -> Value:
        count = self.count(frame, lanes)
        whole = frame.whole_block and lanes is None
        stamps = self.run.stamps(None if whole else self.run.rows(frame, lanes))
        if name == "iter_within":
            fast = vector_functions.within(stamps, arguments[0], arguments[1])
            if fast is not None:
                return fast
            return map_distinct(_within, [Vec(INT, stamps), *arguments], count, self.table)
        bound_ms = partial(dates.bound_ms, zone=self._zone)
        bounds = [map_distinct(bound_ms, [argument], count, self.table) for argument in arguments]
        if any(isinstance(bound, Const) and isinstance(bound.value, Failure) for bound in bounds):
            return Const(Failure())
        low = binary("<=", bounds[0], Vec(INT, stamps), count, self.table)
        high = binary("<", Vec(INT, stamps), bounds[1], count, self.table)
        if any(isinstance(bound, Vec) and bound.kinds is not None and (bound.kinds == ERROR).any() for bound in bounds):
            between = partial(_between, self._zone)
            return map_distinct(between, [Vec(INT, stamps), *arguments], count, self.table)
        return Vec(BOOL, self.truth(low, count) & self.truth(high, count))


def _within(stamp: int, span: Any, moment: Any) -> bool:
    if span is None or moment is None:
        return False
    for value in (span, moment):
        if not isinstance(value, int | float):
            raise RunTimeError(f"iter_within() needs numbers, this is {containers.kind_of(value)}")
    return bool(abs(stamp - moment) <= span)


def _between(zone: tzinfo, stamp: int, low: Any, high: Any) -> bool:
    first, last = dates.bound_ms(low, zone), dates.bound_ms(high, zone)
    return first is not None and last is not None and first <= stamp < last
