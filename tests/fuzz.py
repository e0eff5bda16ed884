"""Looks for scripts and events on which the vectorised engine and the scalar interpreter disagree, as long as told.

    python tests/fuzz.py --seconds 600 --seed 1

A disagreement is made smaller and printed in the form of tests/golden/found, where it is to be kept once it has been
decided, by spec/pyql.md, who is right. Ends with how many people were left to the interpreter, and why.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from support.choices import Choices
from support.comparing import (
    DEFAULT,
    Conditions,
    Skipped,
    compare,
    compare_outcomes,
    compare_segments,
    make_conditions,
    under,
    without_aggregators,
)
from support.event_maker import Event, cut, make_events, make_people, whole
from support.expression_maker import Features
from support.found_cases import FoundCase, people_of
from support.script_maker import make_script
from support.shrinking import shrink
from support.small_limits import small_limits

from openset.errors import ParseError
from openset.pyql.lanes.evaluate import Evaluator

_SHRINK_SECONDS = 60.0
_MOST_FAILURES = 20


def problem_of(
    text: str, events: Sequence[Event], people: Sequence[Any] | None = None, conditions: Conditions = DEFAULT
) -> str | None:
    """What is wrong with the answers for a script, None where they agree, where it does not parse or asks too much."""
    with under(conditions):
        return _problem_of(text, events, people)


def _problem_of(text: str, events: Sequence[Event], people: Sequence[Any] | None) -> str | None:
    known = people_of(events) if people is None else list(people)
    choices = Choices.seeded(0)
    cuts = [cut(choices, events, known) for _ in range(3)]
    block = whole(events, known)
    members = [
        None,
        np.array([choices.chance(60) for _ in known], np.bool_),
        np.array([False for _ in known], np.bool_),
    ]
    returning = (
        f"{without_aggregators(text)}return {choices.pick(('amount', 'kind', 'price', 'flag', 'session - 1'))}\n"
    )
    try:
        return (
            compare(text, events, known, cuts)
            or compare_segments(text, block, members)
            or compare_outcomes(returning, block)
            or _under_small_limits(text, events, known)
        )
    except (Skipped, ParseError):
        return None
    except Exception as error:  # a defect of either side is what is looked for
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} at {Path(place.filename).name}:{place.lineno}: {error}"


def _under_small_limits(text: str, events: Sequence[Event], people: Sequence[Any]) -> str | None:
    with small_limits():
        return compare(text, events, people, [])


def failure(text: str, events: Sequence[Event], found: str, conditions: Conditions, origin: str) -> FoundCase:
    """A smaller script and fewer events with a problem of the same kind, as a case to decide."""
    kind = found.partition(":")[0]
    if (problem_of(text, events, None, conditions) or "").partition(":")[0] == kind:
        text, events = shrink(
            text,
            events,
            lambda t, e: (problem_of(t, e, None, conditions) or "").partition(":")[0] == kind,
            _SHRINK_SECONDS,
        )
        found = problem_of(text, events, None, conditions) or found
    title = f"{found[:400]} ({origin})".replace("\n", " ").replace(" ?", " ")
    return FoundCase(title, text, events, "", conditions)


class Reasons:
    """Counts the places from which the engine leaves people to the interpreter."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._fail = Evaluator.fail

    def __enter__(self) -> Reasons:
        counts, fail = self.counts, self._fail

        def noted(evaluator: Evaluator, frame: Any, lanes: Any) -> None:
            if lanes is None or np.size(lanes):
                caller = sys._getframe(1)
                if caller.f_code.co_name in ("settled", "_going_on"):
                    caller = caller.f_back or caller
                counts[f"{Path(caller.f_code.co_filename).name}:{caller.f_lineno} {caller.f_code.co_name}"] += 1
            fail(evaluator, frame, lanes)

        Evaluator.fail = noted  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        Evaluator.fail = self._fail  # type: ignore[method-assign]


def main() -> int:
    """Runs until the time is over; the exit code says whether something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--scripts", type=int, default=None, help="stop after so many scripts")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    scripts = failures = 0
    with Reasons() as reasons:
        while time.monotonic() < end and failures < _MOST_FAILURES and scripts != options.scripts:
            choices = Choices.seeded(f"{options.seed}/{scripts}")
            scripts += 1
            text = make_script(choices, Features.chosen(choices))
            people = make_people(choices)
            events = make_events(choices, people)
            conditions = make_conditions(choices)
            found = problem_of(text, events, people, conditions)
            if found is None:
                continue
            failures += 1
            origin = f"seed {options.seed}/{scripts - 1}"
            print(failure(text, events, found, conditions, origin).text(), flush=True)
    print(f"{scripts} scripts, each over 4 sets of Blocks; {failures} failures")
    for reason, count in reasons.counts.most_common(12):
        print(f"{count:8} left to the interpreter by {reason}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
