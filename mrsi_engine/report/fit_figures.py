"""The fit of one voxel in detail: individual metabolites, and the correlation of amplitudes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from mrsi_engine.report.examples import SpectrumExample
from mrsi_engine.report.figures import INK, RULE, draw_spectrum, svg_uri
from mrsi_engine.report.mosaic import COLOUR_MAPS
from mrsi_engine.report.tables import number

#: Room between two metabolites, as a share of the height of the data.
_GAP = 0.08

#: Inches a cell of a correlation matrix, and a metabolite of a fit.
_CELL, _ROW = 0.31, 0.25

#: Correlations of at least this size are printed, and beyond that in white.
_PRINTED, _DARK = 0.05, 0.6


def fit_figure(example: SpectrumExample) -> str:
    """Data, fit, baseline and residual above every metabolite of the fit."""
    return svg_uri(fit_size(example), lambda figure: draw_fit(figure.add_subplot(), example))


def correlation_figure(example: SpectrumExample) -> str:
    """The correlation matrix of the amplitudes of an example that knows it."""
    names = [component.name for component in example.components]
    matrix = example.correlation
    assert matrix is not None
    size = correlation_size(names)
    return svg_uri(size, lambda figure: draw_correlation(figure.add_subplot(), names, matrix))


def fit_size(example: SpectrumExample) -> tuple[float, float]:
    """Width and height (inches) at which every label of a fit can be read."""
    return 9.0, 4.0 + _ROW * len(example.components)


def correlation_size(names: Sequence[str]) -> tuple[float, float]:
    """Width and height (inches) at which every number of a matrix can be read."""
    side = 1.1 + _CELL * len(names)
    return side + 0.9, side


def draw_fit(axes: Axes, example: SpectrumExample) -> None:
    """Data, fit, baseline and residual; below each other what every metabolite adds to the fit.

    All have the scale of the data. A metabolite is labelled with its name on the left, its
    amplitude and Cramér-Rao bound on the right.
    """
    draw_spectrum(axes, example)
    low, high = sorted(example.shown)
    shown = (example.ppm >= low) & (example.ppm <= high)
    seen = np.real([example.data[shown], example.fit[shown]])
    curves = [np.real(component.spectrum[shown]) for component in example.components]
    levels = _levels(curves, float(min(seen.min(), 0.0)), _GAP * float(np.ptp(seen)))
    for component, curve, level in zip(example.components, curves, levels, strict=True):
        axes.axhline(level, color=RULE, lw=0.5, zorder=0.5)
        axes.plot(example.ppm[shown], curve + level, color=INK, lw=0.8)
        axes.annotate(
            f"{number(component.amplitude)} ± {_percent(component.crlb)}",
            xy=(1, level),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.set_yticks(levels, [component.name for component in example.components])
    axes.tick_params(axis="y", length=0, labelsize="small")
    axes.spines[["top", "right"]].set_visible(False)


def draw_correlation(axes: Axes, names: Sequence[str], matrix: NDArray[np.floating]) -> None:
    """A correlation matrix ``(name, name)`` as a map, -1 to 1, with its numbers from 0.05 on."""
    image = axes.imshow(matrix, cmap=COLOUR_MAPS["signed"], vmin=-1, vmax=1)
    for (row, column), value in np.ndenumerate(matrix):
        if abs(value) >= _PRINTED:
            colour = "white" if abs(value) > _DARK else INK
            text = axes.text(column, row, _coefficient(float(value)), color=colour, fontsize=6)
            text.set(ha="center", va="center", in_layout=False)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0, labelsize="small")
    axes.spines[:].set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, label="correlation of the amplitudes", shrink=0.8)
    bar.outline.set_visible(False)


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


def _coefficient(value: float) -> str:
    """Two decimals without the zero before them."""
    text = f"{value:.2f}".replace("-", "−")
    return text.removesuffix(".00") if abs(value) >= 0.995 else text.replace("0.", ".", 1)
