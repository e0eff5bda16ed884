"""Writes follow the owners of their partitions without waiting for what is known already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from openset.cluster.map import Placed, Placement
from openset.cluster.routing import Routing
from openset.cluster.view import View
from openset.cluster.wire import Outcome, WriteItem, encode_outcomes
from openset.errors import UnreachableError


class Fellow:
    """The node `a` with a view that a test changes. waits: how often somebody waited for the next one."""

    def __init__(self) -> None:
        self.node = "a"
        self.peers = self
        self.waits = 0
        self.asked: list[str] = []
        self.own("a")

    def own(self, owner: str) -> None:
        self.view = View(1, placements={0: Placed(1, Placement(1, owner, ("a", "b")))})

    async def changed(self, seconds: float) -> bool:
        self.waits += seconds < 1  # else it listens while it asks
        if self.waits > 3:
            self.own("b")
        return True

    async def write(self, items: Sequence[WriteItem]) -> list[Outcome]:
        """At `a`, which has just handed over."""
        self.asked.append("a")
        self.hands_over()
        return [Outcome("a hands partition 0 over")] * len(items)

    def hands_over(self) -> None:
        self.own("b")

    async def call(self, node: str, route: str, body: bytes, *, timeout_ms: int) -> bytes:
        self.asked.append(node)
        return encode_outcomes([Outcome("")])


def routing_of(fellow: Any) -> Routing:
    return Routing(fellow, fellow)


async def test_a_write_goes_on_at_once_to_an_owner_that_is_known() -> None:
    fellow = Fellow()
    await routing_of(fellow).write([WriteItem(0, 1, 1, b"record")])
    assert (fellow.asked, fellow.waits) == (["a", "b"], 0)


async def test_a_write_waits_for_the_map_while_the_owner_is_the_one_that_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    fellow = Fellow()
    monkeypatch.setattr(fellow, "hands_over", lambda: None)
    await routing_of(fellow).write([WriteItem(0, 1, 1, b"record")])
    assert (fellow.asked, fellow.waits) == (["a"] * 4 + ["b"], 4)
    fellow.own("a")
    fellow.waits = -1_000_000
    with pytest.raises(UnreachableError, match="partition 0: a hands partition 0 over"):
        await routing_of(fellow).write([WriteItem(0, 1, 1, b"record")], patience_ms=0)
