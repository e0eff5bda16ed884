"""What a script did for each person of a Block: whether it tallied, and what it returned at top level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import RunTimeError
from openset.pyql.lanes.texts import TextTable
from openset.pyql.lanes.vectors import BOOL, CONTAINER, DOUBLE, ERROR, INT, NONE, Value, Vec, groups, scalars, spread
from openset.pyql.meaning.containers import kind_of


@dataclass(frozen=True, eq=False)
class Outcomes:
    """For segments and histograms.

    people: int64[n], the people (0…people-1) it ran for.  tallied: bool[n].  member: bool[n], tallied or returned
    something true.  value: what was returned, a vector of n lanes over `table`; `answered` has, by position, what the
    interpreter found in place of some of its values.  log: lines of log(), where they were wanted.
    """

    people: NDArray[np.int64]
    tallied: NDArray[np.bool_]
    member: NDArray[np.bool_]
    value: Value
    table: TextTable
    answered: Mapping[int, Any]
    log: Sequence[str] = ()

    @cached_property
    def returned(self) -> list[Any]:
        """n values of the top-level `return`; None where there was none."""
        values: list[Any] = scalars(self.value, len(self.people), self.table)
        for position, value in self.answered.items():
            values[position] = value
        return values

    def numbers(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """What was returned as numbers: int64[n] or, when one of them is a double, float64[n]; and which are not None.

        True is 1, False 0.  Raises RunTimeError when something else was returned.
        """
        count = len(self.people)
        by_engine = np.ones(count, np.bool_)
        by_engine[list(self.answered)] = False
        given = {position: value for position, value in self.answered.items() if value is not None}
        for value in given.values():
            if not isinstance(value, int | float):
                raise _no_number(value)
        parts: list[tuple[NDArray[np.int64], NDArray[Any]]] = [
            (np.array(list(given), np.int64), np.array(list(given.values()))),
        ]
        for kind, positions, part in groups(spread(self.value, count, self.table), self.table):
            if kind in (NONE, ERROR):
                continue
            assert isinstance(part, Vec)
            valid = part.present() & by_engine[positions]
            if kind not in (BOOL, INT, DOUBLE) and valid.any():
                raise (
                    RunTimeError(_NO_NUMBER)
                    if kind == CONTAINER
                    else _no_number(self.returned[int(positions[valid][0])])
                )
            parts.append((positions[valid], part.data[valid]))
        doubles = any(len(data) and data.dtype.kind == "f" for _, data in parts)
        numbers = np.zeros(count, np.float64 if doubles else np.int64)
        present = np.zeros(count, np.bool_)
        for positions, data in parts:
            numbers[positions] = data
            present[positions] = True
        return numbers, present


_NO_NUMBER = "a histogram counts numbers, and for somebody the script returned something else"


def _no_number(value: Any) -> RunTimeError:
    return RunTimeError(f"{_NO_NUMBER}: {kind_of(value)}")
