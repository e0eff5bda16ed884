"""Lists, dicts and sets of many lanes at once, in columns.

A container is a handle. Its elements are entries of one LaneMap over all containers: keyed by the element (set), the
key (dict) or the position (list). Entries are never removed, only marked dead, and get a new order when they come
back, so that iteration is in insertion order.

Assigning a container to another name does not copy it: both names get the handle, which is frozen, and whoever changes
a frozen container makes a copy of it first. Handles that are not frozen belong to one lane.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from openset.errors import RunTimeError
from openset.pyql.lanes.lane_map import Ints, Kinds, LaneMap
from openset.pyql.lanes.vectors import CONTAINER, DOUBLE, ERROR, INT, NONE, Mask, dense, first_of, unique_codes

LIST, DICT, SET = 1, 2, 3
_INT64_EDGE = float(1 << 63)
# What an entry takes: keys, values, order, flags and its slots in the hash table.
ENTRY_BYTES = 80
# From so many lanes on it may pay to look for those that ask the same.
_MANY_LANES = 1 << 12


class ContainerStore:
    """kind, size, frozen, height: per handle. alive, order, label(_kind), value(_kind): per entry.

    label is the key as it was first given (1 or 1.0); value is the element of a list or the value of a dict.
    height: how many levels of containers have been put into a container at a time, itself included; 255 is more.
    """

    def __init__(self, max_size_bytes: int):
        self._max_entries = max_size_bytes // ENTRY_BYTES
        self.handles = 0
        self.kind = np.zeros(64, np.uint8)
        self.size = np.zeros(64, np.int64)
        self.frozen = np.zeros(64, np.bool_)
        self.height = np.zeros(64, np.uint8)
        # Lists whose members are noted, and under which generation: it changes whenever they are noted anew.
        self._indexed = np.zeros(64, np.bool_)
        self._generation = np.zeros(64, np.int64)
        self._entries = LaneMap()
        self._next_order = 0
        self.alive = np.zeros(256, np.bool_)
        self.order = np.zeros(256, np.int64)
        self.label_kind = np.zeros(256, np.uint8)
        self.label = np.zeros(256, np.int64)
        self.value_kind = np.zeros(256, np.uint8)
        self.value = np.zeros(256, np.int64)
        # (list, value) pairs of lists that were asked for members, and the generation in which each was true.
        self._members = LaneMap()
        self._member_since = np.zeros(256, np.int64)

    # ------------------------------------------------------------ handles

    def new(self, kind: int, count: int, frozen: bool = False) -> Ints:
        """Handles of `count` empty containers."""
        first, last = self.handles, self.handles + count
        if last > len(self.kind):
            size = max(last, 2 * len(self.kind))
            self.kind, self.size = _grown(self.kind, size), _grown(self.size, size)
            self.frozen, self._indexed = _grown(self.frozen, size), _grown(self._indexed, size)
            self._generation, self.height = _grown(self._generation, size), _grown(self.height, size)
        self.kind[first:last] = kind
        self.height[first:last] = 1
        self.frozen[first:last] = frozen
        self.handles = last
        self._check_memory()
        return np.arange(first, last, dtype=np.int64)

    def freeze(self, handles: Ints) -> None:
        """From now on these containers are copied before they are changed."""
        self.frozen[handles] = True

    def copies(self, handles: Ints) -> Ints:
        """New containers with the same elements; containers in them are shared and frozen."""
        kinds = self.kind[handles]
        made = self.new(LIST, len(handles))
        self.kind[made] = kinds
        # Of an empty list all members are known.
        self._indexed[made] = self.size[handles] == 0
        self._generation[made] = 1
        slot, entry = self.elements(handles)
        self._insert(
            made[slot],
            self._entries.kind[entry],
            self._entries.payload[entry],
            (self.label_kind[entry], self.label[entry]),
            (self.value_kind[entry], self.value[entry]),
        )
        nested = self.value_kind[entry] == CONTAINER
        self.freeze(self.value[entry[nested]])
        return made

    def _check_memory(self) -> None:
        if self._entries.count + self.handles > self._max_entries:
            raise RunTimeError("the containers of the script grew beyond the query's memory budget")

    # ------------------------------------------------------------ dicts and sets

    def put(self, handles: Ints, key: tuple[Kinds, Ints], value: tuple[Kinds, Ints] | None = None) -> None:
        """Adds a key to each dict (with a value) or set. Handles are distinct within a call."""
        kinds, payloads = normal_keys(*key)
        nothing = (np.zeros(len(handles), np.uint8), np.zeros(len(handles), np.int64))
        self._insert(handles, kinds, payloads, key, nothing if value is None else value)

    def put_all(self, handles: Ints, key: tuple[Kinds, Ints], value: tuple[Kinds, Ints]) -> None:
        """Like put, with any number of keys per handle, in order: a later value of an equal key wins."""
        kinds, payloads = normal_keys(*key)
        if not len(handles):
            return
        order = np.lexsort((np.arange(len(handles)), payloads, kinds, handles))
        new = np.ones(len(order), np.bool_)
        a, b = order[1:], order[:-1]
        new[1:] = (handles[a] != handles[b]) | (kinds[a] != kinds[b]) | (payloads[a] != payloads[b])
        first = order[new]
        last = order[np.append(np.flatnonzero(new)[1:] - 1, len(order) - 1)]
        arrival = np.argsort(first, kind="stable")
        first, last = first[arrival], last[arrival]
        self._insert(
            handles[first],
            kinds[first],
            payloads[first],
            (key[0][first], key[1][first]),
            (value[0][last], value[1][last]),
        )

    def _insert(
        self, handles: Ints, kinds: Kinds, payloads: Ints, label: tuple[Kinds, Ints], value: tuple[Kinds, Ints]
    ) -> None:
        """Sets entries, distinct within the call. Sizes grow by the entries that were not there."""
        if not len(handles):
            return
        entry, _ = self._entries.add(handles, kinds, payloads)
        if self._entries.count > len(self.alive):
            self._reserve(max(self._entries.count, 2 * len(self.alive)))
        self._check_memory()
        fresh = ~self.alive[entry]
        came = entry[fresh]
        self.alive[came] = True
        self.order[came] = self._next_order + np.arange(len(came))
        self._next_order += len(came)
        self.label_kind[came], self.label[came] = label[0][fresh], label[1][fresh]
        np.add.at(self.size, handles[fresh], 1)
        self.value_kind[entry], self.value[entry] = value
        self._rise(handles, value)

    def _rise(self, handles: Ints, value: tuple[Kinds, Ints]) -> None:
        """Containers were put into others."""
        nested = np.flatnonzero(value[0] == CONTAINER)
        if len(nested):
            below = self.height[value[1][nested]]
            np.maximum.at(self.height, handles[nested], np.minimum(below, 254) + np.uint8(1))

    def _reserve(self, size: int) -> None:
        for name in ("alive", "order", "label_kind", "label", "value_kind", "value"):
            setattr(self, name, _grown(getattr(self, name), size))

    def find(self, handles: Ints, key: tuple[Kinds, Ints]) -> Ints:
        """The live entry of each key of a dict or set, -1 where there is none."""
        kinds, payloads = normal_keys(*key)
        entry = self._find_shared(handles, kinds, payloads)
        if entry is None:
            entry = self._entries.find(handles, kinds, payloads)
        entry[entry >= 0] = np.where(self.alive[entry[entry >= 0]], entry[entry >= 0], -1)
        return entry

    def _find_shared(self, handles: Ints, kinds: Kinds, payloads: Ints) -> Ints | None:
        """Entries where many lanes ask few containers for few keys, looked up once per pair; None where they do not."""
        if len(handles) < _MANY_LANES:
            return None
        owners, width = dense(handles)
        keys, size = dense(payloads)
        keys, size = keys * ERROR + kinds, size * ERROR
        if width * size > len(handles):
            return None
        pairs, inverse = unique_codes(owners * size + keys, width * size)
        example = first_of(inverse, len(pairs))
        found: Ints = self._entries.find(handles[example], kinds[example], payloads[example])[inverse]
        return found

    def values_of(self, entry: Ints) -> tuple[Kinds, Ints]:
        """The values of entries, None for entry -1."""
        kinds = np.where(entry >= 0, self.value_kind[entry], NONE).astype(np.uint8)
        return kinds, np.where(entry >= 0, self.value[entry], 0)

    def labels_of(self, entry: Ints) -> tuple[Kinds, Ints]:
        """The keys of entries."""
        return self.label_kind[entry], self.label[entry]

    def discard(self, handles: Ints, entry: Ints) -> None:
        """Marks entries dead (-1: nothing), one per handle."""
        live = entry >= 0
        self.alive[entry[live]] = False
        self.size[handles[live]] -= 1

    # ------------------------------------------------------------ lists

    def append(self, handles: Ints, value: tuple[Kinds, Ints]) -> None:
        """Appends a value to each list. Handles are distinct within a call."""
        self._extend(handles, self.size[handles], value)

    def _extend(self, handles: Ints, positions: Ints, value: tuple[Kinds, Ints]) -> None:
        kinds = np.full(len(handles), INT, np.uint8)
        self._insert(handles, kinds, positions, (kinds, positions), value)
        indexed = self._indexed[handles]
        if indexed.any():
            self._note_members(handles[indexed], value[0][indexed], value[1][indexed])

    def extend_all(self, handles: Ints, value: tuple[Kinds, Ints]) -> None:
        """Appends any number of values per list; handles come in runs."""
        if not len(handles):
            return
        first = np.append(True, handles[1:] != handles[:-1])
        starts = np.flatnonzero(first)
        within = np.arange(len(handles)) - np.repeat(starts, np.diff(np.append(starts, len(handles))))
        self._extend(handles, self.size[handles] + within, value)

    def position(self, handles: Ints, index: Ints) -> Ints:
        """The entry of each list at an index (negative ones from the end), -1 where there is none."""
        size = self.size[handles]
        inside = (index >= -size) & (index < size)
        at = np.where(index < 0, index + size, index)
        entry = np.full(len(handles), -1, np.int64)
        chosen = np.flatnonzero(inside)
        kinds = np.full(len(chosen), INT, np.uint8)
        entry[chosen] = self._entries.find(handles[chosen], kinds, at[chosen])
        return entry

    def set_value(self, handles: Ints, entry: Ints, value: tuple[Kinds, Ints]) -> None:
        """Replaces the values of entries."""
        self._indexed[handles] = False  # asked again, its members are noted anew
        self.value_kind[entry], self.value[entry] = value
        self._rise(handles, value)

    def pop_last(self, handles: Ints) -> tuple[Kinds, Ints]:
        """Takes the last element out of each list."""
        entry = self.position(handles, np.full(len(handles), -1, np.int64))
        self._indexed[handles] = False
        self.discard(handles, entry)
        return self.values_of(entry)

    def positions_of(self, handles: Ints, value: tuple[Kinds, Ints]) -> tuple[Ints, Ints]:
        """The elements of lists that equal a scalar per list: (position in `handles`, entry), in order."""
        slot, entry = self.elements(handles)
        kinds, payloads = normal_keys(self.value_kind[entry], self.value[entry])
        wanted_kinds, wanted = normal_keys(*value)
        same = (kinds == wanted_kinds[slot]) & (payloads == wanted[slot])
        return slot[same], entry[same]

    def empty_lists(self, handles: Ints, entry: Ints) -> None:
        """Takes all elements (their entries) out of lists."""
        self.alive[entry] = False
        self.size[handles] = 0
        self._indexed[handles] = False

    def list_has(self, handles: Ints, value: tuple[Kinds, Ints]) -> Mask:
        """Whether each list has an element strictly equal to a scalar."""
        asked = np.unique(handles[~self._indexed[handles]])
        if len(asked):
            self._index(asked)
        entry = self._members.find(handles, *normal_keys(*value))
        found: Mask = (entry >= 0) & (self._member_since[entry] == self._generation[handles])
        return found

    def _index(self, handles: Ints) -> None:
        self._generation[handles] += 1
        self._indexed[handles] = True
        slot, entry = self.elements(handles)
        self._note_members(handles[slot], self.value_kind[entry], self.value[entry])

    def _note_members(self, handles: Ints, kinds: Kinds, payloads: Ints) -> None:
        """Notes that lists have values, under the list's present generation."""
        scalar = kinds != CONTAINER
        handles, (kinds, payloads) = handles[scalar], normal_keys(kinds[scalar], payloads[scalar])
        if not len(handles):
            return
        order = np.lexsort((payloads, kinds, handles))
        new = np.ones(len(order), np.bool_)
        a, b = order[1:], order[:-1]
        new[1:] = (handles[a] != handles[b]) | (kinds[a] != kinds[b]) | (payloads[a] != payloads[b])
        first = order[new]
        entry, _ = self._members.add(handles[first], kinds[first], payloads[first])
        if self._members.count > len(self._member_since):
            self._member_since = _grown(self._member_since, 2 * self._members.count)
        self._member_since[entry] = self._generation[handles[first]]

    # ------------------------------------------------------------ iteration

    def elements(self, handles: Ints) -> tuple[Ints, Ints]:
        """The live entries of containers in order: (position in `handles`, entry), ascending by position."""
        distinct, inverse = np.unique(handles, return_inverse=True)
        rank = np.full(self.handles, -1, np.int64)
        rank[distinct] = np.arange(len(distinct))
        count = self._entries.count
        owner = rank[self._entries.owner[:count]]
        entry = np.flatnonzero((owner >= 0) & self.alive[:count])
        entry = entry[np.lexsort((self.order[entry], owner[entry]))]
        sizes = np.bincount(owner[entry], minlength=len(distinct))
        starts = np.cumsum(sizes) - sizes
        own = sizes[inverse]
        slot = np.repeat(np.arange(len(handles), dtype=np.int64), own)
        offset = np.arange(len(slot)) - np.repeat(np.cumsum(own) - own, own)
        return slot, entry[np.repeat(starts[inverse], own) + offset]


def normal_keys(kinds: Kinds, payloads: Ints) -> tuple[Kinds, Ints]:
    """Keys in the form in which 1 and 1.0 are one key: doubles that are whole and fit become ints."""
    doubles = np.flatnonzero(kinds == DOUBLE)
    if not len(doubles):
        return kinds, payloads
    values = payloads[doubles].view(np.float64)
    whole = (values == np.floor(values)) & (values >= -_INT64_EDGE) & (values < _INT64_EDGE)
    kinds, payloads = kinds.copy(), payloads.copy()
    kinds[doubles[whole]] = INT
    payloads[doubles[whole]] = values[whole].astype(np.int64)
    return kinds, payloads


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    bigger = np.zeros(size, array.dtype)
    bigger[: len(array)] = array
    return bigger
