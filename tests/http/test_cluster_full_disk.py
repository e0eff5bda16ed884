"""A member whose disk is full: others own its partitions until it has room again."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from support.cluster import Node, is_settled, members, started, wait_until
from support.controlled_files import set_faults
from support.daemon import Response

STAMP = 1_700_000_000_000


def done(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def insert(node: Node, at: int) -> Response:
    events = [{"person": f"p{number}", "action": "view", "stamp": STAMP + 1_000 * at} for number in range(40)]
    return node.request("POST", "/v1/insert/t", json.dumps(events), patience=40)


def test_others_own_what_a_full_node_owned(tmp_path: Path) -> None:
    control = tmp_path / "control"
    with started(tmp_path, 3, partitions=6, joined=1) as cluster:
        full = cluster[1]
        assert full.stop() == 0
        full.options["control"] = str(control)
        full.start()
        for node in cluster.nodes[1:]:
            cluster.join(node)
        cluster.wait_for("all copies are there", is_settled)
        wait_until("it owns something", lambda: members(full.status())[full.name]["owns"])
        done(cluster[0].request("POST", "/v1/table/t", json.dumps({"columns": []})))
        done(insert(cluster[0], 0))
        name = full.name
        set_faults(control, *({"kind": kind, "errno": errno.ENOSPC} for kind in ("write", "create")))
        insert(cluster[0], 1)  # it may have to be sent again
        rest = [cluster[0], cluster[2]]
        cluster.wait_for("it is known to be full", lambda status: members(status)[name]["full"], rest)
        cluster.wait_for("others own all", lambda status: all(each["owner"] != name for each in status["map"]), rest)
        done(insert(cluster[0], 1))
        done(insert(full, 2))
        answer = done(full.request("POST", "/v1/query/t/events", "agg:\n    count stamp as n\nmatch: tally('all')"))
        assert answer["_"][0]["c"][0] == 120
        cluster.wait_for("the copies are elsewhere", lambda status: status["health"]["status"] == "ok", rest)
        set_faults(control)
        cluster.wait_for("it has room again", lambda status: not members(status)[name]["full"], cluster.nodes)
        cluster.wait_for("it owns something again", lambda status: members(status)[name]["owns"], cluster.nodes)
        done(insert(full, 3))
