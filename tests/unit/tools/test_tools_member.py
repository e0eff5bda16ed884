"""The offline tools on the directories of a cluster's members: what is there is read, nothing is changed."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support import store_model as model
from support.replicated import JOURNAL_ID, LocalCluster

import openset
from openset.cli import main
from openset.errors import ConfigError
from openset.http.node import Node
from openset.query.executor import ThreadExecutor
from openset.store.journals import LogBase, encode_base, read_base
from openset.store.offline import OpenTable, read_data_dir
from openset.store.views import ViewCache
from openset_format.hashing import partition_of
from openset_tools.inspect import inspect
from openset_tools.strangers import strangers
from openset_tools.verify import verify

PARTITIONS = 5


def batch(first: int, count: int = 60) -> list[dict[str, Any]]:
    return [
        {"person": f"p{number % 23}", "stamp": 10**12 + number, "action": "view", "attr": {"units": number}}
        for number in range(first, first + count)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Any, Any]]:
    """Three members with two copies of each partition, in files and journals; and what is in them together."""
    directory = tmp_path_factory.mktemp("members")
    expected = model.Model()

    async def run() -> None:
        async with LocalCluster(directory, ["a", "b", "c"], partitions=PARTITIONS) as cluster:
            await cluster.settled()
            await cluster.insert("a", batch(0))
            expected.insert(batch(0))
            await everything_is_visible(cluster)
            for node in cluster.nodes.values():
                assert node.store is not None
                await asyncio.to_thread(node.store.compact_all)
                node.store._journals.rotate()
                node.store.compactions.drop_segments()
            await cluster.insert("b", batch(60))
            expected.insert(batch(60))
            await cluster.erase("c", "p3")
            expected.erase("p3")
            await cluster.settled()
            await everything_is_visible(cluster)

    asyncio.run(run())
    return directory, expected.contents()


async def everything_is_visible(cluster: LocalCluster) -> None:
    """On all copies: they hear a moment later than the owner what is agreed."""
    async with asyncio.timeout(20):
        while not await as_the_map_says(cluster):
            await asyncio.sleep(0.05)


async def as_the_map_says(cluster: LocalCluster) -> bool:
    """Whether every node has the partitions that it is to have, and no other, with everything that is agreed."""
    placed = {number: one.placement for number, one in (await cluster.view()).placements.items()}
    for name, node in cluster.nodes.items():
        if node.store is None or node.store.replicas is None:
            return False
        visible = node.store.replicas.visible()
        if visible.keys() != {number for number, one in placed.items() if name in one.in_sync}:
            return False
        for number, shown in visible.items():
            owner = cluster.nodes[placed[number].owner].store
            if owner is None or owner.replicas is None or owner.replicas.visible().get(number) != shown:
                return False
    return all(len(one.in_sync) == 2 and not one.filling for one in placed.values())


@pytest.fixture
def members(made: tuple[Path, dict[Any, Any]], tmp_path: Path) -> dict[str, Path]:
    return {name: Path(shutil.copytree(made[0] / name, tmp_path / name)) for name in "abc"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(each) for each in arguments])


def contents(directory: Path) -> dict[Any, Any]:
    store = read_data_dir(directory)
    assert store.problems == []
    return dict(model.read_snapshots(ViewCache(directory), store.snapshots("t")))


def test_members_have_everything_together(made: tuple[Path, Any], members: dict[str, Path]) -> None:
    together: dict[Any, Any] = {}
    for directory in members.values():
        found = contents(directory)
        here = read_data_dir(directory).here
        assert 0 < len(here) < PARTITIONS
        assert found == {
            person: events for person, events in made[1].items() if partition_of(person, PARTITIONS) in here
        }
        together |= found
    assert together == made[1]


def test_they_are_sound_and_nothing_in_them_is_strange(members: dict[str, Path]) -> None:
    for directory in members.values():
        assert verify(directory) == [] and verify(directory, deep=True) == []
        assert strangers(directory) == []
        assert run("verify", directory, "--deep").exit_code == 0


def test_inspecting_shows_the_journal_of_each_partition(members: dict[str, Path]) -> None:
    shown = inspect(members["a"])
    here = sorted(read_data_dir(members["a"]).here)
    assert shown["problems"] == [] and shown["journal"]["id"] == JOURNAL_ID
    assert [log["partition"] for log in shown["journal"]["partitions"]] == here
    for log in shown["journal"]["partitions"]:
        base = read_base(members["a"], log["partition"])
        assert base is not None and (log["index"], log["term"]) == (base.index, base.term)
        assert log["last_sequence"] >= base.index > 0 and log["last_term"] >= base.term
    assert f"has {len(here)} of its {PARTITIONS} partitions" in shown["lacks"]
    text = run("inspect", members["a"]).output
    assert shown["lacks"] in text and f"partition {here[0]} in p{here[0]:04d}-" in text
    segment = next(members["a"].glob("journal/p*/*.journal"))
    assert inspect(segment)["journal_id"] == JOURNAL_ID


def test_reading_people_and_tables(made: tuple[Path, Any], members: dict[str, Path]) -> None:
    here = read_data_dir(members["a"]).here
    known = {person: partition_of(person, PARTITIONS) in here for person in made[1]}
    table = openset.open_table(members["a"], "t")
    for person, is_here in known.items():
        shown = run("cat", members["a"], "--person", person)
        if is_here:
            assert shown.exit_code == 0 and len(table.person(person)) == len(made[1][person])
        else:
            assert shown.exit_code != 0 and "is not here" in shown.output
            with pytest.raises(ConfigError, match="is not here"):
                table.person(person)
    assert table.people == sum(known.values())
    exported = run("export", members["a"], "t")
    assert "of its 5 partitions" in exported.stderr
    lines = [json.loads(line) for line in exported.stdout.splitlines()]
    assert len(lines) == sum(len(made[1][person]) for person, is_here in known.items() if is_here)
    assert run("diff", members["a"], members["a"]).exit_code == 0
    assert run("diff", members["a"], members["b"]).exit_code == 1


def test_all_exports_imported_are_a_node_of_its_own(made: tuple[Path, Any], members: dict[str, Path]) -> None:
    files = []
    for name, directory in members.items():
        files.append(directory.parent / f"{name}.ndjson")
        assert run("export", directory, "t", "--output", files[-1]).exit_code == 0
    target = members["a"].parent / "alone"
    done = run("import", target, "t", *files, "--create", "--partitions", "3")
    assert done.exit_code == 0, done.output
    with OpenTable(target, "t") as opened:
        assert sum(view.people for view in opened.views.values()) == len(made[1])


def test_nothing_changes_a_members_directory(members: dict[str, Path], tmp_path: Path) -> None:
    events = tmp_path / "events.ndjson"
    events.write_text(json.dumps(batch(0, 1)[0]) + "\n")
    for command in (
        ("backup", members["a"], tmp_path / "backup"),
        ("import", members["a"], "t", events),
    ):
        refused = run(*command)
        assert refused.exit_code != 0 and "of a cluster" in refused.output
    assert not (tmp_path / "backup" / "backups").exists()


def test_a_daemon_does_not_serve_copies_of_an_unknown_cluster(members: dict[str, Path]) -> None:
    async def start() -> None:
        node = Node(members["a"], ThreadExecutor(members["a"], 1))
        try:
            await node.open()
        finally:
            await node.close()

    with pytest.raises(ConfigError, match="which cluster"):
        asyncio.run(start())


def test_damage_is_named_and_the_rest_is_read(made: tuple[Path, Any], members: dict[str, Path]) -> None:
    directory = members["a"]
    first, second, *_ = sorted(read_data_dir(directory).here)
    base = read_base(directory, first)
    assert base is not None
    path = directory / "journal" / f"p{first:04d}.json"
    path.write_bytes(path.read_bytes().replace(b'"term"', b'"mret"'))
    (problem,) = verify(directory)
    assert problem.file == str(path) and "checksum" in problem.message
    assert first not in read_data_dir(directory).here

    path.write_bytes(encode_base(LogBase(base.incarnation, base.term, base.index + 1_000)))
    assert any("records up to" in one.message for one in verify(directory))

    path.write_bytes(encode_base(base))
    segment = max(directory.glob(f"journal/p{second:04d}-*/*.journal"))
    data = bytearray(segment.read_bytes())
    data[100] ^= 1
    segment.chmod(0o644)
    segment.write_bytes(data)
    assert [one.file for one in verify(directory)] == [str(segment)]
    store = read_data_dir(directory)
    assert len(store.problems) == 1 and str(segment) in store.problems[0]
    assert {one.partition for one in store.snapshots("t")} >= {first}

    shutil.rmtree(segment.parent)
    assert any(segment.parent.name in one.file for one in verify(directory))
    with pytest.raises(ConfigError, match="there is no journal"):
        read_data_dir(directory)
