"""Numbers of a report: one row a metabolite, status counts, headline figures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.conventions import Status
from mrsi_engine.io.maps import fitted_voxels, parameter_names, relative_crlb

#: Relative CRLB (percent) under which an estimate is commonly taken as reliable.
RELIABLE_CRLB = 20.0

#: Limits of a usable spectrum: Wilson et al., Magn Reson Med 2019;82:527 (width of a metabolite
#: peak) and Kreis et al., NMR Biomed 2021;34:e4347 (peak height over the SD of the noise).
MAX_FWHM_PPM, MIN_SNR = 0.1, 3.0


@dataclass(frozen=True)
class MetaboliteRow:
    """One metabolite over the fitted voxels; ``crlb`` is the median relative CRLB in percent."""

    label: str
    title: str
    kind: str
    unit: str
    median: float
    lower_quartile: float
    upper_quartile: float
    crlb: float
    reliable_percent: float


def metabolite_table(result: xr.Dataset) -> list[MetaboliteRow]:
    """One row for every combination, metabolite and macromolecule, in that order.

    ``reliable_percent`` is the share of fitted voxels with a relative CRLB under 20 %; a zero
    estimate, which has none, counts as not reliable.
    """
    kinds = ("combination", "metabolite", "macromolecule")
    names = [name for kind in kinds for name in parameter_names(result, kind)]
    inside = fitted_voxels(result)
    return [_metabolite_row(result, name, inside) for name in names]


def status_counts(result: xr.Dataset) -> list[tuple[str, int, float]]:
    """``(meaning, voxels, percent)`` of every status that occurs."""
    values = result["status"].values
    counts = [(s, int((values == s).sum())) for s in Status]
    return [
        (s.meaning.replace("_", " "), n, 100.0 * n / max(values.size, 1)) for s, n in counts if n
    ]


def usable_voxels(result: xr.Dataset) -> NDArray[np.bool_]:
    """Fitted voxels with a FWHM of at most 0.1 ppm and an SNR of at least 3, ``(voxel,)``."""
    wide = measure(result, "fwhm") > MAX_FWHM_PPM
    noisy = measure(result, "snr") < MIN_SNR
    return np.asarray(fitted_voxels(result) & ~wide & ~noisy)


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


def _metabolite_row(result: xr.Dataset, name: str, inside: NDArray[np.bool_]) -> MetaboliteRow:
    row = result.sel(parameter=name)
    values, percent = estimate(result, name), relative_crlb(result, name)[inside]
    known = values[np.isfinite(values)]
    lower, upper = np.percentile(known, [25, 75]) if known.size else (math.nan, math.nan)
    reliable = 100.0 * np.mean(percent < RELIABLE_CRLB) if percent.size else math.nan
    return MetaboliteRow(
        label=name,
        title=str(row["title"].values) or name,
        kind=str(row["kind"].values),
        unit=str(row["unit"].values),
        median=median(known),
        lower_quartile=float(lower),
        upper_quartile=float(upper),
        crlb=median(percent),
        reliable_percent=float(reliable),
    )
