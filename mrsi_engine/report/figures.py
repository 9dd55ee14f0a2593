"""Figures of a report: spectra with their fits, and histograms."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.report.charts import (
    BASELINE,
    FIT,
    INK,
    MUTED,
    RULE,
    Bars,
    Chart,
    Curve,
    Rule,
    even_ticks,
    round_ticks,
)
from mrsi_engine.report.examples import SpectrumExample
from mrsi_engine.report.svg import chart_uri
from mrsi_engine.report.tables import number

_BINS, _MOST_TICKS = 40, 9


def spectrum_figure(example: SpectrumExample) -> str:
    """Data, fit and baseline with the residual above, ppm from right to left."""
    return chart_uri(spectrum_chart(example), (10.6, 3.1))


def histogram_figure(values: NDArray[np.floating], label: str, limit: float | None = None) -> str:
    """How often each value occurs, 0.5th to 99.5th percentile, the median and a limit marked."""
    known = values[np.isfinite(values)]
    return chart_uri(_histogram(known, label, limit), (3.5, 1.35))


def spectrum_chart(example: SpectrumExample) -> Chart:
    """Data, fit and baseline with the residual above, ppm from right to left."""
    low, high = sorted(example.shown)
    shown = (example.ppm >= low) & (example.ppm <= high)
    ppm, data, fit = example.ppm[shown], np.real(example.data[shown]), np.real(example.fit[shown])
    top = float(np.nanmax([data.max(), fit.max()]))
    bottom = float(np.nanmin([data.min(), fit.min(), 0.0]))
    residual = data - fit
    offset = top + 0.06 * (top - bottom) - float(residual.min())
    curves = [Curve(ppm, data, INK, 0.8, name="data"), Curve(ppm, fit, FIT, 1.2, name="fit")]
    if example.baseline is not None:
        smooth = np.real(example.baseline[shown])
        curves.append(Curve(ppm, smooth, BASELINE, 1.0, name="baseline"))
    curves.append(Curve(ppm, residual + offset, MUTED, 0.7, name="residual"))
    return Chart(
        curves=tuple(curves),
        x=(high, low),
        ticks=even_ticks(low, high, 0.5),
        below="chemical shift (ppm)",
        rules=(Rule(offset, RULE, 0.6),),
        legend="left",
    )


def _histogram(known: NDArray[np.floating], label: str, limit: float | None) -> Chart:
    if not known.size:
        return Chart((), (0.0, 1.0), ticks=even_ticks(0, 1, 0.2), below=label)
    low, high = (float(end) for end in np.percentile(known, [0.5, 99.5]))
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    heights, edges = np.histogram(known, _BINS, (low, high))
    median = float(np.median(known))
    rules = [Rule(median, INK, 1, upright=True)]
    if limit is not None:
        rules.append(Rule(limit, FIT, 1, upright=True, dashed=True))
    room = 0.05 * (high - low)
    ends = (min(low, *(rule.at for rule in rules)) - room, max(high, *(r.at for r in rules)) + room)
    return Chart(
        curves=(),
        x=ends,
        ticks=round_ticks(*ends, _MOST_TICKS),
        below=label,
        rules=tuple(rules),
        bars=Bars(edges, heights.astype(float)),
        above=(median, f"median {number(median)}"),
    )
