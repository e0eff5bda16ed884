"""Tables in a cluster: a change made anywhere is there everywhere, none is lost, and who was away catches up."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster, Node, alive, started, wait_until
from support.controlled_files import set_faults
from support.daemon import Response
from support.etcd import Etcd


def create(node: Node, table: str, **columns: str) -> Response:
    definition = {"columns": [{"name": name, "type": kind} for name, kind in columns.items()]}
    return node.request("POST", f"/v1/table/{table}", json.dumps(definition))


def done(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def tables(node: Node) -> dict[str, Any]:
    """All tables of a node with their descriptions."""
    names = done(node.request("GET", "/v1/table"))["tables"]
    return {name: done(node.request("GET", f"/v1/table/{name}")) for name in names}


def same_everywhere(cluster: Cluster) -> dict[str, Any]:
    """What all nodes have, which must be the same, also on disk."""
    first, *others = [tables(node) for node in cluster.nodes]
    assert all(other == first for other in others)
    stored = [_stored(node) for node in cluster.nodes]
    assert all(each == stored[0] for each in stored)
    return first


def _stored(node: Node) -> Any:
    catalog = json.loads((node.data / "catalog.json").read_bytes())["catalog"]
    for table in catalog["tables"]:
        table.pop("files")
    return catalog["next_table_id"], catalog["tables"]


@pytest.fixture(scope="module", params=["embedded", "etcd"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members."""
    directory = tmp_path_factory.mktemp(request.param)
    etcd = Etcd(directory / "etcd") if request.param == "etcd" else None
    try:
        with started(directory / "nodes", 3, etcd=etcd) as cluster:
            names = {node.name for node in cluster.nodes}
            cluster.wait_for("all live", lambda status: alive(status) == names)
            yield cluster
    finally:
        if etcd is not None:
            etcd.close()


def test_a_change_is_there_everywhere_when_it_is_answered(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    described = done(create(second, "a", x="int", y="text"))
    assert same_everywhere(cluster)["a"] == described
    described = done(third.request("PUT", "/v1/table/a/column/z:double"))
    assert same_everywhere(cluster)["a"] == described
    assert [column["name"] for column in described["columns"]] == ["x", "y", "z"]
    done(first.request("DELETE", "/v1/table/a/column/x"))
    described = done(second.request("PUT", "/v1/table/a", retention_days="2.5"))
    assert same_everywhere(cluster)["a"] == described
    assert (len(described["columns"]), described["retention_days"]) == (2, 2.5)
    assert done(third.request("DELETE", "/v1/table/a")) == {"deleted": "a"}
    assert "a" not in same_everywhere(cluster)
    # An id is never used again, wherever a table is made.
    done(create(first, "a", x="bool"))
    assert same_everywhere(cluster)["a"]["columns"] == [{"name": "x", "type": "bool"}]
    assert _stored(second)[1][-1]["id"] == 2


REFUSED: list[tuple[Callable[[Node], Response], str]] = [
    (lambda node: create(node, "b", x="int"), "exists already"),
    (lambda node: create(node, "c", x="number"), "column type"),
    (lambda node: node.request("PUT", "/v1/table/b/column/x:int"), "already"),
    (lambda node: node.request("DELETE", "/v1/table/b/column/nothing"), "no column"),
    (lambda node: node.request("DELETE", "/v1/table/nothing"), "no table"),
    (lambda node: node.request("PUT", "/v1/table/b", retention_days="-1"), "above 0"),
]


def test_what_cannot_be_is_refused_by_every_node(cluster: Cluster) -> None:
    done(create(cluster[0], "b", x="int"))
    before = same_everywhere(cluster)
    for request_of, says in REFUSED:
        for node in cluster.nodes:
            assert says in request_of(node).error["message"]
    assert same_everywhere(cluster) == before


def test_changes_at_the_same_time_are_all_made_or_refused(cluster: Cluster) -> None:
    done(create(cluster[0], "many"))
    asked = [(number, cluster[number % 3]) for number in range(24)]
    with ThreadPoolExecutor(24) as pool:
        answers = list(
            pool.map(lambda each: each[1].request("PUT", f"/v1/table/many/column/c{each[0]}:int"), asked)
        )  # fmt: skip
    made = {number for (number, _), answer in zip(asked, answers, strict=True) if answer.status == 200}
    assert made == set(range(24)), [answer.body for answer in answers if answer.status != 200]
    columns = same_everywhere(cluster)["many"]["columns"]
    assert {column["name"] for column in columns} == {f"c{number}" for number in made}
    with ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(lambda number: create(cluster[number % 3], "once", x="int"), range(9)))
    assert sorted(answer.status for answer in answers) == [200] + [400] * 8
    same_everywhere(cluster)


def test_who_was_away_has_the_tables_before_it_serves(cluster: Cluster) -> None:
    first, second, third = cluster.nodes
    done(create(first, "kept", x="int"))
    done(create(first, "dropped", x="int"))
    third.kill()
    done(first.request("PUT", "/v1/table/kept/column/later:text"))
    done(second.request("DELETE", "/v1/table/dropped"))
    done(create(second, "later"))
    third.start()
    assert tables(third) == tables(first)
    assert "dropped" not in same_everywhere(cluster)


# ---------------------------------------------------------------- a node with tables


def test_a_standalone_node_brings_its_tables_into_the_cluster(tmp_path: Path) -> None:
    with started(tmp_path, 2, joined=1) as cluster:
        first, second = cluster.nodes
        done(create(first, "shop", price="double"))
        done(create(first, "gone"))
        done(first.request("DELETE", "/v1/table/gone"))
        done(first.request("PUT", "/v1/table/shop/column/item:text"))
        # Tables are changed all the time while the node becomes a member: each change is made, or refused.
        stop, made = threading.Event(), []

        def change() -> None:
            number = 0
            while not stop.is_set():
                if create(first, f"t{number}").status == 200:
                    made.append(f"t{number}")
                number += 1

        changing = threading.Thread(target=change)
        changing.start()
        cluster.join(second)
        stop.set()
        changing.join()
        assert list(same_everywhere(cluster)) == ["shop", *made]
        assert made


def test_a_member_with_a_full_disk_takes_tables_over_when_there_is_room(tmp_path: Path) -> None:
    with started(tmp_path, 2) as cluster:
        first, second = cluster.nodes
        second.stop()
        second.options["control"] = str(tmp_path / "control")
        second.start()
        done(create(first, "before"))
        set_faults(tmp_path / "control", {"kind": "write", "suffix": "", "errno": errno.ENOSPC})
        done(create(first, "meanwhile"))
        assert list(tables(second)) == ["before"]
        answer = create(second, "refused")
        assert (answer.status, answer.error["class"]) == (503, "limit")
        set_faults(tmp_path / "control")
        wait_until("it has both", lambda: list(tables(second)) == ["before", "meanwhile"])
        wait_until("it takes changes", lambda: create(second, "after").status == 200)
        assert list(same_everywhere(cluster)) == ["before", "meanwhile", "after"]


def test_a_node_that_cannot_found_a_cluster_stays_what_it_was(tmp_path: Path) -> None:
    with started(tmp_path, 2, joined=1, control=str(tmp_path / "control")) as cluster:
        first, second = cluster.nodes
        done(create(first, "a"))
        for suffix, kind in (("member.json", "rename"), ("state.json", "rename"), ("coordinator", "sync_directory")):
            set_faults(tmp_path / "control", {"kind": kind, "suffix": suffix, "errno": errno.EIO})
            answer = first.request("PUT", "/v1/cluster/join", host="127.0.0.1", port=second.port)
            assert answer.status >= 400, (suffix, answer.body)
            set_faults(tmp_path / "control")
            assert (first.status()["mode"], second.status()["mode"]) == ("standalone", "empty")
            done(create(first, f"after_{kind}_of_{suffix.partition('.')[0]}"))
        cluster.join(second)
        assert len(same_everywhere(cluster)) == 4


def test_without_the_coordinator_nothing_is_changed(tmp_path: Path) -> None:
    with started(tmp_path, 2) as cluster:
        first, second = cluster.nodes
        done(create(second, "a", x="int"))
        first.kill()
        answer = second.request("PUT", "/v1/table/a/column/y:int")
        assert (answer.status, answer.error["class"]) == (503, "internode")
        assert len(tables(second)["a"]["columns"]) == 1
        first.start()
        wait_until("it answers", lambda: second.request("PUT", "/v1/table/a/column/y:int").status == 200)
        assert len(same_everywhere(cluster)["a"]["columns"]) == 2
