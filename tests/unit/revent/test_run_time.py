"""What scripts may take: slow people are found and fail alone, and a slow script costs less and less."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.revent_node import ReventNode, revent_node
from support_blocks import block_of

from openset.errors import BudgetError
from openset.pyql.settings import RunSettings
from openset.revent.run_time import (
    ACCOUNT_MS,
    INCOME_MS,
    OVERDRAFT_MS,
    RUN_MS,
    SHORT_RUN_MS,
    Accounts,
    Allowance,
    runs,
    timed,
)
from openset_format.block import Block

PARTITION = 3


def people_with(rows: list[int]) -> Block:
    """People with so many rows; their ordinals are 10, 20, 30…"""
    events = [
        {"person": person, "stamp": at, "action": "a"} for person, count in enumerate(rows) for at in range(count)
    ]
    block = block_of(events, {})
    block.ordinals = 10 * (1 + np.arange(len(rows), dtype=np.int64))
    return block


class Script:
    """Is stopped whenever someone slow is among the people; notes which people it was tried with."""

    def __init__(self, slow: set[int]):
        self.slow = slow
        self.tried: list[list[int]] = []

    def __call__(self, block: Block, run_ms: int) -> list[int]:
        assert block.ordinals is not None
        people = block.ordinals.tolist()
        self.tried.append(people)
        if self.slow & set(people):
            raise BudgetError("too long")
        return [int(one) for one in people]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.data())
def test_only_the_slow_fail(rows: list[int], data: st.DataObject) -> None:
    everybody = [10 * (1 + at) for at in range(len(rows))]
    script = Script(data.draw(st.sets(st.sampled_from(everybody))))
    answered: list[int] = []
    allowance = Allowance(ACCOUNT_MS)
    for part, found in runs(people_with(rows), PARTITION, allowance, script):
        assert part.ordinals is not None
        people = part.ordinals.tolist()
        answered += people
        assert found == people if isinstance(found, list) else set(people) <= script.slow
    assert answered == everybody, "each person once, in their order"
    assert allowance.slow == {(PARTITION, one) for one in script.slow}
    assert (allowance.lost_ms > 0) == bool(script.slow)


def test_the_person_with_most_rows_is_tried_first_and_not_again() -> None:
    script, allowance = Script({30}), Allowance(ACCOUNT_MS)
    block = people_with([1, 2, 9, 2])
    list(runs(block, PARTITION, allowance, script))
    assert script.tried == [[10, 20, 30, 40], [10, 20], [30], [40]]
    script.tried.clear()
    found = [(part.people, type(each)) for part, each in runs(block, PARTITION, allowance, script)]
    assert found == [(2, list), (1, BudgetError), (1, list)]
    assert script.tried == [[10, 20], [40]]
    list(runs(block, PARTITION + 1, allowance, script))
    assert [30] in script.tried, "in another partition that is somebody else"


def test_nothing_is_run_when_too_much_was_lost() -> None:
    script, allowance = Script(set()), Allowance(0, lost_ms=OVERDRAFT_MS)
    ((part, found),) = runs(people_with([1, 1]), PARTITION, allowance, script)
    assert part.people == 2 and isinstance(found, BudgetError) and script.tried == []


def test_runs_are_shorter_when_the_account_is_empty() -> None:
    assert Allowance(ACCOUNT_MS).run_ms == RUN_MS
    assert Allowance(ACCOUNT_MS, lost_ms=ACCOUNT_MS - 80).run_ms == 80
    assert Allowance(ACCOUNT_MS, lost_ms=ACCOUNT_MS + 10).run_ms == SHORT_RUN_MS


def test_accounts_fill_up_slowly() -> None:
    now = 1_000.0
    accounts: Accounts[str] = Accounts(lambda: now)
    assert accounts.left_ms("a") == ACCOUNT_MS
    accounts.spend("a", 5 * ACCOUNT_MS)
    assert (accounts.left_ms("a"), accounts.left_ms("b")) == (0, ACCOUNT_MS)
    now += 3
    assert accounts.left_ms("a") == 3 * INCOME_MS
    accounts.spend("a", INCOME_MS)
    assert accounts.left_ms("a") == 2 * INCOME_MS
    now += 1_000
    assert accounts.left_ms("a") == ACCOUNT_MS
    accounts.spend("a", ACCOUNT_MS)
    accounts.forget("a")
    assert accounts.left_ms("a") == ACCOUNT_MS


def test_the_time_is_that_of_the_processor() -> None:
    settings = timed(RunSettings(now_ms=0), 30)
    time.sleep(0.05)
    settings.check_deadline()
    until = time.thread_time() + 0.05
    while time.thread_time() < until:
        pass
    with pytest.raises(BudgetError, match="30 ms"):
        settings.check_deadline()


QUADRATIC = """def on_insert():
    n = 0
    match:
        match:
            match:
                match:
                    n = n + 1
    emit("n", n)
"""


def test_a_slow_person_holds_up_nobody(tmp_path: Path) -> None:
    async def heavy(node: ReventNode, at: int) -> None:
        await node.insert(*(("heavy", "a", 1_000 * at + each) for each in range(400)), (f"good{at}", "a", at))

    async def run() -> None:
        async with revent_node(tmp_path / "data", partitions=1) as node:
            await node.save("slow", QUADRATIC, once=False)
            await node.save("ok", "def on_insert():\n    emit('ok')\n")
            for at in range(6):
                await heavy(node, at)
                await node.settled()
            found = sorted(str(one.person) for one in await node.messages("ok"))
            assert found == [*(f"good{at}" for at in range(6)), "heavy"]
            assert sorted(str(one.person) for one in await node.messages("slow")) == [f"good{at}" for at in range(6)]
            shown = await node.registry.describe("t", "slow")
            assert shown["counts"]["errors"] == 6 and shown["state"] == "running"
            assert "for one person" in shown["last_error"]["message"]
            (slow, ok) = node.store.triggers.of_table(node.schema.id)
            left = [node.runner._accounts.left_ms((node.schema.id, one.id)) for one in (slow, ok)]
            assert left[0] < ACCOUNT_MS == left[1]

    asyncio.run(run())
