"""What a trigger did on lanes, as numbers: every distinct emission and scheduling has one, in the order first met."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DeedTable:
    """Deeds by number. A deed is (is it an emission, name or function, value or span)."""

    def __init__(self) -> None:
        self.deeds: list[tuple[bool, str, Any]] = []
        self._numbers: dict[tuple[bool, str, type, Any], int] = {}

    def numbers(self, deeds: Sequence[tuple[str, Any]], *, emits: bool) -> NDArray[np.int64]:
        """int64[deeds]: the number of each. What is equal but of another type (1, 1.0, True) is another deed."""
        found = np.empty(len(deeds), np.int64)
        for place, (name, value) in enumerate(deeds):
            # The text keeps -0.0 and 0.0 apart.
            key = (emits, name, type(value), str(value) if isinstance(value, float) else value)
            number = self._numbers.get(key)
            if number is None:
                number = self._numbers[key] = len(self.deeds)
                self.deeds.append((emits, name, value))
            found[place] = number
        return found
