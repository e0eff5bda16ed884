"""How many distinct people have each value of a column: counted on Blocks, merged over partitions.

Values become codes, and each pair of person and code counts once. Texts are counted by the codes of their dictionary
and become texts once per partition; numbers are counted by value, or by the number of their bucket.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyroaring import BitMap

from openset.pyql.meaning.values import in_range
from openset.query.distinct_pairs import distinct_pairs, run_starts
from openset.query.value_filter import Number, ValueFilter
from openset.store.lookup import IndexedTexts
from openset_format.block import Column, TextDictionary

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]
Key = str | int | float | bool

# Integers that lie closer together than this, or than the rows that hold them, are counted by their distance.
_SMALL_RANGE = 1 << 16
_EXACT = float(1 << 53)


@dataclass(frozen=True, slots=True, eq=False)
class ValueCounts:
    """Distinct people by value. Merges over disjoint people.

    texts: with text_counts int64[segments, texts].  numbers: int64 or float64, ascending, with number_counts; the
    numbers of buckets where values are in buckets.  bool_counts: int64[segments, 2] for false and true.
    any_value: int64[segments], people with any value that passes.
    """

    texts: list[str]
    text_counts: Counts
    numbers: NDArray[Any]
    number_counts: Counts
    bool_counts: Counts
    any_value: Counts


def merged(parts: Sequence[ValueCounts], segments: int) -> ValueCounts:
    """The counts of disjoint people together."""
    index: dict[str, int] = {}
    places = [
        np.fromiter((index.setdefault(text, len(index)) for text in part.texts), np.int64, len(part.texts))
        for part in parts
    ]
    text_counts = np.zeros((segments, len(index)), np.int64)
    for part, place in zip(parts, places, strict=True):
        text_counts[:, place] += part.text_counts
    some = [part for part in parts if len(part.numbers)]
    numbers, number_counts = merged_numbers([(part.numbers, part.number_counts) for part in some], segments)
    nothing = np.zeros((segments, 2), np.int64)
    return ValueCounts(
        list(index),
        text_counts,
        numbers,
        number_counts,
        sum((part.bool_counts for part in parts), nothing),
        sum((part.any_value for part in parts), np.zeros(segments, np.int64)),
    )


def merged_numbers(parts: Sequence[tuple[NDArray[Any], Counts]], segments: int) -> tuple[NDArray[Any], Counts]:
    """Counts by number (int64[segments, numbers] each) as one, numbers ascending and each once."""
    if not parts:
        return np.zeros(0, np.int64), np.zeros((segments, 0), np.int64)
    numbers = np.concatenate([numbers for numbers, _ in parts])
    counts = np.concatenate([counts for _, counts in parts], axis=1)
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    starts = run_starts(numbers)
    return numbers[starts], np.add.reduceat(counts[:, order], starts, axis=1)


class ValueCounter:
    """Counts the values of one column over the Blocks of a worker's partitions.

    bucket: the width of buckets of numbers, or None.  segments: how many are compared, 1 for everyone alone.
    deadline: time.monotonic() seconds for searching texts, or None.
    """

    def __init__(self, values: ValueFilter, bucket: Number | None, segments: int, deadline: float | None):
        self._filter = values
        self._bucket = bucket
        self._segments = segments
        self._deadline = deadline
        self._texts: dict[int, _TextCounts] = {}
        self._numbers: list[tuple[NDArray[Any], Counts]] = []
        self._bools = np.zeros((segments, 2), np.int64)
        self._any = np.zeros(segments, np.int64)

    def add(self, column: Column, persons: NDArray[np.int32], members: Sequence[Mask | None]) -> None:
        """Takes rows in. persons: int32[rows], ascending, the person of each row.

        members: per segment bool[people], None for everyone. Who is in no segment is not counted. A person must not
        come twice over all calls. Raises RunTimeError when the search of texts takes too long.
        """
        mask = column.valid
        if all(member is not None for member in members):
            anyone = np.logical_or.reduce([member for member in members if member is not None])
            if not anyone.all():
                mask = _both(mask, anyone[persons])
        values = column.values
        if column.type == "text":
            known = self._known(column)
            if known.passing is not None:
                mask = _both(mask, known.passing[values] if len(known.passing) else np.zeros(len(values), np.bool_))
            rows = _Rows(persons, mask, members)
            rows.add_counts(rows.of(values), known.counts)
        elif column.type == "bool":
            rows = _Rows(persons, _both(mask, self._filter.bool_mask(values)), members)
            self._bools += rows.counts(rows.of(values), 2)
        else:
            mask = _both(mask, self._filter.number_mask(values))
            if self._bucket is not None:
                values, finite = bucket_numbers(values, self._bucket)
                mask = _both(mask, finite)
            rows = _Rows(persons, mask, members)
            self._add_numbers(rows.of(values), rows)
        self._any += rows.people()

    def add_indexed(self, indexed: IndexedTexts, touched: BitMap) -> None:
        """Takes in the texts of a file from its index, for everyone but some people; no segment is compared."""
        assert self._segments == 1
        known = self._known_texts(indexed.dictionary)
        chosen = (
            np.arange(len(indexed.codes)) if known.passing is None else np.flatnonzero(known.passing[indexed.codes])
        )
        people = [indexed.people[place] for place in chosen.tolist()]
        counts = [len(bitmap) - (bitmap.intersection_cardinality(touched) if touched else 0) for bitmap in people]
        known.counts[0, indexed.codes[chosen]] += np.array(counts, np.int64)
        anyone = BitMap.union(*people) if people else BitMap()
        self._any[0] += len(anyone) - anyone.intersection_cardinality(touched)

    def result(self) -> ValueCounts:
        """What was counted so far."""
        parts = [counts.named() for counts in self._texts.values()]
        numbers, number_counts = merged_numbers(self._numbers, self._segments)
        nothing = np.zeros(0, np.int64), np.zeros((self._segments, 0), np.int64)
        zero = np.zeros((self._segments, 2), np.int64), np.zeros(self._segments, np.int64)
        texts = [ValueCounts(names, counts, *nothing, *zero) for names, counts in parts]
        rest = ValueCounts([], np.zeros((self._segments, 0), np.int64), numbers, number_counts, self._bools, self._any)
        return merged([rest, *texts], self._segments)

    def _known(self, column: Column) -> _TextCounts:
        """What is kept of the column's dictionary."""
        assert column.dictionary is not None
        return self._known_texts(column.dictionary)

    def _known_texts(self, dictionary: TextDictionary) -> _TextCounts:
        known = self._texts.get(id(dictionary))
        if known is None:
            passing = None if self._filter.takes_all_texts else self._filter.text_mask(dictionary, self._deadline)
            known = self._texts[id(dictionary)] = _TextCounts(dictionary, passing, self._segments)
        return known

    def _add_numbers(self, values: NDArray[Any], rows: _Rows) -> None:
        if not len(values):
            return
        numbers, codes = coded(values)
        counts = rows.counts(codes, len(numbers))
        some = np.flatnonzero(counts.any(axis=0))
        self._numbers.append((numbers[some], counts[:, some]))


class _TextCounts:
    """Counts by the codes of one dictionary, which is kept so that its identity stays its own."""

    def __init__(self, dictionary: TextDictionary, passing: Mask | None, segments: int):
        self.dictionary = dictionary
        self.passing = passing
        self.counts = np.zeros((segments, len(dictionary)), np.int64)

    def named(self) -> tuple[list[str], Counts]:
        """The texts that were counted, and their counts."""
        some = np.flatnonzero(self.counts.any(axis=0))
        if 8 * len(some) < len(self.dictionary):
            texts = [self.dictionary.text(code) for code in some.tolist()]
        else:
            every = self.dictionary.texts()
            texts = [every[code] for code in some.tolist()]
        return texts, self.counts[:, some]


class _Rows:
    """The rows that pass, and the people they belong to.

    persons: int32[all rows], ascending. mask: which rows pass, None for all. members: per segment who belongs to it.
    """

    def __init__(self, persons: NDArray[np.int32], mask: Mask | None, members: Sequence[Mask | None]):
        self._chosen = None if mask is None or mask.all() else np.flatnonzero(mask)
        self._persons = self.of(persons)
        self._members = members
        self._starts = run_starts(self._persons)

    def of(self, values: NDArray[Any]) -> NDArray[Any]:
        """The values of these rows, from those of all rows."""
        return values if self._chosen is None else values[self._chosen]

    def people(self) -> Counts:
        """int64[segments]: how many people have one of the rows."""
        if all(member is None for member in self._members):
            return np.full(len(self._members), len(self._starts), np.int64)
        persons = self._persons[self._starts]
        counted = [len(persons) if member is None else np.count_nonzero(member[persons]) for member in self._members]
        return np.array(counted, np.int64)

    def counts(self, codes: NDArray[Any], code_count: int) -> Counts:
        """int64[segments, codes]: distinct people per code."""
        counts = np.zeros((len(self._members), code_count), np.int64)
        self.add_counts(codes, counts)
        return counts

    def add_counts(self, codes: NDArray[Any], counts: Counts) -> None:
        """Adds distinct people per code. codes: of these rows, below the width of counts."""
        codes, persons = distinct_pairs(codes, self._persons, self._starts, counts.shape[1])
        for segment, member in enumerate(self._members):
            own = codes if member is None else codes[member[persons]]
            if counts.shape[1] <= 4 * len(own):
                counts[segment] += np.bincount(own, minlength=counts.shape[1])
            elif len(own):
                own = np.sort(own)
                starts = run_starts(own)
                counts[segment, own[starts]] += np.diff(np.append(starts, len(own)))


def _both(first: Mask | None, second: Mask | None) -> Mask | None:
    if first is None or second is None:
        return second if first is None else first
    return first & second


def coded(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The distinct values, ascending (perhaps with some that do not occur), and the place of each value among them."""
    if values.dtype.kind == "i":
        low, high = int(values.min()), int(values.max())
        if high - low < max(_SMALL_RANGE, len(values)):
            return np.arange(low, high + 1, dtype=np.int64), values - low
    ascending = np.sort(values)
    numbers = ascending[run_starts(ascending)]
    return numbers, np.searchsorted(numbers, values)


def bucket_numbers(values: NDArray[Any], width: Number) -> tuple[NDArray[Any], Mask | None]:
    """The number of each value's bucket, floor(value / width); and where there is one, None for everywhere.

    int64, or float64 where they are too large for that.
    """
    if values.dtype.kind == "i" and isinstance(width, int):
        if width >= 1 << 63:
            return np.where(values < 0, -1, 0).astype(np.int64), None
        return values // width, None
    with np.errstate(all="ignore"):
        numbers = np.floor(values.astype(np.float64) / width)
    finite = np.isfinite(numbers)
    if not finite.all():
        numbers = np.where(finite, numbers, 0.0)
    if not len(numbers) or float(np.abs(numbers).max()) < _EXACT:
        numbers = numbers.astype(np.int64)
    return numbers, None if finite.all() else finite


def bucket_key(number: int | float, width: Number) -> int | float:
    """Where a bucket begins, by its number. A double where an integer of 64 bits does not reach."""
    begin = in_range(number * width if isinstance(number, int) else number * float(width))
    assert isinstance(begin, int | float), "buckets come from finite numbers"
    return begin
