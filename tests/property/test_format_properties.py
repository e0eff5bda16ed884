"""Properties of the file format over arbitrary data: everything written is read back, by every reader."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import h5py
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.by_the_book import model_by_the_book
from support.format_models import Person, batch_of, content_of, model_of, models_of, people_models, texts

from openset_format.batch import decode_batch, encode_batch
from openset_format.dictionary import ExtendedDictionary, PackedTexts, dictionary_hashes, packed
from openset_format.errors import FormatError
from openset_format.journal import Journal
from openset_format.reader import PartitionFile
from openset_format.segment import read_records
from openset_format.verify import verify_partition, verify_segment
from openset_format.writer import write_partition

text_lists = st.lists(texts, max_size=20, unique=True)


@given(st.dictionaries(st.integers(0, 2**32 - 1), people_models, max_size=4))
def test_batches_round_trip(partitions: dict[int, list[Person]]) -> None:
    expected = {partition: partitions[partition] for partition in sorted(partitions)}
    payload = encode_batch(batch_of(partitions))
    assert models_of(decode_batch(payload)) == expected
    for partition in expected:
        assert models_of(decode_batch(payload, partition)) == {partition: expected[partition]}


@given(st.dictionaries(st.integers(0, 9), people_models, max_size=2), st.data())
def test_no_bytes_crash_the_batch_decoder(partitions: dict[int, list[Person]], data: st.DataObject) -> None:
    """A changed byte is an error of the format, or what is read has the shape that the header says."""
    payload = bytearray(encode_batch(batch_of(partitions)))
    place = data.draw(st.integers(0, len(payload) - 1))
    before, payload[place] = payload[place], data.draw(st.integers(0, 255))
    try:
        batch = decode_batch(bytes(payload))
    except FormatError as error:
        assert payload[place] != before
        assert "event batch" in str(error)
        return
    if payload[place] == before:
        assert models_of(batch) == {partition: partitions[partition] for partition in sorted(partitions)}
    people, events, rows = struct.unpack_from("<II12xQ", payload, 12)
    assert len(batch.persons.kinds) == len(batch.persons.integers) == len(batch.persons.texts) == people
    assert len(batch.person) == len(batch.stamp) == len(batch.action) == len(batch.row_start) - 1 == events
    for column in batch.columns.values():
        assert len(column.values) == rows
        assert column.valid is None or len(column.valid) == rows


@settings(max_examples=40, deadline=None)
@given(people_models)
def test_partition_files_round_trip(people: list[Person]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "p0000.h5"
        write_partition(path, content_of(people))
        file = PartitionFile.open(path)
        assert model_of(file) == model_by_the_book(path) == people
        assert verify_partition(path) == []
        assert [file.persons.index(person_id) for person_id, _ in people] == list(range(len(people)))
        for column in (file.action, *file.columns.values()):
            if column.dictionary is not None:
                entries = column.dictionary.texts()
                assert [column.dictionary.code(text) for text in entries] == list(range(len(entries)))
        with h5py.File(path, "r") as handle:
            for name in file.manifest.datasets:
                assert np.array_equal(handle[name][:], file.array(name), equal_nan=handle[name].dtype.kind == "f")


@given(text_lists, texts)
def test_packed_texts_are_the_texts(entries: list[str], other: str) -> None:
    dictionary = PackedTexts.of(entries)
    assert [dictionary.text(code) for code in range(len(dictionary))] == entries
    assert dictionary.texts() == entries
    assert dictionary.code(other) == (entries.index(other) if other in entries else None)
    low, high = len(entries) // 3, len(entries) - len(entries) // 4
    assert dictionary.part(low, high).texts() == entries[low:high]


@given(text_lists, st.integers(0, 20))
def test_extending_a_dictionary_keeps_codes_and_hashes(entries: list[str], split: int) -> None:
    extended = ExtendedDictionary(PackedTexts.of(entries[:split]), entries[split:])
    assert extended.texts() == packed(extended).texts() == entries
    assert [extended.code(text) for text in entries] == list(range(len(entries)))
    assert np.array_equal(dictionary_hashes(extended), PackedTexts.of(entries).hashes())


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.binary(max_size=200)),
        st.tuples(st.sampled_from(["sync", "reopen", "rotate"]), st.just(b"")),
        st.tuples(st.just("tear"), st.binary(min_size=1, max_size=80)),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(steps)
def test_the_journal_keeps_everything_in_order(script: list[tuple[str, bytes]]) -> None:
    written: list[bytes] = []
    with tempfile.TemporaryDirectory() as directory:
        journal = Journal.open(directory, segment_bytes=600)
        journal_id = journal.id
        for step, payload in script:
            if step == "append":
                assert journal.append(1, len(written), payload).sequence == len(written) + 1
                written.append(payload)
            elif step == "sync":
                journal.sync()
                assert journal.synced_sequence == len(written)
            elif step == "rotate":
                journal.rotate()
            else:
                journal.close()
                if step == "tear":
                    with max(Path(directory).glob("*.journal")).open("ab") as handle:
                        handle.write(payload)
                journal = Journal.open(directory, segment_bytes=600)
        entries = list(journal.records())
        journal.close()
        assert journal.id == journal_id
        refs = [entry[0] for entry in entries]
        assert [bytes(found[2]) for found in read_records(Path(directory), refs)] == written
        assert [entry[2] for entry in entries] == list(range(len(written)))
        for path in Path(directory).glob("*.journal"):
            assert verify_segment(path) == []
