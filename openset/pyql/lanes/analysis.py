"""Facts about a checked script that decide how the engine runs it.

Per `match`: which parts of its condition depend on the row alone (evaluated once per Block), whether an iteration
reads what an earlier one wrote, whether an iteration can leave the loop. Variables are global, so functions are
followed through their calls. Where the analysis is unsure it answers for the slower way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from openset.pyql import tree
from openset.pyql.names import CHANGING_METHODS, FUNCTIONS

# How the bodies of a match are run: all matches at once; in rounds of 1, 2, 4, … matches because an iteration may
# leave the loop; in lock-step, the k-th match of every lane, because iterations depend on one another.
Mode = Literal["all", "rounds", "step"]

# Built-ins whose value follows from the row (or the person, or the query) alone.
ROW_FUNCTIONS = frozenset(
    {"now", "event_time", "first_event", "last_event", "event_count", "session_count", "iter_within", "iter_between"}
)
_STATIC_OPERATORS = frozenset(
    {"==", "!=", "<", "<=", ">", ">=", "and", "or", "in", "not in", "+", "-", "*", "/", "//", "%"}
)
_SAFE_OPERATORS = frozenset({"==", "!=", "<", "<=", ">", ">=", "and", "or"})
# Statements that do something besides computing values.
_ACTING = (
    tree.Tally
    | tree.Log
    | tree.Emit
    | tree.Schedule
    | tree.Cancel
    | tree.Move
    | tree.Exit
    | tree.Delete
    | tree.Match
    | tree.For
)
CONTAINER_FUNCTIONS = frozenset({"list", "set", "dict", "url_decode"})


@dataclass(frozen=True, slots=True, eq=False)
class MatchFacts:
    """How one match runs. `static` and `dynamic` are the conjuncts of its condition.

    where_acts: the condition calls functions that do something besides giving a value, so it is asked row by row.
    flat: the body has no loop in it.
    """

    mode: Mode
    static: tuple[tree.Expression, ...]
    dynamic: tuple[tree.Expression, ...]
    carried: frozenset[str]
    may_leave: bool
    where_acts: bool
    flat: bool


@dataclass(frozen=True, slots=True)
class Flow:
    """What a piece of script does with variables.

    exposed: read before it is surely written.  sure: written whenever the piece runs to its end.
    written: maybe written.  jumps: never runs to its end.
    """

    exposed: frozenset[str] = frozenset()
    sure: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    jumps: bool = False

    def then(self, after: Flow) -> Flow:
        """This piece, then another."""
        if self.jumps:
            return self
        return Flow(
            self.exposed | (after.exposed - self.sure),
            self.sure | after.sure,
            self.written | after.written,
            after.jumps,
        )


_EMPTY = Flow()


class Analysis:
    """Facts of one script."""

    def __init__(self, script: tree.Script):
        self.script = script
        self.matches: dict[tree.Match, MatchFacts] = {}
        self.fors: dict[tree.For, Mode] = {}
        self._flows: dict[str, Flow] = {}
        self._open_functions: set[str] = set()
        self._leaving: dict[str, bool] = {}
        self._computing: dict[str, bool] = {}
        for body in self._bodies():
            for statement in statements_of(body):
                if isinstance(statement, tree.Match):
                    self.matches[statement] = self._match_facts(statement)
                elif isinstance(statement, tree.For):
                    self.fors[statement] = self._for_mode(statement)

    def _bodies(self) -> Iterator[tree.Body]:
        yield self.script.body
        for function in self.script.functions.values():
            yield function.body

    # ------------------------------------------------------------ matches

    def _match_facts(self, match: tree.Match) -> MatchFacts:
        static, dynamic = self._split(match.where)
        flow = self.body_flow(match.body)
        where_flow = _EMPTY if match.where is None else self.expression_flow(match.where)
        carried = flow.written & (flow.exposed | where_flow.exposed)
        may_leave = self.may_leave(match.body, 0)
        mode: Mode = "step" if carried else "rounds" if may_leave or (match.limit and dynamic) else "all"
        where_acts = match.where is not None and any(
            isinstance(part, tree.MethodCall)
            or (isinstance(part, tree.UserCall) and not self._only_computes(part.function))
            for part in expressions_in(match.where)
        )
        if where_acts:
            mode = "step"
        return MatchFacts(mode, static, dynamic, carried, may_leave, where_acts, self._is_flat(match.body))

    def _only_computes(self, name: str) -> bool:
        """Whether calling a function does nothing but give a value: it may run for rows in any order, or for none.

        The variables it writes (its parameters at least) must be its own: read nowhere else, and by itself only after
        they are written.
        """
        if name not in self._computing:
            self._computing[name] = False  # recursion: not for sure
            function = self.script.functions[name]
            acting = any(isinstance(s, _ACTING) for s in statements_of(function.body))
            flow = Flow(sure=frozenset(function.parameters)).then(self.body_flow(function.body))
            own = flow.written | frozenset(function.parameters)
            inner = [call for s in statements_of(function.body) for call in _direct_calls(s)]
            self._computing[name] = (
                not acting
                and not own & (flow.exposed | self._read_outside(name))
                and all(self._only_computes(call) for call in inner)
            )
        return self._computing[name]

    def _read_outside(self, name: str) -> frozenset[str]:
        """Variables that are read anywhere but in one function."""
        bodies = [self.script.body, *(f.body for n, f in self.script.functions.items() if n != name)]
        expressions = [e for body in bodies for s in statements_of(body) for e in expressions_of(s)]
        expressions += [a.expression for a in self.script.aggregators if a.expression is not None]
        names = {part.name for e in expressions for part in expressions_in(e) if isinstance(part, tree.Variable)}
        for body in bodies:
            for s in statements_of(body):
                if isinstance(s, tree.Assign) and s.operator and isinstance(s.target, tree.Variable):
                    names.add(s.target.name)
        return frozenset(names)

    def _is_flat(self, body: tree.Body) -> bool:
        """Whether a body runs no loop and calls no function of the script."""
        return not any(
            isinstance(statement, tree.Match | tree.For) or any(True for _ in _direct_calls(statement))
            for statement in statements_of(body)
        )

    def _for_mode(self, loop: tree.For) -> Mode:
        """The cursor is shared with the block around a for: a body that moves it carries it on."""
        flow = Flow(sure=frozenset(loop.names)).then(self.body_flow(loop.body))
        if flow.written & flow.exposed or self._may_move(loop.body):
            return "step"
        return "rounds" if self.may_leave(loop.body, 0) else "all"

    def _may_move(self, body: tree.Body) -> bool:
        """Whether a body, or a function it calls, moves a cursor."""
        return any(
            isinstance(statement, tree.Move)
            or any(self._function_may_leave(name, 0) for name in _direct_calls(statement))
            for statement in statements_of(body)
        )

    def _split(self, where: tree.Expression | None) -> tuple[tuple[tree.Expression, ...], tuple[tree.Expression, ...]]:
        static: list[tree.Expression] = []
        dynamic: list[tree.Expression] = []
        for part in conjuncts(where):
            # A static part may only be asked before a dynamic one that cannot fail.
            if is_static(part) and all(cannot_fail(earlier) for earlier in dynamic):
                static.append(part)
            else:
                dynamic.append(part)
        return tuple(static), tuple(dynamic)

    def may_leave(self, body: tree.Body, depth: int) -> bool:
        """Whether running a loop's body can end the loop (depth counts loops inside it)."""
        for statement in body:
            if isinstance(statement, tree.Break):
                if statement.levels == "top" or statement.levels == "all" or statement.levels > depth:
                    return True
            elif isinstance(statement, tree.Exit | tree.Return | tree.Emit):
                return True
            elif isinstance(statement, tree.Move):
                if depth == 0 and statement.kind in ("next", "prev", "set"):
                    return True
            elif isinstance(statement, tree.If):
                if any(self.may_leave(inner, depth) for inner in _if_bodies(statement)):
                    return True
            elif isinstance(statement, tree.Match | tree.For) and self._loop_may_leave(statement, depth):
                return True
            if any(self._function_may_leave(name, depth) for name in _direct_calls(statement)):
                return True
        return False

    def _loop_may_leave(self, loop: tree.Match | tree.For, depth: int) -> bool:
        """A move out of range leaves a match, but goes through a for."""
        if isinstance(loop, tree.For) and depth == 0 and _moves(loop.body):
            return True
        return self.may_leave(loop.body, depth + 1)

    def _function_may_leave(self, name: str, depth: int) -> bool:
        """A function can exit or move the cursor; its breaks and returns stay inside."""
        if name not in self._leaving:
            self._leaving[name] = False  # recursion adds nothing
            everything = list(statements_of(self.script.functions[name].body))
            self._leaving[name] = any(
                isinstance(s, tree.Exit | tree.Move | tree.Emit)
                or any(self._function_may_leave(inner, depth) for inner in _direct_calls(s))
                for s in everything
            )
        return self._leaving[name]

    # ------------------------------------------------------------ variables

    def body_flow(self, body: tree.Body) -> Flow:
        flow = _EMPTY
        for statement in body:
            flow = flow.then(self.statement_flow(statement))
        return flow

    def statement_flow(self, statement: tree.Statement) -> Flow:
        match statement:
            case tree.Assign(target=tree.Variable(name=name), value=value, operator=operator):
                read = frozenset({name}) if operator else frozenset()
                before = Flow(exposed=read).then(self.expression_flow(value))
                return before.then(Flow(sure=frozenset({name}), written=frozenset({name})))
            case tree.If():
                return self._if_flow(statement)
            case tree.Match() | tree.For():
                return self._loop_flow(statement)
            case tree.Break() | tree.Continue() | tree.Exit():
                return Flow(jumps=True)
            case tree.Return():
                value_flow = _EMPTY if statement.value is None else self.expression_flow(statement.value)
                return value_flow.then(Flow(jumps=True))
        jumps = isinstance(statement, tree.Emit)
        flow = _EMPTY
        for expression in expressions_of(statement):
            flow = flow.then(self.expression_flow(expression))
        if isinstance(statement, tree.Tally):  # every tally evaluates the var aggregators
            for aggregator in self.script.aggregators:
                if aggregator.expression is not None:
                    flow = flow.then(self.expression_flow(aggregator.expression))
        changed = frozenset(_changed_variables(statement))
        return flow.then(Flow(exposed=changed, written=changed, jumps=jumps))

    def _if_flow(self, statement: tree.If) -> Flow:
        before = _EMPTY
        ends: list[Flow] = []
        for condition, body in statement.branches:
            before = before.then(self.expression_flow(condition))
            ends.append(before.then(self.body_flow(body)))
        ends.append(before.then(self.body_flow(statement.orelse)))
        going_on = [end for end in ends if not end.jumps]
        sure = frozenset.intersection(*(end.sure for end in going_on)) if going_on else frozenset()
        return Flow(
            frozenset().union(*(end.exposed for end in ends)),
            sure,
            frozenset().union(*(end.written for end in ends)),
            not going_on,
        )

    def _loop_flow(self, loop: tree.Match | tree.For) -> Flow:
        """A loop may run zero times, so nothing in it is surely written."""
        head = _EMPTY
        names: frozenset[str] = frozenset()
        if isinstance(loop, tree.For):
            head = self.expression_flow(loop.iterable)
            names = frozenset(loop.names)
        elif loop.where is not None:
            head = self.expression_flow(loop.where)
        body = Flow(sure=names, written=names).then(self.body_flow(loop.body))
        both = head.then(body)
        return Flow(both.exposed, head.sure, both.written)

    def expression_flow(self, expression: tree.Expression) -> Flow:
        flow = _EMPTY
        for part in evaluation_order(expression):
            if isinstance(part, tree.Variable):
                flow = flow.then(Flow(exposed=frozenset({part.name})))
            elif isinstance(part, tree.UserCall):
                flow = flow.then(self._call_flow(part.function))
            elif isinstance(part, tree.MethodCall):
                changed = frozenset(_changed_by_method(part))
                flow = flow.then(Flow(exposed=changed, written=changed))
        return Flow(flow.exposed, frozenset(), flow.written)

    def _call_flow(self, name: str) -> Flow:
        if name in self._flows:
            return self._flows[name]
        function = self.script.functions[name]
        if name in self._open_functions:  # recursion: the outer visit sees all reads and writes
            everything = frozenset(self.script.variables)
            return Flow(exposed=everything, written=everything)
        self._open_functions.add(name)
        parameters = frozenset(function.parameters)
        flow = Flow(sure=parameters, written=parameters).then(self.body_flow(function.body))
        self._open_functions.discard(name)
        self._flows[name] = Flow(flow.exposed, frozenset(), flow.written)
        return self._flows[name]


# ---------------------------------------------------------------- walks


def conjuncts(where: tree.Expression | None) -> list[tree.Expression]:
    """The parts of a condition that `and` joins, in order."""
    if where is None:
        return []
    if isinstance(where, tree.Binary) and where.operator == "and":
        return conjuncts(where.left) + conjuncts(where.right)
    return [where]


def is_static(expression: tree.Expression) -> bool:
    """Whether an expression follows from the row, the person and the query alone."""
    match expression:
        case tree.Literal_() | tree.Parameter() | tree.ColumnRead():
            return True
        case tree.Unary():
            return is_static(expression.operand)
        case tree.Binary(operator="in" | "not in", right=tree.ListDisplay(items=items)):
            return is_static(expression.left) and all(is_static(item) for item in items)
        case tree.Binary():
            return (
                expression.operator in _STATIC_OPERATORS and is_static(expression.left) and is_static(expression.right)
            )
        case tree.Call():
            if expression.function in CONTAINER_FUNCTIONS:
                return False
            if not _is_pure(expression.function) and expression.function not in ROW_FUNCTIONS:
                return False
            return all(is_static(argument) for argument in expression.arguments)
        case tree.Inline():
            return expression.where is None or is_static(expression.where)
    return False


def _is_pure(function: str) -> bool:
    return FUNCTIONS[function].pure


def cannot_fail(expression: tree.Expression) -> bool:
    """Whether evaluating an expression is sure to give a value and to do nothing else."""
    match expression:
        case tree.Literal_() | tree.Parameter() | tree.ColumnRead() | tree.Variable():
            return True
        case tree.Unary(operator="not"):
            return cannot_fail(expression.operand)
        case tree.Binary():
            return (
                expression.operator in _SAFE_OPERATORS
                and cannot_fail(expression.left)
                and cannot_fail(expression.right)
            )
        case tree.Call():
            return expression.function in (ROW_FUNCTIONS | {"prev_match", "first_match"}) - {
                "iter_within",
                "iter_between",
            }
    return False


def children_of(expression: tree.Expression) -> Iterable[tree.Expression]:
    """The direct parts of an expression, in evaluation order."""
    match expression:
        case tree.Unary():
            return (expression.operand,)
        case tree.Binary():
            return (expression.left, expression.right)
        case tree.ListDisplay():
            return expression.items
        case tree.DictDisplay():
            return tuple(part for pair in expression.pairs for part in pair)
        case tree.Index():
            return (expression.container, expression.index)
        case tree.Slice():
            return tuple(e for e in (expression.container, expression.start, expression.stop) if e is not None)
        case tree.Call() | tree.UserCall():
            return expression.arguments
        case tree.MethodCall():
            return (expression.target, *expression.arguments)
        case tree.Inline():
            return () if expression.where is None else (expression.where,)
    return ()


def evaluation_order(expression: tree.Expression) -> Iterator[tree.Expression]:
    """An expression and all its parts, parts before the whole."""
    for child in children_of(expression):
        yield from evaluation_order(child)
    yield expression


expressions_in = evaluation_order


def expressions_of(statement: tree.Statement) -> Iterable[tree.Expression]:
    """The expressions a statement evaluates itself (those of bodies left out), in order."""
    match statement:
        case tree.Assign():
            return (
                (statement.value,)
                if isinstance(statement.target, tree.Variable)
                else (statement.target, statement.value)
            )
        case tree.Delete():
            return (statement.target,)
        case tree.Evaluate():
            return (statement.expression,)
        case tree.Tally():
            return statement.keys
        case tree.If():
            return tuple(condition for condition, _ in statement.branches)
        case tree.Match():
            return () if statement.where is None else (statement.where,)
        case tree.For():
            return (statement.iterable,)
        case tree.Return():
            return () if statement.value is None else (statement.value,)
        case tree.Move():
            return () if statement.position is None else (statement.position,)
        case tree.Log():
            return statement.arguments
        case tree.Emit():
            return (statement.name,) if statement.value is None else (statement.name, statement.value)
        case tree.Schedule():
            return (statement.span,)
    return ()


def statements_of(body: tree.Body) -> Iterator[tree.Statement]:
    """All statements of a body, nested ones included."""
    for statement in body:
        yield statement
        if isinstance(statement, tree.If):
            for inner in _if_bodies(statement):
                yield from statements_of(inner)
        elif isinstance(statement, tree.Match | tree.For):
            yield from statements_of(statement.body)


def _if_bodies(statement: tree.If) -> list[tree.Body]:
    return [body for _, body in statement.branches] + [statement.orelse]


def _direct_calls(statement: tree.Statement) -> Iterator[str]:
    for expression in expressions_of(statement):
        for part in evaluation_order(expression):
            if isinstance(part, tree.UserCall):
                yield part.function


def _moves(body: tree.Body) -> bool:
    return any(isinstance(s, tree.Move) and s.kind in ("next", "prev", "set") for s in statements_of(body))


def _changed_variables(statement: tree.Statement) -> Iterator[str]:
    """Variables whose container a statement changes in place."""
    target: tree.Expression | None = None
    if isinstance(statement, tree.Assign | tree.Delete):
        target = statement.target
    while isinstance(target, tree.Index):
        target = target.container
    if isinstance(target, tree.Variable):
        yield target.name


def _changed_by_method(call: tree.MethodCall) -> Iterator[str]:
    target: tree.Expression = call.target
    while isinstance(target, tree.Index):
        target = target.container
    if call.method in CHANGING_METHODS and isinstance(target, tree.Variable):
        yield target.name
