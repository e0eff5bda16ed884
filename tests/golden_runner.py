"""Golden files: plain text of cases, each `=== name`, the input, a line `---`, and the output.

A test module asks for the cases of a file, computes the output of each and compares. `pytest --update` writes what was
computed into the files instead; read the difference before committing it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent / "golden"


@dataclass(frozen=True)
class GoldenCase:
    """One case. `options` is what stands after a `?` in its name line."""

    path: Path
    name: str
    options: str
    given: str
    expected: str

    def check(self, output: str, *, update: bool) -> None:
        """Compares, or with `update` rewrites this case in its file."""
        output = output.strip("\n")
        if not update:
            assert output == self.expected
            return
        if output != self.expected:
            cases = [case if case.name != self.name else self._with(output) for case in read_golden(self.path)]
            self.path.write_text("\n".join(case.text() for case in cases))

    def text(self) -> str:
        """The case as it stands in the file."""
        title = f"{self.name} ?{self.options}" if self.options else self.name
        return f"=== {title}\n{self.given}\n---\n{self.expected}\n"

    def _with(self, output: str) -> GoldenCase:
        return GoldenCase(self.path, self.name, self.options, self.given, output)


def read_golden(path: Path) -> list[GoldenCase]:
    """The cases of a golden file, in their order."""
    cases = []
    for chunk in ("\n" + path.read_text()).split("\n=== ")[1:]:
        title, _, rest = chunk.partition("\n")
        given, line, expected = rest.partition("\n---\n")
        assert line, f"{path.name}: the case {title!r} has no line ---"
        name, _, options = title.partition(" ?")
        cases.append(GoldenCase(path, name.strip(), options.strip(), given, expected.strip("\n")))
    assert len({case.name for case in cases}) == len(cases), f"{path.name}: two cases have one name"
    return cases


def golden_cases(name: str) -> Any:
    """A decorator that runs a test, with an argument `case`, for each case of tests/golden/<name>."""
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in read_golden(GOLDEN / name)])
