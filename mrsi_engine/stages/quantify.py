"""The stage that turns spectra into amplitudes with error bars."""

from __future__ import annotations

import math
from typing import ClassVar, Self

from mrsi_engine.conventions import Declaration
from mrsi_engine.errors import InputError
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages.base import Apply, Context
from mrsi_engine.stages.fit_quantities import SIGNALS, measures
from mrsi_engine.stages.fit_settings import FitSettings
from mrsi_engine.stages.fit_tables import parameters
from mrsi_engine.stages.least_squares import LeastSquares
from mrsi_engine.stages.ranges import one_fid_a_voxel


class Quantify(FitSettings):
    """Linear combination modelling of each voxel's spectrum by batched least squares.

    The model is that of :mod:`mrsi_engine.kernels.lcm`. Amplitudes and baseline are solved for;
    shift, damping and phase are iterated from the best point of a grid, and where that does not
    converge from the next best. The SD of every parameter is the Cramér-Rao bound of the full
    model; with priors it is that of the posterior.
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
        fitted = self.fitted_basis(_basis(context))
        self.check_size(fitted, context.acquisition)
        self.references(fitted)
        if "map" in self.estimators:
            self.prior_table.constrained(fitted)
        self.quiet_bins(self.fitted_acquisition(context.acquisition))
        return self

    def declare(self, context: Context) -> Declaration:
        """Amplitudes of metabolites and their sums, lineshape parameters, ratios, and quality."""
        basis = self.fitted_basis(_basis(context))
        return Declaration(
            parameters=tuple(parameters(self, basis)),
            measures=tuple(measures(self, basis)),
            signals=SIGNALS,
        )

    def build(self, context: Context) -> Apply:
        """Reduced basis, start grid and bounds for this scan."""
        return LeastSquares.build(
            self, self.fitted_basis(_basis(context)), context.acquisition, context.device
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
