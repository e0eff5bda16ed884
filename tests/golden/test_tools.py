"""What the offline tools print: of a sound data directory, and of damaged ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden_runner import GOLDEN, GoldenCase, read_golden
from support.tool_cases import make_data_dir, run_case

CASES = [
    pytest.param(case, id=f"{path.stem}: {case.name}")
    for path in sorted((GOLDEN / "tools").glob("*.txt"))
    for case in read_golden(path)
]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("sound") / "data"
    make_data_dir(data)
    return data


@pytest.mark.parametrize("case", CASES)
def test_tools(case: GoldenCase, sound: Path, tmp_path: Path, update: bool) -> None:
    case.check(run_case(case.given, sound, tmp_path), update=update)
