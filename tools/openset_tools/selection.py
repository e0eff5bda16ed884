"""Whom of a table a tool goes through: everyone, some people by their ids, or those a script takes in."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from openset.pyql.lanes.engine import compile_plan
from openset.pyql.settings import RunSettings
from openset.pyql.syntax.parse import parse_script
from openset.query.index_only import candidates
from openset.query.membership import members_of_block
from openset.query.parameters import RequestParameters
from openset.query.pruning import few_candidates
from openset.query.time_zone import UTC_NAME, zone_of
from openset.store.schema import TableSchema
from openset.store.views import PartitionView
from openset_format.block import Block, PersonId
from openset_format.hashing import partition_of


@dataclass(frozen=True, slots=True)
class Selected:
    """blocks: of a partition, those with people who are wanted; the others in them are not included.

    partitions: which may have any; None for all.
    """

    blocks: Callable[[PartitionView], Iterator[Block]]
    partitions: Collection[int] | None = None


# From the table and the number of partitions.
Selection = Callable[[TableSchema, int], Selected]


def everyone(schema: TableSchema, partitions: int) -> Selected:
    """All people."""
    return Selected(lambda view: view.stream())


def people(persons: Sequence[PersonId]) -> Selection:
    """The people of these ids, as far as there are any."""

    def selection(schema: TableSchema, partitions: int) -> Selected:
        wanted: dict[int, list[PersonId]] = {}
        # A text and an integer of the same digits are two people, and neither is 1 the same as True.
        for _, person in dict.fromkeys((type(person), person) for person in persons):
            wanted.setdefault(partition_of(person, partitions), []).append(person)

        def blocks(view: PartitionView) -> Iterator[Block]:
            found = (view.person_rows(person) for person in wanted[view.partition])
            return (block for block in found if block is not None)

        return Selected(blocks, wanted)

    return selection


def script_members(script: str, parameters: Mapping[str, str] | None = None, time_zone: str = UTC_NAME) -> Selection:
    """The people for whom a script in the form of a segment calls `tally` or returns a true value.

    parameters: values of `{{name}}` as the parameters of a request (`str_name`, `int_name`, …). The selection raises
    ParseError and QueryError, reading its blocks RunTimeError.
    """

    def selection(schema: TableSchema, partitions: int) -> Selected:
        checked = parse_script(script, schema.column_types, segment=True)
        request = RequestParameters(list((parameters or {}).items()))
        values = request.script_values(checked.parameters)
        request.finish()
        settings = RunSettings(now_ms=time.time_ns() // 1_000_000, parameters=values, zone=zone_of(time_zone))
        plan, facts = compile_plan(checked), candidates(checked)

        def blocks(view: PartitionView) -> Iterator[Block]:
            few = few_candidates(view, facts, settings)
            read = view.stream(plan.block_rows) if few is None else view.blocks_of(few, plan.block_rows)
            for block in read:
                ordinals = np.sort(np.concatenate([np.zeros(0, np.int64), *members_of_block(plan, block, settings)]))
                places = ordinals - block.first_person
                if block.ordinals is not None:
                    places = np.searchsorted(block.ordinals, ordinals)
                member = np.zeros(block.people, np.bool_)
                member[places] = True
                yield replace(block, include=member)

        return Selected(blocks)

    return selection
