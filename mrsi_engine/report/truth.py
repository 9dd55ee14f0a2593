"""Estimates against known amplitudes: what ``mrsi demo`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.io.result_quantities import fitted_voxels, parameters_of
from mrsi_engine.quantities import AMPLITUDES
from mrsi_engine.report.tables import measure, nucleus_of


@dataclass(frozen=True)
class TruthRow:
    """How far one metabolite's estimates lie from the truth over ``voxels`` voxels.

    ``truth`` is the mean true amplitude, ``bias`` the mean error and ``bias_error`` its standard
    error, ``rmse`` the root of the mean squared error. ``crlb`` is the quadratic mean of the
    Cramér-Rao bounds, the one that an RMSE over voxels of unequal bounds is to be compared with,
    and ``ratio`` is ``rmse / crlb``: 1 for an unbiased estimator that reaches its bound.
    """

    label: str
    title: str
    voxels: int
    truth: float
    bias: float
    bias_error: float
    rmse: float
    crlb: float
    ratio: float


def truth_table(
    estimate: Mapping[str, ArrayLike],
    sd: Mapping[str, ArrayLike],
    truth: Mapping[str, ArrayLike],
    titles: Mapping[str, str] | None = None,
) -> list[TruthRow]:
    """One row for every label that is both estimated and known, in the order of ``estimate``.

    Parameters
    ----------
    estimate, sd, truth
        ``(voxel,)`` each, by label and in one unit. Voxels where any is NaN are left out.
    titles
        What people read for labels, where that is not the label.

    Raises
    ------
    InputError
        If no label is in all three or their shapes differ.
    """
    labels = [name for name in estimate if name in sd and name in truth]
    if not labels:
        raise InputError(
            f"truth: none of {sorted(truth)} was estimated; estimates are {sorted(estimate)}"
        )
    known = titles or {}
    return [
        _row(name, known.get(name, name), estimate[name], sd[name], truth[name]) for name in labels
    ]


#: SNR from which a fit is compared with the truth: below it the bounds of a non-linear fit grow
#: without limit, and a mean over voxels would show nothing but the worst of them.
MIN_SNR = 10.0


def result_truth_table(
    result: xr.Dataset, truth: Mapping[str, ArrayLike], min_snr: float = MIN_SNR
) -> list[TruthRow]:
    """:func:`truth_table` of a result's fitted voxels; ``truth`` holds ``(x, y, z)`` volumes.

    Voxels whose SNR was measured and is below ``min_snr`` are left out.

    Raises
    ------
    InputError
        If no label matches or a volume has another shape than the scan.
    """
    inside = fitted_voxels(result) & ~(measure(result, "snr") < min_snr)
    place = tuple(result[axis].values[inside] for axis in "xyz")
    names = [q.name for q in parameters_of(result, *AMPLITUDES) if q.name in truth]
    picked = result.sel(parameter=names).isel(voxel=np.flatnonzero(inside))
    known = {name: _volume(result, name, truth[name])[place] for name in names}
    return truth_table(
        dict(zip(names, picked["estimate"].values.T, strict=True)),
        dict(zip(names, picked["sd"].values.T, strict=True)),
        known or truth,
        {name: nucleus_of(result).title_of(name) for name in names},
    )


def _volume(result: xr.Dataset, name: str, values: ArrayLike) -> NDArray[np.float64]:
    volume, shape = np.asarray(values, float), tuple(result.attrs["shape"])
    if volume.shape != shape:
        raise InputError(f"truth of {name}: shape {volume.shape}, the scan has {shape}")
    return volume


def _row(name: str, title: str, estimate: ArrayLike, sd: ArrayLike, truth: ArrayLike) -> TruthRow:
    columns = [np.asarray(v, float) for v in (estimate, sd, truth)]
    if len({c.shape for c in columns}) > 1:
        raise InputError(f"truth of {name}: shapes {[c.shape for c in columns]} differ")
    known = np.isfinite(columns).all(axis=0)
    found, bound, true = (c[known] for c in columns)
    if not known.any():
        return TruthRow(name, title, 0, *[float("nan")] * 6)
    error = found - true
    rmse, crlb = _quadratic_mean(error), _quadratic_mean(bound)
    return TruthRow(
        label=name,
        title=title,
        voxels=int(known.sum()),
        truth=float(true.mean()),
        bias=float(error.mean()),
        bias_error=float(error.std() / np.sqrt(known.sum())),
        rmse=rmse,
        crlb=crlb,
        ratio=rmse / crlb if crlb > 0 else float("nan"),
    )


def _quadratic_mean(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))
