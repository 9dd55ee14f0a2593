"""Numbers of a report: one row a metabolite, status counts, headline figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Flag, Status
from mrsi_engine.io.maps import fitted_voxels, parameter_names, relative_crlb, scalp_voxels
from mrsi_engine.stages.quality_control import QualityControl

#: Start of the measures that say how much of an estimate is from the data.
_DATA_SHARE = "data_share_"

#: End of the names of estimates with priors that stand beside others.
_MAP = "_map"


@dataclass(frozen=True)
class MetaboliteRow:
    """One metabolite over the fitted voxels; ``crlb`` is the median relative CRLB in percent.

    ``reliable_percent`` of the fitted voxels have a CRLB within the limit, ``coverage_percent`` of
    the mask's voxels have that and are usable. ``data_percent`` is the median share of an estimate
    that is from the data rather than from its prior; NaN where it has none.
    """

    label: str
    title: str
    kind: str
    unit: str
    median: float
    lower_quartile: float
    upper_quartile: float
    crlb: float
    reliable_percent: float
    coverage_percent: float
    data_percent: float


def limits(result: xr.Dataset) -> QualityControl:
    """Thresholds of the run's pipeline; the default ones where it has none."""
    stages = result.attrs.get("pipeline", {}).get("stages", [])
    own = [s for s in stages if s.get("stage") == QualityControl.stage]
    given = own[-1] if own else {}
    return QualityControl.model_validate({k: v for k, v in given.items() if k != "stage"})


def metabolite_table(result: xr.Dataset) -> list[MetaboliteRow]:
    """One row for every concentration, combination, metabolite and macromolecule, in that order.

    A zero estimate has no relative CRLB and counts as not reliable.
    """
    kinds = ("concentration", "combination", "metabolite", "macromolecule")
    names = [name for kind in kinds for name in parameter_names(result, kind)]
    limit, usable = limits(result).max_crlb_percent, usable_voxels(result)
    return [_metabolite_row(result, name, limit, usable) for name in names]


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
    if "flags" not in result:
        return np.zeros(result.sizes["voxel"], np.int32)
    flags = np.asarray(result["flags"].values, dtype=np.int32)
    stages = result.attrs.get("pipeline", {}).get("stages", [])
    if any(s.get("stage") == QualityControl.stage for s in stages):
        return flags
    default = limits(result)
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
    if name not in result["measure"].values:
        return np.full(result.sizes["voxel"], np.nan)
    values = result["quality"].sel(measure=name).values
    return np.where(fitted_voxels(result), values, np.nan)


def estimate(result: xr.Dataset, name: str) -> NDArray[np.floating]:
    """An estimate in the fitted voxels ``(voxel,)``; NaN elsewhere, or if not stored."""
    if name not in result["parameter"].values:
        return np.full(result.sizes["voxel"], np.nan)
    values = result["estimate"].sel(parameter=name).values
    return np.where(fitted_voxels(result), values, np.nan)


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
    result: xr.Dataset, name: str, limit: float, usable: NDArray[np.bool_]
) -> MetaboliteRow:
    row, inside = result.sel(parameter=name), fitted_voxels(result)
    values, percent = estimate(result, name), relative_crlb(result, name)
    reliable = percent < limit
    known = values[np.isfinite(values)]
    lower, upper = np.percentile(known, [25, 75]) if known.size else (math.nan, math.nan)
    return MetaboliteRow(
        label=name,
        title=str(row["title"].values) or name,
        kind=str(row["kind"].values),
        unit=str(row["unit"].values),
        median=median(known),
        lower_quartile=float(lower),
        upper_quartile=float(upper),
        crlb=median(percent[inside]),
        reliable_percent=_share(reliable, inside),
        coverage_percent=_share(reliable & usable, ~scalp_voxels(result)),
        data_percent=_data_percent(result, name),
    )


def _data_percent(result: xr.Dataset, name: str) -> float:
    """Median over voxels; where ``map`` is not the main estimator only its own rows have one."""
    beside = any(str(p).endswith(_MAP) for p in result["parameter"].values)
    if beside and not name.endswith(_MAP):
        return math.nan
    return 100.0 * median(measure(result, _DATA_SHARE + name.removesuffix(_MAP)))


def _share(chosen: NDArray[np.bool_], among: NDArray[np.bool_]) -> float:
    """Percent of ``among`` that are ``chosen``; NaN where there is none."""
    return 100.0 * float(np.mean(chosen[among])) if among.any() else math.nan
