"""The catalog, its file, and the lock on a data directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.format_models import FailingFiles

from openset.errors import ConfigError, InternalError, QueryError
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.lock import DirectoryLock, check_file_system
from openset.store.store import Store

COLUMNS = [("name", "text"), ("units", "int")]


def catalog_with_table(directory: Path) -> Catalog:
    catalog = Catalog(directory)
    catalog.initialise(4, "node-a")
    catalog.create_table("shop", COLUMNS, ["view", "buy"], ())
    return catalog


def test_catalog_is_read_back(tmp_path: Path) -> None:
    written = catalog_with_table(tmp_path)
    written.create_table("other", [], [], ())
    read = Catalog(tmp_path)
    assert (read.partitions, read.server_name) == (4, "node-a")
    assert read.tables() == written.tables()
    shop = read.table("shop")
    assert shop.z_order == ("view", "buy")
    assert shop.column_types == {"name": "text", "units": "int"}
    assert [path.name for path in tmp_path.iterdir()] == [CATALOG_NAME]


def test_ids_are_never_used_again(tmp_path: Path) -> None:
    catalog = catalog_with_table(tmp_path)
    first = catalog.table("shop").column("units")
    catalog.drop_column("shop", "units")
    again = Catalog(tmp_path).add_column("shop", "units", "double", ())
    column = again.column("units")
    assert first is not None and column is not None
    assert column.id == first.id + 1
    assert again.version == 3
    assert Catalog(tmp_path).create_table("next", [], [], ()).id == 2


@pytest.mark.parametrize("name", ["", "Shop", "a-b", "a b", "é", "a" * 65, "../x", "a\n"])
def test_bad_table_names(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError):
        catalog_with_table(tmp_path).create_table(name, [], [], ())


@pytest.mark.parametrize(
    ("name", "kind"), [("1a", "int"), ("A", "int"), ("_", "int"), ("", "int"), ("a" * 65, "int"), ("person", "int"),
                       ("a", "integer"), ("a", ""), ("a\n", "int"), ("name", "int")],
)  # fmt: skip
def test_bad_columns(tmp_path: Path, name: str, kind: str) -> None:
    catalog = catalog_with_table(tmp_path)
    with pytest.raises(ConfigError):
        catalog.add_column("shop", name, kind, {"person"})
    with pytest.raises(ConfigError):
        catalog.create_table("new", [*COLUMNS, (name, kind)], [], {"person"})
    assert Catalog(tmp_path).tables() == catalog.tables()


@pytest.mark.parametrize("z_order", [["a", "a"], [""], ["\ud800"]])
def test_bad_z_orders(tmp_path: Path, z_order: list[str]) -> None:
    with pytest.raises(ConfigError):
        catalog_with_table(tmp_path).create_table("new", [], z_order, ())


def test_what_cannot_be_done(tmp_path: Path) -> None:
    catalog = catalog_with_table(tmp_path)
    with pytest.raises(ConfigError, match="initialised already"):
        catalog.initialise(2, "node-b")
    with pytest.raises(ConfigError, match="exists already"):
        catalog.create_table("shop", [], [], ())
    with pytest.raises(QueryError, match="no table 'shoe'"):
        catalog.table("shoe")
    with pytest.raises(ConfigError, match="no column"):
        catalog.drop_column("shop", "colour")


@pytest.mark.parametrize("partitions", [0, -1, 1001])
def test_number_of_partitions(tmp_path: Path, partitions: int) -> None:
    with pytest.raises(ConfigError, match="between 1 and 1000"):
        Catalog(tmp_path).initialise(partitions, "node-a")


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    catalog_with_table(tmp_path)
    path = tmp_path / CATALOG_NAME
    sound = path.read_bytes()
    for position in range(len(sound) - 1):
        path.write_bytes(sound[:position] + bytes([sound[position] ^ 1]) + sound[position + 1 :])
        with pytest.raises(InternalError, match="damaged"):
            Catalog(tmp_path)
    path.write_bytes(sound[: len(sound) // 2])
    with pytest.raises(InternalError, match="damaged"):
        Catalog(tmp_path)


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    catalog_with_table(tmp_path)
    before = Catalog(tmp_path).tables()
    probe = FailingFiles()
    Catalog(tmp_path, probe).add_column("shop", "probe", "int", ())
    Catalog(tmp_path).drop_column("shop", "probe")
    for step, name in enumerate(probe.taken):
        catalog = Catalog(tmp_path, FailingFiles(step))
        with pytest.raises(InternalError):
            catalog.add_column("shop", "extra", "int", ())
        assert [table.column_types for table in catalog.tables()] == [table.column_types for table in before]
        if name != "sync_directory":  # the new file is in place then, and nobody was told
            found = Catalog(tmp_path).tables()
            assert [table.column_types for table in found] == [table.column_types for table in before]
        assert [path.name for path in tmp_path.iterdir()] == [CATALOG_NAME]


def test_second_holder_is_refused(tmp_path: Path) -> None:
    first = DirectoryLock(tmp_path)
    with pytest.raises(ConfigError, match="in use by another daemon"):
        DirectoryLock(tmp_path)
    code = "import sys; from openset.store.store import Store; Store.open(sys.argv[1])"
    other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert other.returncode == 1 and "in use by another daemon" in other.stderr
    first.release()
    first.release()
    DirectoryLock(tmp_path).release()


def test_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        Store.open(tmp_path / "file")


def test_network_file_systems_are_refused(tmp_path: Path) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        f"30 22 0:44 / {tmp_path}/far\\040away rw - nfs4 server:/export rw\n"
        f"31 30 8:2 / {tmp_path}/far\\040away/near rw master:1 - xfs /dev/sdb1 rw\n"
    )
    (tmp_path / "far away" / "near").mkdir(parents=True)
    check_file_system(tmp_path, mounts)
    check_file_system(tmp_path / "far away" / "near" / "data", mounts)
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\)"):
        check_file_system(tmp_path / "far away" / "data", mounts)
    check_file_system(tmp_path, tmp_path / "missing")
