"""Our ratios against LCModel's, voxel by voxel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from mrsi_engine.errors import InputError
from mrsi_engine.io.result_quantities import fitted_voxels, parameters_of
from mrsi_engine.nuclei import Nucleus
from mrsi_engine.quantities import AMPLITUDES, MAIN
from mrsi_engine.report.tables import measure, nucleus_of

#: Fewest voxels a correlation, and limits of agreement, are given for.
MIN_VOXELS = 3

#: SDs of the differences from their mean to the limits that 95 % of them lie between.
_LIMIT_SDS = 1.96


@dataclass(frozen=True)
class Agreement:
    """Mean of ours less LCModel's (``bias``) and the limits that 95 % of differences lie between.

    ``half_width`` is 1.96 SDs of the differences (Bland & Altman, Lancet 1986;327:307); both are
    NaN for fewer than three voxels.
    """

    bias: float
    half_width: float

    @classmethod
    def of(cls, differences: NDArray[np.float64]) -> Agreement:
        """Of one difference a voxel, ``(voxels,)``."""
        if len(differences) < MIN_VOXELS:
            return cls(float("nan"), float("nan"))
        spread = _LIMIT_SDS * np.std(differences, ddof=1)
        return cls(float(np.mean(differences)), float(spread))

    @property
    def limits(self) -> tuple[float, float]:
        """The lower and the upper one."""
        return self.bias - self.half_width, self.bias + self.half_width


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """One metabolite: ratios to the reference in the voxels that both programs trust.

    ``lcmodel`` and ``ours`` are the ratios, ``(voxels,)``; ``voxel`` their indices in the result.
    ``r`` is Pearson's correlation, ``slope`` and ``intercept`` those of the least-squares line of
    ours on LCModel's; all three are NaN for fewer than three voxels.
    """

    label: str
    title: str
    r: float
    slope: float
    intercept: float
    lcmodel: NDArray[np.float64]
    ours: NDArray[np.float64]
    voxel: NDArray[np.int_]

    @property
    def voxels(self) -> int:
        """How many voxels were compared."""
        return len(self.voxel)

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean of both programs' ratios in each voxel, ``(voxels,)``."""
        return (self.lcmodel + self.ours) / 2

    @property
    def differences(self) -> NDArray[np.float64]:
        """Ours less LCModel's, ``(voxels,)``."""
        return self.ours - self.lcmodel

    @property
    def percent_differences(self) -> NDArray[np.float64]:
        """Of the mean of both, ``(voxels,)``; NaN where that is not above 0."""
        percent = np.full(self.voxels, np.nan)
        np.divide(100 * self.differences, self.means, out=percent, where=self.means > 0)
        return percent

    @property
    def agreement(self) -> Agreement:
        """Of the differences."""
        return Agreement.of(self.differences)

    @property
    def percent_agreement(self) -> Agreement:
        """Of the differences in percent, where they are known."""
        percent = self.percent_differences
        return Agreement.of(percent[np.isfinite(percent)])

    @property
    def median_lcmodel(self) -> float:
        """Median of LCModel's ratios."""
        return _median(self.lcmodel)

    @property
    def median_ours(self) -> float:
        """Median of our ratios."""
        return _median(self.ours)


@dataclass(frozen=True, eq=False)
class Comparison:
    """All metabolites both programs report; ``missing`` are LCModel's that we do not."""

    rows: tuple[ComparisonRow, ...]
    reference: str
    max_percent_sd: float
    max_fit_quality: float
    max_relative_residual: float
    passing: int
    compared: int
    missing: tuple[str, ...]
    reference_title: str

    def __getitem__(self, label: str) -> ComparisonRow:
        """The row of one label."""
        return next(row for row in self.rows if row.label == label)


def compare_with_lcmodel(
    result: xr.Dataset,
    table: pd.DataFrame,
    *,
    max_percent_sd: float = 10.0,
    max_fit_quality: float = 3.0,
    max_relative_residual: float = 0.2,
    z: int | None = None,
    voxel: tuple[int, int] | None = None,
) -> Comparison:
    """Compare ratios to LCModel's reference metabolite (``Cr``, or ``Cr+PCr``).

    A voxel counts for a metabolite where LCModel's %SD of it and of the reference are at most
    ``max_percent_sd``, ours was fitted with a fit quality of at most ``max_fit_quality`` or a
    relative residual of at most ``max_relative_residual`` (the noise of filtered data cannot be
    measured, and fit quality with it), and both ratios are finite.

    Parameters
    ----------
    result
        A result store opened as a dataset.
    table
        From :func:`mrsi_engine.io.lcmodel_results.read_lcmodel`.
    z
        Slice of the scan that LCModel analysed, counted from 0; may be left out where the result
        has one slice.
    voxel
        Of a table of one voxel, its x and y; may be left out where the result has one voxel.

    Raises
    ------
    InputError
        If it is not said of which slice or voxel the table is, no voxel or no metabolite is in
        both, or the reference is not in the result.
    """
    joined = _joined(result, _placed(result, table, voxel), z)
    nucleus = nucleus_of(result)
    ours = {q.name for q in parameters_of(result, *AMPLITUDES) if q.estimator == MAIN}
    reference = _reference(str(table.attrs["reference"]), set(table["label"]), ours, nucleus)
    same = {reference, str(table.attrs["reference"])}
    labels = [n for n in dict.fromkeys(table["label"]) if n in ours - same]
    if not labels:
        raise InputError(f"LCModel's table and the result share no metabolite but {reference}")
    passing = _passing(result, max_fit_quality, max_relative_residual)
    ratios = _ratios(result, reference)
    trusted = _trusted_reference(joined, str(table.attrs["reference"]), max_percent_sd)
    chosen = joined[joined["voxel"].isin(np.flatnonzero(passing)) & joined["voxel"].isin(trusted)]
    certain = chosen[chosen["percent_sd"] <= max_percent_sd]
    rows = tuple(
        _row(n, nucleus.title_of(n), certain[certain["label"] == n], ratios) for n in labels
    )
    return Comparison(
        rows=rows,
        reference=reference,
        max_percent_sd=max_percent_sd,
        max_fit_quality=max_fit_quality,
        max_relative_residual=max_relative_residual,
        passing=int(chosen["voxel"].nunique()),
        compared=int(joined["voxel"].nunique()),
        missing=tuple(n for n in dict.fromkeys(table["label"]) if n not in ours),
        reference_title=nucleus.title_of(reference),
    )


def _placed(result: xr.Dataset, table: pd.DataFrame, voxel: tuple[int, int] | None) -> pd.DataFrame:
    """The table with the place of its voxel, if it is of one."""
    if "x" in table:
        return table
    if voxel is None and result.sizes["voxel"] > 1:
        raise InputError(
            f"{result.attrs['stem']}: the result has {result.sizes['voxel']} voxels, LCModel's "
            "table is of one; say which with --voxel X Y, counted from 0"
        )
    x, y = voxel or (int(result["x"][0]), int(result["y"][0]))
    placed = table.assign(x=x, y=y)
    placed.attrs = table.attrs
    return placed


def _joined(result: xr.Dataset, table: pd.DataFrame, z: int | None) -> pd.DataFrame:
    slices = sorted(set(result["z"].values.tolist()))
    if z is None and len(slices) > 1:
        raise InputError(
            f"{result.attrs['stem']}: the result has slices {slices}, LCModel's table is of one; "
            "say which with --slice Z"
        )
    index = pd.DataFrame({axis: result[axis].values for axis in "xyz"})
    index["voxel"] = np.arange(len(index))
    chosen = index[index["z"] == (slices[0] if z is None else z)]
    joined = table.merge(chosen, on=["x", "y"], how="inner", validate="many_to_one")
    if joined.empty:
        raise InputError(
            f"{result.attrs['stem']}: no voxel of LCModel's table (columns "
            f"{table['x'].min() + 1} to {table['x'].max() + 1}, rows {table['y'].min() + 1} to "
            f"{table['y'].max() + 1}) is in the result; was it made from this scan?"
        )
    return joined


def _reference(name: str, theirs: set[str], ours: set[str], nucleus: Nucleus) -> str:
    # LCModel's Cr is all creatine where its basis has no PCr; ours is then tCr.
    for combination in nucleus.sums:
        alone = theirs.isdisjoint(set(combination.members) - {name})
        if name in combination.members and alone and combination.label in ours:
            return combination.label
    if name in ours:
        return name
    raise InputError(
        f"LCModel's ratios are to {name}, which the result lacks; it has {sorted(ours)}"
    )


def _passing(result: xr.Dataset, quality: float, residual: float) -> NDArray[np.bool_]:
    good = measure(result, "fit_quality") <= quality
    close = measure(result, "relative_residual") <= residual
    return np.asarray(fitted_voxels(result) & (good | close))


def _trusted_reference(joined: pd.DataFrame, name: str, most: float) -> NDArray[np.int_]:
    rows = joined[joined["label"] == name]
    if rows.empty:
        # A table may hold ratios to what it does not list itself.
        return joined["voxel"].to_numpy()
    return rows.loc[rows["percent_sd"] <= most, "voxel"].to_numpy()


def _ratios(result: xr.Dataset, reference: str) -> pd.DataFrame:
    estimate = result["estimate"].values.astype(float)
    names = [str(n) for n in result["parameter"].values]
    below = estimate[:, names.index(reference), None]
    ratios = np.full(estimate.shape, np.nan)
    np.divide(estimate, below, out=ratios, where=below > 0)
    return pd.DataFrame(ratios, columns=names)


def _row(label: str, title: str, rows: pd.DataFrame, ratios: pd.DataFrame) -> ComparisonRow:
    voxel = rows["voxel"].to_numpy()
    ours, theirs = ratios[label].to_numpy()[voxel], rows["ratio"].to_numpy(dtype=float)
    known = np.isfinite(ours) & np.isfinite(theirs)
    ours, theirs, voxel = ours[known], theirs[known], voxel[known]
    r, slope, intercept = _line(theirs, ours)
    return ComparisonRow(label, title, r, slope, intercept, theirs, ours, voxel)


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    if len(x) < MIN_VOXELS or np.ptp(x) == 0 or np.ptp(y) == 0:
        return (float("nan"),) * 3
    slope, intercept = np.polyfit(x, y, 1)
    return float(np.corrcoef(x, y)[0, 1]), float(slope), float(intercept)


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values)) if len(values) else float("nan")
