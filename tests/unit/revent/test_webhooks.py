"""Which targets are allowed, how signatures are made, how long a webhook waits."""

from __future__ import annotations

import pytest

from openset.revent.webhooks import MAX_BACKOFF_MS, AllowList, backoff_ms, signature


@pytest.mark.parametrize(
    ("allowed", "url", "expected"),
    [
        ("", "http://example.com/", False),
        ("example.com", "http://example.com/a", True),
        ("example.com", "https://EXAMPLE.com:8443/a", True),
        ("example.com", "http://example.com.evil.org/", False),
        ("*.example.com", "http://a.example.com/", True),
        ("*.example.com", "http://example.com/", False),
        ("example.com:8080", "http://example.com:8080/", True),
        ("example.com:443", "https://example.com/", True),
        ("example.com:8080", "http://example.com/", False),
        ("https://example.com/in", "https://example.com/in/x", True),
        ("https://example.com/in", "http://example.com/in/x", False),
        ("https://example.com", "https://example.com.evil.org/", False),
        ("a.org, b.org", "http://b.org/", True),
    ],
)
def test_targets(allowed: str, url: str, expected: bool) -> None:
    assert AllowList.of(allowed).allows(url) is expected


def test_signature() -> None:
    digest = "36a72f4525d3323bd0f238fe82098164fb77b1e42288ff8e07b074c686178ad3"
    assert signature("key", 1_700_000_000_000, b"{}") == f"t=1700000000000,v1={digest}"
    assert signature("key", 1, b"a") != signature("key", 2, b"a") != signature("other", 2, b"a")


def test_backoff() -> None:
    assert [backoff_ms(tried, 100, 0.0) for tried in (1, 2, 3)] == [100, 200, 400]
    assert backoff_ms(3, 100, 1.0) == 200
    assert backoff_ms(60, 100, 0.0) == MAX_BACKOFF_MS
