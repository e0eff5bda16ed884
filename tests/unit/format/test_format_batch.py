"""The event batch codec: what goes in comes out, whole or one partition of it."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from support.format_models import PEOPLE, batch_of, models_of

from openset_format.batch import EventBatch, decode_batch, encode_batch
from openset_format.block import PersonIds
from openset_format.errors import FormatError, UnsupportedFormatError

PARTITIONS = {2: PEOPLE[:2], 5: PEOPLE[3:], 11: [("x", [(9, "click", [{1: "red"}])])]}


def test_round_trip() -> None:
    batch = decode_batch(encode_batch(batch_of(PARTITIONS)))
    assert models_of(batch) == PARTITIONS
    assert (batch.events, batch.rows) == (6, 8)
    assert [entry.partition for entry in batch.partitions] == [2, 5, 11]


@pytest.mark.parametrize("partition", PARTITIONS)
def test_one_partition(partition: int) -> None:
    batch = decode_batch(encode_batch(batch_of(PARTITIONS)), partition)
    assert models_of(batch) == {partition: PARTITIONS[partition]}
    assert batch.row_start[0] == 0
    assert batch.person.min() == 0


def test_a_partition_without_events() -> None:
    batch = decode_batch(encode_batch(batch_of(PARTITIONS)), 3)
    assert (batch.events, batch.rows, len(batch.persons)) == (0, 0, 0)
    assert models_of(batch) == {3: []}


def test_an_empty_batch() -> None:
    batch = decode_batch(encode_batch(batch_of({})))
    assert (batch.events, batch.rows, batch.partitions) == (0, 0, ())


def test_arrays_are_views_on_the_payload() -> None:
    payload = encode_batch(batch_of(PARTITIONS))
    batch = decode_batch(memoryview(payload), 5)
    whole = np.frombuffer(payload, np.uint8)
    for values in (batch.stamp, batch.action, batch.persons.kinds, batch.columns[2].values):
        assert np.shares_memory(values, whole)
        assert values.flags.aligned


def test_flat_events_need_no_row_starts() -> None:
    flat = batch_of({0: [("a", [(stamp, "view", [{2: stamp}]) for stamp in range(100)])]})
    nested = batch_of({0: [("a", [(stamp, "view", [{2: stamp}]) for stamp in range(99)] + [(99, "view", [{}, {}])])]})
    assert len(encode_batch(nested)) - len(encode_batch(flat)) > 8 * 100


def test_payloads_that_are_no_batch_are_refused() -> None:
    payload = encode_batch(batch_of(PARTITIONS))
    with pytest.raises(FormatError, match="magic"):
        decode_batch(b"x" * 100)
    for size in range(len(payload)):
        with pytest.raises(FormatError):
            decode_batch(payload[:size]).part(2).columns[1].dictionary.texts()  # type: ignore[union-attr]
    newer = payload[:4] + struct.pack("<H", 2) + payload[6:]
    with pytest.raises(UnsupportedFormatError, match="version 2"):
        decode_batch(newer)


def test_inconsistent_batches_are_asserted() -> None:
    batch = batch_of(PARTITIONS)
    broken = EventBatch(**(batch.__dict__ | {"person": batch.person + np.uint32(4)}))
    with pytest.raises(AssertionError):
        encode_batch(broken)
    broken = EventBatch(**(batch.__dict__ | {"partitions": batch.partitions[::-1]}))
    with pytest.raises(AssertionError):
        encode_batch(broken)
    broken = EventBatch(**(batch.__dict__ | {"persons": PersonIds.of(["a", "b", "c", "\udfff"])}))
    with pytest.raises(AssertionError, match="lone surrogate"):
        encode_batch(broken)
