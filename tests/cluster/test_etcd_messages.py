"""Addresses of etcd, and what its gateway is told and answers, without one."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from openset.cluster import etcd_messages as messages
from openset.cluster.etcd_address import Endpoint, EtcdAddress, Tls, parse_address
from openset.cluster.keeper import Change, Changes, CompactedError, Expected, Item, Refused, commit_of
from openset.errors import ConfigError, LeaseLostError, UnreachableError

KEYS = messages.Keys("p")


@pytest.mark.parametrize(
    "url, wanted",
    [
        ("etcd://a", EtcdAddress((Endpoint("a", 2379),))),
        (
            "etcd://a:1,b.c:2,[::1]:3/x/y/",
            EtcdAddress((Endpoint("a", 1), Endpoint("b.c", 2), Endpoint("::1", 3)), "x/y"),
        ),
        ("etcd://u:p%40%2F@a/x", EtcdAddress((Endpoint("a", 2379),), "x", "u", "p@/")),
        ("etcd://a,b,a:2379", EtcdAddress((Endpoint("a", 2379), Endpoint("b", 2379)))),
        ("etcd://u:@a", EtcdAddress((Endpoint("a", 2379),), user="u", password="")),
        ("etcd://u:a:b@c@a", EtcdAddress((Endpoint("a", 2379),), user="u", password="a:b@c")),
        ("etcd://a?tls=true", EtcdAddress((Endpoint("a", 2379),), tls=Tls())),
        ("etcd://a?tls=false", EtcdAddress((Endpoint("a", 2379),))),
        (
            "etcd://a/x?ca=/c%20a&cert=c&key=k",
            EtcdAddress((Endpoint("a", 2379),), "x", tls=Tls(Path("/c a"), Path("c"), Path("k"))),
        ),
    ],
)  # fmt: skip
def test_addresses(url: str, wanted: EtcdAddress) -> None:
    assert parse_address(url) == wanted
    assert "p@/" not in repr(wanted) and "p@/" not in str(wanted)


@pytest.mark.parametrize(
    "url, reason",
    [
        ("http://a", "begins with etcd://"),
        ("etcd://", "no host and port"),
        ("etcd://a,", "no host and port"),
        ("etcd://a:0", "no host and port"),
        ("etcd://a:65536", "no host and port"),
        ("etcd://a:x", "no host and port"),
        ("etcd://a b", "no host and port"),
        ("etcd://user@a", "user and password"),
        ("etcd://:p@a", "user and password"),
        ("etcd://a/x y", "cannot be a prefix"),
        ("etcd://a/%C3%BC", "cannot be a prefix"),
        ("etcd://a/" + "x" * 300, "cannot be a prefix"),
        ("etcd://a?tsl=true", "no option 'tsl'; did you mean 'tls'"),
        ("etcd://a?tls=yes", "true or false"),
        ("etcd://a?tls=true&tls=true", "twice"),
        ("etcd://a?ca=", "empty"),
        ("etcd://a?cert=c", "belong together"),
        ("etcd://a?tls=false&ca=c", "tls=false and certificates"),
        ("etcd://a?password_file=f", "user without a password"),
        ("etcd://u:p@a?password_file=f", "user without a password"),
        ("etcd://u@a?password_file=/nowhere", "cannot be read"),
    ],
)
def test_addresses_that_are_none(url: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        parse_address(url)


def test_a_commit_is_a_transaction_that_reads_what_it_expected() -> None:
    commit = commit_of(
        [Expected("a", revision=5), Expected("b", created=0)], [Change("a", b"\0", 9), Change("c", None)]
    )
    told = msgspec.json.decode(messages.transaction(KEYS, commit))
    assert told == {
        "compare": [
            {"key": "cC9h", "result": "EQUAL", "target": "MOD", "mod_revision": "5"},
            {"key": "cC9i", "result": "EQUAL", "target": "CREATE", "create_revision": "0"},
        ],
        "success": [
            {"request_put": {"key": "cC9h", "value": "AA==", "lease": "9"}},
            {"request_delete_range": {"key": "cC9j"}},
        ],
        "failure": [{"request_range": {"key": "cC9h"}}, {"request_range": {"key": "cC9i"}}],
    }
    assert messages.committed(KEYS, commit, b'{"header":{"revision":"7"},"succeeded":true}') == 7
    found = b'{"header":{"revision":"7"},"responses":[{"response_range":{"header":{},"kvs":[{"key":"cC9h",\
"value":"AQ==","create_revision":"3","mod_revision":"4","version":"2","lease":"9"}]}},{"response_range":{"header":{}}}]}'
    assert messages.committed(KEYS, commit, found) == Refused(7, {"a": Item(b"\1", 3, 4, 9), "b": None})


def test_leases_have_whole_seconds() -> None:
    assert msgspec.json.decode(messages.grant(1_001)) == {"TTL": "2"}
    assert messages.granted(b'{"ID":"7","TTL":"3"}') == (7, 3_000)
    assert messages.kept_alive(b'{"result":{"ID":"7","TTL":"2"}}') == 2_000
    with pytest.raises(LeaseLostError):
        messages.kept_alive(b'{"result":{"ID":"7"}}')
    for answer in (b'{"ID":"7"}', b'{"TTL":"7"}', b"{}", b"[]"):
        with pytest.raises(ValueError):
            messages.granted(answer)


def test_a_watch_goes_on_from_the_last_event_it_has_told() -> None:
    reader = messages.WatchReader(KEYS, 10)
    assert reader.read(b'{"result":{"header":{"revision":"99"},"created":true}}') is None
    assert reader.after == 10, "nothing has been told yet"
    line = b'{"result":{"header":{"revision":"99"},"events":[\
{"kv":{"key":"cC9h","mod_revision":"11","create_revision":"11"}},\
{"type":"DELETE","kv":{"key":"cC9i","mod_revision":"12"}}]}}'
    assert reader.read(line) == Changes(12, {"a": Item(b"", 11, 11), "b": None})
    assert reader.after == 12, "more of what was until revision 99 may follow"
    assert reader.read(b'{"result":{"header":{"revision":"120"}}}') is None
    assert reader.after == 120
    with pytest.raises(CompactedError):
        reader.read(b'{"result":{"canceled":true,"compact_revision":"200"}}')
    with pytest.raises(UnreachableError, match="no leader"):
        reader.read(b'{"result":{"canceled":true,"cancel_reason":"etcdserver: no leader"}}')
    with pytest.raises(ConfigError, match="permission denied"):
        reader.read(b'{"error":{"grpc_code":7,"http_code":403,"message":"etcdserver: permission denied"}}')
    with pytest.raises(messages.TokenNeededError):
        reader.read(b'{"error":{"code":16,"message":"etcdserver: invalid auth token","details":[]}}')
    for line in (b"", b"{}", b'{"result":{"events":[{"kv":{"key":"eA=="}}]}}', b'{"result":{"events":5}}'):
        with pytest.raises(ValueError):
            reader.read(line)


@pytest.mark.parametrize(
    "code, message, wanted",
    [
        (3, "etcdserver: authentication failed, invalid user ID or password", ConfigError),
        (3, "etcdserver: too many operations in txn request", ConfigError),
        (3, "etcdserver: user name is empty", messages.TokenNeededError),
        (3, "etcdserver: revision of auth store is old", messages.TokenNeededError),
        (5, "etcdserver: requested lease not found", LeaseLostError),
        (7, "etcdserver: permission denied", ConfigError),
        (8, "etcdserver: mvcc: database space exceeded", UnreachableError),
        (9, "etcdserver: authentication is not enabled", messages.AuthenticationOffError),
        (14, "etcdserver: request timed out", UnreachableError),
        (16, "etcdserver: invalid auth token", messages.TokenNeededError),
        (None, "", UnreachableError),
    ],
)
def test_what_errors_of_etcd_mean(code: int | None, message: str, wanted: type[Exception]) -> None:
    assert type(messages.failure(code, message)) is wanted
    body = msgspec.json.encode({"error": message, "message": message, "code": code})
    assert type(messages.refusal(400, body)) is wanted


def test_tokens_are_one_word_of_a_header() -> None:
    assert messages.token(b'{"token":"a.1"}') == "a.1"
    for answer in (b'{"token":""}', b'{"token":"a\\r\\nX: y"}', b"{}"):
        with pytest.raises(ValueError):
            messages.token(answer)
