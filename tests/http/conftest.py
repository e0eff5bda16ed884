"""Fixtures of the HTTP tests: a daemon per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.daemon import Daemon

CART = {"product": "text", "price": "double", "units": "int", "gift": "bool"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """An initialised daemon with an empty table `cart`."""
    with Daemon(tmp_path_factory.mktemp("daemon") / "data", init=3) as started:
        started.create("cart", CART, ["view", "buy"])
        yield started
