"""Text dictionaries over packed bytes: decoded only when asked, extended without decoding.

Codes are append-only: an extended dictionary keeps every code of the one below it, which is what lets deltas, cached
plans and the next generation of a file refer to the same codes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .block import TextDictionary
from .hashing import HashIndex, checksum, encode_text, hashes_of, look_up_bytes


class PackedTexts(TextDictionary):
    """Texts as UTF-8, one after the other.

    offsets: integers[n+1], text i is the bytes offsets[i] … offsets[i+1]-1 of data (offsets[0] need not be 0).
    data:    uint8[], possibly a mapped file.
    lookup:  hashes of the texts, where the file has them; without it the first `code` decodes everything.
    """

    def __init__(self, offsets: NDArray[np.integer], data: NDArray[np.uint8], lookup: HashIndex | None = None):
        self.offsets = offsets
        self.data = data
        self.lookup = lookup
        self._decoded: list[str] | None = None
        self._codes = None

    @classmethod
    def of(cls, texts: Sequence[str]) -> PackedTexts:
        """From texts in code order. No text may hold a lone surrogate (asserted)."""
        joined = "".join(texts)
        data = encode_text(joined)
        # All ASCII: a character is a byte, so the lengths are known without encoding each text.
        lengths = map(len, texts) if len(data) == len(joined) else map(len, map(str.encode, texts))
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.fromiter(lengths, np.int64, len(texts)), out=offsets[1:])
        return cls(offsets, np.frombuffer(data, np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def encoded(self, code: int) -> bytes:
        """The UTF-8 bytes of one text. Raises IndexError for a code that is not in the dictionary."""
        if not 0 <= code < len(self):
            raise IndexError(f"code {code} of a dictionary with {len(self)} texts")
        return self.data[int(self.offsets[code]) : int(self.offsets[code + 1])].tobytes()

    def text(self, code: int) -> str:
        if self._decoded is not None:
            return self._decoded[code]
        return self.encoded(code).decode()

    def texts(self) -> list[str]:
        if self._decoded is None:
            self._decoded = self._decode()
        return self._decoded

    def code(self, text: str) -> int | None:
        if self.lookup is None:
            if self._codes is None:
                self._codes = {entry: code for code, entry in enumerate(self.texts())}
            return self._codes.get(text)
        wanted = look_up_bytes(text)
        if wanted is None:
            return None
        for code in self.lookup.candidates(checksum(wanted)):
            if self.encoded(code) == wanted:
                return code
        return None

    def part(self, first: int, last: int) -> PackedTexts:
        """Texts first…last-1 as a dictionary of their own that shares all memory."""
        return PackedTexts(self.offsets[first : last + 1], self.data)

    def hashes(self) -> NDArray[np.uint64]:
        """uint64[n]: the hash of each text in code order."""
        if self.lookup is not None:
            return self.lookup.by_position()
        return hashes_of(self.entries(), len(self))

    def entries(self) -> list[bytes]:
        """The UTF-8 bytes of every text in code order."""
        bounds = (self.offsets - self.offsets[0]).tolist()
        raw = self._bytes()
        return [raw[start:end] for start, end in pairwise(bounds)]

    def _bytes(self) -> bytes:
        return self.data[int(self.offsets[0]) : int(self.offsets[-1])].tobytes()

    def _decode(self) -> list[str]:
        raw = self._bytes()
        whole = raw.decode()
        if len(whole) != len(raw):
            return [entry.decode() for entry in self.entries()]
        bounds = (self.offsets - self.offsets[0]).tolist()
        return [whole[start:end] for start, end in pairwise(bounds)]


class ExtendedDictionary(TextDictionary):
    """A dictionary with texts added behind it: base codes first, then the new texts.

    The new texts must not occur in the base (the caller has just looked them up).
    """

    def __init__(
        self,
        base: TextDictionary,
        added: Sequence[str],
        *,
        count: int | None = None,
        codes: Mapping[str, int] | None = None,
    ):
        """count: how many of `added` count, None for all; more may come. codes: of them, of those that come later,
        and of some texts of the base; made when None.
        """
        self.base = base
        self._added = added
        self._count = len(added) if count is None else count
        self._given_codes = codes
        self._joined: list[str] | None = None

    @cached_property
    def added(self) -> list[str]:
        """The new texts alone."""
        return list(self._added[: self._count])

    @cached_property
    def _all_codes(self) -> Mapping[str, int]:
        if self._given_codes is not None:
            return self._given_codes
        return {text: len(self.base) + position for position, text in enumerate(self.added)}

    def __len__(self) -> int:
        return len(self.base) + self._count

    def text(self, code: int) -> str:
        known = len(self.base)
        if code < known:
            return self.base.text(code)
        if code >= len(self):
            raise IndexError(f"code {code} of a dictionary with {len(self)} texts")
        return self._added[code - known]

    def texts(self) -> list[str]:
        if self._joined is None:
            self._joined = self.base.texts() + self.added
        return self._joined

    def code(self, text: str) -> int | None:
        code = self._all_codes.get(text)
        if code is None:
            return self.base.code(text)
        return code if code < len(self) else None


def packed(dictionary: TextDictionary) -> PackedTexts:
    """The same texts packed, with what is packed already left as it is."""
    if isinstance(dictionary, PackedTexts):
        return dictionary
    if isinstance(dictionary, ExtendedDictionary):
        base, added = packed(dictionary.base), PackedTexts.of(dictionary.added)
        low, high = int(base.offsets[0]), int(base.offsets[-1])
        offsets = np.concatenate([base.offsets.astype(np.int64) - low, added.offsets[1:] + (high - low)])
        return PackedTexts(offsets, np.concatenate([base.data[low:high], added.data]))
    return PackedTexts.of(dictionary.texts())


def dictionary_hashes(dictionary: TextDictionary) -> NDArray[np.uint64]:
    """uint64[n]: the hash of each text in code order; what a file has hashed already is not hashed again."""
    if isinstance(dictionary, ExtendedDictionary):
        added = PackedTexts.of(dictionary.added).hashes()
        return np.concatenate([dictionary_hashes(dictionary.base), added])
    return packed(dictionary).hashes()
