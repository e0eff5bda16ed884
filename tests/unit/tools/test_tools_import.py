"""`openset import` as a user meets it: formats, mistakes, a directory in use, and disks that fail."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner, Result
from support import store_model as model

from openset.cli import main
from openset.errors import OpenSetError
from openset.store.placing import PLACING_NAME
from openset.store.store import Store
from openset.store.trigger_catalog import CatalogContents, Trigger, TriggerCatalog
from openset.store.views import ViewCache
from openset_format.files import FileLayer
from openset_tools.importing import importer
from openset_tools.importing.importer import Options, import_files
from openset_tools.importing.reading import Mapping
from openset_tools.verify import verify

EVENTS: list[dict[str, Any]] = [
    {"person": "ann", "stamp": 1_700_000_000_000, "action": "view", "attr": {"colour": "red", "units": 1}},
    {"person": "bob", "stamp": "2023-11-14T22:13:20.005Z", "action": "cart", "attr": {"price": 2, "gift": True}},
    {"person": 7, "stamp": 1_700_000_000, "action": "view", "attr": {"_": [{"units": 4}, {"colour": "blue"}]}},
    {"person": "ann", "stamp": 1_700_000_000_000, "action": "view", "attr": {"colour": "green"}},
]
EXPECTED = {
    "ann": [(1_700_000_000_000, "view", [{"colour": "green"}])],
    "bob": [(1_700_000_000_005, "cart", [{"price": 2.0, "gift": True}])],
    7: [(1_700_000_000_000, "view", [{"units": 4}, {"colour": "blue"}])],
}


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting processes takes longer than all else here; the crash tests have them."""
    monkeypatch.setattr(importer, "worker_processes", lambda count: ThreadPoolExecutor(1))


def run(*arguments: object, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(main, ["import", *map(str, arguments)], input=stdin)


def lines(events: Sequence[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def made(data_dir: Path) -> Path:
    model.new_store(data_dir).close()
    return data_dir


def contents(data_dir: Path, table: str = "t") -> dict[Any, Any]:
    store = Store.open(data_dir)
    try:
        return dict(model.read_snapshots(ViewCache(data_dir), store.snapshot(table)))
    finally:
        store.close()


def names_in(data_dir: Path) -> set[str]:
    return {path.relative_to(data_dir).as_posix() for path in data_dir.rglob("*") if path.is_file()}


def test_a_file_that_is_gone_before_the_first_start_is_damage(tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    assert run(data, "t", write(tmp_path / "events.ndjson", lines(EVENTS))).exit_code == 0
    assert verify(data, deep=True) == []
    path = next(data.glob("tables/*/*.h5"))
    path.unlink()
    (problem, *_) = verify(data)
    assert f"{path}: the file is missing" in problem.message
    result = CliRunner().invoke(main, ["backup", str(data), str(tmp_path / "backup")])
    assert result.exit_code == 1 and "is missing" in result.stderr


# --- what comes in -----------------------------------------------------------------------------------------------


def test_fresh_directory(tmp_path: Path) -> None:
    source = write(tmp_path / "events.ndjson.gz", gzip.compress(lines(EVENTS)))
    data = tmp_path / "data"
    result = run(data, "t", source, "--partitions", 3, "--create", "--z-order", "view,cart", "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["accepted"], facts["rejected"], facts["rows"]) == (4, 0, 4)
    assert {column["name"]: column["type"] for column in facts["created"]} == {
        "colour": "text", "units": "int", "price": "int", "gift": "bool",
    }  # fmt: skip
    assert contents(data) == EXPECTED
    assert verify(data, deep=True) == []
    assert not [name for name in names_in(data) if name.endswith((".tmp", ".next")) or "placing" in name]
    store = Store.open(data)
    assert (store.partitions, store.table("t").z_order) == (3, ("view", "cart"))
    store.close()


def test_standard_input_and_again(tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    for _ in range(2):
        result = run(data, "t", "-", stdin=lines(EVENTS))
        assert result.exit_code == 0, result.output
        assert "4 events imported" in result.output
        assert contents(data) == EXPECTED
    result = run(tmp_path / "other", "t", "-", "--create", "--partitions", 2, stdin=lines(EVENTS))
    assert result.exit_code == 0 and contents(tmp_path / "other") == EXPECTED


def test_missing_stamps_are_now_and_the_milliseconds_after(tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    event = {"person": "ann", "action": "view"}
    sources = [
        write(tmp_path / f"{n}.ndjson", lines([{**event, "attr": {"units": n * 2 + k}} for k in (0, 1)]))
        for n in (0, 1)
    ]
    import_files(data, "t", [str(source) for source in sources], Options(now_ms=1_700_000_000_000))
    assert contents(data) == {"ann": [(1_700_000_000_000 + n, "view", [{"units": n}]) for n in range(4)]}


def test_csv(tmp_path: Path) -> None:
    text = (
        "\ufeffstamp,action,user,colour,units,price,gift,extra\r\n"
        '2023-11-14 22:13:20,view,1,"re""d,\nü",5,1.5,true,x\r\n'
        "1700000000,cart,2,,,2,False,y\r\n"
        ",view,3,,,,,\r\n"
    )
    data = made(tmp_path / "data")
    source = write(tmp_path / "events.csv", text.encode())
    options = Options(mapping=Mapping("user", True, frozenset(["extra"])), now_ms=1_700_000_000_000)
    for block_bytes in (1 << 20, 40):
        options = Options(mapping=options.mapping, now_ms=options.now_ms, block_bytes=block_bytes)
        import_files(data, "t", [str(source)], options)
        assert contents(data) == {
            1: [
                (1_700_000_000_000, "view", [{"colour": 're"d,\nü', "units": 5, "price": 1.5, "gift": True}]),
            ],
            2: [(1_700_000_000_000, "cart", [{"price": 2.0, "gift": False}])],
            3: [(1_700_000_000_000, "view", [{}])],
        }
    result = run(tmp_path / "new", "t", source, "--create", "--partitions", 1, "--person", "user", "--json")
    assert [column["type"] for column in json.loads(result.stdout)["created"]] == [
        "text", "int", "double", "bool", "text",
    ]  # fmt: skip
    assert contents(tmp_path / "new").keys() == {"1", "2", "3"}


def test_parquet(tmp_path: Path) -> None:
    table = pyarrow.table(
        {
            "person": pyarrow.array([7, 8, 7], pyarrow.int32()),
            "stamp": pyarrow.array([1_700_000_000_000_999, None, 5_000], pyarrow.timestamp("us")),
            "action": pyarrow.array(["view", "cart", "view"]).dictionary_encode(),
            "units": pyarrow.array([1, None, 2], pyarrow.uint8()),
            "colour": pyarrow.array([["red", "blue"], None, []]),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "e.parquet")
    data = made(tmp_path / "data")
    import_files(data, "t", [str(tmp_path / "e.parquet")], Options(now_ms=1_700_000_000_000))
    assert contents(data) == {
        7: [
            (5, "view", [{"units": 2}]),
            (1_700_000_000_000, "view", [{"units": 1, "colour": c} for c in ("red", "blue")]),
        ],
        8: [(1_700_000_000_000, "cart", [{}])],
    }


# --- mistakes ----------------------------------------------------------------------------------------------------

BAD_LINES: list[tuple[bytes, str]] = [
    (b'{"person":"x"}', "action is missing"),
    (b'{"person":"x","action":"a","attr":{"units":1.5}}', "attr.units is a double, the column is int"),
    (b'{"person":"x","action":"a","attr":{"units":1.0}}', "attr.units is a double"),
    (b'{"person":"x","action":"a","attr":{"price":NaN}}', "NaN"),
    (b'{"person":"x","action":"a","attr":{"none":1}}', "unknown column 'none'"),
    (b'{"person":"x","action":"a","attr":{"colour":3}}', "attr.colour is an int"),
    (b'{"person":"","action":"a"}', "person is empty"),
    (b'{"person":"x","action":""}', "action is empty"),
    (b'{"person":"x","action":"a","stamp":-1}', "before 1970"),
    (b'{"person":"x","action":"a","stamp":"soon"}', "not an ISO 8601"),
    (b'{"person":"x","action":"a","more":1}', "unknown key"),
    (b'{"person":"x\\ud800","action":"a"}', "surrogate"),
    (b'{"person":"\xff","action":"a"}', "UTF-8"),
    (b"what", "not JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_bad_lines_are_named(line: bytes, reason: str, tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    before = names_in(data)
    good = lines([{"person": "ann", "stamp": 1_700_000_000_000, "action": "view"}])
    source = write(tmp_path / "e.ndjson", good + b"\n" + line + b"\n" + good)
    result = run(data, "t", source)
    assert result.exit_code == 1
    assert f"{source}, line 3: " in result.output and reason in result.output
    assert names_in(data) == before
    assert contents(data) == {}
    result = run(data, "t", source, "--skip-bad-events")
    assert result.exit_code == 0, result.output
    assert "2 events imported" in result.output and "1 rejected" in result.output
    assert f"rejected: {source}, line 3: " in result.output
    assert contents(data).keys() == {"ann"}


def test_a_new_table_may_come_with_bad_lines(tmp_path: Path) -> None:
    event = {"person": "ann", "stamp": 1_700_000_000_000, "action": "view", "attr": {"n": 1}}
    source = write(tmp_path / "e.ndjson", b"{oops\n" + lines([event]) + b'\n{"person": "tor')
    result = run(tmp_path / "data", "t", source, "--create", "--partitions", "2")
    assert result.exit_code == 1 and f"{source}, line 1: " in result.output
    result = run(tmp_path / "data", "t", source, "--create", "--partitions", "2", "--skip-bad-events")
    assert result.exit_code == 0 and "1 events imported" in result.output and "2 rejected" in result.output
    assert "created table t: n int" in result.output


def test_bad_csv_lines_are_named(tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    text = b'person,action,units\n"a\nb",view,1\nc,view,x\nd,view\n,view,1\ne,view,2\n'
    source = write(tmp_path / "e.csv", text)
    result = run(data, "t", source, "--skip-bad-events", "--json")
    facts = json.loads(result.stdout)
    assert facts["accepted"] == 2
    assert facts["bad"] == [
        {"where": f"{source}, line 4", "reason": "attr.units is text, the column is int"},
        {"where": f"{source}, line 5", "reason": "2 fields, where the header names 3"},
        {"where": f"{source}, line 6", "reason": "person is missing"},
    ]
    assert contents(data).keys() == {"a\nb", "e"}
    result = run(data, "t", source, "--id", "--skip-bad-events", "--json")
    assert json.loads(result.stdout)["bad"][0]["reason"] == "person 'a\\nb' is not an integer"


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("e.ndjson", b"[1]", (), "is a JSON array"),
        ("e.ndjson.gz", b"\x1f\x8bnot gzip at all", (), "damaged gzip"),
        ("e.csv", b"who,action\na,b\n", (), "no column 'person' (--person"),
        ("e.csv", b"person,action,more\na,b,c\n", (), "columns that table t lacks: 'more' (--ignore"),
        ("e.csv", b"person,person\n", (), "twice"),
        ("e.csv", b"\n", (), "no header"),
        ("e.csv", b'person,action\n"a,b\n', (), "line 2"),
        ("e.parquet", b"PAR1", (), "no Parquet file"),
        ("e.txt", b"", (), "--format"),
        ("e.ndjson", b"{}", ("--partitions", "9"), "has 3 partitions"),
    ],
)
def test_bad_sources(name: str, data: bytes, options: tuple[str, ...], message: str, tmp_path: Path) -> None:
    directory = made(tmp_path / "data")
    result = run(directory, "t", write(tmp_path / name, data), *options)
    assert result.exit_code == 1
    assert message in result.output
    assert contents(directory) == {}


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    source = write(tmp_path / "e.ndjson", lines(EVENTS))
    assert "--partitions N" in run(tmp_path / "fresh", "t", source).output
    result = run(tmp_path / "fresh", "t", source, "--partitions", 2)
    assert "there is no table 't'" in result.output and "--create" in result.output
    assert "cannot read" in run(made(tmp_path / "data"), "t", tmp_path / "nothing.ndjson").output
    assert "standard input" in run(tmp_path / "data", "t", "-", "--format", "parquet").output
    assert "--z-order belongs to --create" in run(tmp_path / "data", "t", source, "--z-order", "a").output


def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    store = model.new_store(tmp_path / "data")
    result = run(tmp_path / "data", "t", write(tmp_path / "e.ndjson", lines(EVENTS)))
    assert result.exit_code == 1
    assert "in use by another daemon" in result.output and "stop the daemon" in result.output
    store.close()


def test_types_that_do_not_go_together(tmp_path: Path) -> None:
    one = write(tmp_path / "1.ndjson", lines([{"person": "a", "action": "x", "attr": {"n": 1}}]))
    two = write(tmp_path / "2.ndjson", lines([{"person": "a", "action": "x", "attr": {"n": "b"}}]))
    result = run(tmp_path / "data", "t", one, two, "--create", "--partitions", 1)
    assert result.exit_code == 1 and "column 'n' has conflicting types: int, and text" in result.output


# --- disks that fail ---------------------------------------------------------------------------------------------


class _Failing(FileLayer):
    """Fails at the step of a number, and at all that follow: the machine is gone."""

    def __init__(self, at: int):
        self._left = at

    def _step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise OSError(5, "Input/output error")

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def sync_directory(self, path: Path) -> None:
        self._step()
        super().sync_directory(path)


def test_all_or_nothing_wherever_the_disk_fails(tmp_path: Path) -> None:
    source = write(tmp_path / "e.ndjson", lines(EVENTS))
    outcomes = []
    for at in range(100):
        data = tmp_path / str(at)
        store = model.new_store(data)
        model.insert(store, [{"person": "zoë", "stamp": 10**12, "action": "view"}])
        store.close()
        try:
            import_files(data, "t2", [str(source)], Options(create=True), files=_Failing(at))
        except OpenSetError:
            finished = False
        else:
            finished = True
        store = Store.open(data)
        tables = [table.name for table in store.tables()]
        store.close()
        assert contents(data).keys() == {"zoë"}
        there = "t2" in tables
        if there:
            assert contents(data, "t2") == EXPECTED
        assert verify(data, deep=True) == []
        assert PLACING_NAME not in names_in(data)
        outcomes.append(there)
        if finished:
            break
    assert finished and there
    # First it is not there, from some step on it is; both before the end.
    assert outcomes == sorted(outcomes) and not outcomes[0] and outcomes[-2]


def test_readers_wait_for_an_interrupted_import(tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    (data / PLACING_NAME).write_bytes(b"{}")
    problems = verify(data)
    assert "starting the daemon finishes that" in str(problems[0])
    with pytest.raises(OpenSetError, match=r"placing\.json is damaged"):
        Store.open(data)


def test_a_table_with_triggers_is_refused(tmp_path: Path) -> None:
    data = made(tmp_path / "data")
    trigger = Trigger(1, "rule", 1, "emit('x')", True, False, False, None, 0, (), 0)
    TriggerCatalog(data, 1).replace(CatalogContents(triggers=[trigger]))
    result = run(data, "t", write(tmp_path / "e.ndjson", lines(EVENTS)))
    assert result.exit_code == 1
    assert "table 't' has triggers, which an import does not run" in result.output
    assert contents(data) == {}
