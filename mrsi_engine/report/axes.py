"""Charts of the report on Matplotlib's axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mrsi_engine.report.charts import INK, Chart
from mrsi_engine.report.fit_figures import DARK, PRINTED, coefficient
from mrsi_engine.report.png import COLOUR_MAPS


def draw_chart(axes: Axes, chart: Chart) -> None:
    """Curves of a chart, with the words beside it, on any axes."""
    for curve in chart.curves:
        axes.plot(
            curve.x,
            curve.y,
            color=curve.colour,
            lw=curve.width,
            alpha=curve.opacity,
            label=curve.name or None,
        )
    for rule in chart.rules:
        line = axes.axvline if rule.upright else axes.axhline
        line(rule.at, color=rule.colour, lw=rule.width, zorder=0.5)
    axes.set_xlim(*chart.x)
    axes.set_xticks(chart.ticks)
    axes.set_xlabel(chart.below)
    axes.set_yticks([at for at, _ in chart.left], [words for _, words in chart.left])
    axes.tick_params(axis="y", length=0, labelsize="small")
    for at, words in chart.right:
        axes.annotate(
            words,
            xy=(1, at),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.spines[["left", "top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False, borderpad=0)


def draw_correlation(axes: Axes, names: Sequence[str], matrix: NDArray[np.floating]) -> None:
    """A correlation matrix ``(name, name)`` as a map, -1 to 1, with its numbers from 0.05 on."""
    image = axes.imshow(matrix, cmap=COLOUR_MAPS["signed"], vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        if abs(value) >= PRINTED:
            colour = "white" if abs(value) > DARK else INK
            text = axes.text(column, row, coefficient(float(value)), color=colour, fontsize=6)
            text.set(ha="center", va="center", in_layout=False)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize="small")
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, label="correlation of the amplitudes", shrink=0.8)
    bar.outline.set_visible(False)
