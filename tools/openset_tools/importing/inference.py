"""Column types of the sources, for a table that is made: `openset import --create`.

NDJSON by the rules of `openset load --create`: every value of every event is looked at. Parquet says its types. CSV has
texts only: a column is int, double or bool where all of its fields read as that, else text.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from openset.client.inference import TypeInference
from openset.errors import InsertError
from openset_tools.importing.arrow_events import arrow_package, is_text, open_parquet
from openset_tools.importing.reading import BOOLS, Mapping
from openset_tools.importing.sources import Block

# By column, in the order they are first seen; None where there are only nulls.
Types = dict[str, str | None]

_ONLY_NULL = "text"


def block_types(block: Block, mapping: Mapping) -> Types:
    """The types that the values of one block have. Raises InsertError, ConfigError."""
    if block.source.format == "ndjson":
        inference = TypeInference(skip_bad_events=True)
        inference.event_count = block.first - 1
        # Lines that are no events are left to those who read them.
        lines = [line for line in block.body.split(b"\n") if line.strip()]
        inference.add_all(lines, block.source.name)
        columns = inference.columns()
        return {column["name"]: None if column["name"] in inference.only_null else column["type"] for column in columns}
    fields = _csv_fields(block) if block.source.format == "csv" else open_parquet(block.source).schema_arrow
    left_out = {mapping.person, "stamp", "action", *mapping.ignored}
    return {field.name: _type(field, block) for field in fields if field.name not in left_out}


def merged(found: Iterable[tuple[Block, Types]]) -> list[tuple[str, str]]:
    """The columns of all blocks as (name, type). Raises InsertError where types do not go together."""
    types: Types = {}
    for block, seen in found:
        for name, kind in seen.items():
            known = types.setdefault(name, kind)
            if known is None:
                types[name] = kind
            elif kind is not None and kind != known:
                if {kind, known} == {"int", "double"}:
                    types[name] = "double"
                elif block.source.format == "csv":
                    types[name] = "text"
                else:
                    raise InsertError(
                        f"column {name!r} has conflicting types: {known}, and {kind} in {block.source.name}, "
                        f"from line {block.first} on",
                        detail="create the table with the types you want, and change the events to fit them",
                    )
    return [(name, kind or _ONLY_NULL) for name, kind in types.items()]


def _csv_fields(block: Block) -> Any:
    arrow = arrow_package()
    import pyarrow.csv as csv_reader

    try:
        return csv_reader.read_csv(
            io.BytesIO(block.body),
            read_options=csv_reader.ReadOptions(
                use_threads=False, block_size=len(block.body) + 1, column_names=list(block.header)
            ),
            parse_options=csv_reader.ParseOptions(newlines_in_values=True, invalid_row_handler=lambda _: "skip"),
            convert_options=csv_reader.ConvertOptions(
                null_values=[""],
                strings_can_be_null=True,
                true_values=[text for text, value in BOOLS.items() if value],
                false_values=[text for text, value in BOOLS.items() if not value],
            ),
        ).schema
    except arrow.ArrowInvalid as error:
        raise InsertError(f"{block.source.name}, from line {block.first} on: {error}") from None


def _type(field: Any, block: Block) -> str | None:
    types, kind = arrow_package().types, field.type
    while types.is_list(kind) or types.is_large_list(kind) or types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind):
        return None
    if types.is_integer(kind):
        return "int"
    if types.is_floating(kind):
        return "double"
    if types.is_boolean(kind):
        return "bool"
    if is_text(kind) or block.source.format == "csv":
        return "text"
    raise InsertError(f"{block.source.name}: column {field.name!r} is {kind}, which no column can be")
