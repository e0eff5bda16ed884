"""Event files: arrays and lines, compressed or not, cut into the texts of their events."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from openset.client.event_files import open_source, read_events
from openset.errors import InsertError

EVENTS: list[dict[str, Any]] = [
    {"person": "ann", "action": "view", "attr": {"note": 'brackets ] } and "quotes", commas'}},
    {"person": 7, "action": "käse", "attr": {"_": [{"a": [1, 2]}, {"a": None}]}},
    {"person": "x" * 3_000, "action": "long"},
]


def events_of(path: Path) -> list[Any]:
    with open_source(str(path)) as source:
        texts = list(read_events(source, path.name))
    assert not any(b"\n" in text or b"\r" in text for text in texts)
    return [json.loads(text) for text in texts]


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(EVENTS).encode(),
        json.dumps(EVENTS, indent=2, ensure_ascii=False).encode(),
        b"\xef\xbb\xbf \r\n" + json.dumps(EVENTS).encode(),
        "\n".join(json.dumps(event, ensure_ascii=False) for event in EVENTS).encode(),
        "\r\n\r\n".join(json.dumps(event) for event in EVENTS).encode() + b"\r\n\r\n",
        gzip.compress(json.dumps(EVENTS).encode(), mtime=0),
        gzip.compress("\n".join(json.dumps(event) for event in EVENTS).encode(), mtime=0),
    ],
    ids=["array", "indented array", "byte order mark", "lines", "blank lines", "gzip array", "gzip lines"],
)
def test_the_events_of_a_file_come_out_as_they_are(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events"
    path.write_bytes(content)
    assert events_of(path) == EVENTS


@pytest.mark.parametrize("chunk", [1, 7, 64, 4096])
def test_an_array_is_read_in_chunks_of_any_size(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openset.client.event_files._CHUNK_CHARACTERS", chunk)
    path = tmp_path / "events.json"
    path.write_text(json.dumps(EVENTS * 5))
    assert events_of(path) == EVENTS * 5


@pytest.mark.parametrize("content", [b"", b" \n ", b"[]", b"[ ]\n"])
def test_a_file_without_events_has_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "events.json"
    path.write_bytes(content)
    assert events_of(path) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"person": "a"}, {"person": ]', "element 2 of the array is not JSON"),
        (b'[{"person": "a"},', "the array has no end"),
        (b'[{"person": "a"}, 17]', "element 2 of the array is not an event"),
        (b"\x1f\x8b\x08garbage that is no gzip", "damaged gzip"),
        (gzip.compress(json.dumps(EVENTS).encode(), mtime=0)[:-20], "damaged gzip"),
        (b'[{"person": "\xff"}]', "not UTF-8"),
    ],
)
def test_a_broken_file_is_an_error_that_says_where(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(content)
    with pytest.raises(InsertError, match=r"broken\.json") as caught:
        events_of(path)
    assert words in caught.value.message


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InsertError, match=r"cannot read .*No such file"):
        events_of(tmp_path / "nothing.json")
