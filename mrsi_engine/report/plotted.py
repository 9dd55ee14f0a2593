"""Figures of a comparison and of a training, drawn by Matplotlib and kept as SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrsi_engine.report.charts import BASELINE, FIT, INK, MUTED, RULE
from mrsi_engine.report.compare import Comparison, ComparisonRow
from mrsi_engine.report.png import data_uri

#: A path, and digits beyond a hundredth of a point in it: nobody sees them and they are half of it.
_PATH, _DIGITS = re.compile(rb' d="[^"]+"'), re.compile(rb"(\.\d\d)\d+")

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mrsi_engine",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "DejaVu Sans"],
    "font.size": 9,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


def scatter_figure(comparison: Comparison, rows: Sequence[ComparisonRow]) -> str:
    """Our ratio against LCModel's, one panel a metabolite."""
    return _panels(rows, _scatter, "LCModel", f"mrsi_engine, ratio to {comparison.reference_title}")


def difference_figure(comparison: Comparison, rows: Sequence[ComparisonRow]) -> str:
    """Differences of both programs against their mean, one panel a metabolite.

    As Bland & Altman (Lancet 1986;327:307) draw it: the mean difference and its 95 % limits.
    """
    below = f"mean ratio to {comparison.reference_title}"
    return _panels(rows, _differences, below, "mrsi_engine less LCModel, %")


def svg_uri(size: tuple[float, float], draw: Callable[[Figure], None]) -> str:
    """What ``draw`` puts on a figure of this size (inches), as a data URI."""
    with rc_context(rc=_STYLE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    small = _PATH.sub(lambda path: _DIGITS.sub(rb"\1", path[0]), buffer.getvalue())
    return data_uri(small, "image/svg+xml")


def _panels(
    rows: Sequence[ComparisonRow],
    draw: Callable[[Axes, ComparisonRow], None],
    below: str,
    beside: str,
) -> str:
    """One panel a metabolite, four to a line, the outer ones labelled."""
    across = min(4, len(rows))
    down = -(-len(rows) // across)

    def all_of_them(figure: Figure) -> None:
        for n, row in enumerate(rows):
            axes = figure.add_subplot(down, across, n + 1)
            draw(axes, row)
            if n % across == 0:
                axes.set_ylabel(beside)
            if n + across >= len(rows):
                axes.set_xlabel(below)

    return svg_uri((2.65 * across, 2.55 * down), all_of_them)


def _scatter(axes: Axes, row: ComparisonRow) -> None:
    both = np.concatenate([row.lcmodel, row.ours])
    low, high = min(0.0, float(both.min())), 1.05 * float(both.max())
    ends = np.array([low, high])
    axes.plot(ends, ends, color=RULE, lw=0.8)
    if np.isfinite(row.slope):
        axes.plot(ends, row.slope * ends + row.intercept, color=FIT, lw=1)
    axes.plot(row.lcmodel, row.ours, "o", color=BASELINE, ms=3.2, alpha=0.65, mew=0)
    axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")
    correlation = f" · r = {row.r:.2f}" if np.isfinite(row.r) else ""
    axes.set_title(f"{row.title}{correlation} · n = {row.voxels}", fontsize=9, loc="left")


def _differences(axes: Axes, row: ComparisonRow) -> None:
    agreement = row.percent_agreement
    axes.axhline(0, color=RULE, lw=0.8)
    axes.plot(row.means, row.percent_differences, "o", color=BASELINE, ms=3.2, alpha=0.65, mew=0)
    title = row.title
    if np.isfinite(agreement.bias):
        axes.axhline(agreement.bias, color=FIT, lw=1)
        for limit in agreement.limits:
            axes.axhline(limit, color=FIT, lw=0.8, ls=(0, (4, 3)))
        title += f" · {agreement.bias:+.0f} ± {agreement.half_width:.0f} %"
    axes.set_title(title, fontsize=9, loc="left")
