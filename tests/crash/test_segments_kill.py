"""A daemon that is killed while it makes segments keeps every one it acknowledged, each as a whole."""

from __future__ import annotations

import http.client
import random
import threading
import time
from pathlib import Path

from support.daemon import Daemon
from support.segment_daemon import count, listed, wait_until

ROUNDS = 5
PEOPLE = 50
STAMP = 1_700_000_000_000
# Segment number n of a name has n people.
SECTIONS = "@segment first:\n    return person < {{n}}\n@segment second refresh=1s:\n    return person < {{n}}\n"


class _Maker:
    """Asks for segments until the daemon is gone; knows what was acknowledged and what was under way."""

    def __init__(self, daemon: Daemon, first: int):
        self.acknowledged = 0
        self.asked = first
        self._daemon = daemon
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while True:
                self.asked = self.asked % PEOPLE + 1
                assert count(self._daemon, "t", SECTIONS, int_n=self.asked) == {
                    "first": self.asked,
                    "second": self.asked,
                }
                self.acknowledged = self.asked
        except (OSError, http.client.HTTPException):
            return

    def wait_for_the_first(self) -> None:
        wait_until(lambda: self.acknowledged > 0)

    def wait_for_the_end(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


def test_killed_again_and_again(tmp_path: Path) -> None:
    chance = random.Random(20170102)
    data = tmp_path / "data"
    with Daemon(data, init=3) as daemon:
        daemon.create("t", {"n": "int"})
        daemon.insert("t", [{"person": person, "stamp": STAMP, "action": "view"} for person in range(PEOPLE)])
    known = asked = 0
    for _ in range(ROUNDS):
        with Daemon(data) as daemon:
            if known:
                kept = listed(daemon, "t")
                for name in ("first", "second"):
                    assert kept[name]["people"] in (known, asked), "the acknowledged one, or the one under way"
                    script = f"@segment again:\n    population({name})\n"
                    assert count(daemon, "t", script)["again"] in (known, asked)
            maker = _Maker(daemon, asked)
            maker.wait_for_the_first()
            time.sleep(chance.uniform(0.05, 0.6))
            daemon.kill()
            maker.wait_for_the_end()
            known, asked = maker.acknowledged or known, maker.asked
    assert known
    with Daemon(data) as daemon:
        assert len(listed(daemon, "t")) == 3
        # What was replaced or not finished is gone; a refresh may be on its way.
        wait_until(lambda: len(list((data / "tables" / "1" / "segments").iterdir())) == 3)
