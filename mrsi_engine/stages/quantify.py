"""The stage that turns spectra into amplitudes with error bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

from mrsi_engine.errors import InputError
from mrsi_engine.fit.least_squares import LeastSquares
from mrsi_engine.fit.quantities import NOVELTY, SIGNALS, measures, network_quantities
from mrsi_engine.fit.search import Method
from mrsi_engine.fit.settings import FitSettings
from mrsi_engine.fit.tables import parameters
from mrsi_engine.networks.model import Model, ModelSource, load_model, shipped_model_for
from mrsi_engine.networks.quantifier import Quantifier
from mrsi_engine.pipeline.ranges import one_fid_a_voxel
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Context
from mrsi_engine.quantities import CRLB, NETWORK_SD, Declaration, Quantity
from mrsi_engine.spectra.basis import Basis


class Quantify(FitSettings):
    """Linear combination modelling of each voxel's spectrum.

    The model is that of :mod:`mrsi_engine.kernels.lcm`. Amplitudes and baseline are solved for;
    shift, damping and phase are iterated. The SD of every parameter is the Cramér-Rao bound of the
    full model; with priors it is that of the posterior.
    """

    stage: ClassVar[str] = "quantify"
    revision: ClassVar[int | None] = 1

    method: Method = setting(
        "auto",
        "`least-squares` iterates from the best point of a grid, and where that does not converge "
        "from the next best. `auto` lets a network begin and checks each voxel; where no model is "
        "given and none of the shipped ones is for the scan and its basis, it is the same as "
        "`least-squares`. `network` takes the network's word, with errors made of the Cramér-Rao "
        "bound and of what an ensemble disagrees by, calibrated where the model is.",
    )
    model: ModelSource = setting(
        "", "Folder or name of a trained model; if empty, the shipped one for scan and basis."
    )

    def check(self, context: Context) -> Self:
        """This stage, once basis, model, fit window and noise range are known to suit the scan.

        Raises
        ------
        InputError
            If there is no basis, it is not on the scan's axis, window, noise range and baseline
            do not suit them, the model is for another scan or basis, or FIDs still have coils or
            transients.
        """
        one_fid_a_voxel(context, self.stage)
        fitted = self.fitted_basis(_basis(context))
        self.check_size(fitted, context.acquisition)
        self.references(fitted)
        if "map" in self.estimators:
            self.prior_table.constrained(fitted)
        self.quiet_bins(self.fitted_acquisition(context.acquisition))
        self._check_network(context, fitted)
        return self

    def declare(self, context: Context) -> Declaration:
        """Amplitudes of metabolites and their sums, lineshape parameters, ratios, and quality."""
        basis, model = self.fitted_basis(_basis(context)), self._model(context)
        found = measures(self, basis)
        if model is not None:
            found.append(NOVELTY)
        if model is not None and self.method == "network":
            found += network_quantities(basis, model.card.members > 1)
        estimated = parameters(self, basis)
        if self.method == "network":
            estimated = [_with_error_of_network(q) for q in estimated]
        return Declaration(tuple(estimated), tuple(found), SIGNALS)

    def models(self, context: Context) -> Mapping[str, str]:
        """The model that is used, if any."""
        model = self._model(context)
        return {} if model is None else {model.card.name: model.checksum}

    def assumptions(self, context: Context) -> Mapping[str, Any]:
        """Which network is used, or why none; what errors are made from where noise is unknown."""
        return {**self._method(context), **self._errors(context)}

    def _errors(self, context: Context) -> dict[str, Any]:
        fitted = self.fitted_acquisition(context.acquisition)
        unknown = self.unknown_noise(fitted, context.noise)
        if self.noise_sd is not None or not unknown:
            return {}
        instead = "from the residual, as if it were white noise"
        errors = instead if self.errors == "residual" else "none"
        return {"noise": f"cannot be measured: {unknown}", "errors": errors}

    def _method(self, context: Context) -> dict[str, Any]:
        model = self._model(context)
        if model is not None:
            return {
                "method": self.method,
                "model": model.source,
                **self._calibrated(model, context),
            }
        if self.method == "least-squares":
            return {}
        reason = "no shipped model is for this scan and basis: every voxel is fitted from the grid"
        return {"method": self.method, "no_model": reason}

    def build(self, context: Context) -> Apply:
        """Reduced basis, start grid, bounds and network for this scan."""
        model = self._model(context)
        return LeastSquares.build(
            self,
            self.fitted_basis(_basis(context)),
            context.acquisition,
            context.device,
            self.method,
            None if model is None else Quantifier.of(model, context.device),
            context.noise,
        )

    def _model(self, context: Context) -> Model | None:
        if self.method == "least-squares":
            return None
        basis = _basis(context)
        if self.model:
            return load_model(self.model, "quantification").check_scan(context.acquisition, basis)
        return shipped_model_for(context.acquisition, basis)

    def _check_network(self, context: Context, fitted: Basis) -> None:
        model = self._model(context)
        if self.method != "network":
            return
        if model is None:
            raise InputError(
                "stage 'quantify': method = \"network\", but no shipped model is for this scan and "
                f"basis {_basis(context).source}; give one with model = FOLDER (`mrsi train` makes "
                'it), or set method = "auto"'
            )
        if len(self.estimators) > 1 or "map" in self.estimators:
            raise InputError(
                f"stage 'quantify': amplitudes = {list(self.estimators)} has to be fitted; with "
                'method = "network" it can be "free" or "nonnegative"'
            )
        if model.card.decoder["kind"] == "projected":
            return
        names = Quantifier.of(model).decoder.names
        if names != fitted.names:
            apart = sorted(set(names) ^ set(fitted.names))
            raise InputError(
                f"stage 'quantify': {model.source} has amplitudes for other columns than are "
                f"fitted (they differ in {apart or 'their order'}); set macromolecules and "
                'leave_out as the model has them, or method = "auto"'
            )

    def _calibrated(self, model: Model, context: Context) -> dict[str, Any]:
        """Whether the errors of the network's own estimates are calibrated for these settings."""
        if self.method != "network":
            return {}
        calibration = model.card.calibration
        if calibration is None:
            state = "none: errors of the network's estimates may be too small"
            return {"calibrated": False, "calibration": state}
        own = self.resolved(context.acquisition).settings_of_fit
        other = sorted(k for k in own if calibration.fit.get(k, own[k]) != own[k])
        if other:
            return {"calibrated": False, "calibration": f"made with another {', '.join(other)}"}
        return {"calibrated": True, "calibration": f"on {calibration.signals} simulated signals"}


def _with_error_of_network(quantity: Quantity) -> Quantity:
    """A bound alone is not what the SD of a network's own estimate is."""
    return replace(quantity, sd_doc=NETWORK_SD) if quantity.sd_doc == CRLB else quantity


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
