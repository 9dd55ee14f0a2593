"""What a fit may be told, and what follows from it for one scan before any voxel is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import BeforeValidator

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.fit.groups import (
    BaselineSettings,
    DelaySettings,
    LipidSettings,
    MacromoleculeSettings,
)
from mrsi_engine.fit.priors import PriorTable
from mrsi_engine.kernels.band import Band
from mrsi_engine.nuclei import Nucleus
from mrsi_engine.pipeline.ranges import NoiseRange
from mrsi_engine.pipeline.settings import NucleusRange, setting
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.creatine import with_creatine_ch2
from mrsi_engine.spectra.macromolecules import with_macromolecules

EstimatorName = Literal["free", "nonnegative", "map"]


def _distinct(value: object) -> object:
    if isinstance(value, list | tuple) and (not value or len(set(value)) < len(value)):
        raise ValueError(f"name one estimator, or several that differ; found {list(value)}")
    return value


def _table(value: object) -> object:
    return PriorTable.load(value) if isinstance(value, str) and value != "default" else value


class FitSettings(NoiseRange):
    """Settings of a linear combination fit."""

    of_nucleus: ClassVar[Mapping[str, Callable[[Nucleus], Any]]] = {
        **NoiseRange.of_nucleus,
        "window_ppm": lambda n: n.windows.fit,
    }
    moved: ClassVar[Mapping[str, str]] = {
        "baseline_splines_per_ppm": "baseline.splines_per_ppm",
        "baseline_stiffness": "baseline.stiffness",
        "baseline_stiffness_range": "baseline.stiffness_range",
        "baseline_weight": "baseline.weight",
        "baseline_order": "baseline.order",
        "macromolecule_lines": "macromolecules.lines",
        "macromolecule_lineshape": "macromolecules.lineshape",
        "max_macromolecule_offset_hz": "macromolecules.max_offset_hz",
        "lipid_lineshape": "lipids.lineshape",
        "first_order_phase_ms": "first_order_phase.delay_ms",
        "first_order_phase_sd_ms": "first_order_phase.sd_ms",
    }

    window_ppm: NucleusRange = setting(
        None, "What is fitted, [low, high]; that of the nucleus if not given.", unit="ppm"
    )
    amplitudes: Annotated[EstimatorName | tuple[EstimatorName, ...], BeforeValidator(_distinct)] = (
        setting(
            "free",
            "`free` is unbiased, `nonnegative` is not, `map` has priors. Of several the first is "
            "the main one; the parameters of the others are named `NAA_map` and so on.",
        )
    )
    priors: Annotated[Literal["default"] | PriorTable, BeforeValidator(_table)] = setting(
        "default",
        "Gaussian priors of `map`: the shipped ones, or a TOML file of the same form "
        "(mrsi_engine/spectra/priors.toml). The pipeline keeps its content.",
    )
    lineshape: Literal["lorentzian", "gaussian", "voigt"] = setting(
        "lorentzian", "Of each group of columns, beyond that of the basis."
    )
    macromolecules: MacromoleculeSettings = setting(
        MacromoleculeSettings(), "What is fitted of macromolecules."
    )
    lipids: LipidSettings = setting(LipidSettings(), "What is fitted of mobile lipids.")
    creatine_ch2: Literal["basis", "free"] = setting(
        "basis",
        "`free` adds a column `-CrCH2` that takes off what creatine's CH2 at 3.9 ppm lacks, by "
        "water suppression or a filter. With nonnegative amplitudes it can only take off, as in "
        "LCModel.",
    )
    leave_out: tuple[str, ...] = setting((), "Columns of the basis that are not fitted.")
    baseline: BaselineSettings = setting(
        BaselineSettings(), "What is fitted below the metabolites."
    )
    max_shift_hz: float = setting(
        20.0, "How far shifts are searched to either side.", unit="Hz", gt=0, le=100
    )
    max_damping: float = setting(
        100.0,
        "How far dampings may go beyond the basis' own, up to where the fit of a band is exact "
        "enough.",
        unit="1/s",
        gt=0,
        le=150,
    )
    metabolite_shift_sd_hz: float = setting(
        0.0,
        "SD of the prior on a small shift of each metabolite's own; 0 is none. 0.5 Hz at 3 T is "
        "LCModel's 0.004 ppm. Shifts of metabolites that are hardly seen are not linear in the "
        "noise: SDs of those and of their neighbours are then up to 10 % too small.",
        unit="Hz",
        ge=0,
        le=5,
    )
    first_order_phase: DelaySettings = setting(
        DelaySettings(), "How much later than the basis the FIDs begin."
    )
    skip_points: int = setting(
        0, "Points left out at the start of the FIDs; data and model are cut alike.", ge=0
    )
    acquired_points: int | None = setting(
        None,
        "Points that were acquired where the FIDs were zero-filled; noise is that of those. All if "
        "not given.",
        ge=1,
    )
    errors: Literal["noise", "residual"] = setting(
        "noise",
        "`noise` gives Cramér-Rao bounds; `residual` multiplies them by the fit quality where that "
        "is above 1, an error for a model that does not fit. Where the noise is unknown (flag "
        "`unknown_noise`) `noise` gives none, and `residual` takes the residual for white noise: "
        "right where a filter is flat across the fit window. Priors are weighed alike: against the "
        "residual they count where noise cannot be measured, too.",
    )
    noise_sd: float | None = setting(
        None,
        "SD of the noise per channel of a FID's first samples, where it is known and cannot be "
        "measured: FIDs that were apodised hold less noise later. Measured if not given.",
        unit="data units",
        gt=0,
    )
    ratio_to: tuple[str, ...] = setting(
        (), "Metabolites or sums, e.g. `CrPCr`, that ratios are written to."
    )
    max_iterations: int = setting(60, "Steps of a fit before it is given up.", ge=1, le=1000)

    @property
    def settings_of_fit(self) -> dict[str, Any]:
        """Settings that estimates depend on, whoever finds them."""
        return self.model_dump(mode="json", include=set(FitSettings.model_fields))

    @property
    def estimators(self) -> tuple[EstimatorName, ...]:
        """Those asked for, the main one first."""
        return self.amplitudes if isinstance(self.amplitudes, tuple) else (self.amplitudes,)

    @property
    def lorentzian_share(self) -> float:
        """Share of the damping that a fit begins with as a Lorentzian."""
        return {"lorentzian": 1.0, "gaussian": 0.0, "voigt": 0.5}[self.lineshape]

    @property
    def starts_late(self) -> bool:
        """Whether a first-order phase is fitted."""
        return self.first_order_phase.sd_ms > 0

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

    def window(self, acquisition: Acquisition) -> tuple[float, float]:
        """What is fitted, ppm."""
        low, high = self.own("window_ppm", acquisition)
        return low, high

    def band(self, acquisition: Acquisition) -> Band:
        """The bins of the fit window.

        Raises
        ------
        InputError
            If the window leaves the spectrum or holds too few points.
        """
        window = self.window(acquisition)
        low, high = sorted(acquisition.frequency_of(window))
        points = self.fitted_acquisition(acquisition).points
        try:
            return Band.between(points, acquisition.dwell_time, low, high)
        except ValueError as error:
            half = acquisition.spectral_width / 2
            ends = sorted(acquisition.ppm_of([-half, half]))
            raise InputError(
                f"stage 'quantify': window_ppm = {list(window)}: {error}; the spectrum reaches "
                f"from {ends[0]:.2f} to {ends[1]:.2f} ppm, choose a window inside it"
            ) from error

    def baseline_coefficients(self, acquisition: Acquisition) -> int:
        """Complex coefficients of the baseline across the fit window; 0 without one."""
        width = np.ptp(self.band(acquisition).frequencies) / acquisition.spectrometer_frequency
        return self.baseline.coefficients(float(width))

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
                f"{list(self.window(acquisition))}, too few for {len(basis.names)} amplitudes, "
                f"{lineshape} lineshape parameters and {baseline} baseline coefficients. Widen the "
                "window, lower splines_per_ppm or order of the baseline, or leave metabolites out"
            )

    def fitted_basis(self, basis: Basis) -> Basis:
        """The columns that are fitted: the basis less what is left out, with the MM asked for.

        Raises
        ------
        InputError
            If a name to leave out is not in the basis or no metabolite is left.
        """
        left_out = set(basis.select(self.leave_out).names) if self.leave_out else set()
        nucleus = basis.nucleus
        replaced = {
            True: self.lipids.source != "basis",
            False: self.macromolecules.source != "basis",
        }
        left_out |= {name for name in basis.macromolecules if replaced[nucleus.is_lipid(name)]}
        kept = [name for name in basis.names if name not in left_out]
        if all(nucleus.is_macromolecule(name) for name in kept):
            raise InputError("stage 'quantify': leave_out leaves no metabolite to fit")
        chosen = basis.select(kept)
        if self.creatine_ch2 == "free":
            chosen = with_creatine_ch2(chosen)
        asked = self.macromolecules.source
        lines = "none" if asked == "basis" else asked
        return with_macromolecules(
            chosen, lines, lipids=self.lipids.source == "lines", shape=self.macromolecules.lines
        )

    def group_of(self, name: str, basis: Basis) -> str:
        """The lineshape group of a column, by its suffix in names of parameters."""
        if basis.nucleus.is_lipid(name) and self.lipids.lineshape == "own":
            return "_lip"
        own = basis.nucleus.is_macromolecule(name) and self.macromolecules.lineshape == "own"
        return "_mm" if own else ""

    def group_suffixes(self, basis: Basis) -> tuple[str, ...]:
        """Lineshape groups of a fitted basis, that of the metabolites first."""
        found = {self.group_of(name, basis) for name in basis.names}
        return tuple(s for s in ("", "_mm", "_lip") if s in found)

    def references(self, basis: Basis) -> tuple[str, ...]:
        """Amplitudes that others may be divided by: the sums, and what ``ratio_to`` names.

        Raises
        ------
        InputError
            If it names what is not fitted.
        """
        sums = [c.label for c in basis.nucleus.sums_of(basis.names)]
        unknown = [r for r in self.ratio_to if r not in (*sums, *basis.names)]
        if unknown:
            raise InputError(
                f"stage 'quantify': ratio_to names {unknown}, which are not fitted; there are "
                f"{[*sums, *basis.names]}"
            )
        return tuple(dict.fromkeys((*sums, *self.ratio_to)))
