"""Makes a failing script and its events smaller while they still fail: lines, blocks, brackets, events, attributes.

Simple and greedy: every smaller candidate is tried, the first that still fails is kept, until none is left. Candidates
that do not parse count as not failing.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Iterator, Sequence

from support.event_maker import Event

Fails = Callable[[str, Sequence[Event]], bool]

_BRACKETS = re.compile(r"\([^()]*\)")
_WORD = re.compile(r" (?:and|or) ")
_KEY = re.compile(r"tally\(([^,()]+), ")
_DURATION = re.compile(r"\d+ (?:second|minute|hour|day|week)s?")


def shrink(text: str, events: Sequence[Event], fails: Fails, seconds: float = 60.0) -> tuple[str, list[Event]]:
    """The smallest script and events found in some seconds for which `fails` holds, as it does for those given."""
    end = time.monotonic() + seconds
    kept = list(events)
    changed = True
    while changed:
        changed = False
        for make in (_smaller_events, _smaller_scripts, _simpler_events):
            found = True
            while found and time.monotonic() < end:
                found = False
                for candidate_text, candidate_events in make(text, kept):
                    if time.monotonic() > end:
                        break
                    if fails(candidate_text, candidate_events):
                        text, kept = candidate_text, candidate_events
                        found = changed = True
                        break
    return text, kept


# ---------------------------------------------------------------- events


def _smaller_events(text: str, events: list[Event]) -> Iterator[tuple[str, list[Event]]]:
    size = len(events) // 2
    while size:
        for first in range(0, len(events), size):
            yield text, events[:first] + events[first + size :]
        size //= 2


def _simpler_events(text: str, events: list[Event]) -> Iterator[tuple[str, list[Event]]]:
    for place, event in enumerate(events):
        attributes = event["attr"]
        for name, value in attributes.items():
            yield text, _with(events, place, {other: v for other, v in attributes.items() if other != name})
            if isinstance(value, list):
                for element in range(len(value)):
                    shorter = value[:element] + value[element + 1 :]
                    yield text, _with(events, place, {**attributes, name: shorter})
                if value and name != "_":
                    yield text, _with(events, place, {**attributes, name: value[0]})


def _with(events: list[Event], place: int, attributes: Event) -> list[Event]:
    changed = copy.deepcopy(events)
    changed[place]["attr"] = attributes
    return changed


# ---------------------------------------------------------------- scripts


def _smaller_scripts(text: str, events: list[Event]) -> Iterator[tuple[str, list[Event]]]:
    for candidate in _scripts(text.splitlines()):
        yield candidate + "\n", events


def _scripts(lines: list[str]) -> Iterator[str]:
    for first in range(len(lines)):
        last = _block_end(lines, first)
        yield "\n".join(lines[:first] + lines[last:])
        if last > first + 1:
            inner = [line.removeprefix("    ") for line in lines[first + 1 : last]]
            yield "\n".join(lines[:first] + inner + lines[last:])
            yield "\n".join(lines[:first] + lines[first + 1 :])
        yield "\n".join(lines[:first] + lines[first + 1 :])
    for place, line in enumerate(lines):
        for simpler in _lines(line):
            yield "\n".join(lines[:place] + [simpler] + lines[place + 1 :])


def _block_end(lines: list[str], first: int) -> int:
    indent = _indent(lines[first])
    last = first + 1
    while last < len(lines) and _indent(lines[last]) > indent:
        last += 1
    return last


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _lines(line: str) -> Iterator[str]:
    for found in _BRACKETS.finditer(line):
        before, after = line[: found.start()], line[found.end() :]
        if before and not before[-1].isalnum():
            yield f"{before}{found[0][1:-1]}{after}"
            yield f"{before}1{after}"
        elif "," in found[0]:
            yield f"{before}({found[0][1:-1].rpartition(',')[0]}){after}"
            yield f"{before}({found[0][1:-1].partition(',')[2].strip()}){after}"
    for found in _WORD.finditer(line):
        yield line[: found.start()] + (":" if line.endswith(":") else "")
        head = re.match(r"( *(?:if|elif|match(?: \S+)? where) )", line)
        if head:
            yield head[1] + line[found.end() :]
    yield from (line.replace(found[0], "1", 1) for found in _DURATION.finditer(line))
    where = line.find(" where ")
    if where >= 0:
        yield line[:where] + ":"
    key = _KEY.search(line)
    if key:
        yield line.replace(key[1] + ", ", "", 1)
    for word in (" all", " with kind", " with label", " with amount", " with flag", " with person", " with action"):
        if word in line:
            yield line.replace(word, "", 1)
