"""Images of few colours as PNG, and the colours that values have.

One perceptually uniform colour map a meaning. A palette has 255 shades and what stands where there
is no number, so that a pixel is a byte.
"""

from __future__ import annotations

import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator
from functools import lru_cache

import matplotlib
import numpy as np
from matplotlib.colors import Colormap, LinearSegmentedColormap, to_hex, to_rgb
from numpy.typing import NDArray

#: What stands behind the brain, and where there is no number.
BACKGROUND = "#12161c"

#: Shades of a palette; number 0 is the background.
SHADES = 255

_HEAD = b"\x89PNG\r\n\x1a\n"
_PALETTE_KIND, _UP = 3, 2
_STOPS = 24


def _truncated(name: str, start: float, stop: float) -> Colormap:
    colours = matplotlib.colormaps[name](np.linspace(start, stop, 256))
    return LinearSegmentedColormap.from_list(f"{name}_part", colours)


#: Colour maps by what they mean. Dark ends are cut off to differ from the ground.
COLOUR_MAPS: dict[str, Colormap] = {
    "amplitude": matplotlib.colormaps["viridis"],
    "uncertainty": _truncated("magma", 0.22, 1.0),
    "quality": _truncated("cividis", 0.08, 1.0),
    "signed": _truncated("RdBu_r", 0.06, 0.94),
}


def shades(values: NDArray[np.floating], limits: tuple[float, float]) -> NDArray[np.uint8]:
    """Numbers of the shades of values, clipped to limits; 0 where there is no number."""
    low, high = limits
    step = np.nan_to_num((values - low) / (high - low) * SHADES)
    index = np.clip(step, 0, SHADES - 1).astype(np.uint8) + np.uint8(1)
    return np.where(np.isnan(values), np.uint8(0), index)


def png(index: NDArray[np.uint8], colours: str) -> bytes:
    """An image of shades ``(row, column)`` in the colours of that name."""
    return indexed_png(index, _palette(colours))


def indexed_png(index: NDArray[np.uint8], palette: bytes) -> bytes:
    """An image of numbers of colours ``(row, column)``, with three bytes a colour."""
    rows, columns = index.shape
    # Each row is what differs from the one above: rows of a voxel are alike, hence zeros.
    lines = np.empty((rows, columns + 1), np.uint8)
    lines[:, 0] = _UP
    lines[:, 1:] = index
    lines[1:, 1:] -= index[:-1]
    head = struct.pack(">IIBBBBB", columns, rows, 8, _PALETTE_KIND, 0, 0, 0)
    chunks = (
        (b"IHDR", head),
        (b"PLTE", palette),
        (b"IDAT", zlib.compress(lines.tobytes(), 6)),
        (b"IEND", b""),
    )
    return _HEAD + b"".join(_chunk(kind, data) for kind, data in chunks)


def palette_of(colours: list[str]) -> bytes:
    """The background and some colours as a palette."""
    table = np.array([to_rgb(colour) for colour in (BACKGROUND, *colours)])
    return (table * 255).round().astype(np.uint8).tobytes()


@lru_cache(maxsize=8)
def _palette(colours: str) -> bytes:
    places = (np.arange(SHADES) + 0.5) / SHADES
    return palette_of([to_hex(shade) for shade in COLOUR_MAPS[colours](places)])


def gradient_stops(colours: str) -> Iterator[tuple[float, str]]:
    """Places, 0 to 1, and colours along a colour map."""
    yield from _stops(colours)


@lru_cache(maxsize=8)
def _stops(colours: str) -> tuple[tuple[float, str], ...]:
    places = np.linspace(0, 1, _STOPS)
    return tuple((float(p), to_hex(COLOUR_MAPS[colours](p))) for p in places)


@lru_cache(maxsize=8)
def gradient(colours: str) -> str:
    """A colour map as a CSS gradient, low on the left."""
    return f"linear-gradient(to right, {', '.join(shade for _, shade in _stops(colours))})"


def data_uri(content: bytes, media_type: str) -> str:
    """Bytes as a URI that needs no file."""
    return f"data:{media_type};base64,{b64encode(content).decode()}"


def _chunk(kind: bytes, data: bytes) -> bytes:
    whole = kind + data
    return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))
