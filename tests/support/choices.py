"""Where generators take their decisions from: a random.Random in a long-running loop, or hypothesis in a test.

Every generator of tests/support asks a `Choices` and nothing else, so that the same code serves both.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from hypothesis import strategies

T = TypeVar("T")


class Choices:
    """Decisions from a number source.

    below: gives an int of 0 … n-1 for n.
    """

    def __init__(self, below: Callable[[int], int]):
        self._below = below

    @classmethod
    def seeded(cls, seed: int | str) -> Choices:
        """From a seed: the same seed, the same decisions."""
        uniform = random.Random(seed).random
        return cls(lambda count: int(uniform() * count))

    @classmethod
    def drawn(cls, draw: Callable[[Any], Any]) -> Choices:
        """From hypothesis."""
        return cls(lambda count: draw(_below(count)) if count > 1 else 0)

    def integer(self, low: int, high: int) -> int:
        """low … high."""
        return low + self._below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """True in so many of a hundred cases."""
        return self._below(100) >= 100 - percent

    def pick(self, options: Sequence[T]) -> T:
        """One of some options."""
        return options[self._below(len(options))]

    def weighted(self, options: Sequence[tuple[int, T]]) -> T:
        """One of some options, each as likely as its weight says; those of weight 0 never."""
        place = self._below(sum(weight for weight, _ in options))
        for weight, option in options:
            place -= weight
            if place < 0:
                return option
        raise AssertionError("no option has a weight")

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in some order."""
        left = list(items)
        return [left.pop(self._below(len(left))) for _ in range(len(left))]


_STRATEGIES: dict[int, Any] = {}


def _below(count: int) -> Any:
    if count not in _STRATEGIES:
        _STRATEGIES[count] = strategies.integers(0, count - 1)
    return _STRATEGIES[count]


@strategies.composite
def choices(draw: Callable[[Any], Any]) -> Choices:
    """A hypothesis strategy of Choices: what is asked of it is drawn while the test runs."""
    return Choices.drawn(draw)
