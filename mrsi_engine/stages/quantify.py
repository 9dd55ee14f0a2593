"""The stage that turns spectra into amplitudes with error bars."""

from __future__ import annotations

import math
from typing import ClassVar, Self

from mrsi_engine.conventions import Declaration, Quantity
from mrsi_engine.errors import InputError
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages.base import Apply, Context
from mrsi_engine.stages.fit_settings import (
    FitSettings,
    amplitude_quantities,
    lineshape_quantities,
)
from mrsi_engine.stages.least_squares import LeastSquares, free_parameters
from mrsi_engine.stages.ranges import one_fid_a_voxel


class Quantify(FitSettings):
    """Linear combination modelling of each voxel's spectrum by batched least squares.

    The model is that of :mod:`mrsi_engine.kernels.lcm`. Amplitudes and baseline are solved for;
    shift, damping and phase are iterated from the best point of a grid. The SD of every parameter
    is the Cramér-Rao bound of the full model.
    """

    stage: ClassVar[str] = "quantify"

    def check(self, context: Context) -> Self:
        """This stage, once basis, fit window and noise range are known to suit the scan.

        Raises
        ------
        InputError
            If there is no basis, it is not on the scan's axis, window, noise range and baseline
            do not suit them, or FIDs still have coils or transients.
        """
        one_fid_a_voxel(context, self.stage)
        self.check_size(self.fitted_basis(_basis(context)), context.acquisition)
        self.quiet_bins(context.acquisition)
        return self

    def declare(self, context: Context) -> Declaration:
        """Amplitudes of metabolites and their sums, lineshape parameters, and quality."""
        basis = self.fitted_basis(_basis(context))
        lineshape = lineshape_quantities(self.groups(basis))
        free = free_parameters(self, len(lineshape))
        return Declaration(
            parameters=(*amplitude_quantities(basis), *(lineshape[p] for p in free)),
            measures=MEASURES,
            signals=SIGNALS,
        )

    def build(self, context: Context) -> Apply:
        """Reduced basis, start grid and bounds for this scan."""
        return LeastSquares.build(
            self, self.fitted_basis(_basis(context)), context.acquisition, context.device
        )


MEASURES = (
    Quantity(
        "snr",
        "1",
        "height of the reference peak (NAA; without it Cr or Cho) of the fitted metabolites over "
        "the SD of the noise, both in the real spectrum",
        "SNR",
    ),
    Quantity("fwhm", "ppm", "full width at half height of the reference singlet as fitted", "FWHM"),
    Quantity("fwhm_hz", "Hz", "full width at half height of the reference singlet as fitted"),
    Quantity(
        "fit_quality",
        "1",
        "SD of the residual in the fit window over the SD of the noise; 1 is noise alone",
        "Fit quality",
    ),
    Quantity(
        "relative_residual",
        "1",
        "root of the residual's share of the energy of the data in the fit window; for data whose "
        "noise cannot be measured (filtered, apodised, zero-filled)",
        "Relative residual",
    ),
    Quantity(
        "noise_sd",
        "data units",
        "SD of the noise per real channel of a FID sample, from signal-free points",
        "Noise SD",
    ),
    Quantity("iterations", "1", "steps of the non-linear fit", "Iterations"),
    Quantity(
        "converged",
        "1",
        "1 where the fit reached a minimum, the shift inside its bounds",
        "Converged",
    ),
)

SIGNALS = (
    Quantity("corrected", "data units", "FID as it went into the fit"),
    Quantity("fit", "data units", "fitted model with its baseline"),
    Quantity("baseline", "data units", "fitted baseline"),
)


def _basis(context: Context) -> Basis:
    if context.basis is None:
        raise InputError("stage 'quantify' needs a basis: give --basis FILE, FOLDER or NAME")
    own, scan = context.basis.acquisition, context.acquisition
    if own.points != scan.points or not math.isclose(own.dwell_time, scan.dwell_time, rel_tol=1e-6):
        raise InputError(
            f"{context.basis.source}: the basis has {own.points} points of {own.dwell_time:g} s, "
            f"the scan {scan.points} of {scan.dwell_time:g} s; bring it there with "
            "Basis.matched_to first"
        )
    return context.basis
