"""What all tests share: the option that rewrites golden files."""

from __future__ import annotations

import pytest

from openset.recursion import enlarge_stacks

enlarge_stacks()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update", action="store_true", help="write the computed output into the golden files")


@pytest.fixture
def update(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be rewritten."""
    return bool(request.config.getoption("--update"))
