"""The overlay of a partition: everybody whom its delta touches, complete, in levels of growing size.

What a record changes is a small layer on top. A layer answers for its people and hides what older ones have of them.
Neighbours are merged when the older is not much larger than the newer: a row is copied a few times in all, however many
records come, and a look-up asks few layers. What `Levels` say never changes, only in how many layers they say it; so
those of many moments can be kept, and share most of their layers.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from numpy.typing import NDArray

from openset.store.merge import Events, Layer, empty_layer, no_events, splice

# How many times larger a level is than the next newer one, at least.
GROWTH = 4


class Levels:
    """Layers, oldest first, of which no two neighbours are nearly of one size. What they say never changes."""

    def __init__(self, layers: tuple[Layer, ...] = (), *, has_everyone: bool = False):
        self._layers = layers
        self._has_everyone = has_everyone

    @property
    def layers(self) -> tuple[Layer, ...]:
        """As they stand now, oldest first."""
        return self._layers

    @property
    def has_everyone(self) -> bool:
        """Whether these are all people of the partition, so that nobody is looked for in its file."""
        return self._has_everyone

    @property
    def rows(self) -> int:
        """Of all layers together, those that are hidden counted."""
        return sum(layer.rows for layer in self._layers)

    def put(self, layer: Layer) -> Levels:
        """These with a layer on top."""
        if not len(layer.people):
            return self
        return Levels(_balanced([*self._layers, layer]), has_everyone=self._has_everyone)

    def find(self, people: NDArray[np.int64]) -> tuple[Events, NDArray[np.int64]]:
        """The events of those of `people` (ascending ordinals) who are here, and the people who are not.

        The events of a person stand together and in order, the people in no particular order.
        """
        found = [no_events()]
        for layer in reversed(self._layers):
            if not len(people):
                break
            events, people = layer.find(people)
            found.append(events)
        return Events.concatenate(found), people

    def person(self, ordinal: int) -> Layer | None:
        """The layer of one person, None who is not here."""
        for layer in reversed(self._layers):
            place = int(np.searchsorted(layer.people, ordinal))
            if place < len(layer.people) and layer.people[place] == ordinal:
                return layer.part(place, place + 1)
        return None

    def whole(self) -> Layer:
        """Everybody in one layer, which from now on stands in place of the others."""
        self._merge_from(0)
        return self._layers[0] if self._layers else empty_layer()

    def settled(self, least_rows: int) -> tuple[Layer, ...]:
        """The layers, of which those with fewer rows have been merged into one, which stands in their place."""
        small = [at for at, layer in enumerate(self._layers) if layer.rows < least_rows]
        if small:
            self._merge_from(small[0])
        return self._layers

    def take_in(self, everyone: Layer) -> None:
        """Has what the file holds of those who are not here stand here too, in one layer. everyone: all its people."""
        if not self._has_everyone:
            self._layers = (splice(everyone, self.whole()),)
            self._has_everyone = True

    def _merge_from(self, first: int) -> None:
        if len(self._layers) > first + 1:
            merged = reduce(lambda upper, lower: splice(lower, upper), reversed(self._layers[first:]))
            self._layers = _balanced([*self._layers[:first], merged])


def _balanced(layers: list[Layer]) -> tuple[Layer, ...]:
    """The same after neighbours at the end have been merged until each level is large enough for the next newer one."""
    while len(layers) > 1 and _size(layers[-2]) < GROWTH * _size(layers[-1]):
        upper = layers.pop()
        layers[-1] = splice(layers[-1], upper)
    return tuple(layers)


def _size(layer: Layer) -> int:
    """What merging a layer costs; people without rows cost something too."""
    return layer.rows + len(layer.people)
