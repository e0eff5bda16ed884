"""What a node does that was taken out of the copies in sync, and what its owner makes of what it says."""

from __future__ import annotations

from openset.cluster.log import PartitionLog
from openset.cluster.map import ClusterMap, Member, Placed, Placement, Position
from openset.cluster.messages import (
    Answer,
    Append,
    Appended,
    Discard,
    Entry,
    Instruction,
    LeaseRenewed,
    MapRead,
    Propose,
    Received,
    Send,
    Synced,
    Tick,
    Transmit,
    Write,
)
from openset.cluster.owner import Owner, Timing
from openset.cluster.state import NodeState

TIMING = Timing()
AWAY = Placement(3, "b", ("b",), tickets=4, away=("a",))
FILLED = Placement(3, "b", ("b",), {"a": 5}, 5)
FORGOTTEN = Placement(3, "b", ("b", "c"), tickets=5)


def read(revision: int, placement: Placement) -> MapRead:
    members = {node: Member(node, "here", 1) for node in "abc"}
    return MapRead(ClusterMap(revision, 2, members, {0: Placed(revision, placement)}))


def append(term: int, previous: Position, *terms: int) -> Append:
    return Append(0, term, previous, tuple(Entry(one, "x") for one in terms), 0, True, 77)


def started(*terms: int) -> NodeState:
    """The node a, with records of these terms on its disk."""
    return NodeState("a", {0: PartitionLog(terms=terms)}, TIMING)


def only(instructions: list[Instruction], kind: type) -> list[Instruction]:
    return [one for one in instructions if isinstance(one, kind)]


def test_who_is_away_keeps_its_log_and_refuses_owners_of_before() -> None:
    node = started(1, 1)
    assert node.handle(read(9, AWAY), 0) == []
    log = node.log(0)
    assert log is not None and log.last == Position(1, 2)
    refused = node.handle(Received("c", append(2, Position(1, 2), 2)), 1)
    assert refused == [Send("c", Appended(0, 3, None, 0))], "an owner of term 2 does not know that it was deposed"
    assert log.last == Position(1, 2)
    assert only(node.handle(Tick(), 5_000), Propose) == []


def test_who_is_away_and_is_filled_again_goes_on_from_what_it_has() -> None:
    """Its last record was never agreed: the owner of term 3 has another one there."""
    node = started(1, 1)
    node.handle(read(9, AWAY), 0)
    assert node.handle(read(10, FILLED), 1) == []
    hinted = node.handle(Received("b", append(3, Position(3, 3))), 2)
    assert hinted == [Send("b", Appended(0, 3, None, 2, 5))]
    node.handle(Received("b", append(3, Position(1, 1), 3, 3)), 3)
    log = node.log(0)
    assert log is not None and log.last == Position(3, 3)
    answered = node.handle(Synced(0, 3, log.epoch), 4)
    assert answered == [Send("b", Appended(0, 3, 3, 0, 5, 77))]


def test_who_is_forgotten_gives_up_what_it_kept() -> None:
    node = started(1, 1)
    node.handle(read(9, AWAY), 0)
    assert node.handle(read(10, FORGOTTEN), 1) == [Discard(0)]
    assert node.log(0) is None
    again = started(1, 1)
    assert again.handle(read(10, FORGOTTEN), 1) == [Discard(0)], "also when it was down meanwhile"


def test_who_has_nothing_and_is_away_begins_with_nothing_when_it_is_filled() -> None:
    node = NodeState("a", {}, TIMING)
    assert node.handle(read(9, AWAY), 0) == [] and node.log(0) is None
    node.handle(read(10, FILLED), 1)
    log = node.log(0)
    assert log is not None and log.last.index == 0


def test_an_owner_that_finds_itself_away_owns_no_more() -> None:
    node = NodeState("a", {}, TIMING)
    node.handle(read(7, Placement(1, "c", ("c",), {"a": 1}, 1)), 0)
    node.handle(read(8, Placement(2, "a", ("a", "b"), tickets=4)), 1)
    node.handle(LeaseRenewed(10_000, 1), 1)
    assert node.owned_term(0) == 2
    node.handle(Write(11, 0, "x"), 2)
    found = node.handle(read(9, AWAY), 3)
    assert [one for one in found if isinstance(one, Answer) and not one.done and one.request == 11]
    assert only(found, Discard) == [] and node.owned_term(0) is None and not node.may_answer(0, 4)
    log = node.log(0)
    assert log is not None and log.last == Position(2, 1), "what it wrote is there until it is filled"
    assert only(node.handle(Write(12, 0, "y"), 5), Answer) == [Answer(12, False, "a does not own partition 0")]


def test_a_node_that_starts_takes_no_records_before_it_knows_the_map() -> None:
    """It may have taken part in terms that its log does not show."""
    node = started(1, 1)
    assert node.handle(Received("c", append(2, Position(1, 2), 2)), 0) == []
    log = node.log(0)
    assert log is not None and log.last == Position(1, 2)


def owner_of(placement: Placement, now_ms: int = 0) -> Owner:
    return Owner("b", 0, PartitionLog(terms=[1, 3]), 2, Placed(9, placement), TIMING, now_ms)


def test_an_owner_has_who_says_nothing_taken_out_and_remembered() -> None:
    owner = owner_of(Placement(3, "b", ("a", "b", "c"), tickets=4, away=("d",)))
    owner.start(0)
    owner.appended("c", Appended(0, 3, 2, 0), TIMING.silence_ms)
    proposed = only(owner.tick(TIMING.silence_ms + 1), Propose)
    wanted = Placement(3, "b", ("b", "c"), tickets=4, reason="a does not answer b", away=("a", "d"))
    assert proposed == [Propose(0, 9, wanted)]


def test_what_a_node_said_before_it_was_filled_again_does_not_count() -> None:
    owner = owner_of(FILLED)
    (probe,) = only(owner.start(0), Transmit)
    assert isinstance(probe, Transmit) and (probe.to, probe.previous) == ("a", Position(3, 2)), "files are not sent"
    for ticket in (0, 4):
        assert owner.appended("a", Appended(0, 3, 2, 0, ticket, 1), 5) == []
    (proposed,) = only(owner.appended("a", Appended(0, 3, 2, 0, 5, 1), 6), Propose)
    assert isinstance(proposed, Propose) and proposed.placement.in_sync == ("a", "b")
