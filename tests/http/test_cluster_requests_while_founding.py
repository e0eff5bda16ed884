"""A node that stands alone and invites another one answers all requests meanwhile; some wait for a moment."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from support.cluster import is_settled, started
from support.daemon import Response

STAMP = 1_700_000_000_000
COUNT = "agg:\n    count person as n\nmatch: tally('all')"


def test_inserts_and_queries_go_on_while_a_cluster_is_founded(tmp_path: Path) -> None:
    with started(tmp_path, 2, joined=1) as cluster:
        first, second = cluster.nodes
        assert first.request("POST", "/v1/table/t", json.dumps({"columns": []})).status == 200
        failed: list[Response] = []
        inserted, counted = [0, 0], [0]
        over = threading.Event()

        def insert(writer: int) -> None:
            while not over.is_set():
                event = {"person": f"{writer}-{inserted[writer]}", "action": "view"}
                answer = first.request("POST", "/v1/insert/t", json.dumps([event]), patience=30)
                if answer.status == 200:
                    inserted[writer] += 1
                else:
                    failed.append(answer)

        def count() -> None:
            while not over.is_set():
                answer = first.request("POST", "/v1/query/t/events", COUNT, patience=30)
                counted[0] += 1
                if answer.status != 200:
                    failed.append(answer)

        threads = [
            threading.Thread(target=work, args=given) for work, given in ((insert, (0,)), (insert, (1,)), (count, ()))
        ]
        for thread in threads:
            thread.start()
        try:
            answer = first.request("PUT", "/v1/cluster/join", host="127.0.0.1", port=second.port)
            assert answer.status == 200, answer.body
            cluster.wait_for("all copies are there", is_settled)
        finally:
            over.set()
            for thread in threads:
                thread.join()
        assert not failed, failed[0].body
        assert min(inserted) and counted[0]
        for node in cluster.nodes:
            found = node.request("POST", "/v1/query/t/events", COUNT, patience=30).json["_"][0]["c"][0]
            assert found == sum(inserted)
