"""Statements on lanes: each takes the lanes that run it and returns those that go on.

What has no vector form (log lines that somebody wants to read, type errors) hands the
people that reach it to the interpreter, which runs the script for them from the start.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray

from openset.errors import RunTimeError
from openset.pyql import tree
from openset.pyql.actions import checked_span
from openset.pyql.interpreter.scalar_run import placed
from openset.pyql.lanes.action_batches import CANCELLED, EmitBatch, ScheduleBatch
from openset.pyql.lanes.analysis import Analysis
from openset.pyql.lanes.block_run import BlockRun, Candidates
from openset.pyql.lanes.container_statements import ContainerStatements
from openset.pyql.lanes.evaluate import Evaluator
from openset.pyql.lanes.for_loop import ForLoop
from openset.pyql.lanes.frames import (
    BREAK,
    CONTINUE,
    EXIT,
    LEAVE_MATCH,
    RESULT_VALUE,
    RETURN,
    RETURN_VALUE,
    RUNNING,
    Batch,
    Frame,
)
from openset.pyql.lanes.matching import MatchLoop
from openset.pyql.lanes.node_table import NodeTable
from openset.pyql.lanes.tallies import order_matters
from openset.pyql.lanes.vector_containers import may_hold
from openset.pyql.lanes.vector_ops import map_distinct
from openset.pyql.lanes.vectors import (
    CONTAINER,
    INT,
    NONE,
    NULL,
    TEXT,
    Const,
    Mask,
    Positions,
    Value,
    Vec,
    payloads,
    spread,
    take,
)
from openset.pyql.settings import MOST_SPAN_MS, RECURSION_LIMIT

Lanes = Positions | None


class Executor:
    """Runs the statements of a script over one Block."""

    def __init__(
        self,
        run: BlockRun,
        script: tree.Script,
        analysis: Analysis,
        nodes: NodeTable,
        *,
        want_log: bool = False,
        note_tallied: bool = False,
    ):
        """want_log: log lines are collected.  note_tallied: tallies that count nowhere leave a Batch too."""
        self.run = run
        self.script = script
        self.analysis = analysis
        self.nodes = nodes
        self.want_log = want_log
        self.note_tallied = note_tallied
        self.evaluator = Evaluator(run)
        self.evaluator.call_user = self.call
        self.containers = ContainerStatements(self.evaluator)
        self.evaluator.call_changing = self.containers.call
        self.keep_order = order_matters(script.aggregators)
        self._functions = {name: place for place, name in enumerate(script.functions)}
        self._candidates: dict[tree.Match, Candidates] = {}
        self._depth = 0
        # Lexical nesting of loops around the statement that runs, per active function.
        self._loops = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Breaks the reference cycles of a run that is over: it may hold gigabytes."""
        self.evaluator.release()

    def top(self, body: tree.Body | None = None) -> Frame:
        """Runs the script, or a body of it, for all people of the Block; the frame holds what they tallied and did."""
        people = self.run.block.runnable
        frame = Frame(people, self.run.block.row_start[people].astype(np.int64))
        if len(people):
            self.body(frame, self.script.body if body is None else body, None)
        return frame

    # ------------------------------------------------------------ bodies

    def body(self, frame: Frame, statements: tree.Body, lanes: Lanes) -> Lanes:
        """Runs statements one after the other on the lanes that are left."""
        for statement in statements:
            if lanes is not None and not len(lanes):
                break
            try:
                lanes = self.statement(frame, statement, lanes)
            except RunTimeError as error:
                raise error if isinstance(statement, tree.Match | tree.For) else placed(error, statement.at) from None
        return lanes

    def _loop_body(self, frame: Frame, body: tree.Body) -> None:
        self._loops += 1
        self.body(frame, body, None)
        self._loops -= 1

    def statement(self, frame: Frame, statement: tree.Statement, lanes: Lanes) -> Lanes:
        match statement:
            case tree.Assign():
                return self._assign(frame, statement, lanes)
            case tree.Tally():
                return self._tally(frame, statement, lanes)
            case tree.If():
                return self._if(frame, statement, lanes)
            case tree.Match():
                return self._match(frame, statement, lanes)
            case tree.For():
                return self._for(frame, statement, lanes)
            case tree.Delete():
                self.containers.delete(frame, statement, _as_array(frame, lanes))
                return frame.running(lanes)
            case tree.Evaluate():
                self.evaluator.value(statement.expression, frame, lanes)
                return frame.running(lanes)
            case tree.Move():
                return self._move(frame, statement, lanes)
            case tree.Break():
                frame.stop(lanes, BREAK + self._levels(statement))
            case tree.Continue():
                frame.stop(lanes, CONTINUE)
            case tree.Exit():
                frame.stop(lanes, EXIT)
            case tree.Return():
                self._return(frame, statement, lanes)
            case tree.Emit():
                self._emit(frame, statement, lanes)
            case tree.Schedule() | tree.Cancel():
                return self._schedule(frame, statement, lanes)
            case tree.Log():
                return self._log(frame, statement, lanes)
            case tree.Pass():
                return lanes
            case _:
                raise AssertionError(f"no rule for {type(statement).__name__}")
        return np.zeros(0, np.int64)

    def _levels(self, statement: tree.Break) -> int:
        if statement.levels == "all":
            return self._loops
        return self._loops - 1 if statement.levels == "top" else int(statement.levels)

    # ------------------------------------------------------------ simple statements

    def _assign(self, frame: Frame, statement: tree.Assign, lanes: Lanes) -> Lanes:
        target = statement.target
        if not isinstance(target, tree.Variable):
            self.containers.set_element(frame, statement, _as_array(frame, lanes))
            return frame.running(lanes)
        if statement.operator:
            return self._operate(frame, target.name, statement, lanes)
        value = self._held(frame, statement.value, lanes)
        going_on = frame.running(lanes)
        if going_on is not lanes:
            value = self._only(value, lanes, going_on)
        frame.assign(target.name, going_on, value, self.run.table)
        return going_on

    def _operate(self, frame: Frame, name: str, statement: tree.Assign, lanes: Lanes) -> Lanes:
        """name operator= value"""
        operator = statement.operator
        assert operator is not None
        before = frame.read(name, lanes)
        value = self.evaluator.value(statement.value, frame, lanes)
        if may_hold(before) and operator in ("+", "-"):
            return self._operate_on_containers(frame, name, statement, lanes, before, value)
        count = self.evaluator.count(frame, lanes)
        after = self.evaluator.settled(self.evaluator.operate(operator, before, value, count), frame, lanes)
        going_on = frame.running(lanes)
        if going_on is not lanes:
            after = self._only(after, lanes, going_on)
        frame.assign(name, going_on, after, self.run.table)
        return going_on

    def _operate_on_containers(
        self, frame: Frame, name: str, statement: tree.Assign, lanes: Lanes, before: Value, value: Value
    ) -> Lanes:
        """Containers change in place; lanes on which the variable holds something else are left to the interpreter."""
        assert isinstance(before, Vec) and statement.operator is not None
        asked = _as_array(frame, lanes)
        kinds, _ = payloads(before, self.run.table)
        other = kinds != CONTAINER
        if other.any():
            self.evaluator.fail(frame, asked[other])
        going_on = frame.running(asked)
        assert going_on is not None
        chosen = np.searchsorted(asked, going_on)
        self.containers.operate_in_place(frame, name, statement.operator, take(value, chosen), going_on)
        return frame.running(lanes)

    def _held(self, frame: Frame, expression: tree.Expression, lanes: Lanes) -> Value:
        """The values of an expression that a name is about to hold. Lanes whose containers are too deep fail."""
        containers = self.evaluator.containers
        value = containers.shared(self.evaluator.value(expression, frame, lanes), expression)
        too_deep = containers.too_deep(value)
        if too_deep is not None:
            self.evaluator.fail(frame, _as_array(frame, lanes)[too_deep])
        return value

    def _only(self, value: Value, lanes: Lanes, going_on: Lanes) -> Value:
        """The values of the lanes that go on, of those that were asked for."""
        assert going_on is not None
        positions = going_on if lanes is None else np.searchsorted(lanes, going_on)
        return take(value, positions)

    def _log(self, frame: Frame, statement: tree.Log, lanes: Lanes) -> Lanes:
        if self.want_log:
            self.evaluator.fail(frame, lanes)
        else:
            for argument in statement.arguments:
                self.evaluator.value(argument, frame, frame.running(lanes))
        return frame.running(lanes)

    def _return(self, frame: Frame, statement: tree.Return, lanes: Lanes) -> None:
        value: Value = NULL if statement.value is None else self._held(frame, statement.value, lanes)
        going_on = frame.running(lanes)
        if going_on is not lanes:
            value = self._only(value, lanes, going_on)
        frame.assign(RETURN_VALUE if self._depth else RESULT_VALUE, going_on, value, self.run.table)
        frame.stop(going_on, RETURN if self._depth else EXIT)

    # ------------------------------------------------------------ triggers

    def _emit(self, frame: Frame, statement: tree.Emit, lanes: Lanes) -> None:
        name = self.evaluator.value(statement.name, frame, lanes)
        value: Value = NULL
        if statement.value is not None:
            value = self._held(frame, statement.value, lanes)
        named = self._texts(frame, lanes, name)
        name, value = self._kept([name, value], lanes, named)
        lane = _as_array(frame, named)
        self.run.hold_tallies(3 * lane.nbytes)
        frame.emits.append(EmitBatch(lane, name, value))
        frame.stop(named, EXIT)

    def _texts(self, frame: Frame, lanes: Lanes, name: Value) -> Lanes:
        """The lanes that run and whose name is a text that is not empty; others fail."""
        if isinstance(name, Const) and isinstance(name.value, str) and name.value:
            return frame.running(lanes)
        kinds, data = payloads(spread(name, self.evaluator.count(frame, lanes), self.run.table), self.run.table)
        wrong = kinds != TEXT
        empty = self.run.table.code("")
        if empty is not None:
            wrong |= data == empty
        if wrong.any():
            unnamed = frame.running(self.evaluator.lanes_at(frame, lanes, wrong))
            self.evaluator.fail(frame, unnamed)
        return frame.running(lanes)

    def _schedule(self, frame: Frame, statement: tree.Schedule | tree.Cancel, lanes: Lanes) -> Lanes:
        spans: Value = Const(CANCELLED)
        going_on = lanes
        if isinstance(statement, tree.Schedule):
            spans = self.evaluator.value(statement.span, frame, lanes)
            running = frame.running(lanes)
            spans = self._spans(frame, self._kept([spans], lanes, running)[0], running)
            going_on = frame.running(running)
            (spans,) = self._kept([spans], running, going_on)
        lane = _as_array(frame, going_on)
        vector = spread(spans, len(lane), self.run.table)
        assert not len(lane) or vector.kind == INT
        self.run.hold_tallies(3 * lane.nbytes)
        function = np.full(len(lane), self._functions[statement.function], np.int32)
        frame.schedules.append(ScheduleBatch(lane, function, vector.data.astype(np.int64)))
        return going_on

    def _spans(self, frame: Frame, value: Value, lanes: Lanes) -> Value:
        """Spans in ms; lanes on which the value is no span fail."""
        if isinstance(value, Vec) and value.kind == INT and value.valid is None:
            wrong = (value.data < 0) | (value.data > MOST_SPAN_MS)
            if wrong.any():
                self.evaluator.fail(frame, self.evaluator.lanes_at(frame, lanes, wrong))
            return value
        count = self.evaluator.count(frame, lanes)
        return self.evaluator.settled(map_distinct(checked_span, [value], count, self.run.table), frame, lanes)

    def _if(self, frame: Frame, statement: tree.If, lanes: Lanes) -> Lanes:
        ended: list[Lanes] = []
        rest = lanes
        for condition, body in statement.branches:
            mask = self.evaluator.condition(condition, frame, rest)
            if frame.signal is not None:
                mask, rest = self._drop_stopped(frame, mask, rest)
            if mask.all():
                ended.append(self.body(frame, body, rest))
                rest = np.zeros(0, np.int64)
                break
            if mask.any():
                ended.append(self.body(frame, body, self.evaluator.lanes_at(frame, rest, mask)))
                rest = self.evaluator.lanes_at(frame, rest, ~mask)
        if rest is None or len(rest):
            ended.append(self.body(frame, statement.orelse, rest))
        return self._joined(frame, lanes, ended)

    def _drop_stopped(self, frame: Frame, mask: Mask, lanes: Lanes) -> tuple[Mask, Lanes]:
        going_on = frame.running(lanes)
        if going_on is lanes:
            return mask, lanes
        assert going_on is not None
        return mask[going_on if lanes is None else np.searchsorted(lanes, going_on)], going_on

    def _joined(self, frame: Frame, lanes: Lanes, ended: list[Lanes]) -> Lanes:
        if any(part is None for part in ended):
            return None
        parts = [part for part in ended if part is not None and len(part)]
        total = sum(len(part) for part in parts)
        if total == self.evaluator.count(frame, lanes):
            return lanes
        if len(parts) == 1:
            return parts[0]
        return np.sort(np.concatenate(parts)) if parts else np.zeros(0, np.int64)

    # ------------------------------------------------------------ match, calls

    def _match(self, frame: Frame, statement: tree.Match, lanes: Lanes) -> Lanes:
        facts = self.analysis.matches[statement]
        loop = MatchLoop(
            self.evaluator,
            self._loop_body,
            statement,
            facts,
            self._candidates_of(statement),
            self.keep_order,
            len(self._functions),
        )
        loop.visit(frame, lanes)
        return frame.running(lanes)

    def _for(self, frame: Frame, statement: tree.For, lanes: Lanes) -> Lanes:
        mode = self.analysis.fors[statement]
        loop = ForLoop(self.evaluator, self._loop_body, statement, mode, self.keep_order, len(self._functions))
        loop.visit(frame, _as_array(frame, lanes))
        return frame.running(lanes)

    def _candidates_of(self, statement: tree.Match) -> Candidates:
        held = self._candidates.get(statement)
        if held is None:
            mask: Mask | None = None
            for part in self.analysis.matches[statement].static:
                own = self.evaluator.condition(part, self.run.all_rows, None)
                mask = own if mask is None else mask & own
            held = Candidates(self.run.block, mask)
            self._candidates[statement] = held
        return held

    def call(self, frame: Frame, call: tree.UserCall, lanes: Lanes) -> Value:
        """A function of the script on some lanes: its value per lane (None where it has none)."""
        lanes_asked = lanes
        arguments = [self._held(frame, argument, lanes) for argument in call.arguments]
        lanes = frame.running(lanes)
        count = self.evaluator.count(frame, lanes)
        if not count:
            return NULL
        if self._depth >= RECURSION_LIMIT:
            self.evaluator.fail(frame, lanes)
            return NULL
        if lanes is not lanes_asked:
            arguments = [self._only(argument, lanes_asked, lanes) for argument in arguments]
        function = self.script.functions[call.function]
        for name, argument in zip(function.parameters, arguments, strict=True):
            frame.assign(name, lanes, argument, self.run.table)
        loops, self._loops = self._loops, 0
        self._depth += 1
        self.body(frame, function.body, lanes)
        self._depth -= 1
        self._loops = loops
        self._end_return(frame, lanes)
        return frame.read(RETURN_VALUE, lanes_asked)

    def _end_return(self, frame: Frame, lanes: Lanes) -> None:
        """Lanes that returned go on after the call; where the function ran to its end its value is None."""
        chosen = np.arange(len(frame)) if lanes is None else lanes
        returned = np.zeros(len(chosen), np.bool_) if frame.signal is None else frame.signal[chosen] == RETURN
        if frame.signal is not None:
            frame.signal[chosen[returned]] = RUNNING
        if not returned.all():
            # A function that this one called may have left its own value.
            frame.assign(RETURN_VALUE, chosen[~returned], NULL, self.run.table)

    # ------------------------------------------------------------ cursor

    def _move(self, frame: Frame, statement: tree.Move, lanes: Lanes) -> Lanes:
        block = self.run.block
        target: Positions
        if statement.kind == "set":
            assert statement.position is not None
            value = self.evaluator.value(statement.position, frame, lanes)
            going_on = frame.running(lanes)
            if going_on is not lanes:
                value, lanes = self._only(value, lanes, going_on), going_on
            return self._set_row(frame, value, lanes)
        rows = self.run.rows(frame, lanes)
        persons = self.run.persons(frame, lanes)
        first, end = block.row_start[persons], block.row_start[persons + 1]
        if statement.kind == "move_first":
            target = first
        elif statement.kind == "move_last":
            target = end - 1
        else:
            events = block.event_of_row[rows].astype(np.int64)
            step = {"next": 1, "prev": -1, "reset_event": 0}[statement.kind]
            # Before the Block's first event there is nothing: -1 is before every row.
            target = np.where(events + step < 0, -1, block.event_first_row[np.maximum(events + step, 0)])
        return self._go(frame, lanes, target, (target >= first) & (target < end))

    def _set_row(self, frame: Frame, value: Value, lanes: Lanes) -> Lanes:
        count = self.evaluator.count(frame, lanes)
        vector = spread(map_distinct(position_of_move, [value], count, self.run.table), count, self.run.table)
        vector = spread(self.evaluator.settled(vector, frame, lanes), count, self.run.table)
        going_on = frame.running(lanes)
        if going_on is not lanes:
            vector, lanes = spread(self._only(vector, lanes, going_on), 0, self.run.table), going_on
        assert isinstance(vector, Vec) and vector.kind == INT
        persons = self.run.persons(frame, lanes)
        first, end = self.run.block.row_start[persons], self.run.block.row_start[persons + 1]
        inside = (vector.data >= 0) & (vector.data < end - first)
        return self._go(frame, lanes, first + np.where(inside, vector.data, 0), inside)

    def _go(self, frame: Frame, lanes: Lanes, target: NDArray[np.int64], inside: Mask) -> Lanes:
        """Puts cursors on rows; who has no such row leaves the innermost match, or the script."""
        frame.row = frame.row.copy()
        frame.unique_rows = False
        if inside.all():
            if lanes is None:
                frame.row = target.astype(np.int64)
            else:
                frame.row[lanes] = target
            return lanes
        frame.row[self.evaluator.lanes_at(frame, lanes, inside)] = target[inside]
        frame.stop(self.evaluator.lanes_at(frame, lanes, ~inside), LEAVE_MATCH if frame.in_match() else EXIT)
        return frame.running(lanes)

    # ------------------------------------------------------------ tally

    def _tally(self, frame: Frame, statement: tree.Tally, lanes: Lanes) -> Lanes:
        keys: list[Value] = [self.evaluator.value(key, frame, lanes) for key in statement.keys]
        self._refuse_containers(frame, lanes, keys)
        counted = frame.running(lanes)
        keys = self._kept(keys, lanes, counted)
        begun = np.zeros(self.evaluator.count(frame, counted), np.bool_)
        if keys:
            begun = keys[0].present() if isinstance(keys[0], Vec) else ~begun if keys[0] != NULL else begun
        if not begun.all():
            # A path that ends before its first key runs no aggregator.
            self._note_tallied(frame, self.evaluator.lanes_at(frame, counted, ~begun))
            rest = self.evaluator.lanes_at(frame, counted, begun)
            keys, counted = self._kept(keys, counted, rest), rest
        if not self.evaluator.count(frame, counted):
            return frame.running(lanes)
        values = self._var_values(frame, counted)
        going_on = frame.running(counted)  # a `var` may call a function that stops lanes
        keys, values, counted = self._kept(keys, counted, going_on), self._kept(values, counted, going_on), going_on
        count = self.evaluator.count(frame, counted)
        nodes: list[Positions] = []
        above: Positions | None = None
        for key in keys:
            above = self.nodes.children(above, key, count, self.run.table)
            nodes.append(above)
        rows = self.run.rows(frame, counted)
        self.run.hold_tallies(rows.nbytes * (2 + len(nodes) + len(values)))
        frame.batches.append(Batch(_as_array(frame, counted), rows, nodes, values, frame.unique_rows))
        return frame.running(lanes)

    def _var_values(self, frame: Frame, lanes: Lanes) -> list[Value]:
        """The values of the `var` aggregators; lanes where one is a container fail."""
        values = []
        for aggregator in self.script.aggregators:
            if aggregator.expression is not None:
                values.append(self.evaluator.value(aggregator.expression, frame, lanes))
                self._refuse_containers(frame, lanes, values[-1:])
        return values

    def _refuse_containers(self, frame: Frame, lanes: Lanes, path: list[Value]) -> None:
        """Fails lanes on which a value of a path is a container; what comes after the first None does not count."""
        if not any(may_hold(value) for value in path):
            return
        on_path = np.ones(self.evaluator.count(frame, lanes), np.bool_)
        for value in path:
            kinds, _ = payloads(spread(value, len(on_path), self.run.table), self.run.table)
            wrong = on_path & (kinds == CONTAINER)
            if wrong.any():
                self.evaluator.fail(frame, self.evaluator.lanes_at(frame, lanes, wrong))
            on_path &= kinds != NONE

    def _note_tallied(self, frame: Frame, lanes: Positions) -> None:
        """Tallies that count nowhere, which segments ask for."""
        if self.note_tallied and len(lanes):
            nothing: list[Value] = [NULL for aggregator in self.script.aggregators if aggregator.expression is not None]
            frame.batches.append(Batch(lanes, frame.row[lanes], [np.full(len(lanes), -1, np.int64)], nothing))

    def _kept(self, values: list[Value], lanes: Lanes, going_on: Lanes) -> list[Value]:
        """The values of the lanes that go on."""
        return values if going_on is lanes else [self._only(value, lanes, going_on) for value in values]


def _as_array(frame: Frame, lanes: Lanes) -> Positions:
    return np.arange(len(frame), dtype=np.int64) if lanes is None else lanes


def position_of_move(value: object) -> int:
    """Where iter_set goes: a whole number; anything else is a type error or out of range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise RunTimeError("iter_set() needs a position that iter_get() gave")
    return max(-1, min(int(value), 1 << 40))
