"""As much of curl as the README uses, for machines without it: -s, -X METHOD, -d TEXT, --data-binary TEXT or @FILE."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Makes one request and prints the body of the answer, whatever its status."""
    method: str | None = None
    address = ""
    body: bytes | None = None
    rest = iter(arguments)
    for argument in rest:
        if argument == "-s":
            continue
        if argument == "-X":
            method = next(rest)
        elif argument in ("-d", "--data-binary"):
            text = next(rest)
            body = Path(text[1:]).read_bytes() if text.startswith("@") else text.encode()
        elif argument.startswith("-"):
            raise SystemExit(f"this stand-in for curl does not know {argument}")
        else:
            address = argument
    request = urllib.request.Request(address, data=body, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            sys.stdout.buffer.write(answer.read())
    except urllib.error.HTTPError as refusal:
        sys.stdout.buffer.write(refusal.read())
    except BrokenPipeError:
        return 23
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
