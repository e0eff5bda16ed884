"""Daemons that form a cluster: joining, mistakes, restarts, the sentinel's node down and back, leaving."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import shutil
import socketserver
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.certificates import make_certificates
from support.cluster import SECRET, Cluster, Node, alive, members, started, wait_until
from support.daemon import Daemon, Response
from support.etcd import Etcd, free_ports

from openset.client.serve_options import read_cluster_options
from openset.cluster.cluster_node import ClusterNode
from openset.cluster.identity import Identity, IdentityFile, read_identity
from openset.cluster.map import Member
from openset.cluster.member import DataPlane
from openset.cluster.options import ClusterOptions
from openset.errors import ConfigError, InternalError
from openset.store.store import Store

INTERNODE = [
    ("GET", "is_cluster_member"),
    ("GET", "is_member"),
    ("POST", "join_to_cluster"),
    ("POST", "add_node"),
    ("POST", "map_change"),
    ("POST", "coordinator"),
    ("POST", "query"),
    ("POST", "revent"),
    ("POST", "sentinel"),
]


def no_data() -> DataPlane:
    raise AssertionError("the node does not become a member")


def join(by: Node, port: int, host: str = "127.0.0.1") -> Response:
    return by.request("PUT", "/v1/cluster/join", host=host, port=port)


def refused(answer: Response) -> str:
    """The reason of a request that was refused because of the set-up or of another node."""
    assert answer.status == 400, answer.body
    assert answer.error["class"] in ("config", "internode")
    return str(answer.error["message"])


# ---------------------------------------------------------------- the way of a cluster


def test_a_node_by_itself_is_no_member(tmp_path: Path) -> None:
    with Daemon(tmp_path / "data", workers=1) as daemon:
        assert daemon.request("GET", "/v1/cluster/is_member").json == {"part_of_cluster": False}
        assert daemon.request("GET", "/v1/cluster").json == {"mode": "empty", "node": None, "partitions": None}
        for replicas in ("0", "17", "x"):
            assert refused(daemon.raw("PUT", f"/v1/cluster/init?partitions=4&replicas={replicas}"))
        name = daemon.request("PUT", "/v1/cluster/init", partitions=64, replicas=3).json["server_name"]
        assert daemon.request("GET", "/v1/cluster/is_member").json == {"part_of_cluster": True}
        standalone = daemon.request("GET", "/v1/cluster").json
        settled = ("mode", "node", "cluster", "coordinator", "partitions", "replicas")
        assert [standalone[key] for key in settled] == ["standalone", name, None, name, 64, 3]
        (alone,) = standalone["members"]
        assert (alone["node"], alone["port"], alone["roles"], alone["alive"]) == (name, daemon.port, ["sentinel"], True)
        assert (alone["owns"], alone["in_sync"], alone["owned_rows"]) == (64, 64, 0)
        assert [(one["partition"], one["owner"], one["in_sync"]) for one in standalone["map"]] == [
            (number, name, [name]) for number in range(64)
        ]
        assert standalone["health"]["status"] == "degraded", "three copies are wanted, there is one"
        assert "no cluster" in refused(daemon.request("PUT", "/v1/cluster/leave", node=name))
        assert "--cluster-cert" in refused(daemon.request("PUT", "/v1/cluster/join", host="127.0.0.1"))
        for method, route in INTERNODE:
            error = daemon.request(method, f"/v1/internode/{route}").error
            assert error["class"] == "internode" and "--cluster-secret-file" in error["message"]
    with Daemon(tmp_path / "data", workers=1) as daemon:
        again = daemon.request("GET", "/v1/cluster").json
        assert {**again, "members": []} == {**standalone, "members": []}


def test_nodes_join_go_come_back_and_leave(tmp_path: Path) -> None:
    with started(tmp_path, 3) as cluster:
        first, second, third = cluster.nodes
        names = {node.name for node in cluster.nodes}
        assert len(names) == 3
        cluster.wait_for("all live", lambda status: alive(status) == names)
        for node in cluster.nodes:
            status = node.status()
            assert (status["mode"], status["partitions"], status["replicas"]) == ("member", 4, 2)
            assert status["coordinator"] == first.name
            assert {each["owner"] for each in status["map"]} <= names
            assert status["sentinel"]["node"] == first.name
            assert members(status)[first.name]["roles"] == ["sentinel"]
            assert members(status)[second.name]["port"] == second.port
            assert node.request("GET", "/v1/cluster/is_member").json == {"part_of_cluster": True}
        cluster.wait_for(
            "the sentinel says what it decides",
            lambda status: any("1 of 2 copies" in each["reason"] for each in status["sentinel"]["decisions"]),
        )
        cluster.wait_for(
            "every partition has two copies, and every node owns some",
            lambda status: (
                all(len(each["in_sync"]) == 2 and not each["filling"] for each in status["map"])
                and {each["owner"] for each in status["map"]} == names
                and status["transfers"] == []
            ),
        )

        name = second.name
        second.kill()
        cluster.wait_for("it is missed", lambda status: name not in alive(status), [first, third])
        second.start()
        assert second.name == name
        cluster.wait_for("it is back", lambda status: alive(status) == names)

        # The node with the coordinator is away: what there is stays, and a member that starts says what it waits for.
        first.kill()
        third.stop()
        third.start(wait=False)
        error = wait_until("it says so", lambda: third.request("GET", "/v1/table", patience=10)).error
        assert (error["class"], "coordinator" in error["message"]) == ("internode", True)
        assert members(second.status()).keys() == names
        assert third.stop() == 0
        third.start(wait=False)
        first.start()
        cluster.wait_for("all are back", lambda status: alive(status) == names)

        assert "coordinator" in refused(second.request("PUT", "/v1/cluster/leave", node=first.name))
        assert "no member" in refused(second.request("PUT", "/v1/cluster/leave", node="nobody"))
        gone = third.name
        assert second.request("PUT", "/v1/cluster/leave", node=gone).json == {"leaving": gone}
        cluster.wait_for("it is removed", lambda status: gone not in members(status), [first, second])
        wait_until("it knows itself", lambda: third.status()["mode"] == "removed")
        assert "has left" in refused(third.request("GET", "/v1/table"))
        third.stop()
        third.start()
        assert third.status()["mode"] == "removed"
        assert "has left its cluster" in refused(join(first, third.port))


def test_a_member_that_listens_somewhere_else_is_found(tmp_path: Path) -> None:
    with started(tmp_path, 2) as cluster:
        first, second = cluster.nodes
        name = second.name
        second.stop()
        (second.port,) = free_ports(1)
        second.start()
        cluster.wait_for("the map says so", lambda status: members(status)[name]["port"] == second.port)
        names = {first.name, name}
        # All of it, the coordinator's node too; the other one is up and learns of it.
        first.stop()
        first.start()
        cluster.wait_for("both live", lambda status: alive(status) == names)
        for node in cluster.nodes:
            assert members(node.status())[name]["port"] == second.port


def test_a_node_killed_while_it_joins_is_a_member_or_empty(tmp_path: Path) -> None:
    with started(tmp_path, 2, joined=1) as cluster:
        first, second = cluster.nodes
        for delay in (0.005, 0.02, 0.06):
            asked = threading.Thread(target=lambda: join(first, second.port))
            asked.start()
            asked.join(delay)
            second.kill()
            asked.join()
            second.start()
            if second.status()["mode"] == "member":
                break
        answer = join(first, second.port)
        assert answer.status == 200 or "a member of this cluster already" in refused(answer)
        names = {node.name for node in cluster.nodes}
        cluster.wait_for("both are members, and nobody else", lambda status: alive(status) == names)
        assert members(first.status()).keys() == names


def test_a_node_killed_while_it_founds_a_cluster_is_a_member_or_stands_alone(tmp_path: Path) -> None:
    with started(tmp_path, 2, joined=1) as cluster:
        first, second = cluster.nodes
        name = first.name

        def ask() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                join(first, second.port)

        for delay in (0.01, 0.03):
            asked = threading.Thread(target=ask)
            asked.start()
            asked.join(delay)
            first.kill()
            asked.join()
            first.start()
            assert (first.status()["mode"] in ("standalone", "member"), first.name) == (True, name)
        wait_until("the second one has finished, if it has begun", lambda: second.status()["mode"] != "becoming")
        if second.status()["mode"] == "empty":
            cluster.join(second)
        names = {node.name for node in cluster.nodes}
        cluster.wait_for("both live", lambda status: alive(status) == names)


# ---------------------------------------------------------------- mistakes


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A member, and an empty node."""
    with started(tmp_path_factory.mktemp("pair"), 2, joined=1) as cluster:
        yield cluster


class _Answering(socketserver.BaseRequestHandler):
    answer = b""

    def handle(self) -> None:
        self.request.recv(1 << 16)
        self.request.sendall(self.answer)


@pytest.fixture
def impostor() -> Iterator[tuple[int, type[_Answering]]]:
    """Something on a port that answers whatever the test wants."""

    class Handler(_Answering):
        pass

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1], Handler
        server.shutdown()


def http_answer(body: bytes, **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


@pytest.mark.parametrize(
    "answer, says",
    [
        (b"SSH-2.0-OpenSSH\r\n\r\n", "HTTP"),
        (b"", "connection ended"),
        (http_answer(b"hello"), "no node of OpenSet"),
        (http_answer(b'{"part_of_cluster": false}', OpenSet_Protocol="1"), "does not know the secret"),
        (http_answer(b'{"part_of_cluster": false}', OpenSet_Protocol="1", OpenSet_Proof="0" * 64), "the secret"),
    ],
)
def test_what_is_no_node_cannot_be_invited(
    pair: Cluster, impostor: tuple[int, type[_Answering]], answer: bytes, says: str
) -> None:
    port, handler = impostor
    handler.answer = answer
    assert says in refused(join(pair[0], port))


def test_mistakes_of_an_invitation_are_named(pair: Cluster, tmp_path: Path) -> None:
    member, empty = pair.nodes
    (nobody,) = free_ports(1)
    for answer, says in (
        (member.request("PUT", "/v1/cluster/join"), "host="),
        (member.request("PUT", "/v1/cluster/join", host="a/b"), "neither a name nor an address"),
        (member.request("PUT", "/v1/cluster/join", host="x", port="70000"), "port"),
        (member.request("PUT", "/v1/cluster/join", host="x", prot="1"), "port"),
        (join(member, nobody), "refused"),
        (join(member, member.port), "itself"),
        (join(member, empty.port, host="10.1.2.3"), "loopback"),
        (join(member, empty.port, host="no.such.host.invalid"), "cannot be reached"),
        (join(empty, member.port), "not initialised"),
    ):
        assert says in refused(answer)
    other_secret = {"secret": "another secret, as long as that"}
    with Daemon(tmp_path / "stranger", workers=1, cluster=other_secret) as stranger:
        assert "another one" in refused(join(member, stranger.port))
    with Daemon(tmp_path / "initialised", init=4, workers=1, cluster=member.cluster) as other:
        assert "only an empty node" in refused(join(member, other.port))
    assert empty.status()["mode"] == "empty"
    assert member.status()["mode"] in ("standalone", "member")


def test_strangers_are_turned_away(pair: Cluster) -> None:
    member = pair[0]
    for method, route in INTERNODE:
        answer = member.request(method, f"/v1/internode/{route}", b"x" * 100 if method == "POST" else None)
        assert (answer.status, answer.error["class"]) == (403, "internode")
        forged = {"OpenSet-Signature": "1700000000000-00-" + "0" * 64, "OpenSet-Protocol": "1"}
        assert member.request(method, f"/v1/internode/{route}", headers=forged).status == 403
        for signature in ("", "-", "x-y-z", "ü", "9" * 400):
            headers = {"OpenSet-Signature": signature.encode().decode("latin-1"), "OpenSet-Protocol": "1"}
            assert member.request(method, f"/v1/internode/{route}", headers=headers).status == 403


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"secret": "short"}, "16 bytes"),
        ({"ca": "ca.pem"}, "belong together"),
        ({"ca": "/no/ca.pem", "cert": "/no/cert.pem", "key": "/no/key.pem"}, "/no/cert.pem"),
        ({"secret": "s" * 20, "ca": "a", "cert": "b", "key": "c"}, "both"),
        ({"coordinator": "etcd://127.0.0.1"}, "--cluster-cert"),
        ({"secret": "s" * 20, "coordinator": "http://x"}, "etcd://"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        ClusterNode(tmp_path, options=ClusterOptions(**settings), make_data=no_data)


def test_a_daemon_with_such_options_does_not_start(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("short\n")
    options = ["--data", str(tmp_path / "data"), "--port", "0", "--cluster-secret-file", str(secret)]
    process = subprocess.run(
        [sys.executable, "-m", "openset.cli", "serve", *options], capture_output=True, text=True, timeout=60
    )
    assert process.returncode == 1
    assert "16 bytes" in process.stderr
    secret.unlink()
    given = dict.fromkeys(("cluster_ca", "cluster_cert", "cluster_key", "cluster_host", "coordinator"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_cluster_options({**given, "cluster_secret_file": secret})


def test_a_member_cannot_be_started_as_something_else(tmp_path: Path) -> None:
    on_etcd = Identity("member", node="n1", cluster="c", host="h", port=1, coordinator="etcd")
    embedded = Identity("member", node="n1", cluster="c", host="h", port=1, home=Member("n2", "h", 2))
    secret, etcd = {"secret": SECRET}, {"coordinator": "etcd://127.0.0.1:1"}
    store = Store.open(tmp_path)

    async def start(settings: dict[str, Any]) -> None:
        await ClusterNode(tmp_path, options=ClusterOptions(**settings), make_data=no_data).start(store)

    for identity, settings, says in (
        (embedded, {}, "--cluster-secret-file"),
        (embedded, {**secret, **etcd}, "embedded"),
        (on_etcd, secret, "--coordinator"),
        # The founder whose coordinator is gone.
        (msgspec.structs.replace(embedded, founder=True), secret, "has no coordinator"),
    ):
        IdentityFile(tmp_path).write(identity)
        with pytest.raises(ConfigError, match=says):
            asyncio.run(start(settings))
    (tmp_path / "cluster" / "member.json").write_bytes(b"{}")
    with pytest.raises(InternalError, match=r"member\.json is damaged"):
        asyncio.run(start(secret))
    store.close()


# ---------------------------------------------------------------- certificates


def tls(directory: Path, name: str) -> dict[str, str]:
    files = {
        "ca": directory / f"{name}-ca.pem",
        "cert": directory / f"{name}-cert.pem",
        "key": directory / f"{name}-key.pem",
    }
    return {"secret": None, **{kind: str(path) for kind, path in files.items()}}  # type: ignore[dict-item]


def test_nodes_with_certificates(tmp_path: Path) -> None:
    make_certificates(tmp_path, "right")
    make_certificates(tmp_path, "other")
    with started(tmp_path, 3, joined=2, cluster=tls(tmp_path, "right")) as cluster:
        first, second, third = cluster.nodes
        names = {first.name, second.name}
        cluster.wait_for("both live", lambda status: alive(status) == names, [first, second])

        # Clients speak plain HTTP, or TLS without a certificate; only nodes get at the routes of nodes.
        context = ssl.create_default_context(cafile=tmp_path / "right-ca.pem")
        for path, status in (("/v1/cluster/is_member", 200), ("/v1/internode/is_member", 403)):
            connection = http.client.HTTPSConnection("127.0.0.1", first.port, context=context, timeout=10)
            connection.request("GET", path)
            assert connection.getresponse().status == status
            connection.close()
            assert first.request("GET", path).status == status
        context.load_cert_chain(tmp_path / "right-cert.pem", tmp_path / "right-key.pem")
        connection = http.client.HTTPSConnection("127.0.0.1", first.port, context=context, timeout=10)
        for headers in ({}, {"OpenSet-Protocol": "1"}):
            connection.request("GET", "/v1/internode/is_member", headers=headers)
            assert json.loads(connection.getresponse().read()) == {"part_of_cluster": True}
        # A person with a certificate may ask for a transfer, and may not speak for a member.
        connection.request("PUT", "/v1/internode/transfer?partition=0&node=nobody")
        answer = json.loads(connection.getresponse().read())
        assert "nobody is no member" in answer["error"]["message"]
        for method, path, body, says in (
            ("POST", "add_node?map=1", "", "map"),
            ("GET", "is_member?x=1", "", "x"),
            ("POST", "query", "abc", "no request"),
            ("POST", "transfer?partition=999&table=t&transfer=x&offset=0&hash=" + "0" * 16, "", "no partition 999"),
        ):
            connection.request(method, f"/v1/internode/{path}", body)
            response = connection.getresponse()
            assert response.status == 400 and says in json.loads(response.read())["error"]["message"]
        connection.request("POST", "/v1/internode/log", b"\x90")
        answer = json.loads(connection.getresponse().read())
        assert "which member asks" in answer["error"]["message"]
        connection.request("POST", "/v1/internode/transfer?partition=0&table=none&transfer=x&offset=0&hash=" + "0" * 16)
        answer = json.loads(connection.getresponse().read())
        assert "there is no table 'none'" in answer["error"]["message"]
        connection.request("GET", "/v1/internode/is_member", headers={"OpenSet-Protocol": "2"})
        answer = json.loads(connection.getresponse().read())
        assert "another version" in answer["error"]["message"]
        connection.close()

        assert "refused" in refused(join(first, third.port, host="localhost"))  # it is for 127.0.0.1
        third.stop()
        # It trusts the members, and is not trusted by them.
        both = tmp_path / "both-ca.pem"
        both.write_bytes((tmp_path / "right-ca.pem").read_bytes() + (tmp_path / "other-ca.pem").read_bytes())
        third.cluster = {**third.cluster, **tls(tmp_path, "other"), "ca": str(both)}
        third.start()
        assert "certificate is refused" in refused(join(first, third.port))
        third.stop()
        third.cluster = {"secret": "a secret instead of certificates"}
        third.start()
        assert "TLS" in refused(join(first, third.port))
        assert members(first.status()).keys() == names


# ---------------------------------------------------------------- etcd


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    cluster = Etcd(tmp_path_factory.mktemp("etcd"))
    yield cluster
    cluster.close()


def test_with_etcd_any_member_can_be_the_sentinel(tmp_path: Path, etcd: Etcd) -> None:
    with started(tmp_path, 3, etcd=etcd, prefix="tests/1") as cluster:
        names = {node.name for node in cluster.nodes}
        cluster.wait_for("all live", lambda status: alive(status) == names and status["sentinel"])
        status = cluster[0].status()
        assert status["coordinator"] == "etcd" and status["sentinel"]["node"] in names
        (sentinel,) = [node for node in cluster.nodes if node.name == status["sentinel"]["node"]]
        others = [node for node in cluster.nodes if node is not sentinel]
        name, term = sentinel.name, status["sentinel"]["term"]
        sentinel.kill()
        cluster.wait_for(
            "another one is elected",
            lambda status: status["sentinel"] and status["sentinel"]["term"] > term and name not in alive(status),
            others,
        )
        sentinel.start()
        assert sentinel.name == name
        cluster.wait_for("it is back", lambda status: alive(status) == names)

        # A node of another cluster, and one that knows nothing of etcd.
        other = Node(tmp_path / "other", cluster[0].cluster)
        try:
            other.start()
            answer = other.request("PUT", "/v1/cluster/init", partitions=4)
            assert "another cluster already" in refused(answer)
            assert other.status()["mode"] == "empty"
            other.stop()
            other.cluster = {key: value for key, value in other.cluster.items() if key != "coordinator"}
            other.start()
            assert "--coordinator" in refused(join(cluster[1], other.port))
        finally:
            other.close()

        # Somebody who holds nothing can go, whoever is asked, the sentinel too.
        leaving = next(node for node in others if node is not cluster[0])
        gone = leaving.name
        assert leaving.request("PUT", "/v1/cluster/leave", node=gone).json == {"leaving": gone}
        rest = [node for node in cluster.nodes if node is not leaving]
        cluster.wait_for("it is removed", lambda status: gone not in members(status), rest)
        wait_until("it knows", lambda: leaving.status()["mode"] == "removed")


def test_a_cluster_outlives_etcd(tmp_path: Path, etcd: Etcd) -> None:
    with started(tmp_path, 2, etcd=etcd, prefix="tests/2") as cluster:
        names = {node.name for node in cluster.nodes}
        cluster.wait_for("both live", lambda status: alive(status) == names)
        for member in etcd.members:
            member.kill()
        try:
            assert cluster[0].request("GET", "/v1/table").status == 200
            assert members(cluster[1].status()).keys() == names
            answer = cluster[0].request("PUT", "/v1/cluster/leave", node=cluster[1].name)
            assert (answer.status, answer.error["class"]) == (503, "internode")
        finally:
            for member in etcd.members:
                member.start()
            etcd.wait_until_ready()
        cluster.wait_for("both live", lambda status: alive(status) == names)


def test_a_coordinator_without_the_cluster_throws_nobody_out(tmp_path: Path, etcd: Etcd) -> None:
    with started(tmp_path, 2, etcd=etcd, prefix="tests/3") as cluster:
        second = cluster[1]
        names = {node.name for node in cluster.nodes}
        cluster.wait_for("both live", lambda status: alive(status) == names)
        right = second.cluster
        assert second.stop() == 0
        second.cluster = {**right, "coordinator": right["coordinator"].replace("tests/3", "tests/mistyped")}
        second.start(wait=False)
        wait_until("it listens", lambda: any(line.get("event") == "listening" for line in second.running.log()))

        def says() -> bool:
            answer = second.request("GET", "/v1/cluster")
            return answer.status == 503 and "does not have the cluster of this node" in answer.error["message"]

        wait_until("it says why it waits", says)
        assert second.stop() == 0
        second.cluster = right
        second.start()
        cluster.wait_for("both live", lambda status: alive(status) == names)


def test_an_etcd_that_has_lost_everything_is_noticed(tmp_path: Path) -> None:
    etcd = Etcd(tmp_path / "etcd", 1)
    try:
        with started(tmp_path / "nodes", 2, etcd=etcd) as cluster:
            first, second = cluster.nodes
            names = {node.name for node in cluster.nodes}
            cluster.wait_for("both live", lambda status: alive(status) == names)
            (member,) = etcd.members
            member.kill()
            shutil.rmtree(member.directory)
            member.start()
            etcd.wait_until_ready()

            def is_known(node: Node) -> bool:
                health = node.status()["health"]
                return health["status"] == "unknown" and "does not have the cluster" in health["reason"]

            wait_until("both say so", lambda: is_known(first) and is_known(second))
            told = first.request("GET", "/health").json["cluster"]
            assert told["status"] == "unknown" and "does not have the cluster" in told["reason"]
            assert second.stop() == 0
            assert read_identity(second.data).mode == "member"
    finally:
        etcd.close()


def test_two_processes_of_one_name_are_noticed(tmp_path: Path) -> None:
    with started(tmp_path, 2) as cluster:
        second = cluster[1]
        assert second.stop() == 0
        shutil.copytree(second.data, tmp_path / "copy")
        second.start()
        name = second.name
        cluster.wait_for("both live", lambda status: len(alive(status)) == 2)
        twin = Node(tmp_path / "copy", second.cluster)
        try:
            twin.start(wait=False)
            assert twin.running.process.wait(20) == 1
            (reason,) = [line["reason"] for line in twin.running.log() if line.get("event") == "the daemon cannot run"]
            assert f"{name} runs at 127.0.0.1:{second.port} already" in reason
        finally:
            twin.close()
        second.kill()
        second.port = free_ports(1)[0]
        second.start()
        cluster.wait_for("it is found where it is", lambda status: len(alive(status)) == 2)
