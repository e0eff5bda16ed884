"""What tests of the coordinator share: an etcd of three members per worker, and tests that are coroutines."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.coordinators import EmbeddedPlace, EtcdPlace, Place
from support.etcd import Etcd


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Etcd]:
    """Three members. A test that kills or stops some brings them back."""
    cluster = Etcd(tmp_path_factory.mktemp("etcd"))
    yield cluster
    cluster.close()


@pytest.fixture(params=["embedded", "etcd"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Every implementation of the coordinator."""
    if request.param == "embedded":
        return EmbeddedPlace(tmp_path / "coordinator")
    return EtcdPlace(request.getfixturevalue("etcd"))


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test that is a coroutine, and closes what it used within the same event loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}

    async def whole() -> None:
        try:
            await pyfuncitem.obj(**arguments)
        finally:
            for argument in arguments.values():
                if isinstance(argument, Place):
                    await argument.close()

    asyncio.run(whole())
    return True
