"""Figures of what a stage did: spectra before and after it, and how alike signals were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mrsi_engine.report.figures import BASELINE, MUTED, RULE, svg_uri
from mrsi_engine.report.mosaic import COLOUR_MAPS

BEFORE, AFTER = "#8f97a3", BASELINE

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

    def draw(figure: Figure) -> None:
        axes = figure.subplots(len(voxels), 2, squeeze=False, width_ratios=(1, 1.5))
        for (left, right), voxel in zip(axes, voxels, strict=True):
            _wide(left, voxel, wide)
            _narrow(right, voxel, window)
        for axis in axes[-1]:
            axis.set_xlabel("chemical shift (ppm)")
        _legend(axes[0, 1])

    return svg_uri((10.6, 0.5 + 1.75 * len(voxels)), draw)


def matrix_figure(before: NDArray[np.floating], after: NDArray[np.floating]) -> str:
    """Two ``(n, n)`` matrices of similarities side by side on one colour scale up to 1."""

    def draw(figure: Figure) -> None:
        both = np.concatenate([before.ravel(), after.ravel()])
        lowest = float(np.nanpercentile(both, 1)) if np.isfinite(both).any() else 0.0
        axes = figure.subplots(1, 2)
        for axis, matrix, title in zip(axes, (before, after), ("before", "after"), strict=True):
            image = axis.imshow(
                matrix, vmin=min(lowest, 0.99), vmax=1.0, cmap=COLOUR_MAPS["quality"]
            )
            axis.set_title(title, fontsize=9, loc="left")
            axis.set_xlabel("signal")
            axis.tick_params(length=0)
        figure.colorbar(image, ax=axes, label="similarity", shrink=0.8).outline.set_visible(False)

    return svg_uri((8.2, 3.7), draw)


def _legend(axes: Axes) -> None:
    legend = axes.legend(
        loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False, borderpad=0
    )
    for line in legend.get_lines():
        line.set(alpha=1.0, linewidth=1.4)


def _wide(axes: Axes, voxel: BeforeAfter, ppm: tuple[float, float]) -> None:
    for spectra, colour in ((voxel.before, BEFORE), (voxel.after, AFTER)):
        _lines(axes, voxel.ppm, spectra.mean(0)[None], ppm, colour, "")
    _dress(axes, ppm, 1.0)
    axes.set_title(voxel.title, fontsize=9, loc="left", fontweight="bold")


def _narrow(axes: Axes, voxel: BeforeAfter, ppm: tuple[float, float]) -> None:
    low, high, step = _layout(voxel, ppm)
    _lines(axes, voxel.ppm, voxel.before + step, ppm, BEFORE, "before")
    _lines(axes, voxel.ppm, voxel.after, ppm, AFTER, "after")
    _dress(axes, ppm, 0.5)
    axes.set_ylim(low, high)
    axes.set_title(voxel.note, fontsize=8, loc="left", color=MUTED)


def _lines(
    axes: Axes,
    ppm: NDArray[np.floating],
    spectra: NDArray[np.floating],
    shown: tuple[float, float],
    colour: str,
    name: str,
) -> None:
    inside = (ppm >= shown[0]) & (ppm <= shown[1])
    thin = len(spectra) > 1
    width, opacity = (0.6, 0.55) if thin else (0.9, 1.0)
    for n, spectrum in enumerate(spectra):
        label = name if n == 0 else None
        axes.plot(ppm[inside], spectrum[inside], color=colour, lw=width, alpha=opacity, label=label)


def _dress(axes: Axes, ppm: tuple[float, float], step: float) -> None:
    low, high = ppm
    axes.axhline(0, color=RULE, lw=0.6, zorder=0)
    axes.set_xlim(high, low)
    axes.set_xticks(np.arange(np.ceil(low / step) * step, high + 1e-9, step))
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)


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
