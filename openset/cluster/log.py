"""The log of a partition on one node, as far as agreement is concerned: which term every record has, what is durable.

No payloads; those are in the node's journal or in the partition's file. Records up to `base` are in the file.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from openset.cluster.map import NOWHERE, Position


class PartitionLog:
    """Runs of records of one term. epoch: grows with every cut: what was synced before it is not taken for newer."""

    def __init__(self, base: Position = NOWHERE, terms: Sequence[int] = ()):
        """terms: of the records behind base, all of them durable."""
        self.base = base
        self.epoch = 0
        self._firsts: list[int] = []
        self._terms: list[int] = []
        self._last = base.index
        self.append(terms)
        self.synced = self._last

    @property
    def last(self) -> Position:
        """The last record."""
        return Position(self.term_of(self._last) or 0, self._last)

    def term_of(self, index: int) -> int | None:
        """The term of a record; None when it is not in the log, or so old that only the file has it."""
        if index == self.base.index:
            return self.base.term
        if not self.base.index < index <= self._last:
            return None
        return self._terms[bisect_right(self._firsts, index) - 1]

    def position(self, index: int) -> Position | None:
        """The position of a record that the log knows."""
        term = self.term_of(index)
        return None if term is None else Position(term, index)

    def has(self, position: Position) -> bool:
        """Whether this very record is in the log or, being no later than its base, in the file."""
        if position.index <= self.base.index:
            return True
        return self.term_of(position.index) == position.term

    def run_start(self, index: int) -> int:
        """The first record of those around one that have its term, as far as the log knows."""
        assert self.base.index < index <= self._last
        return self._firsts[bisect_right(self._firsts, index) - 1]

    def append(self, terms: Sequence[int]) -> None:
        """Records behind the last one. They are durable when `sync` says so."""
        for term in terms:
            assert not self._terms or term >= self._terms[-1], "terms never go back"
            self._last += 1
            if not self._terms or self._terms[-1] != term:
                self._firsts.append(self._last)
                self._terms.append(term)

    def cut(self, after: int) -> None:
        """Forgets the records behind an index."""
        assert self.base.index <= after < self._last, "what is in the file is agreed"
        self._last = after
        while self._firsts and self._firsts[-1] > after:
            self._firsts.pop()
            self._terms.pop()
        self.synced = min(self.synced, after)
        self.epoch += 1

    def sync(self, index: int, epoch: int) -> None:
        """Records up to an index are durable, if nothing was cut since."""
        if epoch == self.epoch:
            self.synced = max(self.synced, min(index, self._last))

    def compact(self, position: Position) -> None:
        """Records up to a position are in the file."""
        if position.index <= self.base.index:
            return
        assert self.term_of(position.index) == position.term and position.index <= self.synced
        kept = [(first, term) for first, term in zip(self._firsts, self._terms, strict=True)]
        self.base = position
        self._firsts, self._terms = [], []
        for place, (first, term) in enumerate(kept):
            end = kept[place + 1][0] - 1 if place + 1 < len(kept) else self._last
            if end > position.index:
                self._firsts.append(max(first, position.index + 1))
                self._terms.append(term)

    def replace(self, base: Position) -> None:
        """A file is put in place of everything here; it is not yet durable."""
        self.base, self._last, self.synced = base, base.index, 0
        self._firsts, self._terms = [], []
        self.epoch += 1
