"""Texts of a run: column dictionaries as they are, and a table of its own for texts the script makes.

The table is bounded: a text by TEXT_LIMIT_BYTES, all of them by the run's memory budget.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openset.errors import RunTimeError
from openset.pyql.settings import TEXT_LIMIT_BYTES


class TextSource(Protocol):
    """What text codes refer to: a column's dictionary or a TextTable."""

    def __len__(self) -> int: ...

    def text(self, code: int) -> str: ...

    def code(self, text: str) -> int | None: ...


class TextTable:
    """The query-local table of texts: code by text and text by code, append-only."""

    def __init__(self, max_size_bytes: int):
        self._texts: list[str] = []
        self._codes: dict[str, int] = {}
        self._size_bytes = 0
        self._max_size_bytes = max_size_bytes
        self._translations: dict[int, tuple[TextSource, NDArray[np.int64]]] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def text(self, code: int) -> str:
        return self._texts[code]

    def code(self, text: str) -> int | None:
        return self._codes.get(text)

    def intern(self, text: str) -> int:
        """The code of a text, given to it when new. Raises RunTimeError when a text or the table is too large."""
        code = self._codes.get(text)
        if code is None:
            size_bytes = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
            if size_bytes > TEXT_LIMIT_BYTES:
                raise RunTimeError(f"a text grew beyond {TEXT_LIMIT_BYTES:,} bytes")
            self._size_bytes += size_bytes + 100
            if self._size_bytes > self._max_size_bytes:
                raise RunTimeError("the texts of the query grew beyond its memory budget")
            code = len(self._texts)
            self._texts.append(text)
            self._codes[text] = code
        return code

    def translate(self, source: TextSource, codes: NDArray[Any], valid: NDArray[np.bool_] | None) -> NDArray[np.int64]:
        """Codes of another source as codes of this table; only texts that occur are looked at."""
        held = self._translations.get(id(source))
        if held is None or len(held[1]) < len(source):
            mapping = np.full(len(source), -1, np.int64)
            if held is not None:
                mapping[: len(held[1])] = held[1]
            held = (source, mapping)
            self._translations[id(source)] = held
        mapping = held[1]
        if not len(mapping):
            return np.zeros(len(codes), np.int64)
        result: NDArray[np.int64] = mapping[codes]
        missing = result < 0
        if valid is not None:
            missing &= valid
        if missing.any():
            wanted = np.zeros(len(mapping), np.bool_)
            wanted[codes[missing]] = True
            for code in np.flatnonzero(wanted).tolist():
                mapping[code] = self.intern(source.text(code))
            result = mapping[codes]
        if valid is not None:
            result[~valid] = 0
        return result
