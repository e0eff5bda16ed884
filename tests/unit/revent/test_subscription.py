"""Subscriptions without a daemon: random histories, and what single steps do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.subscription_simulator import History

from openset.errors import QueryError
from openset.revent.subscription import Poll, Subscription
from openset.revent.tokens import Given, decode_token, encode_token
from openset.store.trigger_changes import Cursor, Message


def messages(count: int) -> list[Message]:
    return [Message(number, 1_000 + number, 0, f"p{number}", 1, "t", "n", None) for number in range(1, count + 1)]


def subscription(held: list[Message], hold_ms: int = 10**9, acked_up_to: int = 0) -> Subscription:
    def read(partition: int, number: int, limit: int) -> list[Message]:
        return [each for each in held if each.number > number][:limit]

    return Subscription([0], {0: Cursor(acked_up_to, [], hold_ms)}, read, hold_ms)


@pytest.mark.parametrize("first", range(0, 400, 100))
def test_random_histories(first: int) -> None:
    delivered = 0
    for seed in range(first, first + 100):
        history = History(seed)
        history.run()
        delivered += history.delivered
    assert delivered > 1_000


def test_who_waits_is_served_in_turn_and_shares() -> None:
    held: list[Message] = []
    one = subscription(held)
    for consumer in (1, 2, 3):
        assert one.poll(Poll(consumer, 2, 100), 2_000) is None
    held += messages(3)
    assert [(each.consumer, each.keys) for each in one.serve(2_000)] == [
        (1, [(0, 1)]), (2, [(0, 2)]), (3, [(0, 3)]),
    ]  # fmt: skip
    assert one.waiting == 0 and one.leased(2_000) == 3 and one.next_lease_end() == 2_100


def test_a_consumer_that_left_gets_nothing() -> None:
    held: list[Message] = []
    one = subscription(held)
    one.poll(Poll(1, 5, 100), 2_000)
    one.leave(1)
    held += messages(1)
    assert one.serve(2_000) == []
    assert one.leased(2_000) == 0


def test_what_is_not_acknowledged_comes_again_and_what_is_does_not() -> None:
    one = subscription(messages(2))
    first = one.poll(Poll(1, 5, 100), 2_000)
    assert first is not None and first.keys == [(0, 1), (0, 2)]
    assert one.poll(Poll(2, 5, 100), 2_050) is None
    assert one.acknowledge({0: [1]}) == {0: [1]}
    assert one.acknowledge({0: [1], 7: [3]}) == {}
    (again,) = one.serve(2_100)
    assert again.consumer == 2 and again.keys == [(0, 2)]
    one.extend(again.keys, 9_000)
    assert one.poll(Poll(3, 5, 100), 5_000) is None
    one.release(again.keys)
    assert [each.keys for each in one.serve(5_000)] == [[(0, 2)]]


def test_messages_beyond_the_hold_do_not_come() -> None:
    one = subscription(messages(3), hold_ms=500)
    found = one.poll(Poll(1, 5, 100), 1_502)
    assert found is not None and found.keys == [(0, 3)]
    assert one.pending(1_502, 10) == 1


def test_a_subscription_goes_on_where_it_was() -> None:
    found = subscription(messages(5), acked_up_to=3).poll(Poll(1, 10, 100), 2_000)
    assert found is not None and found.keys == [(0, 4), (0, 5)]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 50)), unique=True))
def test_tokens_name_what_was_given(keys: list[tuple[int, int]]) -> None:
    grown = Given(1, 2, "mine")
    for count, key in enumerate(keys, 1):
        grown.add(*key)
        named = decode_token(grown.token(), 1, 2, "mine")
        assert named == {
            one: [number for partition, number in keys[:count] if partition == one] for one, _ in keys[:count]
        }
    assert grown.keys == keys and grown.token() == encode_token(1, 2, "mine", keys)


def test_what_is_not_acknowledged() -> None:
    found = subscription(messages(6), acked_up_to=2)
    found.acknowledge({0: [4]})
    assert found.unacknowledged([(0, 1), (0, 3), (0, 4), (0, 6), (9, 1)]) == [(0, 3), (0, 6)]


def test_tokens() -> None:
    token = encode_token(1, 2, "mine", [(0, 4), (0, 5), (3, 1)])
    assert decode_token(token, 1, 2, "mine") == {0: [4, 5], 3: [1]}
    assert len(encode_token(1, 2, "mine", [(0, number) for number in range(1, 10_001)])) < 40
    endless = Given(1, 2, "mine")
    endless.add(0, 1)
    endless._named.runs[0][1] = 10**12
    uneven = Given(1, 2, "mine", [(0, 1)])
    uneven._named.runs[0].append(4)
    huge = Given(1, 2, "mine", [(0, (1 << 63) - 1)])
    huge._named.runs[0] *= 3
    backwards = Given(1, 2, "mine", [(0, 5), (0, -3)])
    for wrong in (
        endless.token(),
        huge.token(),
        backwards.token(),
        uneven.token(),
        "",
        "x",
        "ä",
        token[:-2],
        token[:-1] + ("A" if token[-1] != "A" else "B"),
        "====",
        "AAAA" * 20,
    ):
        with pytest.raises(QueryError, match="no token"):
            decode_token(wrong, 1, 2, "mine")
    for table, trigger, name in ((2, 2, "mine"), (1, 3, "mine"), (1, 2, "other")):
        with pytest.raises(QueryError, match="another subscription"):
            decode_token(token, table, trigger, name)
