"""Decoders of typed JSON and msgpack, each made once, and one at a time.

msgspec notes what it needs of a class before it is complete: two threads that decode a class for the first time at the
same moment may end the process. So whatever may be decoded outside of one thread is decoded by these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

Value = TypeVar("Value")

_lock = threading.Lock()
_made: dict[tuple[str, Any, Any], Any] = {}


def json_decoder(kind: type[Value]) -> msgspec.json.Decoder[Value]:
    """Of a type. Its `decode` raises msgspec.DecodeError, UnicodeDecodeError, RecursionError."""
    found: msgspec.json.Decoder[Value] = _found("json", kind, None, lambda: msgspec.json.Decoder(kind))
    return found


def msgpack_decoder(
    kind: type[Value], dec_hook: Callable[[type, Any], Any] | None = None
) -> msgspec.msgpack.Decoder[Value]:  # fmt: skip
    """Of a type. dec_hook: as msgspec has it. Its `decode` raises as that of `json_decoder`."""
    found: msgspec.msgpack.Decoder[Value] = _found(
        "msgpack", kind, dec_hook, lambda: msgspec.msgpack.Decoder(kind, dec_hook=dec_hook)
    )
    return found


def _found(language: str, kind: Any, dec_hook: Any, make: Callable[[], Any]) -> Any:
    key = (language, kind, dec_hook)
    found = _made.get(key)
    if found is None:
        with _lock:
            found = _made.get(key) or _made.setdefault(key, make())
    return found
