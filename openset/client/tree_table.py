"""Result trees as text: one line per node, keys indented, numbers aligned under the names of the aggregators.

Responsible for widths, alignment and for making odd keys readable (control characters are escaped). Shortcut: the whole
tree is laid out before the first line is printed, since every width depends on all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len

_INDENT = "  "
_GAP = "  "
_MAX_DECIMALS = 6
_MISSING = "-"


def tree_table(nodes: Sequence[dict[str, Any]], headers: Sequence[str], key_header: str = "") -> tuple[str, list[str]]:
    """Lays out the children of a result's root: `[{"g": key, "c": [...], "_": [...]}, ...]`.

    Returns the header line and a line per node. Columns beyond `headers` are called c1, c2, and so on.
    """
    keys: list[str] = []
    cells: list[list[Any]] = []
    _collect(nodes, 0, keys, cells)
    width = max([len(row) for row in cells] + [0 if cells else len(headers)])
    names = [*headers[:width], *(f"c{number + 1}" for number in range(len(headers), width))]
    columns = [_aligned(names[i], [row[i] if i < len(row) else None for row in cells]) for i in range(width)]
    key_width = max([cell_len(key) for key in keys] + [cell_len(key_header)])
    lines = [
        _GAP.join([_padded(key, key_width), *(column[1 + row] for column in columns)]).rstrip()
        for row, key in enumerate(keys)
    ]
    return _GAP.join([_padded(key_header, key_width), *(column[0] for column in columns)]).rstrip(), lines


def readable_key(key: Any) -> str:
    """A key as text. Text that could be taken for a number, a bool or nothing is quoted."""
    if isinstance(key, bool):
        return "true" if key else "false"
    if not isinstance(key, str):
        return str(key)
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in key)
    return f'"{text}"' if not text.strip() or text in ("true", "false") or _reads_as_number(text) else text


def _collect(nodes: Sequence[dict[str, Any]], depth: int, keys: list[str], cells: list[list[Any]]) -> None:
    for node in nodes:
        keys.append(_INDENT * depth + readable_key(node["g"]))
        # With compared segments there are c2, c3, … besides.
        cells.append([value for name in node if name not in ("g", "_") for value in node[name]])
        _collect(node.get("_", ()), depth + 1, keys, cells)


def _reads_as_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _aligned(name: str, values: list[Any]) -> list[str]:
    """A column of cells, the header first: numbers to the right with one number of decimals, texts to the left."""
    decimals = max((_decimals(value) for value in values), default=0)
    texts = [_cell(value, decimals) for value in values]
    width = max(cell_len(text) for text in [name, *texts])
    left = any(isinstance(value, str) for value in values)
    return [_padded(text, width, right=not left) for text in [name, *texts]]


def _decimals(value: Any) -> int:
    if not isinstance(value, float):
        return 0
    return len(f"{value:.{_MAX_DECIMALS}f}".rstrip("0").partition(".")[2])


def _cell(value: Any, decimals: int) -> str:
    if value is None:
        return _MISSING
    if isinstance(value, (bool, str)):
        return readable_key(value)
    if isinstance(value, float):
        return f"{value:.{decimals}f}"
    return f"{value}{' ' * (decimals + 1) if decimals else ''}"


def _padded(text: str, width: int, right: bool = False) -> str:
    spaces = " " * (width - cell_len(text))
    return spaces + text if right else text + spaces
