"""Numbers of a report: one row a metabolite, status counts, headline figures."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition, Flag, Status
from mrsi_engine.io.result_quantities import (
    fitted_voxels,
    measures_of,
    parameters_of,
    relative_crlb,
    scalp_voxels,
    values_of,
)
from mrsi_engine.nuclei import Nucleus, nucleus
from mrsi_engine.quantities import AMPLITUDES, Quantity, Role
from mrsi_engine.stages.quality_control import QualityControl

#: Roles in the order of the table.
_ROLES = (
    Role.CONCENTRATION,
    Role.RATIO,
    Role.COMBINATION,
    Role.METABOLITE,
    Role.MACROMOLECULE,
    Role.PROPERTY,
)


@dataclass(frozen=True)
class MetaboliteRow:
    """A number of one metabolite over the fitted voxels; ``crlb`` is the median relative one (%).

    ``reliable_percent`` of the fitted voxels have a CRLB within the limit, ``coverage_percent`` of
    the mask's voxels have that and are usable. ``data_percent`` is the median share of an estimate
    that is from the data rather than from its prior; NaN where it has none. A measure, whose role
    is ``quality``, has no error.
    """

    label: str
    title: str
    role: Role
    unit: str
    median: float
    lower_quartile: float
    upper_quartile: float
    crlb: float
    reliable_percent: float
    coverage_percent: float
    data_percent: float


def limits(result: xr.Dataset) -> QualityControl:
    """Thresholds of the run's pipeline; those of the nucleus where it has none."""
    stages = result.attrs.get("pipeline", {}).get("stages", [])
    own = [s for s in stages if s.get("stage") == QualityControl.stage]
    given = own[-1] if own else {}
    found = QualityControl.model_validate({k: v for k, v in given.items() if k != "stage"})
    return found.resolved(Acquisition(**result.attrs["acquisition"]))


def nucleus_of(result: xr.Dataset) -> Nucleus:
    """What is known of the nucleus of a result."""
    return nucleus(str(result.attrs["acquisition"]["nucleus"]))


def metabolite_table(result: xr.Dataset) -> list[MetaboliteRow]:
    """One row for every number of a metabolite or sum, by its role; then their measures.

    Concentrations stand first, then ratios, combinations, metabolites, macromolecules and other
    properties. A zero estimate has no relative CRLB and counts as not reliable.
    """
    quantities = [q for role in _ROLES for q in parameters_of(result, role)]
    measured = [q for q in measures_of(result, Role.QUALITY) if q.of]
    limit, usable = limits(result).max_crlb_percent, usable_voxels(result)
    rows = [_metabolite_row(result, q, limit, usable) for q in quantities]
    return rows + [_measure_row(result, q) for q in measured]


def status_counts(result: xr.Dataset) -> list[tuple[str, int, float]]:
    """``(meaning, voxels, percent)`` of every status that occurs."""
    values = result["status"].values
    counts = [(s, int((values == s).sum())) for s in Status]
    return [
        (s.meaning.replace("_", " "), n, 100.0 * n / max(values.size, 1)) for s, n in counts if n
    ]


def flags_of(result: xr.Dataset) -> NDArray[np.int32]:
    """Flags of every voxel, ``(voxel,)``.

    Without the stage ``quality_control`` its default limits of SNR and linewidth are applied.
    """
    flags = np.zeros(result.sizes["voxel"], np.int32)
    if "flags" in result:
        flags |= result["flags"].values
    stages = result.attrs.get("pipeline", {}).get("stages", [])
    if any(s.get("stage") == QualityControl.stage for s in stages):
        return flags
    default = limits(result)
    assert default.max_fwhm_ppm is not None
    flags = flags | np.where(measure(result, "fwhm") > default.max_fwhm_ppm, Flag.BROAD_LINES, 0)
    return flags | np.where(measure(result, "snr") < default.min_snr, Flag.LOW_SNR, 0)


def usable_voxels(result: xr.Dataset) -> NDArray[np.bool_]:
    """Fitted voxels that no flag rejects, ``(voxel,)``; see :func:`flags_of`."""
    rejected = (flags_of(result) & int(Flag.rejecting())) != 0
    return np.asarray(fitted_voxels(result) & ~rejected)


def flag_counts(result: xr.Dataset) -> list[tuple[str, int, float]]:
    """``(meaning, voxels, percent of those in the mask)`` of every flag that occurs."""
    if "flags" not in result:
        return []
    flags = result["flags"].values[~scalp_voxels(result)]
    counts = [(f, int((flags & int(f) != 0).sum())) for f in Flag]
    return [(f.meaning.replace("_", " "), n, 100.0 * n / flags.size) for f, n in counts if n]


def measure(result: xr.Dataset, name: str) -> NDArray[np.floating]:
    """A quality measure of the fitted voxels ``(voxel,)``; NaN elsewhere, or if not stored."""
    if name not in result.variables["measure"].values:
        return np.full(result.sizes["voxel"], np.nan)
    return np.where(fitted_voxels(result), values_of(result, "quality", name), np.nan)


def estimate(result: xr.Dataset, name: str) -> NDArray[np.floating]:
    """An estimate in the fitted voxels ``(voxel,)``; NaN elsewhere, or if not stored."""
    if name not in result.variables["parameter"].values:
        return np.full(result.sizes["voxel"], np.nan)
    return np.where(fitted_voxels(result), values_of(result, "estimate", name), np.nan)


def median(values: NDArray[np.floating]) -> float:
    """Median of the finite values; NaN where there is none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else math.nan


def number(value: float | int | None, digits: int = 3) -> str:
    """A number for people: ``digits`` significant ones, thin spaces by thousands, – for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if isinstance(value, int) or (abs(value) >= 10**digits and abs(value) < 1e7):
        return f"{round(value):,}".replace(",", "\u2009").replace("-", "−")
    return f"{value:.{digits}g}".replace("e-0", "e-").replace("e+0", "e+").replace("-", "−")


def percentage(value: float) -> str:
    """A percentage for people: one decimal where it matters, – for none."""
    if not math.isfinite(value):
        return "–"
    if 99.9 < value < 100 or 0 < value < 0.1:
        return ">99.9 %" if value > 1 else "<0.1 %"
    whole = value in (0, 100) or 10 <= value < 99
    return f"{value:.0f} %" if whole else f"{value:.1f} %"


def _metabolite_row(
    result: xr.Dataset, quantity: Quantity, limit: float, usable: NDArray[np.bool_]
) -> MetaboliteRow:
    inside, percent = fitted_voxels(result), relative_crlb(result, quantity.name)
    reliable = percent < limit
    return replace(
        _spread(quantity, estimate(result, quantity.name)),
        crlb=median(percent[inside]),
        reliable_percent=_share(reliable, inside),
        coverage_percent=_share(reliable & usable, ~scalp_voxels(result)),
        data_percent=_data_percent(result, quantity),
    )


def _measure_row(result: xr.Dataset, quantity: Quantity) -> MetaboliteRow:
    return _spread(quantity, measure(result, quantity.name))


def _spread(quantity: Quantity, values: NDArray[np.floating]) -> MetaboliteRow:
    """A row that knows the values alone."""
    known = values[np.isfinite(values)]
    lower, upper = np.percentile(known, [25, 75]) if known.size else (math.nan, math.nan)
    return MetaboliteRow(
        label=quantity.name,
        title=quantity.label,
        role=quantity.role,
        unit=quantity.units,
        median=median(known),
        lower_quartile=float(lower),
        upper_quartile=float(upper),
        crlb=math.nan,
        reliable_percent=math.nan,
        coverage_percent=math.nan,
        data_percent=math.nan,
    )


def _data_percent(result: xr.Dataset, quantity: Quantity) -> float:
    """Median over voxels of the share of an amplitude by the same estimator, if it has one."""
    shares = [
        q.name
        for q in measures_of(result, Role.DATA_SHARE)
        if (q.of, q.estimator) == (quantity.of, quantity.estimator)
    ]
    if quantity.role not in AMPLITUDES or not shares:
        return math.nan
    return 100.0 * median(measure(result, shares[0]))


def _share(chosen: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    """Percent of ``among`` that are ``chosen``; NaN where there is none."""
    return 100.0 * float(np.mean(chosen[among])) if among.any() else math.nan
