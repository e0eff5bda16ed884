"""One partition file for `openset inspect`: header, how columns are stored, and what is in those that are sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openset.errors import OpenSetError
from openset.store.catalog import CATALOG_NAME, Catalog
from openset.store.schema import TableSchema
from openset_format.block import Block, ColumnType
from openset_format.encoding import DecodedColumns, StoredColumn
from openset_format.errors import DamageError
from openset_format.reader import ACTION_GROUP, PartitionFile
from openset_format.seal import SEAL_BYTES, Seal, decode_seal
from openset_format.verify import Problem, damage, misfitting
from openset_tools.summary import Summary


def inspect_partition(path: Path) -> dict[str, Any]:
    """A partition file. Of one that was cut or has a damaged manifest only the seal.

    Raises FormatError for a file without a sound seal, OSError.
    """
    try:
        file = PartitionFile.open(path)
    except DamageError as error:
        with path.open("rb") as handle:
            seal = decode_seal(handle.read(SEAL_BYTES), path)
        return {"file": str(path), "header": _sealed(seal), "problems": [str(error)]}
    with path.open("rb") as handle:
        problems = list(damage(file, handle))
    problems += misfitting(file)
    names = column_names(file)
    shown = _contents(file, names, problems)
    shown["columns"]["action"] |= stored_form(file, ACTION_GROUP, "text")
    for column_id, name in names.items():
        shown["columns"][name] |= stored_form(file, f"/columns/{column_id}", file.schema[column_id])
    return {"file": str(path), "header": header(file), **shown, "problems": [str(problem) for problem in problems]}


def _contents(file: PartitionFile, names: Mapping[int, str], problems: list[Problem]) -> dict[str, Any]:
    """The summary of what is sound: no damaged columns, and no people and events where their bounds are damaged."""
    broken = {problem.dataset for problem in problems if problem.dataset is not None}
    stored: dict[str, StoredColumn] = {}
    groups = {ACTION_GROUP: "action"} | {f"/columns/{column_id}": name for column_id, name in names.items()}
    for group, name in groups.items():
        try:
            kind = "text" if name == "action" else file.schema[int(group.rpartition("/")[2])]
            column = file.column(group, kind)
        except DamageError as error:
            problems.append(Problem(error.file, error.dataset, error.offset, error.reason))
            continue
        if not any(each.startswith(f"{group}/") and "/index/" not in each for each in broken):
            stored[name] = column
    columns = DecodedColumns(stored)
    summary = Summary({name: file.schema[column_id] for column_id, name in names.items()})
    bounds = {"/persons/row_start", "/events/stamp", "/events/event_start"}
    if broken & bounds:
        summary.add_columns(columns, file.rows)
    else:
        summary.add(Block(file.persons, file.row_start, file.stamp, file.event_start, columns))
    shown = summary.shown()
    if broken & bounds:
        shown |= dict.fromkeys(("people", "events", "first", "last"))
    for name in groups.values():
        if name not in columns:
            shown["columns"][name] = {"type": shown["columns"][name]["type"], "damaged": True}
    return shown


def header(file: PartitionFile) -> dict[str, Any]:
    """What the seal and the manifest say."""
    return _sealed(file.seal) | {"people": file.people, "rows": file.rows, "z_order": file.z_order}


def _sealed(seal: Seal) -> dict[str, Any]:
    return {
        "table_id": seal.table_id,
        "partition": seal.partition,
        "generation": seal.generation,
        "journal_id": seal.journal_id,
        "applied_sequence": seal.applied_sequence,
        "size_bytes": seal.file_bytes,
        "version": f"1.{seal.minor}",
    }


def column_names(file: PartitionFile) -> dict[int, str]:
    """A name per column id: from the catalog the file belongs to, else made of the id."""
    known: dict[int, str] = {}
    data_dir = file.path.resolve().parent.parent.parent
    if (data_dir / CATALOG_NAME).is_file():
        try:
            tables = Catalog(data_dir).tables()
        except OpenSetError:
            tables = []  # a damaged catalog is told by who inspects the directory; the file can be shown without
        for table in tables:
            if table.id == file.table_id:
                known = {column.id: column.name for column in table.columns}
    return {column_id: known.get(column_id, f"column {column_id}") for column_id in file.schema}


def file_block(file: PartitionFile, names: Mapping[int, str]) -> Block:
    """All people of a file as one Block, with columns by name."""
    stored = {"action": file.column(ACTION_GROUP, "text")}
    stored |= {names[column_id]: column for column_id, column in file.columns.items()}
    return Block(file.persons, file.row_start, file.stamp, file.event_start, DecodedColumns(stored))


def stored_form(file: PartitionFile, group: str, column_type: ColumnType) -> dict[str, Any]:
    """encoding, bytes, and the bytes of the index of a column in a file."""
    datasets = {name: place for name, place in file.manifest.datasets.items() if name.startswith(f"{group}/")}
    if not datasets:
        return {"encoding": "not stored", "bytes": 0, "index_bytes": 0}
    values = datasets.get(f"{group}/values")
    width = "no values" if values is None else values.dtype.lstrip("<|")
    entries = datasets.get(f"{group}/dictionary/hashes")
    encoding = width
    if column_type == "text":
        encoding = f"{width} codes of {0 if entries is None else entries.count} texts"
    scale = file.manifest.scales.get(f"{group}/values")
    if scale is not None:
        encoding += f" / {scale}" if scale > 1 else " of whole doubles"
    if f"{group}/valid" in datasets:
        encoding += " + null mask"
    index = sum(place.size_bytes for name, place in datasets.items() if name.startswith(f"{group}/index/"))
    return {
        "encoding": encoding,
        "bytes": sum(place.size_bytes for place in datasets.values()) - index,
        "index_bytes": index,
    }


def stored_together(schema: TableSchema, files: Mapping[int, PartitionFile]) -> dict[str, dict[str, Any]]:
    """Bytes of each column over all files, and the encodings that occur."""
    groups: dict[str, tuple[str, ColumnType]] = {"action": (ACTION_GROUP, "text")}
    groups |= {column.name: (f"/columns/{column.id}", column.type) for column in schema.columns}
    together = {}
    for name, (group, column_type) in groups.items():
        forms = [stored_form(file, group, column_type) for file in files.values()]
        together[name] = {
            "encoding": "; ".join(dict.fromkeys(form["encoding"] for form in forms)) or "no file",
            "bytes": sum(form["bytes"] for form in forms),
            "index_bytes": sum(form["index_bytes"] for form in forms),
        }
    return together
