"""What a fit may be told, and what follows from it for one scan before any voxel is seen."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BeforeValidator, Field

from mrsi_engine.conventions import COMBINATIONS, Acquisition, is_macromolecule
from mrsi_engine.errors import InputError
from mrsi_engine.fit.priors import PriorTable
from mrsi_engine.kernels.band import Band
from mrsi_engine.pipeline.ranges import NoiseRange, PpmRange
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.creatine import with_creatine_ch2
from mrsi_engine.spectra.macromolecules import is_lipid, with_macromolecules

EstimatorName = Literal["free", "nonnegative", "map"]


def _stiffer(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 < low <= high:
        raise ValueError(
            f"baseline_stiffness_range must be [least, most] above 0, found [{low:g}, {high:g}]"
        )
    return value


def _distinct(value: object) -> object:
    if isinstance(value, list | tuple) and (not value or len(set(value)) < len(value)):
        raise ValueError(f"name one estimator, or several that differ; found {list(value)}")
    return value


def _table(value: object) -> object:
    return PriorTable.load(value) if isinstance(value, str) and value != "default" else value


class FitSettings(NoiseRange):
    """Settings of a linear combination fit.

    Parameters
    ----------
    window_ppm, noise_ppm
        What is fitted, and the range that holds signal (noise is measured outside it).
    amplitudes
        ``"free"`` is unbiased, ``"nonnegative"`` is not, ``"map"`` has ``priors``. Of several the
        first is the main one; the parameters of the others are named ``NAA_map`` and so on.
    priors
        Gaussian priors of ``"map"``: ``"default"``, or a TOML file as
        :class:`mrsi_engine.fit.priors.PriorTable` describes it. The pipeline keeps its content.
    lineshape
        Of each group of columns, beyond that of the basis.
    macromolecules, macromolecule_lines, macromolecule_lineshape
        What is fitted of them: as the basis has them, nothing, a measured 3 T pattern or single
        lines, Gaussian or Lorentzian; and whether they have a shift and damping of their own.
    lipids, lipid_lineshape
        What is fitted of mobile lipids: as the basis has them, nothing or single lines; with the
        lineshape of the macromolecules or one of their own.
    creatine_ch2
        ``"free"`` adds a column ``-CrCH2`` that takes off what creatine's CH2 at 3.9 ppm lacks, by
        water suppression or a filter. With ``"nonnegative"`` it can only take off, as in LCModel.
    leave_out
        Columns of the basis that are not fitted.
    baseline, baseline_splines_per_ppm, baseline_stiffness, baseline_order
        None, a spline or a polynomial of an order. A stiffness of 0 leaves the spline free, a large
        one a straight line; ``"adaptive"`` chooses it for each voxel, see ``baseline_weight``.
    baseline_weight
        How much dearer a parameter of an adaptive baseline is than by Akaike's criterion; 5 is the
        published value, a larger one makes baselines stiffer.
    baseline_stiffness_range
        What an adaptive baseline chooses from. A limit above keeps it from being stiffer than the
        data can tell, which would make error bars too small.
    max_shift_hz, max_damping, max_macromolecule_offset_hz
        How far shifts are searched, dampings (1/s) may go beyond the basis' own, up to where
        :mod:`mrsi_engine.kernels.band` is exact enough, and how far the macromolecules' and the
        lipids' own shifts may lie from the metabolites'.
    metabolite_shift_sd_hz
        SD of the prior on a small shift of each metabolite's own; 0 is none. 0.5 Hz at 3 T is
        LCModel's 0.004 ppm. Shifts of metabolites that are hardly seen are not linear in the noise:
        SDs of those and of their neighbours are then up to 10 % too small.
    first_order_phase_ms, first_order_phase_sd_ms
        How much later than the basis the FIDs begin, a first-order phase, and the SD of its
        prior; 0 keeps it fixed. 1 degree per ppm is 0.0225 ms at 123.2 MHz.
    skip_points, acquired_points
        Points left out at the start of the FIDs; points that were acquired where the FIDs were
        zero-filled. Data and model are cut alike, and noise is that of the acquired points.
    errors
        ``"noise"`` gives Cramér-Rao bounds; ``"residual"`` multiplies them by the fit quality where
        that is above 1, an error for a model that does not fit. Where the noise is unknown (flag
        ``unknown_noise``) ``"noise"`` gives none, and ``"residual"`` takes the residual for white
        noise: right where a filter is flat across the fit window. Priors are weighed alike: against
        the residual they count where noise cannot be measured, too.
    noise_sd
        SD of the noise per channel of a FID's first samples in data units, where it is known and
        cannot be measured: FIDs that were apodised hold less noise later. Else it is measured.
    ratio_to
        Metabolites or sums, e.g. ``CrPCr``, that ratios are written to.
    """

    window_ppm: PpmRange = (0.2, 4.2)
    amplitudes: Annotated[EstimatorName | tuple[EstimatorName, ...], BeforeValidator(_distinct)] = (
        "free"
    )
    priors: Annotated[Literal["default"] | PriorTable, BeforeValidator(_table)] = "default"
    lineshape: Literal["lorentzian", "gaussian", "voigt"] = "lorentzian"
    macromolecules: Literal["basis", "none", "pattern", "lines"] = "basis"
    macromolecule_lines: Literal["gaussian", "lorentzian"] = "gaussian"
    macromolecule_lineshape: Literal["shared", "own"] = "shared"
    lipids: Literal["basis", "none", "lines"] = "basis"
    lipid_lineshape: Literal["shared", "own"] = "shared"
    creatine_ch2: Literal["basis", "free"] = "basis"
    leave_out: tuple[str, ...] = ()
    baseline: Literal["none", "spline", "polynomial"] = "none"
    baseline_splines_per_ppm: float = Field(default=4.0, gt=0, le=50)
    baseline_stiffness: Annotated[float, Field(ge=0)] | Literal["adaptive"] = 1.0
    baseline_weight: float = Field(default=5.0, gt=0, le=100)
    baseline_stiffness_range: Annotated[tuple[float, float], AfterValidator(_stiffer)] = (
        1e-3,
        1e3,
    )
    baseline_order: int = Field(default=2, ge=0, le=20)
    max_shift_hz: float = Field(default=20.0, gt=0, le=100)
    max_damping: float = Field(default=100.0, gt=0, le=150)
    max_macromolecule_offset_hz: float = Field(default=6.0, ge=0, le=50)
    metabolite_shift_sd_hz: float = Field(default=0.0, ge=0, le=5)
    first_order_phase_ms: float = Field(default=0.0, ge=-2, le=10)
    first_order_phase_sd_ms: float = Field(default=0.0, ge=0, le=0.5)
    skip_points: int = Field(default=0, ge=0)
    acquired_points: int | None = Field(default=None, ge=1)
    errors: Literal["noise", "residual"] = "noise"
    noise_sd: float | None = Field(default=None, gt=0)
    ratio_to: tuple[str, ...] = ()
    max_iterations: int = Field(default=60, ge=1, le=1000)

    @property
    def settings_of_fit(self) -> dict[str, Any]:
        """Settings that estimates depend on, whoever finds them."""
        return self.model_dump(mode="json", include=set(FitSettings.model_fields))

    @property
    def estimators(self) -> tuple[EstimatorName, ...]:
        """Those asked for, the main one first."""
        return self.amplitudes if isinstance(self.amplitudes, tuple) else (self.amplitudes,)

    @property
    def adaptive(self) -> bool:
        """Whether every voxel has a baseline of its own stiffness."""
        return self.baseline == "spline" and self.baseline_stiffness == "adaptive"

    @property
    def lorentzian_share(self) -> float:
        """Share of the damping that a fit begins with as a Lorentzian."""
        return {"lorentzian": 1.0, "gaussian": 0.0, "voigt": 0.5}[self.lineshape]

    @property
    def stiffnesses(self) -> list[float]:
        """Those an adaptive baseline chooses from, about two a factor of 10."""
        low, high = self.baseline_stiffness_range
        return [float(s) for s in np.geomspace(low, high, 1 + round(2 * np.log10(high / low)))]

    @property
    def starts_late(self) -> bool:
        """Whether a first-order phase is fitted."""
        return self.first_order_phase_sd_ms > 0

    @property
    def prior_table(self) -> PriorTable:
        """The priors of ``"map"``."""
        return PriorTable.default() if self.priors == "default" else self.priors

    def used_points(self, acquisition: Acquisition) -> slice:
        """Which points of a FID are fitted.

        Raises
        ------
        InputError
            If fewer than 16 are left, or more were acquired than there are.
        """
        stop = acquisition.points if self.acquired_points is None else self.acquired_points
        if stop > acquisition.points or stop - self.skip_points < 16:
            raise InputError(
                f"stage 'quantify': skip_points = {self.skip_points} and acquired_points = "
                f"{self.acquired_points} do not suit FIDs of {acquisition.points} points; at least "
                "16 must be left to fit"
            )
        return slice(self.skip_points, stop)

    def fitted_acquisition(self, acquisition: Acquisition) -> Acquisition:
        """The axis of the points that are fitted."""
        used = self.used_points(acquisition)
        return acquisition.with_points(used.stop - used.start)

    def band(self, acquisition: Acquisition) -> Band:
        """The bins of the fit window.

        Raises
        ------
        InputError
            If the window leaves the spectrum or holds too few points.
        """
        low, high = sorted(acquisition.frequency_of(self.window_ppm))
        points = self.fitted_acquisition(acquisition).points
        try:
            return Band.between(points, acquisition.dwell_time, low, high)
        except ValueError as error:
            message = f"stage 'quantify': window_ppm = {list(self.window_ppm)}: {error}"
            raise InputError(message) from error

    def baseline_coefficients(self, acquisition: Acquisition) -> int:
        """Complex coefficients of the baseline across the fit window; 0 without one."""
        if self.baseline == "none":
            return 0
        if self.baseline == "polynomial":
            return self.baseline_order + 1
        width = np.ptp(self.band(acquisition).frequencies) / acquisition.spectrometer_frequency
        return max(4, round(self.baseline_splines_per_ppm * float(width)))

    def check_size(self, basis: Basis, acquisition: Acquisition) -> None:
        """Whether the window holds more data than the model has parameters.

        Raises
        ------
        InputError
            If it does not.
        """
        data = 2 * self.band(acquisition).bins
        baseline = 2 * self.baseline_coefficients(acquisition)
        lineshape = 1 + 3 * len(self.group_suffixes(basis))
        if len(basis.names) + lineshape + baseline >= data:
            raise InputError(
                f"stage 'quantify': {data // 2} complex points lie in window_ppm = "
                f"{list(self.window_ppm)}, too few for {len(basis.names)} amplitudes, {lineshape} "
                f"lineshape parameters and {baseline} baseline coefficients. Widen the window, "
                "lower baseline_splines_per_ppm or baseline_order, or leave metabolites out"
            )

    def fitted_basis(self, basis: Basis) -> Basis:
        """The columns that are fitted: the basis less what is left out, with the MM asked for.

        Raises
        ------
        InputError
            If a name to leave out is not in the basis or no metabolite is left.
        """
        left_out = set(basis.select(self.leave_out).names) if self.leave_out else set()
        replaced = {True: self.lipids != "basis", False: self.macromolecules != "basis"}
        left_out |= {name for name in basis.macromolecules if replaced[is_lipid(name)]}
        kept = [name for name in basis.names if name not in left_out]
        if all(is_macromolecule(name) for name in kept):
            raise InputError("stage 'quantify': leave_out leaves no metabolite to fit")
        chosen = basis.select(kept)
        if self.creatine_ch2 == "free":
            chosen = with_creatine_ch2(chosen)
        lines = "none" if self.macromolecules == "basis" else self.macromolecules
        return with_macromolecules(
            chosen, lines, lipids=self.lipids == "lines", shape=self.macromolecule_lines
        )

    def group_of(self, name: str) -> str:
        """The lineshape group of a column, by its suffix in names of parameters."""
        if is_lipid(name) and self.lipid_lineshape == "own":
            return "_lip"
        own = is_macromolecule(name) and self.macromolecule_lineshape == "own"
        return "_mm" if own else ""

    def group_suffixes(self, basis: Basis) -> tuple[str, ...]:
        """Lineshape groups of a fitted basis, that of the metabolites first."""
        found = {self.group_of(name) for name in basis.names}
        return tuple(s for s in ("", "_mm", "_lip") if s in found)

    def references(self, basis: Basis) -> tuple[str, ...]:
        """Amplitudes that others may be divided by: the sums, and what ``ratio_to`` names.

        Raises
        ------
        InputError
            If it names what is not fitted.
        """
        sums = [c.label for c in COMBINATIONS if set(c.members) <= set(basis.names)]
        unknown = [r for r in self.ratio_to if r not in (*sums, *basis.names)]
        if unknown:
            raise InputError(
                f"stage 'quantify': ratio_to names {unknown}, which are not fitted; there are "
                f"{[*sums, *basis.names]}"
            )
        return tuple(dict.fromkeys((*sums, *self.ratio_to)))
