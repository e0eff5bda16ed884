"""The scalar interpreter: a script for one person after another, on plain Python values.

It runs the whole language and is what the vectorised engine is tested against, and what the engine uses for people
whose part of a script cannot be vectorised. It is written to be obviously right, not to be fast: scripts become
closures once, columns become lists per person.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from openset.errors import BudgetError, RunTimeError
from openset.pyql import tree
from openset.pyql.actions import Actions, plain
from openset.pyql.interpreter.cursor import LeaveMatch
from openset.pyql.interpreter.scalar_run import RETURN, ExitPerson, Outcome, Run
from openset.pyql.interpreter.scalar_statements import compile_program
from openset.pyql.interpreter.tracing import Tracer
from openset.pyql.partial import Partial
from openset.pyql.settings import RunSettings
from openset.recursion import deep_recursion
from openset_format.block import Block


def interpret(
    script: tree.Script, block: Block, settings: RunSettings, partial: Partial, people: Iterable[int] | None = None
) -> None:
    """Runs a script for people (0…people-1) of a block and adds what it tallies to the partial.

    people: who to run for, each at most once; None: everyone the block answers for.  Counts people, rows and events of
    the partial.  Raises RunTimeError for type errors and used-up budgets; the partial is then of no use.
    """
    run = Run(compile_program(script), block, settings, partial)
    with deep_recursion():
        for person in _chosen(block, people):
            _run_person(run, person)
            partial.people += 1
            partial.rows += run.cursor.count
            partial.events += len(run.cursor.event_rows)


def evaluate_people(
    script: tree.Script,
    block: Block,
    settings: RunSettings,
    people: Iterable[int] | None = None,
    noted: Partial | None = None,
) -> Iterator[tuple[int, Outcome]]:
    """Per person whether the script called tally, and what it returned: for segments and histograms.

    noted: gets the lines of log().
    """
    run = Run(compile_program(script), block, settings, Partial(script.aggregators) if noted is None else noted)
    for person in _chosen(block, people):
        with deep_recursion():
            outcome = _run_person(run, person)
        yield person, outcome


def evaluate_person(script: tree.Script, block: Block, settings: RunSettings, person: int) -> Outcome:
    """What the script does for one person (0…people-1) of a block, who must have rows."""
    return next(evaluate_people(script, block, settings, [person]))[1]


def trigger_people(
    script: tree.Script, function: str, block: Block, settings: RunSettings, people: Iterable[int]
) -> Actions:
    """What a function of a trigger script does for people (0…people-1) of a block, one after the other.

    Of several schedulings of one function the last one counts. An error is that of one person. Raises BudgetError when
    a budget of the run is used up.
    """
    noted = Partial(())
    program = compile_program(script)
    run = Run(program, block, settings, noted)
    body = program.functions[function].body
    actions = Actions()
    with deep_recursion():
        for person in people:
            run.start(int(person))
            try:
                body(run)
            except (LeaveMatch, ExitPerson):
                pass
            except BudgetError:
                raise
            except RunTimeError as error:
                actions.failures.append((int(person), error))
                continue
            if run.emitted is not None:
                actions.emissions.append(run.emitted)
            actions.schedulings += run.schedulings.values()
    actions.log = noted.log
    return actions


def trace_person(
    script: tree.Script, block: Block, settings: RunSettings, function: str | None = None
) -> dict[str, Any]:
    """What a script does for the only person of a block, step by step. function: of a trigger script.

    `steps`; `left_out`, how many steps were too many; `tallied`; `returned`; `error` where a type error ended it:
    its message, line and column. Raises RunTimeError when the time is up.
    """
    program = compile_program(script)
    run = Run(program, block, settings, Partial(script.aggregators))
    cursor = run.cursor

    def show_row(row: int) -> dict[str, Any]:
        return {"row": row, "stamp": cursor.stamps[row], "action": cursor.column("action")[row]}

    run.tracer = Tracer(show_row, plain)
    run.start(0)
    error: dict[str, Any] | None = None
    with deep_recursion():
        try:
            (program.body if function is None else program.functions[function].body)(run)
        except (LeaveMatch, ExitPerson):
            pass
        except BudgetError:
            raise
        except RunTimeError as wrong:
            error = {"message": wrong.message, "line": wrong.line, "column": wrong.column}
    return {
        "steps": run.tracer.steps,
        "left_out": run.tracer.left_out,
        "tallied": run.tallied,
        "returned": plain(run.returned),
        "error": error,
    }


def _chosen(block: Block, people: Iterable[int] | None) -> Iterable[int]:
    chosen: Iterable[int] = block.runnable.tolist() if people is None else people
    return chosen


def _run_person(run: Run, person: int) -> Outcome:
    run.start(int(person))
    try:
        signal = run.program.body(run)
    except (LeaveMatch, ExitPerson):
        return Outcome(run.tallied)
    return Outcome(run.tallied, run.returned if signal == RETURN else None)
