"""The bytes are where spec/partition-file.md and spec/journal.md say: read with struct, json and xxhash alone."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from support.format_models import PEOPLE, batch_of, content_of
from xxhash import xxh3_64_intdigest

from openset_format.batch import encode_batch
from openset_format.hashing import partition_of
from openset_format.journal import Journal
from openset_format.writer import write_partition


def number(data: bytes, offset: int, form: str = "Q") -> int:
    return int(struct.unpack_from("<" + form, data, offset)[0])


def test_a_partition_file_is_read_by_the_book(tmp_path: Path) -> None:
    path = tmp_path / "p0007.h5"
    write_partition(path, content_of(PEOPLE))
    data = path.read_bytes()
    assert data[:8] == b"OPENSET\n"
    assert [number(data, offset, "H") for offset in (8, 10)] == [1, 3]
    assert [number(data, 12, "I"), number(data, 16)] == [256, 2]
    assert [number(data, offset) for offset in (24, 32, 40, 48)] == [3, 7, 1, 41]
    assert data[56:88] == b"0123456789abcdef" * 2
    assert number(data, 88) == len(data)
    start, size = number(data, 96), number(data, 104)
    assert number(data, 112) == xxh3_64_intdigest(data[start : start + size])
    assert number(data, 248) == xxh3_64_intdigest(data[:248])
    assert data[8192:8200] == b"\x89HDF\r\n\x1a\n"

    manifest = json.loads(data[start : start + size])
    assert (manifest["people"], manifest["rows"]) == (4, 7)
    checksums = manifest["checksums"]
    table = data[checksums["offset"] : checksums["offset"] + 8 * checksums["count"]]
    assert f"{xxh3_64_intdigest(table):016x}" == checksums["xxh3_64"]
    covered = [(checksums["offset"], len(table)), (start, size)]
    for offset, kind, count, first in manifest["datasets"].values():
        piece = data[offset : offset + int(kind[2:]) * count]
        assert number(table, 8 * first) == xxh3_64_intdigest(piece)
        covered.append((offset, len(piece)))

    rest, position = b"", 256
    for offset, length in sorted(covered):
        rest += data[position:offset]
        position = offset + length
    assert number(data, 120) == xxh3_64_intdigest(rest + data[position:])

    hashes, order = (manifest["datasets"][f"/persons/{name}"] for name in ("hashes", "hash_order"))
    found = {number(data, hashes[0] + 8 * i): number(data, order[0] + 4 * i, "I") for i in range(4)}
    assert found[xxh3_64_intdigest(b"\0" + b"7")] == 0
    assert found[xxh3_64_intdigest(b"\1" + struct.pack("<q", 7))] == 1
    assert partition_of("7", 5) == xxh3_64_intdigest(b"\0" + b"7") % 5


def test_a_journal_is_read_by_the_book(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path)
    payload = encode_batch(batch_of({4: PEOPLE}))
    journal.append(1, 3, payload, term=2)
    journal.sync()
    journal.append(9, 3, b"end")
    journal.close()
    data = (tmp_path / "00000000000000000001.journal").read_bytes()
    assert data[:10] == b"OSJRNL\r\n\x01\x00"
    assert data[16:32].hex() == journal.id
    salt = number(data, 32)
    assert [number(data, 40), number(data, 48)] == [1, 0]
    assert number(data, 56) == xxh3_64_intdigest(data[:56])

    position = 64
    for sequence, synced, kind, term, expected in ((1, 0, 1, 2, payload), (2, 1, 9, 0, b"end")):
        record = data[position:]
        assert record[:4] == b"OSRC"
        assert number(record, 4, "H") == kind
        assert [number(record, offset) for offset in (8, 16, 24, 32)] == [sequence, synced, term, 3]
        assert number(record, 40) == len(expected)
        padded = expected + bytes(-len(expected) % 8)
        assert record[64 : 64 + len(padded)] == padded
        assert number(record, 48) == xxh3_64_intdigest(padded, salt)
        assert number(record, 56) == xxh3_64_intdigest(record[:56], salt)
        position += 64 + len(padded)
        if sequence == 1:
            noted = position
    assert position == len(data)
    note = (tmp_path / "synced").read_bytes()
    assert [number(note, 0), number(note, 8)] == [1, noted]
    assert number(note, 16) == xxh3_64_intdigest(note[:16], int(journal.id[:16], 16))


def test_a_batch_is_laid_out_by_the_book() -> None:
    payload = encode_batch(batch_of({4: [("ab", [(5, "view", [{2: 6}])])]}))
    assert payload[:4] == b"OSEB"
    assert struct.unpack_from("<HHIIIIIIQ", payload, 4) == (1, 1, 1, 1, 1, 1, 1, 0, 1)
    assert struct.unpack_from("<III", payload, 40) == (4, 1, 1)
    assert payload[56] == 0, "a text id"
    assert struct.unpack_from("<II", payload, 72) == (0, 2)
    assert payload[80:82] == b"ab"
    assert [number(payload, 88, "I"), number(payload, 96), number(payload, 104, "I")] == [0, 5, 0]
    assert struct.unpack_from("<II", payload, 112) == (0, 4)
    assert payload[120:124] == b"view"
    assert struct.unpack_from("<IBBHQ", payload, 128) == (2, 1, 0, 8, 0)
    assert number(payload, 144) == 6
    assert len(payload) == 152
