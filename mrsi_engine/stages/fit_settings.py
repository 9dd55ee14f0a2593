"""What a fit may be told, and what follows from it for one scan before any voxel is seen."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from mrsi_engine.conventions import (
    COMBINATIONS,
    Acquisition,
    Quantity,
    is_macromolecule,
)
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.band import Band
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import with_macromolecules
from mrsi_engine.stages.ranges import NoiseRange, PpmRange


class FitSettings(NoiseRange):
    """Settings of a linear combination fit.

    ``window_ppm`` is fitted, ``noise_ppm`` is the range that holds signal (noise is measured
    outside it). Shifts are searched up to ``max_shift_hz``; dampings (1/s) are those beyond the
    basis' own, up to where :mod:`mrsi_engine.kernels.band` is exact enough. A spline baseline has
    ``baseline_splines_per_ppm`` and a stiffness of ``baseline_stiffness`` (0 is free, large is a
    straight line).
    """

    window_ppm: PpmRange = (0.2, 4.2)
    amplitudes: Literal["free", "nonnegative"] = "free"
    lineshape: Literal["lorentzian", "gaussian", "voigt"] = "lorentzian"
    macromolecules: Literal["basis", "none", "pattern", "lines"] = "basis"
    macromolecule_lineshape: Literal["shared", "own"] = "shared"
    leave_out: tuple[str, ...] = ()
    baseline: Literal["none", "spline"] = "none"
    baseline_splines_per_ppm: float = Field(default=4.0, gt=0, le=50)
    baseline_stiffness: float = Field(default=1.0, ge=0)
    max_shift_hz: float = Field(default=20.0, gt=0, le=100)
    max_damping: float = Field(default=100.0, gt=0, le=150)
    max_macromolecule_offset_hz: float = Field(default=6.0, ge=0, le=50)
    max_iterations: int = Field(default=30, ge=1, le=1000)

    def band(self, acquisition: Acquisition) -> Band:
        """The bins of the fit window.

        Raises
        ------
        InputError
            If the window leaves the spectrum or holds too few points.
        """
        low, high = sorted(acquisition.frequency_of(self.window_ppm))
        try:
            return Band.between(acquisition.points, acquisition.dwell_time, low, high)
        except ValueError as error:
            message = f"stage 'quantify': window_ppm = {list(self.window_ppm)}: {error}"
            raise InputError(message) from error

    def baseline_coefficients(self, acquisition: Acquisition) -> int:
        """Complex B-splines across the fit window; 0 without a baseline."""
        if self.baseline == "none":
            return 0
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
        lineshape = 1 + 3 * self.groups(basis)
        if len(basis.names) + lineshape + baseline >= data:
            raise InputError(
                f"stage 'quantify': {data // 2} complex points lie in window_ppm = "
                f"{list(self.window_ppm)}, too few for {len(basis.names)} amplitudes, {lineshape} "
                f"lineshape parameters and {baseline} baseline coefficients. Widen the window, "
                "lower baseline_splines_per_ppm or leave metabolites out"
            )

    def fitted_basis(self, basis: Basis) -> Basis:
        """The columns that are fitted: the basis less what is left out, with the MM asked for.

        Raises
        ------
        InputError
            If a name to leave out is not in the basis or no metabolite is left.
        """
        left_out = set(basis.select(self.leave_out).names) if self.leave_out else set()
        if self.macromolecules != "basis":
            left_out |= set(basis.macromolecules)
        kept = [name for name in basis.names if name not in left_out]
        if all(is_macromolecule(name) for name in kept):
            raise InputError("stage 'quantify': leave_out leaves no metabolite to fit")
        chosen = basis.select(kept)
        if self.macromolecules in ("pattern", "lines"):
            return with_macromolecules(chosen, self.macromolecules)
        return chosen

    def groups(self, basis: Basis) -> int:
        """Number of lineshape groups: macromolecules may have their own."""
        return 2 if self.macromolecule_lineshape == "own" and basis.macromolecules else 1


def amplitude_quantities(basis: Basis) -> list[Quantity]:
    """One for every column of a fitted basis, then the sums its columns allow."""
    single = [
        Quantity(
            name,
            "data units",
            f"amplitude of {name} in units of its basis spectrum",
            kind="macromolecule" if is_macromolecule(name) else "metabolite",
        )
        for name in basis.names
    ]
    return single + [
        Quantity(
            c.label,
            "data units",
            f"sum of the amplitudes of {' and '.join(c.members)}; its SD is from their covariance",
            c.title,
            "combination",
        )
        for c in COMBINATIONS
        if set(c.members) <= set(basis.names)
    ]


def amplitude_weights(basis: Basis) -> NDArray[np.float64]:
    """``(quantity, column)`` that makes :func:`amplitude_quantities` of the columns."""
    sums = [c for c in COMBINATIONS if set(c.members) <= set(basis.names)]
    rows = [[float(name in c.members) for name in basis.names] for c in sums]
    return np.vstack([np.eye(len(basis.names)), *rows])


def lineshape_quantities(groups: int) -> list[Quantity]:
    """One for every column of ``theta``, as :class:`mrsi_engine.kernels.lcm.Layout` orders them."""
    kind = "lineshape"
    quantities = [Quantity("phase", "rad", "zero-order phase", "Phase", kind)]
    for suffix, whose in [("", "the spectrum"), ("_mm", "the macromolecules")][:groups]:
        shift = (
            Quantity("shift_mm", "Hz", "shift of the macromolecules against the metabolites",
                     "MM offset", kind)
            if suffix
            else Quantity("shift", "Hz", "frequency of the spectrum against the basis; positive is "
                          "towards lower ppm", "Shift", kind)
        )  # fmt: skip
        quantities += [
            shift,
            Quantity(f"lorentzian{suffix}", "1/s", f"Lorentzian damping of {whose} beyond the "
                     "basis", "Lorentzian damping", kind),
            Quantity(f"gaussian{suffix}", "1/s", f"Gaussian damping of {whose} beyond the basis",
                     "Gaussian damping", kind),
        ]  # fmt: skip
    return quantities
