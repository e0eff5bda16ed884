"""Every tool on directories with damage anywhere: an answer or an error, an exit code that says so, no traceback."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.tool_cases import make_data_dir

from openset.cli import main
from openset_format.hashing import checksum
from openset_format.reader import PartitionFile
from openset_format.seal import SEAL_BYTES, decode_seal

ROUNDS = 40
# A daemon writes it over and over without syncing; what it says is only believed when it is sound.
NOTE = "synced"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), (arguments, result.exception)
    return result


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("sound") / "data"
    make_data_dir(data)
    return data


def test_tools_on_damaged_directories(sound: Path, tmp_path: Path) -> None:
    chance = random.Random(5)
    files = [path.relative_to(sound) for path in sorted(sound.rglob("*")) if path.is_file() and path.name != "lock"]
    data = tmp_path / "data"
    for _ in range(ROUNDS):
        shutil.copytree(sound, data)
        path = data / chance.choice(files)
        content = bytearray(path.read_bytes())
        path.chmod(0o644)
        what = chance.choice(["flip", "flip", "cut", "remove"])
        if what == "remove":
            path.unlink()
        elif what == "cut":
            path.write_bytes(content[: chance.randrange(len(content))])
        else:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
        where = (what, path.relative_to(data))
        verified = run("verify", data)
        inspected = run("inspect", data)
        exported = run("export", data, "shop", "--output", tmp_path / "out")
        run("cat", data, "--person", "ann", "--table", "shop")
        if path.exists():
            run("inspect", path)
            run("cat", path, "--person", "ann")
        # The file of a segment or a sidecar that is gone cannot be told from one that never was.
        missed = path.name == NOTE or (what == "remove" and path.suffix in (".segment", ".revent", ".json"))
        assert missed or verified.exit_code == 1, where
        if path.suffix == ".h5" and what != "remove":
            assert (inspected.exit_code, exported.exit_code) == (1, 1), where
        shutil.rmtree(data)


def tools(data: Path, path: Path, tmp_path: Path) -> list[Result]:
    """All of them on a directory and one of its files; the first two say whether the directory is sound."""
    return [
        run("verify", data),
        run("verify", data, "--deep"),
        run("inspect", data),
        run("export", data, "shop", "--output", tmp_path / "out"),
        run("diff", data, data),
        run("cat", data, "--person", "ann", "--table", "shop"),
        run("inspect", path),
        run("cat", path, "--person", "ann"),
        run("backup", data, tmp_path / "backups"),
    ]


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_a_dataset_that_is_lost_as_a_whole(sound: Path, tmp_path: Path, byte: int) -> None:
    """Merging with the journal meets what is not verified yet, and has to name it like everything else."""
    number = 0
    for original in sorted(sound.glob("tables/1/p*.h5")):
        for name, place in PartitionFile.open(original).manifest.datasets.items():
            data = tmp_path / f"data-{(number := number + 1)}"
            shutil.copytree(sound, data)
            path = data / original.relative_to(sound)
            path.chmod(0o644)
            content = bytearray(path.read_bytes())
            lost = bytes([byte]) * place.size_bytes
            changed = content[place.offset : place.offset + place.size_bytes] != lost
            content[place.offset : place.offset + place.size_bytes] = lost
            path.write_bytes(content)
            for result in tools(data, path, tmp_path)[: 4 if changed else 0]:
                assert result.exit_code == 1 and path.name in result.output, (name, result.output)


@pytest.mark.parametrize("name", ["tables/1/p0001.h5", "journal", "journal/synced", "tables/1/triggers.json"])
def test_what_the_system_does_not_read(sound: Path, tmp_path: Path, name: str) -> None:
    """A directory where a file should be fails as a disk does: when it is read."""
    data = tmp_path / "data"
    shutil.copytree(sound, data)
    (path,) = (data / "journal").glob("*.journal") if name == "journal" else (data / name,)
    path.unlink()
    path.mkdir()
    verified = tools(data, path, tmp_path)[0]
    assert verified.exit_code == 1 and path.name in verified.output


def test_a_manifest_that_fits_its_hash_and_nothing_else(sound: Path, tmp_path: Path) -> None:
    values: list[Any] = [None, -1, "x", [], {}, 1.5, 1 << 63, 1 << 70, [1, 2], {"a": 1}]
    keys = ("people", "rows", "schema", "z_order", "datasets", "checksums", "scales")
    for number, value in enumerate(values):
        data = tmp_path / f"data-{number}"
        shutil.copytree(sound, data)
        path = data / "tables/1/p0000.h5"
        content = path.read_bytes()
        path.chmod(0o644)
        seal = decode_seal(content[:SEAL_BYTES], path)
        given = json.loads(content[seal.manifest_offset :][: seal.manifest_bytes])
        place = next(iter(given["datasets"]))
        changes = [given | {key: value} for key in keys if given.get(key) != value]
        for field in range(4):
            changed = given["datasets"][place][:field] + [value] + given["datasets"][place][field + 1 :]
            changes.append(given | {"datasets": given["datasets"] | {place: changed}})
        for change in changes:
            path.write_bytes(with_manifest(content, change))
            for result in (
                run("verify", data),
                run("inspect", path),
                run("export", data, "shop", "--output", tmp_path / "out"),
            ):
                assert result.exit_code == 1 and path.name in result.output, (change, result.output)


def with_manifest(content: bytes, manifest: dict[str, Any]) -> bytes:
    """A partition file with another manifest, at its end."""
    seal = decode_seal(content[:SEAL_BYTES], Path())
    text = json.dumps(manifest).encode()
    seal = replace(
        seal,
        manifest_offset=len(content),
        manifest_bytes=len(text),
        manifest_hash=checksum(text),
        file_bytes=len(content) + len(text),
    )
    return seal.encode() + content[SEAL_BYTES:] + text
