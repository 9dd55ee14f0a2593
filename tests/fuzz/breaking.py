"""Ways in which files break: bytes that flip, vanish or repeat, and values of another kind."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

#: What may stand in JSON where something else is expected.
ODD_VALUES: tuple[Any, ...] = (
    None, True, "", "x", "30 ms", [], [None], [[1.0]], {}, {"a": 1}, 0, -1, 1e-30, 1e30, 10**400,
    float("nan"), float("inf"), ["1H", 3], "\x00", "é" * 300,
)  # fmt: skip


def broken_bytes(content: bytes, draw: np.random.Generator, start: int = 0) -> bytes:
    """The content with one thing wrong from byte ``start`` on."""
    at = int(draw.integers(start, max(len(content), start + 1)))
    length = int(draw.integers(1, 40))
    head, tail = content[:at], content[at:]
    match int(draw.integers(6)):
        case 0:
            flipped = bytearray(content)
            flipped[min(at, len(content) - 1)] ^= 1 << int(draw.integers(8))
            return bytes(flipped)
        case 1:
            return head + draw.bytes(length) + tail[length:]
        case 2:
            return head + tail[length:]
        case 3:
            return head + tail[:length] + tail
        case 4:
            return head
        case _:
            return head + b"\0" * min(length, len(tail)) + tail[length:]


def broken_json(content: Any, draw: np.random.Generator) -> Any:
    """The content with one of its values, at any depth, replaced by an odd one or left out."""
    whole = json.loads(json.dumps(content))
    places = list(_places(whole))
    holder, key = places[int(draw.integers(len(places)))]
    if draw.random() < 0.15:
        del holder[key]
    else:
        holder[key] = ODD_VALUES[int(draw.integers(len(ODD_VALUES)))]
    return whole


def _places(content: Any) -> Any:
    """Every value that is no sample: where it stands and by which key."""
    items = content.items() if isinstance(content, dict) else enumerate(content[:3])
    for key, value in items:
        yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)
