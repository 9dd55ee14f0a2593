"""Charts and matrices as SVG: a page has dozens, and a plotting library takes 50 ms for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.report.charts import BARS, INK, MUTED, RULE, Chart, Curve, tick_labels
from mrsi_engine.report.png import data_uri, gradient_stops, png, shades

#: Points (1/72 inch) of text, and what it takes up: a line, a letter and a capital on average.
FONT, SMALL = 9.0, 8.0
LINE, _LETTER, _CAPITAL = 13.0, 0.54, 0.7

_Place = Callable[[float], float]

_FONTS = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
_PAD, _TICK, _SIDE = 5.0, 3.5, 9.0

#: Coordinates are whole hundredths of a point: nobody sees more, and a path is half as long.
_UNIT = 100

#: Pixels of a side of a matrix as an image, at least.
_MATRIX_PIXELS = 512


@dataclass(frozen=True)
class Box:
    """A part of a figure, in points from its upper left corner."""

    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right edge."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower edge."""
        return self.top + self.height


def chart_uri(chart: Chart, size: tuple[float, float]) -> str:
    """A chart of this size (inches) as a data URI."""
    width, height = (72 * side for side in size)
    return figure_uri(size, [chart_parts(chart, Box(0, 0, width, height), "a")])


def figure_uri(size: tuple[float, float], parts: Sequence[Iterator[str]]) -> str:
    """A figure of this size (inches) as a data URI."""
    width, height = (72 * side for side in size)
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.1f}pt" height="{height:.1f}pt" '
        f'viewBox="0 0 {_whole(width)} {_whole(height)}" font-family="{_FONTS}" '
        f'font-size="{_whole(FONT)}" fill="{INK}">'
    )
    inside = "".join(piece for part in parts for piece in part)
    return data_uri(f"{head}{inside}</svg>".encode(), "image/svg+xml")


def text_width(words: str, size: float = FONT) -> float:
    """About how wide a line of text is, points."""
    capitals = sum(letter.isupper() for letter in words)
    return size * (_LETTER * (len(words) - capitals) + _CAPITAL * capitals)


def text(
    x: float,
    y: float,
    words: str,
    *,
    colour: str = INK,
    size: float = FONT,
    anchor: str = "start",
    bold: bool = False,
    turned: bool = False,
) -> str:
    """Words whose foot is at a place; those that are ``turned`` are read from below."""
    said = {
        "x": _whole(x),
        "y": _whole(y),
        "text-anchor": "" if anchor == "start" else anchor,
        "fill": "" if colour == INK else colour,
        "font-size": "" if size == FONT else _whole(size),
        "font-weight": "bold" if bold else "",
        "transform": f"rotate(-90 {_whole(x)} {_whole(y)})" if turned else "",
    }
    about = " ".join(f'{name}="{value}"' for name, value in said.items() if value != "")
    return f"<text {about}>{escape(words)}</text>"


def chart_parts(chart: Chart, box: Box, name: str) -> Iterator[str]:
    """A chart within a part of a figure, where it has a ``name`` of its own."""
    frame = _frame(chart, box)
    low, high = chart.heights
    start, stop = chart.x

    def across(x: float) -> float:
        return frame.left + (x - start) / (stop - start) * frame.width

    def up(y: float) -> float:
        return frame.bottom - (y - low) / (high - low) * frame.height

    clip = f'<clipPath id="{name}"><rect {_rect(frame)}/></clipPath>'
    yield f'{clip}<g fill="none" clip-path="url(#{name})">'
    if chart.bars is not None:
        yield _bars(chart, across, up)
    for rule in chart.rules:
        at = across(rule.at) if rule.upright else up(rule.at)
        ends = (at, frame.top, at, frame.bottom) if rule.upright else (
            frame.left, at, frame.right, at)  # fmt: skip
        yield _line(*ends, rule.colour, rule.width, "4 3" if rule.dashed else "")
    for curve in chart.curves:
        yield _curve(curve, chart, frame)
    yield "</g>"
    yield _line(frame.left, frame.bottom, frame.right, frame.bottom, RULE, 0.8)
    for tick, words in zip(chart.ticks, tick_labels(chart.ticks), strict=True):
        x = across(tick)
        yield _line(x, frame.bottom, x, frame.bottom + _TICK, MUTED, 0.8)
        foot = frame.bottom + _TICK + 3 + 0.75 * FONT
        yield text(x, foot, words, colour=MUTED, anchor="middle")
    if chart.below:
        middle = frame.left + frame.width / 2
        yield text(middle, box.bottom - 4, chart.below, colour=MUTED, anchor="middle")
    yield from _beside(chart, frame, up)
    yield from _over(chart, frame, across)


def matrix_parts(
    matrix: NDArray[np.floating], frame: Box, limits: tuple[float, float], colours: str
) -> Iterator[str]:
    """The cells of a matrix in the colours of that name."""
    times = max(1, -(-_MATRIX_PIXELS // len(matrix)))
    cells = np.repeat(np.repeat(shades(matrix, limits), times, axis=0), times, axis=1)
    uri = data_uri(png(cells, colours), "image/png")
    yield f'<image {_rect(frame)} href="{uri}" preserveAspectRatio="none"/>'


def scale_parts(
    frame: Box, limits: tuple[float, float], ticks: Sequence[float], label: str, colours: str
) -> Iterator[str]:
    """A colour scale that stands upright, its numbers and what it is of on its right."""
    stops = "".join(
        f'<stop offset="{place:.3f}" stop-color="{colour}"/>'
        for place, colour in gradient_stops(colours)
    )
    yield f'<linearGradient id="scale" x1="0" y1="1" x2="0" y2="0">{stops}</linearGradient>'
    yield f'<rect {_rect(frame)} fill="url(#scale)"/>'
    low, high = limits
    words = tick_labels(ticks)
    for tick, shown in zip(ticks, words, strict=True):
        y = frame.bottom - (tick - low) / (high - low) * frame.height
        yield _line(frame.right, y, frame.right + _TICK, y, MUTED, 0.8)
        yield text(frame.right + _TICK + 3, y + 0.35 * FONT, shown, colour=MUTED)
    x = frame.right + _TICK + 3 + max(map(text_width, words)) + FONT
    y = frame.top + frame.height / 2
    yield text(x, y, label, colour=MUTED, anchor="middle", turned=True)


def _frame(chart: Chart, box: Box) -> Box:
    """Where the curves are, within the room that words leave."""
    crowned = chart.title or chart.note or chart.legend or chart.above
    top = box.top + _PAD + (LINE if crowned else 0)
    bottom = box.bottom - _PAD - (LINE + _TICK if chart.ticks else 0) - (LINE if chart.below else 0)
    left, right = (
        max((text_width(words, 0.83 * FONT) + _PAD for _, words in said), default=0.0) + _SIDE
        for said in (chart.left, chart.right)
    )
    return Box(box.left + left, top, box.width - left - right, bottom - top)


def _beside(chart: Chart, frame: Box, up: _Place) -> Iterator[str]:
    for said, x, anchor, colour in (
        (chart.left, frame.left - 3.5, "end", MUTED),
        (chart.right, frame.right + 4, "start", INK),
    ):
        for at, words in said:
            foot = up(at) + 0.3 * FONT
            yield text(x, foot, words, colour=colour, size=0.83 * FONT, anchor=anchor)


def _over(chart: Chart, frame: Box, across: _Place) -> Iterator[str]:
    foot = frame.top - 5
    if chart.title:
        yield text(frame.left, foot, chart.title, bold=True)
    if chart.note:
        yield text(frame.left, foot, chart.note, colour=MUTED, size=SMALL)
    if chart.above is not None:
        at, words = chart.above
        half = text_width(words, SMALL) / 2
        x = min(max(across(at), frame.left + half), frame.right - half)
        yield text(x, foot + 2, words, size=SMALL, anchor="middle")
    if chart.legend:
        yield from _legend(chart, frame, foot)


def _legend(chart: Chart, frame: Box, foot: float) -> Iterator[str]:
    named = [curve for curve in chart.curves if curve.name]
    widths = [18 + 6 + text_width(curve.name) + 12 for curve in named]
    x = frame.left if chart.legend == "left" else frame.right - sum(widths)
    for curve, width in zip(named, widths, strict=True):
        yield _line(x, foot - 3, x + 18, foot - 3, curve.colour, max(curve.width, 1.2))
        yield text(x + 24, foot, curve.name)
        x += width


def _bars(chart: Chart, across: _Place, up: _Place) -> str:
    assert chart.bars is not None
    edges, heights = chart.bars.edges, chart.bars.heights
    path = "".join(
        f"M{_whole(across(left))} {_whole(up(0))}V{_whole(up(height))}"
        f"H{_whole(across(right))}V{_whole(up(0))}z"
        for left, right, height in zip(edges[:-1], edges[1:], heights, strict=True)
        if height > 0
    )
    return f'<path fill="{BARS}" d="{path}"/>'


def _curve(curve: Curve, chart: Chart, frame: Box) -> str:
    (start, stop), (low, high) = chart.x, chart.heights
    x = frame.left + (curve.x - start) / (stop - start) * frame.width
    y = frame.bottom - (curve.y - low) / (high - low) * frame.height
    # What is far outside is cut off anyway; its numbers need not be long.
    y = np.clip(y, frame.top - frame.height, frame.bottom + frame.height)
    known = np.isfinite(x) & np.isfinite(y)
    opacity = "" if curve.opacity == 1 else f' stroke-opacity="{curve.opacity:g}"'
    return (
        f'<path stroke="{curve.colour}" stroke-width="{_whole(curve.width)}"{opacity} '
        f'stroke-linejoin="round" d="{_path(x[known], y[known])}"/>'
    )


def _path(x: NDArray[np.floating], y: NDArray[np.floating]) -> str:
    """A path through points, each told by how far it is from the one before."""
    if not x.size:
        return ""
    places = np.rint(_UNIT * np.stack([x, y], axis=1)).astype(int)
    first, *steps = np.diff(places, axis=0, prepend=0).tolist()
    return f"M{first[0]} {first[1]}l" + " ".join([f"{dx} {dy}" for dx, dy in steps])


def _line(
    x1: float, y1: float, x2: float, y2: float, colour: str, width: float, dashes: str = ""
) -> str:
    dashed = " ".join(str(_whole(float(d))) for d in dashes.split())
    broken = f' stroke-dasharray="{dashed}"' if dashes else ""
    return (
        f'<path stroke="{colour}" stroke-width="{_whole(width)}"{broken} '
        f'd="M{_whole(x1)} {_whole(y1)}L{_whole(x2)} {_whole(y2)}"/>'
    )


def _rect(box: Box) -> str:
    return (
        f'x="{_whole(box.left)}" y="{_whole(box.top)}" '
        f'width="{_whole(box.width)}" height="{_whole(box.height)}"'
    )


def _whole(points: float) -> int:
    return round(_UNIT * points)
