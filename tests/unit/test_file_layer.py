"""Whatever the daemon and the format write goes through the file layer, so that tests can make any step fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.reference import PROJECT

# The command line and its client write files of the user's, not of a data directory.
SOURCES = [
    path
    for directory in ("format/openset_format", "openset/store", "openset/query", "openset/http", "openset/revent")
    for path in sorted((PROJECT / directory).rglob("*.py"))
    if path.name != "files.py"
]
WRITES = re.compile(
    r"(?<!files)\.unlink\(|rmtree|\.mkdir\(|\.rmdir\(|hardlink_to|symlink_to|os\.(rename|replace|link|truncate|pwrite|write)\b"
    r"|shutil|write_bytes|write_text|\.touch\(|O_CREAT|O_RDWR|open\([^)]*[\"'][wax+]"
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_nothing_is_written_past_the_file_layer(path: Path) -> None:
    found = [
        line
        for line in path.read_text(encoding="utf-8").splitlines()
        if WRITES.search(line) and "self.inner." not in line and "os.devnull" not in line
    ]
    assert not found
