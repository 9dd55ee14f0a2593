"""Figures of a result, on matplotlib: ``me.plot.fit(result, voxel)`` and others.

Every function draws on what it is given or on a new figure, and returns it; none shows anything or
changes matplotlib's settings.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import LogFormatter
from numpy.typing import NDArray

from mrsi_engine.conventions import Status
from mrsi_engine.dimensions import VOXEL
from mrsi_engine.engine.revisit import detail_voxels, scan_of
from mrsi_engine.errors import InputError
from mrsi_engine.fit.details import FitDetails
from mrsi_engine.io.map_files import volume
from mrsi_engine.io.result_quantities import scalp_voxels
from mrsi_engine.io.result_store import RESULT_STORE, ResultStore
from mrsi_engine.report.axes import draw_chart, draw_correlation
from mrsi_engine.report.examples import spectrum_example, with_components
from mrsi_engine.report.fit_figures import correlation_size, fit_chart, fit_size
from mrsi_engine.report.mosaic import CRLB_SCALE, View, robust_range, view_of
from mrsi_engine.report.named_maps import Kind, NamedMap, labels_of, named_map
from mrsi_engine.report.png import BACKGROUND, COLOUR_MAPS
from mrsi_engine.report.tables import limits as limits_of
from mrsi_engine.report.tables import measure, nucleus_of

__all__ = ["correlation", "crlb_against_snr", "fit", "maps"]

Voxel = int | tuple[int, int, int]

#: Voxels a bin of a median line, and bins at most.
_BIN_VOXELS, _MOST_BINS = 5, 12

#: Inches a slice of a map is wide.
_TILE = 2.4

#: Results every figure is made of; computed once, as a lazy result is fitted each time.
_NUMBERS = ("estimate", "sd", "quality", "status")


def fit(
    result: xr.Dataset,
    voxel: Voxel,
    *,
    window: tuple[float, float] | None = None,
    components: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Spectrum and fit of one voxel: data, fit, baseline, residual, individual metabolites.

    The voxel is fitted once more, which takes a moment; nothing needs to have been stored. Spectra
    are phased and aligned by the fit and zero-filled; all have the same scale.

    Parameters
    ----------
    result
        What :func:`~mrsi_engine.open_result` returned, or a part of it along ``voxel``.
    voxel
        Its index in ``result``, or its ``(x, y, z)`` in the volume.
    window
        Range of chemical shift (ppm) that is drawn; that of the fit by default.
    components
        Whether to draw what every metabolite adds to the fit, with its amplitude and Cramér-Rao
        bound.
    ax
        Where to draw; a new figure by default.

    Raises
    ------
    InputError
        If there is no such voxel or it was not fitted, ``result`` was not opened from a store, or
        its scan store is gone.
    """
    index, details = _fitted_again(result, voxel)
    signals = {name: getattr(details, name)[0] for name in ("corrected", "fit", "baseline")}
    example = spectrum_example(result, index, signals, "", window or details.window_ppm)
    if components:
        example = with_components(example, result, index, details)
    axes = _axes(ax, fit_size(example))
    draw_chart(axes, fit_chart(example))
    axes.set_title(f"voxel {example.voxel}\n{example.caption}", loc="right", fontsize="small")
    return axes


def maps(
    result: xr.Dataset,
    names: str | Sequence[str],
    *,
    quantity: Kind = "estimate",
    slices: Sequence[int] | None = None,
    limits: tuple[float, float] | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Maps of metabolites, measures or other parameters, a row of slices each.

    Images are in radiological convention (the patient's right on the left), as in the report;
    voxels without a number are dark, and nothing is interpolated.

    Parameters
    ----------
    result
        A result; a lazy one is computed here.
    names
        One or several: labels (``"NAANAAG"``), titles (``"tNAA"``), parameters (``"shift"``) or
        measures (``"snr"``).
    quantity
        ``"estimate"``; ``"crlb"``, the relative Cramér-Rao bound in percent, on a logarithmic
        scale; ``"sd"``, the absolute one; ``"conc"``, the concentration or ratio of stage
        ``scale``.
    slices
        Which slices, as they are numbered in the volume; all that hold voxels by default, thinned
        evenly where they are many.
    limits
        Ends of the colour scale; by default 1 to 100 % for ``"crlb"`` and robust ones for others.
    figure
        Where to draw; a new figure by default.

    Raises
    ------
    InputError
        If there is no such map or slice, or ``limits`` do not ascend.
    """
    chosen = [names] if isinstance(names, str) else list(names)
    if not chosen:
        raise InputError("no map was asked for; give a name or several")
    numbers = _numbers(result)
    shown = [named_map(numbers, name, quantity) for name in chosen]
    scales = [_scale(drawn, limits) for drawn in shown]
    view = view_of(result) if slices is None else view_of(result).showing(slices)
    if figure is None:
        figure = plt.figure(figsize=_maps_size(view, len(shown)), layout="constrained")
    parts = figure.subfigures(len(shown), 1, squeeze=False)[:, 0]
    for part, drawn, scale in zip(parts, shown, scales, strict=True):
        _draw_map(part, view, drawn, volume(result, drawn.values), scale)
    return figure


def correlation(result: xr.Dataset, voxel: Voxel, *, ax: Axes | None = None) -> Axes:
    """Correlation matrix of the amplitudes of one voxel, from the Fisher matrix of its fit.

    Where it is near -1 only the sum of two amplitudes is known.

    Parameters
    ----------
    result, voxel, ax
        As for :func:`fit`.

    Raises
    ------
    InputError
        As for :func:`fit`.
    """
    index, details = _fitted_again(result, voxel)
    axes = _axes(ax, correlation_size(details.names))
    draw_correlation(axes, details.names, details.correlation[0])
    place = tuple(int(result[axis][index]) for axis in "xyz")
    axes.set_title(f"voxel {place}", loc="left", fontsize="small")
    return axes


def crlb_against_snr(
    result: xr.Dataset, names: Sequence[str] | None = None, *, ax: Axes | None = None
) -> Axes:
    """Relative Cramér-Rao bound of amplitudes against SNR: a point a voxel, lines of medians.

    The dashed line is the limit of the pipeline's quality control, 20 % unless it says otherwise.

    Parameters
    ----------
    result
        A result; a lazy one is computed here.
    names
        Labels or titles of amplitudes; by default those of the nucleus (1H: tNAA, tCr, tCho,
        Glx and Ins) as far as there are.
    ax
        Where to draw; a new figure by default.

    Raises
    ------
    InputError
        If there is no such amplitude, or the pipeline measured no SNR.
    """
    numbers = _numbers(result)
    if "snr" not in numbers["measure"].values:
        raise InputError("the pipeline of this result measured no SNR")
    usual = [n for n in nucleus_of(result).principal if labels_of(numbers, n)]
    chosen = usual if names is None else list(names)
    shown = [named_map(numbers, name, "crlb") for name in chosen]
    snr, axes = measure(numbers, "snr"), _axes(ax, (6.4, 4.6))
    for drawn in shown:
        _draw_against(axes, snr, drawn)
    limit = limits_of(result).max_crlb_percent
    axes.axhline(limit, color="0.4", lw=1, ls="--", label=f"limit, {limit:g} %")
    axes.set(xscale="log", yscale="log", xlabel="SNR", ylabel="Cramér-Rao bound (%)")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.legend(frameon=False, fontsize="small")
    return axes


def _axes(given: Axes | None, size: tuple[float, float]) -> Axes:
    return given or plt.figure(figsize=size, layout="constrained").add_subplot()


def _index(result: xr.Dataset, voxel: Voxel) -> int:
    """Where a fitted voxel stands in the result."""
    index = _at(result, voxel) if isinstance(voxel, Sequence | np.ndarray) else _nth(result, voxel)
    status = int(result["status"][index])
    if scalp_voxels(result)[index]:
        raise InputError(f"voxel {voxel} is scalp, which is never quantified")
    if status in (Status.NO_FIT, Status.NOT_PROCESSED, Status.CORRECTED):
        meaning = Status(status).meaning.replace("_", " ")
        raise InputError(f"voxel {voxel} was not fitted, its status is {meaning!r}; choose another")
    return index


def _nth(result: xr.Dataset, voxel: int) -> int:
    index, count = operator.index(voxel), result.sizes["voxel"]
    if not 0 <= index < count:
        raise InputError(f"voxel {index}: the result has voxels 0 to {count - 1}")
    return index


def _at(result: xr.Dataset, place: Sequence[int]) -> int:
    if len(place) != 3:
        raise InputError(f"voxel {place}: expected an index or (x, y, z)")
    places = np.stack([result[axis].values for axis in "xyz"], axis=1)
    found = np.flatnonzero((places == np.asarray(place)).all(axis=1))
    if not found.size:
        low, high = places.min(0), places.max(0)
        ranges = ", ".join(f"{a} {i} to {j}" for a, i, j in zip("xyz", low, high, strict=True))
        raise InputError(
            f"voxel {tuple(int(i) for i in place)} is outside the mask, whose {len(places)} voxels "
            f"lie within {ranges}"
        )
    return int(found[0])


def _fitted_again(result: xr.Dataset, voxel: Voxel) -> tuple[int, FitDetails]:
    """Where a voxel stands in the result, which may be a part of its store, and its fit."""
    store = _store_of(_checked(result))
    index = _index(result, voxel)
    place = [int(result[axis][index]) for axis in "xyz"]
    stored = np.flatnonzero((store.coordinates() == place).all(axis=1))
    return index, detail_voxels(store, scan_of(store), stored.tolist())


def _store_of(result: xr.Dataset) -> ResultStore:
    path = result.encoding.get("source")
    if path is None or not RESULT_STORE.holds(path):
        raise InputError(
            "the result was not opened from a result store, or that is gone, so its voxels cannot "
            "be fitted once more: make one with `mrsi run` and give what open_result returns"
        )
    return ResultStore.open(path)


def _checked(result: xr.Dataset) -> xr.Dataset:
    missing = [name for name in _NUMBERS if name not in result]
    if missing or VOXEL not in result.dims:
        lacking = ", ".join(missing) or f"dimension {VOXEL}"
        raise InputError(f"not a result: the Dataset lacks {lacking}; open one with open_result")
    return result


def _numbers(result: xr.Dataset) -> xr.Dataset:
    return _checked(result)[list(_NUMBERS)].compute()


def _maps_size(view: View, count: int) -> tuple[float, float]:
    """Width and height (inches) of a figure of so many maps."""
    height, width = (side.stop - side.start for side in (view.rows, view.columns))
    down = math.ceil(len(view.slices) / view.across)
    tall = _TILE * (height * view.pixel[0]) / (width * view.pixel[1])
    return _TILE * view.across + 1.2, count * (tall * down + 0.45)


def _draw_map(
    figure: SubFigure, view: View, drawn: NamedMap, values: NDArray[np.float32], scale: Normalize
) -> None:
    """The slices of a volume ``values (x, y, z)`` with their colour bar."""
    down = math.ceil(len(view.slices) / view.across)
    axes = figure.subplots(down, view.across, squeeze=False).ravel()
    colours = COLOUR_MAPS[drawn.colours].with_extremes(bad=BACKGROUND)
    left, right, _, _ = view.letters
    for axis in axes:
        axis.set_axis_off()
    for axis, tile, slice_ in zip(axes, view.tiles(values), view.slices, strict=False):
        image = axis.imshow(
            tile,
            cmap=colours,
            norm=scale,
            aspect=view.pixel[0] / view.pixel[1],
            interpolation="nearest",
        )
        axis.set_title(f"{view.axis} = {view.numbers[slice_]}", fontsize="small")
        for place, letter in ((0.03, left), (0.97, right)):
            axis.text(
                place,
                0.5,
                letter,
                transform=axis.transAxes,
                color="white",
                fontsize="small",
                ha="left" if place < 0.5 else "right",
                va="center",
            )
    figure.colorbar(image, ax=axes.tolist(), label=drawn.label, shrink=0.9, format="{x:g}")


def _scale(drawn: NamedMap, limits: tuple[float, float] | None) -> Normalize:
    if limits is None and drawn.unit == "%" and drawn.colours == "uncertainty":
        return LogNorm(*CRLB_SCALE)
    low, high = limits or robust_range(drawn.values, drawn.colours)
    if not low < high:
        raise InputError(f"limits = {limits}: expected the lower one first")
    return Normalize(low, high)


def _draw_against(axes: Axes, snr: NDArray[np.floating], drawn: NamedMap) -> None:
    """Points of one amplitude, and the line of their medians in bins of SNR."""
    known = np.isfinite(snr) & np.isfinite(drawn.values) & (snr > 0)
    order = np.flatnonzero(known)[np.argsort(snr[known], kind="stable")]
    points = axes.plot(snr[order], drawn.values[order], ".", ms=6, alpha=0.4, mew=0)
    bins = min(_MOST_BINS, max(1, len(order) // _BIN_VOXELS))
    parts = [part for part in np.array_split(order, bins) if len(part)]
    across, medians = ([float(np.median(v[p])) for p in parts] for v in (snr, drawn.values))
    colour = points[0].get_color()
    axes.plot(across, medians, "o-", ms=4, lw=1.5, color=colour, label=drawn.subject)
