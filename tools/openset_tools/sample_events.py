"""Made-up flat events for benchmarks: a shop's views, carts and purchases with ten columns, about 210 bytes each.

Responsible for data that is the same for the same numbers. Shortcut: events are uniform over people and time, which
real ones are not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

COLUMNS = [
    {"name": "product", "type": "text"},
    {"name": "kind", "type": "text"},
    {"name": "country", "type": "text"},
    {"name": "device", "type": "text"},
    {"name": "campaign", "type": "text"},
    {"name": "price", "type": "double"},
    {"name": "rating", "type": "double"},
    {"name": "units", "type": "int"},
    {"name": "page", "type": "int"},
    {"name": "gift", "type": "bool"},
]
Z_ORDER = ["view", "cart", "purchase"]

_ACTIONS = ["view"] * 6 + ["cart"] * 2 + ["purchase", "login"]
_KINDS = ["home", "outdoor", "kitchen", "clothes", "books", "toys", "garden", "music"]
_COUNTRIES = ["de", "fr", "nl", "us", "ca", "jp", "br", "in", "gb", "se"]
_DEVICES = ["phone", "tablet", "desktop"]
_PRODUCTS_PER_KIND = 25
_CAMPAIGNS = 40
FIRST_STAMP_MS = 1_700_000_000_000
SPAN_MS = 60 * 86_400_000


def event_batches(
    events: int, people: int, batch: int, *, part: int = 0, parts: int = 1, first_stamp_ms: int = FIRST_STAMP_MS
) -> Iterator[bytes]:
    """JSON arrays of `batch` events each, the last one shorter. No two events of one call have one identity.

    first_stamp_ms: of the first event; the others follow in 60 days. `parts` callers with different `part` make
    disjoint shares of one data set of `events * parts` events.
    """
    source = random.Random(1_000 + part)
    step_ms = max(1, SPAN_MS // max(1, events))
    for first in range(0, events, batch):
        last = min(first + batch, events)
        texts = [_event(source, first_stamp_ms + i * step_ms, people, part, parts) for i in range(first, last)]
        yield ("[" + ",".join(texts) + "]").encode()


def _event(source: random.Random, stamp_ms: int, people: int, part: int, parts: int) -> str:
    pick = source.random
    # Shares keep to people of their own, so that none replaces an event of another.
    person = int(pick() * (people // parts or 1)) * parts + part
    kind = _KINDS[int(pick() * len(_KINDS))]
    product = int(pick() * _PRODUCTS_PER_KIND)
    return (
        f'{{"person":"p{person}","stamp":{stamp_ms},"action":"{_ACTIONS[int(pick() * len(_ACTIONS))]}",'
        f'"attr":{{"product":"{kind}-{product}","kind":"{kind}","country":"{_COUNTRIES[int(pick() * 10)]}",'
        f'"device":"{_DEVICES[int(pick() * 3)]}","campaign":"c{int(pick() * _CAMPAIGNS)}",'
        f'"price":{product + 0.99},"rating":{int(pick() * 50) / 10},"units":{1 + int(pick() * 5)},'
        f'"page":{int(pick() * 200)},"gift":{"true" if pick() < 0.1 else "false"}}}}}'
    )
