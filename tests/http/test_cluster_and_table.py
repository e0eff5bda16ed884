"""init, create table, describe table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support.daemon import Daemon

DATA_REQUESTS = [
    ("POST", "/v1/table/t", '{"columns": []}'),
    ("GET", "/v1/table/t", None),
    ("POST", "/v1/insert/t", "[]"),
    ("POST", "/v1/query/t/events", "tally(1)"),
    ("GET", "/v1/query/t/person?id=1", None),
]


def test_before_init_ping_answers_and_data_requests_say_what_to_do(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", workers=1) as daemon:
        assert daemon.request("GET", "/ping").json == {"pong": True}
        for method, address, body in DATA_REQUESTS:
            error = daemon.raw(method, address, body).error
            assert error["class"] == "config"
            assert "/v1/cluster/init" in error["message"]
        for partitions in ("0", "1001", "x", "2.5", ""):
            assert daemon.raw("PUT", f"/v1/cluster/init?partitions={partitions}").error["class"] == "config"
        assert "partitions" in daemon.raw("PUT", "/v1/cluster/init").error["message"]
        answer = daemon.request("PUT", "/v1/cluster/init", partitions=1000)
        assert answer.status == 200
        assert answer.json.keys() == {"server_name"}
        assert answer.json["server_name"]
        again = daemon.request("PUT", "/v1/cluster/init", partitions=1000)
        assert (again.status, again.error["class"]) == (400, "config")
        daemon.create("t", {"a": "int"})
        daemon.insert("t", [{"person": 1, "action": "x"}])
        assert daemon.events("t", "tally(1)") == {"_": [{"g": 1, "c": [1]}]}


def test_fewer_partitions_than_cores_is_warned_about(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", workers=1) as daemon:
        answer = daemon.request("PUT", "/v1/cluster/init", partitions=1)
        assert answer.status == 200
        assert ("warning" in answer.json) == ((os.cpu_count() or 1) > 1)


def test_a_table_is_described_as_it_was_created(daemon: Daemon) -> None:
    columns = [{"name": "b", "type": "double"}, {"name": "a", "type": "text"}, {"name": "_c1", "type": "bool"}]
    for spelling in ("z-order", "z_order"):
        name = f"described_{spelling[1] == '-'}".lower()
        body = json.dumps({"columns": columns, spelling: ["click", "buy ü"]})
        assert daemon.request("POST", f"/v1/table/{name}", body).status == 200
        answer = daemon.request("GET", f"/v1/table/{name}")
        assert answer.json == {"table": name, "columns": columns, "z-order": ["click", "buy ü"]}


def test_tables_are_listed(daemon: Daemon) -> None:
    assert "cart" in daemon.request("GET", "/v1/table").json["tables"]


@pytest.mark.parametrize(
    "table, body, says",
    [
        ("cart", '{"columns": []}', "exists already"),
        ("bad-name", '{"columns": []}', "table name"),
        ("t2", "", "JSON"),
        ("t2", b"\xff\xfe", "JSON"),
        ("t2", "[" * 100_000, "JSON"),
        ("t2", "[]", "object"),
        ("t2", "{}", "columns"),
        ("t2", '{"columns": {}}', "list"),
        ("t2", '{"columns": [{"name": "a"}]}', "name"),
        ("t2", '{"columns": [{"name": 1, "type": "int"}]}', "text"),
        ("t2", '{"columns": [{"name": "a", "type": "integer"}]}', "column type"),
        ("t2", '{"columns": [{"name": "A", "type": "int"}]}', "column name"),
        ("t2", '{"columns": [{"name": "1a", "type": "int"}]}', "column name"),
        ("t2", '{"columns": [{"name": "person", "type": "int"}]}', "reserved"),
        ("t2", '{"columns": [{"name": "a", "type": "int"}, {"name": "a", "type": "int"}]}', "twice"),
        ("t2", '{"columns": [], "z-order": "x"}', "z-order"),
        ("t2", '{"columns": [], "z-order": [], "z_order": []}', "one of them"),
        ("t2", '{"columns": [], "zorder": []}', "did you mean 'z"),
    ],
)
def test_bad_definitions_are_refused(daemon: Daemon, table: str, body: str | bytes, says: str) -> None:
    error = daemon.request("POST", f"/v1/table/{table}", body).error
    assert error["class"] == "config"
    assert says in error["message"]
    assert daemon.request("GET", "/v1/table/t2").status == 400


def test_an_unknown_table_is_a_400(daemon: Daemon) -> None:
    for method, address, body in DATA_REQUESTS[1:]:
        answer = daemon.raw(method, address, body)
        assert answer.status == 400
        assert "'t'" in answer.error["message"]
