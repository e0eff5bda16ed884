"""Messages of triggers in a cluster: from any node, leased once, acknowledged for good, whoever owns what."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Cluster, Node, is_settled, started, wait_until
from support.daemon import Response
from support.receiver import Receiver

STAMP = 1_700_000_000_000
EACH = 'def on_insert():\n    match where is_new and action is "buy":\n        emit("bought", units)\n'
PEOPLE = [f"person-{number:02}" for number in range(24)]


def done(answer: Response) -> Any:
    assert answer.status == 200, answer.body
    return answer.json


def create(node: Node, table: str) -> None:
    done(node.request("POST", f"/v1/table/{table}", json.dumps({"columns": [{"name": "units", "type": "int"}]})))
    done(node.request("POST", f"/v1/table/{table}/revent/each", EACH, once="false"))


def buy(node: Node, table: str, first: int, people: list[str] = PEOPLE) -> None:
    events = [
        {"person": one, "action": "buy", "stamp": STAMP + 1_000 * first, "attr": {"units": first}} for one in people
    ]
    done(node.request("POST", f"/v1/insert/{table}", json.dumps(events), patience=40))


def poll(node: Node, table: str, name: str = "sub", trigger: str = "each", **options: Any) -> Any:
    options = {"timeout": 2_000, "max": 1_000, "lease": 60_000, **options}
    return done(node.request("POST", f"/v1/subscription/{table}/{trigger}/{name}", **options))


def keys(answer: Any) -> list[tuple[str, int]]:
    return [(one["person"], one["value"]) for one in answer["messages"]]


def described(node: Node, table: str, name: str = "sub") -> dict[str, Any]:
    return dict(done(node.request("GET", f"/v1/subscription/{table}/each/{name}")))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three members with two copies of each partition, so that each lacks some."""
    with started(tmp_path_factory.mktemp("cluster"), 3, partitions=6, webhook_allow="127.0.0.1") as cluster:
        cluster.wait_for("all copies are there", is_settled)
        yield cluster


def all_of(cluster: Cluster, table: str, wanted: int, name: str = "sub") -> list[tuple[str, int]]:
    """So many messages, from all nodes in turn, acknowledged with the next poll of another one."""
    found: list[tuple[str, int]] = []
    ack, deadline, number = {}, time.monotonic() + 30, 0
    while len(found) < wanted and time.monotonic() < deadline:
        answer = poll(cluster[number % 3], table, name, max=7, timeout=300, **ack)
        ack = {"ack": answer["ack"]} if "ack" in answer else {}
        found += keys(answer)
        number += 1
    if ack:
        poll(cluster[number % 3], table, name, timeout=0, **ack)
    return found


def test_messages_come_once_from_whichever_node(cluster: Cluster) -> None:
    create(cluster[0], "once")
    assert poll(cluster[1], "once", timeout=0, hold=3_600_000) == {"messages": []}
    for at in range(4):
        buy(cluster[at % 3], "once", at)
    found = all_of(cluster, "once", 96)
    assert Counter(found) == Counter((person, at) for person in PEOPLE for at in range(4))
    for person in PEOPLE:
        assert [at for one, at in found if one == person] == [0, 1, 2, 3], "everybody's messages in their order"
    for node in cluster.nodes:
        assert poll(node, "once", timeout=0) == {"messages": []}
        assert described(node, "once") == {
            "table": "once", "trigger": "each", "name": "sub", "hold": 3_600_000, "pending": 0, "leased": 0,
            "consumers": 0, "webhook": None,
        }  # fmt: skip
        listed = done(node.request("GET", "/v1/subscription/once/each"))["subscriptions"]
        assert [one["name"] for one in listed] == ["sub"]
        shown = done(node.request("GET", "/v1/table/once/revent/each"))
        assert shown["counts"] == {
            "people": 96, "emissions": 96, "errors": 0, "emitted_people": 0, "schedules": 0
        }  # fmt: skip
        assert shown["backlog"] == {"records": 0, "age": 0.0}


def test_who_waits_anywhere_hears_of_what_is_inserted_anywhere(cluster: Cluster) -> None:
    create(cluster[0], "waits")
    poll(cluster[0], "waits", timeout=0)
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(poll(cluster[2], "waits", timeout=20_000)))
    waiting.start()
    wait_until("it waits", lambda: described(cluster[0], "waits")["consumers"] == 1)
    began = time.monotonic()
    buy(cluster[1], "waits", 7, PEOPLE[:1])
    waiting.join()
    assert keys(answers[0]) == [("person-00", 7)] and time.monotonic() - began < 5
    assert described(cluster[1], "waits")["leased"] == 1
    assert poll(cluster[1], "waits", timeout=0) == {"messages": []}, "it is leased"
    assert poll(cluster[0], "waits", timeout=0, ack=answers[0]["ack"]) == {"messages": []}
    wait_until("it is done", lambda: described(cluster[2], "waits")["pending"] == 0)
    wrong = cluster[1].request("POST", "/v1/subscription/waits/each/sub", ack="nonsense")
    assert (wrong.status, wrong.error["class"]) == (400, "query")
    assert cluster[1].request("GET", "/v1/subscription/waits/each/other").error["class"] == "query"
    assert cluster[2].request("GET", "/v1/subscription/waits/nothing/sub").error["class"] == "query"


def test_leases_end_and_messages_are_shared(cluster: Cluster) -> None:
    create(cluster[1], "leases")
    poll(cluster[0], "leases", timeout=0)
    buy(cluster[0], "leases", 1)
    wait_until("they are there", lambda: described(cluster[0], "leases")["pending"] == len(PEOPLE))
    first = poll(cluster[0], "leases", max=10, lease=1_000)
    second = poll(cluster[1], "leases", max=1_000)
    assert len(keys(first)) == 10 and len(keys(second)) == 14
    assert not set(keys(first)) & set(keys(second))
    again = poll(cluster[2], "leases", timeout=10_000)
    assert set(keys(again)) <= set(keys(first)), "leases that ended come to somebody else"


def test_a_stream_brings_what_all_owners_have(cluster: Cluster) -> None:
    create(cluster[0], "streams")
    poll(cluster[0], "streams", timeout=0)
    buy(cluster[1], "streams", 1)
    port, found = cluster[2].port, set()
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/v1/subscription/streams/each/sub", headers={"Accept": "text/event-stream"})
    answer = connection.getresponse()
    last = ""
    while len(found) < len(PEOPLE):
        line = answer.readline().decode().strip()
        if line.startswith("id: "):
            last = line[4:]
        if line.startswith("data: "):
            found.add(json.loads(line[6:])["person"])
    connection.close()
    assert found == set(PEOPLE)
    poll(cluster[0], "streams", timeout=0, ack=last)
    wait_until("they are done", lambda: described(cluster[1], "streams")["pending"] == 0)


def test_what_is_removed_is_removed_everywhere(cluster: Cluster) -> None:
    create(cluster[0], "removed")
    poll(cluster[0], "removed", timeout=0)
    answers: list[Response] = []
    waiting = threading.Thread(
        target=lambda: answers.append(cluster[1].request("POST", "/v1/subscription/removed/each/sub", timeout=20_000))
    )
    waiting.start()
    wait_until("it waits", lambda: described(cluster[2], "removed")["consumers"] == 1)
    assert done(cluster[2].request("DELETE", "/v1/subscription/removed/each/sub")) == {"deleted": "sub"}
    waiting.join()
    assert answers[0].error["class"] == "query"
    for node in cluster.nodes:
        assert done(node.request("GET", "/v1/subscription/removed/each")) == {"subscriptions": []}


SEGMENT = '@segment buyers:\n    match where action is "buy":\n        tally\n'


def test_a_segment_is_watched_from_any_node(cluster: Cluster) -> None:
    create(cluster[0], "watched")
    done(cluster[1].request("POST", "/v1/query/watched/counts", SEGMENT))
    assert poll(cluster[2], "watched", trigger="buyers", timeout=0) == {"messages": []}
    buy(cluster[0], "watched", 1)
    entered: list[str] = []
    ack, deadline, number = {}, time.monotonic() + 20, 0
    while len(entered) < len(PEOPLE) and time.monotonic() < deadline:
        number += 1
        answer = poll(cluster[number % 3], "watched", trigger="buyers", timeout=1_000, **ack)
        assert {one["name"] for one in answer["messages"]} <= {"entered"}
        entered += [one["person"] for one in answer["messages"]]
        ack = {"ack": answer["ack"]} if "ack" in answer else {}
    assert sorted(entered) == PEOPLE
    assert done(cluster[0].request("DELETE", "/v1/subscription/watched/buyers/sub")) == {"deleted": "sub"}


def test_nothing_is_lost_or_comes_again_when_an_owner_is_killed(tmp_path: Path) -> None:
    with started(tmp_path, 3, partitions=6) as cluster:
        cluster.wait_for("all copies are there", is_settled)
        create(cluster[0], "t")
        poll(cluster[0], "t", timeout=0)
        acknowledged: list[tuple[str, int]] = []
        delivered: Counter[tuple[str, int]] = Counter()
        inserted = 0
        for at in range(9):
            if at == 3:
                cluster[2].kill()
            if at == 6:
                cluster[2].start()
                cluster.wait_for("all copies are there", is_settled)
            buy(cluster[at % 2], "t", at)
            inserted += len(PEOPLE)
            answer = poll(cluster[(at + 1) % 2], "t", max=20, lease=2_000)
            delivered.update(keys(answer))
            assert not set(keys(answer)) & set(acknowledged), "what was acknowledged does not come again"
            if "ack" in answer and at % 2:
                poll(cluster[at % 2], "t", max=1, timeout=0, lease=100, ack=answer["ack"])
                acknowledged += keys(answer)
        wanted = {(person, at) for person in PEOPLE for at in range(9)}
        deadline = time.monotonic() + 40
        while set(acknowledged) != wanted and time.monotonic() < deadline:
            answer = poll(cluster[0], "t", lease=2_000)
            assert not set(keys(answer)) & set(acknowledged)
            if "ack" in answer:
                poll(cluster[1], "t", max=1, timeout=0, lease=100, ack=answer["ack"])
                acknowledged += keys(answer)
        assert set(acknowledged) == wanted
        wait_until("nothing is left", lambda: described(cluster[2], "t")["pending"] == 0)


def test_webhooks_are_sent_by_the_owners(cluster: Cluster) -> None:
    create(cluster[0], "hooked")
    path = "/v1/subscription/hooked/each/sub"
    with Receiver(200) as receiver:
        hook = json.dumps({"url": receiver.url, "retry_ms": 20, "tries": 2})
        done(cluster[1].request("PUT", f"{path}/webhook", hook))
        for at in range(3):
            buy(cluster[at], "hooked", at)
        wait_until("all is sent", lambda: len(receiver.people()) >= 3 * len(PEOPLE))
        got = [message for _, body in receiver.got for message in json.loads(body)["messages"]]
        assert {(one["person"], one["value"]) for one in got} == {(one, at) for one in PEOPLE for at in range(3)}
        for person in PEOPLE:
            assert [one["value"] for one in got if one["person"] == person] == [0, 1, 2]
        for node in cluster.nodes:
            wait_until("all is done", lambda node=node: described(node, "hooked")["pending"] == 0)  # type: ignore[misc]
            assert done(node.request("GET", f"{path}/webhook"))["sent"] == 3 * len(PEOPLE)
        receiver.statuses = [503]
        buy(cluster[2], "hooked", 7)
        for node in cluster.nodes:
            wait_until("they are dead", lambda node=node: len(dead(node, path)) == len(PEOPLE))  # type: ignore[misc]
            assert described(node, "hooked")["webhook"]["dead"] == len(PEOPLE)
            assert "status 503" in described(node, "hooked")["webhook"]["last_error"]
        done(cluster[0].request("DELETE", "/v1/table/hooked/person", sid=PEOPLE[0]))
        wait_until("who was erased is gone", lambda: len(dead(cluster[1], path)) == len(PEOPLE) - 1)
        receiver.statuses, receiver.got = [200], []
        assert done(cluster[2].request("POST", f"{path}/dead/retry")) == {"retried": len(PEOPLE) - 1}
        wait_until("they are sent", lambda: sorted(set(receiver.people())) == PEOPLE[1:])
        for node in cluster.nodes:
            wait_until("none is dead", lambda node=node: not dead(node, path))  # type: ignore[misc]
        assert done(cluster[0].request("DELETE", f"{path}/webhook")) == {"deleted": "sub"}
        receiver.got = []
        buy(cluster[1], "hooked", 9)
        wait_until("they wait", lambda: described(cluster[1], "hooked")["pending"] == len(PEOPLE))
        assert not receiver.got
        for node in cluster.nodes:
            assert node.request("GET", f"{path}/webhook").error["class"] == "query"


def dead(node: Node, path: str) -> list[Any]:
    return list(done(node.request("GET", f"{path}/dead"))["dead"])


def test_dead_letters_become_those_of_a_cluster_and_survive_a_node(tmp_path: Path) -> None:
    path = "/v1/subscription/t/each/sub"
    with started(tmp_path, 3, partitions=6, joined=1, webhook_allow="127.0.0.1") as cluster, Receiver(503) as receiver:
        create(cluster[0], "t")
        hook = json.dumps({"url": receiver.url, "retry_ms": 20, "tries": 1})
        done(cluster[0].request("PUT", f"{path}/webhook", hook))
        buy(cluster[0], "t", 1)
        wait_until("they are dead", lambda: len(dead(cluster[0], path)) == len(PEOPLE))
        for node in cluster.nodes[1:]:
            cluster.join(node)
        cluster.wait_for("all copies are there", is_settled)
        for node in cluster.nodes:
            wait_until("it has them", lambda node=node: len(dead(node, path)) == len(PEOPLE))  # type: ignore[misc]
        buy(cluster[1], "t", 2)
        wait_until("there are more", lambda: len(dead(cluster[2], path)) == 2 * len(PEOPLE))
        cluster[2].kill()
        wait_until("they are all there", lambda: len(dead(cluster[0], path)) == 2 * len(PEOPLE))
        receiver.statuses, receiver.got = [200], []
        assert done(cluster[1].request("POST", f"{path}/dead/retry")) == {"retried": 2 * len(PEOPLE)}
        wait_until("they are sent", lambda: len(set(receiver.people())) == len(PEOPLE))
        wait_until("none is dead", lambda: not dead(cluster[0], path))


def test_everything_is_there_after_all_nodes_were_killed(tmp_path: Path) -> None:
    with started(tmp_path, 3, partitions=6) as cluster:
        cluster.wait_for("all copies are there", is_settled)
        create(cluster[0], "t")
        poll(cluster[1], "t", timeout=0, hold=7_200_000)
        buy(cluster[0], "t", 1)
        wait_until("they are there", lambda: described(cluster[0], "t")["pending"] == len(PEOPLE))
        first = poll(cluster[0], "t", max=10)
        poll(cluster[2], "t", max=1, timeout=0, lease=100, ack=first["ack"])
        for node in cluster.nodes:
            node.kill()
        for node in cluster.nodes:
            node.start(wait=False)
        cluster.wait_for("all copies are there", is_settled)
        found = keys(poll(cluster[1], "t", timeout=20_000))
        while len(found) < len(PEOPLE) - len(keys(first)):
            more = keys(poll(cluster[1], "t", timeout=20_000))
            assert more, "the rest comes, too"
            found += more
        assert not set(found) & set(keys(first)) and len(found) == len(PEOPLE) - len(keys(first))
        assert described(cluster[2], "t")["hold"] == 7_200_000
        buy(cluster[2], "t", 2)
        wait_until("triggers run", lambda: described(cluster[0], "t")["pending"] == 2 * len(PEOPLE) - len(keys(first)))
