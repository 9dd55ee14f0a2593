"""The fit of one voxel in detail: individual metabolites, and the correlation of amplitudes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.report.charts import INK, MUTED, RULE, Chart, Curve, Rule
from mrsi_engine.report.examples import SpectrumExample
from mrsi_engine.report.figures import spectrum_chart
from mrsi_engine.report.svg import (
    FONT,
    Box,
    chart_uri,
    figure_uri,
    matrix_parts,
    scale_parts,
    text,
    text_width,
)
from mrsi_engine.report.tables import number

#: Room between two metabolites, as a share of the height of the data.
_GAP = 0.08

#: Inches a cell of a correlation matrix, and a metabolite of a fit.
_CELL, _ROW = 0.31, 0.25

#: Correlations of at least this size are printed, and beyond that in white.
PRINTED, DARK = 0.05, 0.6

#: Points of the numbers in a matrix, and of its names.
_DIGITS, _NAMES = 6.0, 0.83 * FONT


def fit_figure(example: SpectrumExample) -> str:
    """Data, fit, baseline and residual above every metabolite of the fit."""
    return chart_uri(fit_chart(example), fit_size(example))


def correlation_figure(example: SpectrumExample) -> str:
    """The correlation matrix of the amplitudes of an example that knows it."""
    names = [component.name for component in example.components]
    assert example.correlation is not None
    return figure_uri(correlation_size(names), [_matrix(names, example.correlation)])


def fit_size(example: SpectrumExample) -> tuple[float, float]:
    """Width and height (inches) at which every label of a fit can be read."""
    return 9.0, 4.0 + _ROW * len(example.components)


def correlation_size(names: Sequence[str]) -> tuple[float, float]:
    """Width and height (inches) at which every number of a matrix can be read."""
    side = 1.1 + _CELL * len(names)
    return side + 0.9, side


def fit_chart(example: SpectrumExample) -> Chart:
    """Data, fit, baseline and residual; below each other what every metabolite adds to the fit.

    All have the scale of the data. A metabolite is labelled with its name on the left, its
    amplitude and Cramér-Rao bound on the right.
    """
    chart = spectrum_chart(example)
    low, high = sorted(example.shown)
    shown = (example.ppm >= low) & (example.ppm <= high)
    seen = np.real([example.data[shown], example.fit[shown]])
    curves = [np.real(component.spectrum[shown]) for component in example.components]
    levels = _levels(curves, float(min(seen.min(), 0.0)), _GAP * float(np.ptp(seen)))
    ppm = example.ppm[shown]
    added = [Curve(ppm, curve + level, INK, 0.8)
             for curve, level in zip(curves, levels, strict=True)]  # fmt: skip
    named = list(zip(levels, example.components, strict=True))
    return replace(
        chart,
        curves=(*chart.curves, *added),
        rules=(*chart.rules, *(Rule(level, RULE, 0.5) for level in levels)),
        left=tuple((level, c.name) for level, c in named),
        right=tuple((level, f"{number(c.amplitude)} ± {_percent(c.crlb)}") for level, c in named),
    )


def coefficient(value: float) -> str:
    """Two decimals without the zero before them."""
    text = f"{value:.2f}".replace("-", "−")
    return text.removesuffix(".00") if abs(value) >= 0.995 else text.replace("0.", ".", 1)


def _matrix(names: Sequence[str], matrix: NDArray[np.floating]) -> Iterator[str]:
    """The map of a matrix, -1 to 1, with its numbers from 0.05 on, names and colour scale."""
    width, height = (72 * side for side in correlation_size(names))
    room = 6 + max(text_width(name, _NAMES) for name in names)
    side = min(height - 6 - room, width - room - 80)
    frame = Box(room, 6, side, side)
    yield from matrix_parts(matrix, frame, (-1, 1), "signed")
    cell = side / len(names)
    centres = [(n + 0.5) * cell for n in range(len(names))]
    for (row, column), value in np.ndenumerate(matrix):
        if abs(value) >= PRINTED:
            x, y = frame.left + centres[column], frame.top + centres[row] + 0.35 * _DIGITS
            colour = "#ffffff" if abs(value) > DARK else INK
            words = coefficient(float(value))
            yield text(x, y, words, colour=colour, size=_DIGITS, anchor="middle")
    for name, centre in zip(names, centres, strict=True):
        foot = frame.top + centre + 0.35 * _NAMES
        yield text(frame.left - 4, foot, name, colour=MUTED, size=_NAMES, anchor="end")
        x, y = frame.left + centre + 0.35 * _NAMES, frame.bottom + 4
        yield text(x, y, name, colour=MUTED, size=_NAMES, anchor="end", turned=True)
    bar = Box(frame.right + 16, frame.top + 0.1 * side, 12, 0.8 * side)
    ticks = tuple(np.linspace(-1, 1, 9).tolist())
    yield from scale_parts(bar, (-1, 1), ticks, "correlation of the amplitudes", "signed")


def _levels(curves: Sequence[NDArray[np.floating]], top: float, gap: float) -> list[float]:
    """Zero lines of curves that stand below each other without touching."""
    levels = []
    for curve in curves:
        levels.append(top - gap - max(float(curve.max()), 0.0))
        top = levels[-1] + min(float(curve.min()), 0.0)
    return levels


def _percent(value: float) -> str:
    if not np.isfinite(value):
        return "–"
    return f"{value:.0f} %" if value < 1000 else ">999 %"
