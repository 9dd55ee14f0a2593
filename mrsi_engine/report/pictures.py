"""Maps as a page shows them: image, colour scale, what it is, and how its values spread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.io.map_files import volume
from mrsi_engine.quantities import AMPLITUDES, Quantity, Role
from mrsi_engine.report.figures import histogram_figure
from mrsi_engine.report.mosaic import View, robust_range
from mrsi_engine.report.png import data_uri, gradient, png, shades
from mrsi_engine.report.tables import number


@dataclass(frozen=True)
class Picture:
    """One map on the page: its image, its colour scale and, for QC, its histogram.

    ``doc`` says what is shown where the title does not.
    """

    title: str
    unit: str
    image: str
    width: int
    ticks: tuple[str, ...]
    gradient: str
    histogram: str = ""
    doc: str = ""


def colours_of(quantity: Quantity) -> str:
    """Which of :data:`~mrsi_engine.report.png.COLOUR_MAPS` suits a quantity."""
    if quantity.signed:
        return "signed"
    if quantity.role in (*AMPLITUDES, Role.CONCENTRATION, Role.RATIO, Role.PROPERTY):
        return "amplitude"
    return "quality"


def picture(
    result: xr.Dataset,
    view: View,
    values: NDArray[Any],
    title: str,
    unit: str,
    kind: str,
    limits: tuple[float, float] | None = None,
    histogram: str = "",
    doc: str = "",
) -> Picture:
    """A map of ``values (voxel,)``.

    Parameters
    ----------
    kind
        Which of :data:`~mrsi_engine.report.png.COLOUR_MAPS`.
    limits
        Ends of the colour scale; robust ones of the values by default.
    """
    low, high = limits or robust_range(values, kind)
    canvas = view.mosaic(shades(volume(result, values), (low, high)))
    return Picture(
        title=title,
        unit="" if unit == "1" else unit,
        image=data_uri(png(canvas, kind), "image/png"),
        width=canvas.shape[1] // 2,
        ticks=tuple(number(t) for t in (low, (low + high) / 2, high)),
        gradient=gradient(kind),
        histogram=histogram,
        doc=doc,
    )


def histogrammed(
    result: xr.Dataset,
    view: View,
    values: NDArray[Any],
    title: str,
    unit: str,
    kind: str,
    limits: tuple[float, float] | None = None,
    doc: str = "",
    limit: float | None = None,
) -> Picture:
    """The same with the histogram of its values, where a ``limit`` may be marked."""
    label = f"{title} ({unit})" if unit != "1" else title
    drawn = histogram_figure(values, label, limit)
    return picture(result, view, values, title, unit, kind, limits, drawn, doc)
