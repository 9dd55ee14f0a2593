"""Figures of what a stage did: spectra before and after it, and how alike signals were."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.report.charts import (
    BASELINE,
    MUTED,
    RULE,
    Chart,
    Curve,
    Rule,
    even_ticks,
    round_ticks,
)
from mrsi_engine.report.svg import (
    FONT,
    LINE,
    Box,
    chart_parts,
    figure_uri,
    matrix_parts,
    scale_parts,
    text,
)

BEFORE, AFTER = "#8f97a3", BASELINE

#: Width of a row over that of its left panel.
_NARROW = 2.5

#: Room above and below the cleaned spectrum in the narrow panel, as a share of its height.
_HEADROOM = 0.35


@dataclass(frozen=True, eq=False)
class BeforeAfter:
    """Spectra of one voxel on ``ppm (n,)``: ``before`` and ``after`` are ``(transient, n)``, real.

    ``note`` says what they are where the voxel has more of them than are drawn.
    """

    title: str
    ppm: NDArray[np.floating]
    before: NDArray[np.floating]
    after: NDArray[np.floating]
    note: str = ""


def before_after_figure(
    voxels: Sequence[BeforeAfter], wide: tuple[float, float], window: tuple[float, float]
) -> str:
    """A row a voxel: the mean transient over a wide range of ppm, each of them in a window."""

    size = (10.6, 0.5 + 1.75 * len(voxels))
    width, height = (72 * side for side in size)
    # What the words below the last row take up is shared by all.
    row, middle = (height - LINE) / len(voxels), width / _NARROW
    parts = []
    for n, voxel in enumerate(voxels):
        last = n == len(voxels) - 1
        tall = row + (LINE if last else 0)
        left, right = _wide(voxel, wide), _narrow(voxel, window, legend=n == 0)
        if last:
            left, right = (replace(c, below="chemical shift (ppm)") for c in (left, right))
        parts.append(chart_parts(left, Box(0, n * row, middle, tall), f"l{n}"))
        parts.append(chart_parts(right, Box(middle, n * row, width - middle, tall), f"r{n}"))
    return figure_uri(size, parts)


def matrix_figure(before: NDArray[np.floating], after: NDArray[np.floating]) -> str:
    """Two ``(n, n)`` matrices of similarities side by side on one colour scale up to 1."""
    both = np.concatenate([before.ravel(), after.ravel()])
    lowest = float(np.nanpercentile(both, 1)) if np.isfinite(both).any() else 0.0
    limits = (min(lowest, 0.99), 1.0)
    parts = [
        _similarities(matrix, Box(30 + n * 254, 20, 216, 216), limits, title)
        for n, (matrix, title) in enumerate(((before, "before"), (after, "after")))
    ]
    ticks = round_ticks(*limits, 8)
    bar = Box(522, 40, 12, 176)
    return figure_uri(
        (8.2, 3.7), [*parts, scale_parts(bar, limits, ticks, "similarity", "quality")]
    )


def _similarities(
    matrix: NDArray[np.floating], frame: Box, limits: tuple[float, float], title: str
) -> Iterator[str]:
    yield from matrix_parts(matrix, frame, limits, "quality")
    yield text(frame.left, frame.top - 5, title)
    cell = frame.width / len(matrix)
    for tick in round_ticks(0, len(matrix) - 1, 6):
        if tick == int(tick):
            place, words = (tick + 0.5) * cell, str(int(tick))
            foot = frame.bottom + LINE
            yield text(frame.left + place, foot, words, colour=MUTED, anchor="middle")
            height = frame.top + place + 0.35 * FONT
            yield text(frame.left - 4, height, words, colour=MUTED, anchor="end")
    middle = frame.left + frame.width / 2
    yield text(middle, frame.bottom + 2 * LINE, "signal", colour=MUTED, anchor="middle")


def _wide(voxel: BeforeAfter, ppm: tuple[float, float]) -> Chart:
    curves = [
        *_curves(voxel.ppm, voxel.before.mean(0)[None], ppm, BEFORE, ""),
        *_curves(voxel.ppm, voxel.after.mean(0)[None], ppm, AFTER, ""),
    ]
    return _chart(curves, ppm, 1.0, title=voxel.title)


def _narrow(voxel: BeforeAfter, ppm: tuple[float, float], *, legend: bool) -> Chart:
    low, high, step = _layout(voxel, ppm)
    curves = [
        *_curves(voxel.ppm, voxel.before + step, ppm, BEFORE, "before"),
        *_curves(voxel.ppm, voxel.after, ppm, AFTER, "after"),
    ]
    over = "right" if legend else ""
    return _chart(curves, ppm, 0.5, y=(low, high), note=voxel.note, legend=over)


def _curves(
    ppm: NDArray[np.floating],
    spectra: NDArray[np.floating],
    shown: tuple[float, float],
    colour: str,
    name: str,
) -> Iterator[Curve]:
    inside = (ppm >= shown[0]) & (ppm <= shown[1])
    width, opacity = (0.6, 0.55) if len(spectra) > 1 else (0.9, 1.0)
    for n, spectrum in enumerate(spectra):
        yield Curve(ppm[inside], spectrum[inside], colour, width, opacity, name if n == 0 else "")


def _chart(curves: Sequence[Curve], ppm: tuple[float, float], step: float, **more: Any) -> Chart:
    low, high = ppm
    ticks = even_ticks(low, high, step)
    return Chart(tuple(curves), (high, low), ticks=ticks, rules=(Rule(0, RULE, 0.6),), **more)


def _layout(voxel: BeforeAfter, ppm: tuple[float, float]) -> tuple[float, float, float]:
    """Limits of the axis, and how far up the spectra before are put: many would hide others.

    Both spectra are inside, but no tail of water that would leave the metabolites flat.
    """
    inside = (voxel.ppm >= ppm[0]) & (voxel.ppm <= ppm[1])
    before, after = voxel.before[:, inside], voxel.after[:, inside]
    height = float(np.ptp(after)) or 1.0
    step = height if len(before) > 1 and len(after) > 1 else 0.0
    room = _HEADROOM * height
    low = max(float(min(before.min() + step, after.min())), float(after.min()) - room)
    high = min(float(max(before.max() + step, after.max())), float(after.max()) + step + room)
    margin = 0.04 * (high - low)
    return low - margin, high + margin, step
