"""What nodes send each other of backtests comes back as it was, and nothing else is taken."""

from __future__ import annotations

import datetime
import struct
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from openset.errors import WireError
from openset.query.wire.codec import encoded
from openset.revent.backtests import Backtest
from openset.revent.disabling import PARTS
from openset.revent.replay import Replay, Replayed
from openset.revent.spread_backtests import ReplayCodec
from openset.store.stamps import LAST_STAMP

values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
people = st.integers(-(2**63), 2**63 - 1) | st.text(min_size=1, max_size=4)
emissions = st.builds(Replayed, st.integers(0, LAST_STAMP), people, st.text(min_size=1, max_size=4), values)
moments = st.lists(st.integers(0, LAST_STAMP * PARTS), max_size=5)

EXTREMES = [
    0,
    0.0,
    -0.0,
    False,
    1,
    1.0,
    True,
    "1",
    None,
    float("inf"),
    float("-inf"),
    float("nan"),
    2**63 - 1,
    -(2**63),
]


def exactly(value: Any) -> Any:
    """What tells values apart that == does not, and lets nan equal itself."""
    if isinstance(value, list):
        return list, [exactly(one) for one in value]
    if isinstance(value, dict):
        return dict, [(key, exactly(one)) for key, one in value.items()]
    return type(value), struct.pack("<d", value) if isinstance(value, float) else value


def shown(replay: Replay) -> Any:
    """All that there is to know of it."""
    return (
        [(one.stamp_ms, exactly(one.person), one.name, exactly(one.value)) for one in replay.emissions],
        (replay.people, replay.runs, replay.errors, replay.last_failure),
        [moment for part in replay.failed for moment in part.tolist()],
        None if replay.successes is None else replay.successes.tolist(),
    )


@given(st.lists(emissions, max_size=5), st.integers(0, 99), st.lists(moments, max_size=3), st.booleans())
@example([Replayed(7, "ann", "x", [EXTREMES, {"": EXTREMES, "a": {"b": []}}])], 1, [], False)
def test_a_replay_comes_back_and_merges_to_the_same(
    emitted: list[Any], count: int, failed: list[list[int]], told: bool
) -> None:
    codec = ReplayCodec(2)

    def replay(successes: list[bool]) -> Replay:
        return Replay(
            list(emitted), count, 2 * count, [np.array(one, np.int64) for one in failed],
            (5, "why") if any(failed) else None, np.array(successes) if told else None,
        )  # fmt: skip

    sent = [codec.encode(replay(successes)) for successes in ([True, False], [False, False])]
    assert shown(codec.decode(sent[0])) == shown(replay([True, False]))
    merged = codec.merged([codec.decode(one) for one in sent])
    assert shown(merged) == shown(codec.merged([replay([True, False]), replay([False, False])]))


def test_a_value_that_is_nested_very_deep_comes_back() -> None:
    value: Any = 1
    for _ in range(300):
        value = [value]
    codec = ReplayCodec(None)
    (found,) = codec.decode(codec.encode(Replay([Replayed(1, 2, "n", value)]))).emissions
    assert msgspec.json.encode(found.value) == b"[" * 300 + b"1" + b"]" * 300


# ---------------------------------------------------------------- hostile bytes


def sent(
    *emitted: Any, people: Any = 1, runs: Any = 1, failed: bytes = b"", last: Any = None, successes: Any = None
) -> bytes:
    return encoded((emitted, people, runs, failed, last, successes))


def emission(stamp: Any = 1, person: Any = "ann", name: Any = "n", value: Any = None) -> tuple[Any, ...]:
    return stamp, person, name, value


def at(*found: int) -> bytes:
    return np.array(found, "<i8").tobytes()


def nested(depth: int) -> bytes:
    """An emission with a list in a list in …"""
    return b"\x96\x91\x94\x01\xa1a\xa1n" + b"\x91" * depth + b"\xc0" + b"\x01\x01\xc4\x00\xc0\xc0"


NOW = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
IMPOSSIBLE = {
    "nothing": b"",
    "a stamp after all": sent(emission(stamp=LAST_STAMP + 1)),
    "a stamp before all": sent(emission(stamp=-1)),
    "a stamp that is none": sent(emission(stamp=1.5)),
    "nobody": sent(emission(person=None)),
    "a person of more than 64 bits": sent(emission(person=2**63)),
    "no name": sent(emission(name="")),
    "bytes": sent(emission(value=[b"x"])),
    "an extension": sent(emission(value={"a": msgspec.msgpack.Ext(5, b"x")})),
    "a time": sent(emission(value=NOW)),
    "an integer of more than 64 bits": sent(emission(value=[[2**63]])),
    "a key that is no text": sent(emission(value={"a": {1: 2}})),
    "lists without end": nested(100_000),
    "people below none": sent(people=-1),
    "runs below none": sent(runs=-1),
    "a piece of a moment": sent(failed=b"1234567", last=(1, "why")),
    "a moment after all": sent(failed=at(1, (LAST_STAMP + 1) * PARTS), last=(1, "why")),
    "a moment before all": sent(failed=at(-1), last=(1, "why")),
    "a last failure after all": sent(failed=at(1), last=((LAST_STAMP + 1) * PARTS, "why")),
    "failures and no reason": sent(failed=at(1)),
    "a reason and no failures": sent(last=(1, "why")),
    "fewer successes": sent(successes=b"\1"),
    "more successes": sent(successes=b"\1\1\1"),
}


@pytest.mark.parametrize("data", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_no_node_can_send_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        ReplayCodec(2).decode(data)


def test_successes_that_nobody_asked_for_are_refused() -> None:
    with pytest.raises(WireError):
        ReplayCodec(None).decode(sent(successes=b""))


def test_damaged_bytes_are_refused_or_can_be_shown() -> None:
    """Every cut and a change of every byte: what is taken merges, and becomes an answer."""
    codec = ReplayCodec(2)
    emitted = [Replayed(LAST_STAMP, "ann", "seen", {"a": [1, 2.5, "x", None, True]}), Replayed(5, -7, "n", 2**40)]
    whole = codec.encode(Replay(emitted, 2, 5, [np.array([7, 7])], (7, "why"), np.array([True, False])))
    damaged = [whole[:length] for length in range(len(whole))]
    damaged += [
        whole[:place] + bytes([whole[place] ^ bits]) + whole[place + 1 :]
        for place in range(len(whole))
        for bits in (1, 0x80, 0xFF)
    ]
    refused = 0
    for data in damaged:
        try:
            found = codec.decode(data)
        except WireError:
            refused += 1
            continue
        merged = codec.merged([found, codec.decode(whole)])
        answer = Backtest("t", 0, 1, merged, merged.emissions)
        assert msgspec.json.encode(answer.shown()) and answer.lines()
    assert refused > len(whole)


@given(st.binary(max_size=60))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        ReplayCodec(None).decode(data)
