"""What is loaded when: a restart, a worker and a command line wait for nothing that they may never need."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

NEVER_BY_ITSELF = {"rich", "regex", "pandas", "pyarrow", "fsspec", "h5py"}
NOT_IN_A_WORKER = {"tornado", "structlog", "click", "re2", "openset.http", "openset.client", "openset.revent.webhooks"}
ONLY_FOR_MEMBERS = {"openset.cluster.coordinator", "openset.cluster.member", "openset.cluster.messages"}
NOT_IN_A_CLIENT = {"numpy", "pyparsing", "tornado", "structlog", "asyncio", "http.client", "ssl"}
NOT_IN_A_CLIENT |= {"openset.pyql", "openset.store", "openset_format"}


def loaded(program: str) -> set[str]:
    """The modules of a fresh process after this."""
    program = f"{program}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        ("import openset.query.worker", NEVER_BY_ITSELF | NOT_IN_A_WORKER),
        # Its workers begin as copies of it, so what it needs may be in them.
        ("import openset.http.server as server; server.logs.configure()", NEVER_BY_ITSELF | ONLY_FOR_MEMBERS),
        ("import openset.cli", NEVER_BY_ITSELF | NOT_IN_A_CLIENT),
        ("import openset.notebook", (NEVER_BY_ITSELF | {"tornado", "structlog", "click"}) - {"h5py"}),
    ],
)
def test_nothing_is_loaded_that_may_not_be_needed(program: str, absent: set[str]) -> None:
    assert absent & loaded(program) == set()


def test_rich_is_there_for_whoever_needs_it_beside_the_log() -> None:
    program = "from openset.http import logs\nlogs.configure()\nimport rich.progress"
    assert {"structlog", "rich.progress"} <= loaded(program)
