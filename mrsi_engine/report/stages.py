"""What each stage of the pipeline did: spectra, maps and numbers for the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.io.result_quantities import fitted_voxels, values_of
from mrsi_engine.nuclei import nucleus
from mrsi_engine.pipeline.trace import StageTrace
from mrsi_engine.quantities import AMPLITUDES, CRLB, Quantity
from mrsi_engine.report.before_after import before_and_after
from mrsi_engine.report.gain import gain_table
from mrsi_engine.report.mosaic import View, robust_range, view_of
from mrsi_engine.report.pictures import Picture, colours_of, histogrammed
from mrsi_engine.report.stage_figures import before_after_figure, matrix_figure
from mrsi_engine.report.tables import estimate, measure, median, nucleus_of, number

#: Most voxels for which numbers say more than maps.
FEW_VOXELS = 3

_NOISE_NOTE = (
    "This stage takes noise away. What it leaves is neither white nor of known size, and errors of "
    "the fit computed from it would be too small. The Cramér-Rao bounds are computed from the "
    "noise before this stage (SD {} per real channel in the voxels drawn), as if nothing had been "
    "taken."
)


@dataclass(frozen=True)
class StageSection:
    """One stage on the page.

    ``values`` are quantities that need no map: title, value and doc. ``matrix`` is a figure and
    the number of signals in it.
    """

    number: int
    name: str
    summary: str
    skipped: str = ""
    figure: str = ""
    matrix: tuple[str, int] = ("", 0)
    pictures: tuple[Picture, ...] = ()
    values: tuple[tuple[str, str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Column:
    """A declared quantity with its values ``(voxel,)`` and the colours that suit it.

    Columns of one ``scale`` share their colours.
    """

    title: str
    unit: str
    doc: str
    values: NDArray[np.floating]
    colours: str
    scale: str


def stages_content(result: xr.Dataset, traces: Sequence[StageTrace]) -> dict[str, Any]:
    """What the template of the section needs, and the names of all measures in it.

    Parameters
    ----------
    traces
        Of the voxels that :func:`~mrsi_engine.report.examples.example_voxels` names, in order.
    """
    cleaning = [*takewhile(lambda trace: not _quantifies(trace), traces)]
    few = result.sizes["voxel"] <= FEW_VOXELS
    return {
        "stages": [_section(result, trace, cleaning) for trace in cleaning],
        "gain": gain_table(cleaning) if few else None,
        "written": {q.name for trace in cleaning for q in trace.declaration.measures},
    }


def _quantifies(trace: StageTrace) -> bool:
    return any(q.role in AMPLITUDES for q in trace.declaration.parameters)


def _section(result: xr.Dataset, trace: StageTrace, cleaning: Sequence[StageTrace]) -> StageSection:
    summary = (type(trace.stage).__doc__ or "").partition("\n")[0].replace("``", "")
    if trace.skipped:
        return StageSection(trace.index + 1, trace.name, summary, trace.skipped)
    columns = list(_columns(result, trace))
    mapped = [c for c in columns if not _is_plain(result, c)]
    view = view_of(result) if mapped else None
    return StageSection(
        number=trace.index + 1,
        name=trace.name,
        summary=summary,
        figure=_figure(result, trace, cleaning[-1]) if trace.changed else "",
        matrix=_matrix(trace),
        pictures=tuple(_picture(result, view, c, mapped) for c in mapped if view),
        values=tuple(_value(result, c) for c in columns if _is_plain(result, c)),
        notes=tuple(_notes(trace)),
    )


def _notes(trace: StageTrace) -> Iterator[str]:
    if trace.noise_sd is not None:
        yield _NOISE_NOTE.format(number(float(trace.noise_sd.double().mean())))
    if not trace.changed:
        yield "It left the spectra of the voxels shown as they were."


def _columns(result: xr.Dataset, trace: StageTrace) -> Iterator[_Column]:
    """Everything the stage declared that the result holds."""
    stored = {*result.variables["parameter"].values, *result.variables["measure"].values}
    for q in trace.declaration.parameters:
        if q.name in stored:
            yield _column(q, estimate(result, q.name))
            yield _error(result, q)
    for q in trace.declaration.measures:
        if q.name in stored:
            yield _column(q, measure(result, q.name))


def _column(quantity: Quantity, values: NDArray[np.floating]) -> _Column:
    title = quantity.title or quantity.name.replace("_", " ").capitalize()
    doc = quantity.doc[:1].upper() + quantity.doc[1:]
    scale = quantity.scale_with or quantity.name
    return _Column(title, quantity.units, doc, values, colours_of(quantity), scale)


def _error(result: xr.Dataset, quantity: Quantity) -> _Column:
    sd = values_of(result, "sd", quantity.name)
    known = np.where(fitted_voxels(result), sd, np.nan)
    title = f"{'CRLB' if quantity.sd_doc == CRLB else 'SD'} of {quantity.label}"
    doc = quantity.sd_doc[:1].upper() + quantity.sd_doc[1:]
    return _Column(title, quantity.units, doc, known, "uncertainty", f"{quantity.name}_sd")


def _is_plain(result: xr.Dataset, column: _Column) -> bool:
    """Whether numbers say it: there are few voxels, or all have the same."""
    known = column.values[np.isfinite(column.values)]
    return result.sizes["voxel"] <= FEW_VOXELS or not known.size or np.ptp(known) == 0


def _value(result: xr.Dataset, column: _Column) -> tuple[str, str, str]:
    unit = "" if column.unit == "1" else f" {column.unit}"
    if result.sizes["voxel"] <= FEW_VOXELS:
        text = ", ".join(number(float(v)) for v in column.values) + unit
    else:
        text = f"{number(median(column.values))}{unit} everywhere"
    return column.title, text, column.doc


def _picture(result: xr.Dataset, view: View, column: _Column, others: Sequence[_Column]) -> Picture:
    """The map of a quantity, on one scale with what it was before the stage."""
    pair = [c.values for c in others if c.scale == column.scale]
    limits = robust_range(np.concatenate(pair), column.colours)
    return histogrammed(
        result, view, column.values, column.title, column.unit, column.colours, limits, column.doc
    )


def _matrix(trace: StageTrace) -> tuple[str, int]:
    """The figure of the similarities in the state, and how many signals they are of."""
    names = ("similarity_matrix_before", "similarity_matrix_after")
    matrices = [trace.state[name].cpu().numpy() for name in names if name in trace.state]
    if len(matrices) < 2 or len(matrices[0]) < 2:
        return "", 0
    return matrix_figure(*matrices), len(matrices[0])


def _figure(result: xr.Dataset, trace: StageTrace, last: StageTrace) -> str:
    axis = trace.context.acquisition
    ends = float(axis.ppm.min()), float(axis.ppm.max())
    window, wide = _window(result), nucleus(axis.nucleus).windows.shown
    voxels = before_and_after(result, trace, last, window)
    return before_after_figure(voxels, (max(wide[0], ends[0]), min(wide[1], ends[1])), window)


def _window(result: xr.Dataset) -> tuple[float, float]:
    """What the fit looks at."""
    settings: Mapping[str, Any] = result.attrs.get("pipeline", {})
    windows = (s["window_ppm"] for s in settings.get("stages", []) if s["stage"] == "quantify")
    low, high = next(windows, nucleus_of(result).windows.drawn)
    return float(low), float(high)
