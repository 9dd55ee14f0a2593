"""The least-squares fit made ready for one scan and applied to blocks of voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from mrsi_engine.conventions import Acquisition, Status
from mrsi_engine.kernels.alignment import wrapped
from mrsi_engine.kernels.crlb import Bounds, sd_of_ratio
from mrsi_engine.kernels.noise import noise_sd
from mrsi_engine.kernels.priors import Priors
from mrsi_engine.kernels.varpro import (
    Code,
    Evaluation,
    Fit,
    Problem,
    Spectra,
    fit,
    residual_energy,
    stiffness_scores,
)
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages.base import Block
from mrsi_engine.stages.fit_quantities import (
    OF_THE_FIT,
    amplitude_quantities,
    amplitude_weights,
    data_share_quantities,
    lineshape_quantities,
    ratio_pairs,
    ratio_quantity,
)
from mrsi_engine.stages.fit_settings import FitSettings
from mrsi_engine.stages.fit_tables import FitTables
from mrsi_engine.stages.reference_peak import ReferencePeak

#: Voxels fitted at a time: what one batch touches stays in a core's cache.
_BATCH = 256

#: Start points tried after the first where a fit did not converge.
_RESTARTS = 2

#: Noise of an FID's window, relative to its norm, that no prior is weighed against less than:
#: float32 columns are no more exact.
_LEAST_NOISE = 1e-6


@dataclass(frozen=True)
class Solved:
    """Fits of a batch: what was fitted, how it ended, and what brings it back to the data.

    ``frame (voxel,)`` Hz that the data were moved by, ``size (voxel,)`` data units that are 1 in
    the fit, ``noise (voxel,)`` SD in units of ``size``, NaN where it is not known.
    """

    spectra: Spectra
    result: Fit
    frame: Tensor
    size: Tensor
    noise: Tensor

    def take(self, index: Tensor, other: Solved, better: Tensor) -> None:
        """Take another's voxels ``better`` in place of this one's ``index[better]``."""
        into = index[better]
        self.spectra.window[into] = other.spectra.window[better]
        if self.spectra.precision is not None and other.spectra.precision is not None:
            self.spectra.precision[into] = other.spectra.precision[better]
        self.result.last.write(into, other.result.last.rows(better))
        self.result.code[into] = other.result.code[better]
        self.result.iterations[into] = other.result.iterations[better]
        self.frame[into], self.size[into] = other.frame[better], other.size[better]
        self.noise[into] = other.noise[better]


@dataclass(frozen=True)
class Estimator:
    """One way to estimate amplitudes; ``suffix`` stands behind the names of what it writes."""

    suffix: str
    problem: Problem
    priors: Priors | None


@dataclass(frozen=True)
class Outputs:
    """Names of what one estimator writes and how it is made of the fitted parameters.

    The first ``amplitudes`` of ``names`` are in data units; ``weights (name, parameter)``.
    ``ratios`` are names with the amplitude and the reference they are of; ``references`` are the
    amplitudes whose covariance with all others is kept.
    """

    names: tuple[str, ...]
    amplitudes: int
    weights: Tensor
    ratios: tuple[tuple[str, str, str], ...]
    references: tuple[str, ...]
    data_shares: tuple[str, ...]

    @classmethod
    def of(cls, settings: FitSettings, basis: Basis, free: Tensor) -> Outputs:
        """Of the columns that are fitted and the parameters that are ``free (parameter,)``."""
        amplitudes = [q.name for q in amplitude_quantities(basis)]
        lineshape = zip(lineshape_quantities(settings, basis), free.tolist(), strict=True)
        sums = torch.from_numpy(amplitude_weights(basis)).to(free.device)
        one = torch.eye(int(free.sum()), dtype=torch.float64, device=free.device)
        pairs = ratio_pairs(settings, basis)
        shares = data_share_quantities(settings, basis) if "map" in settings.estimators else []
        return cls(
            (*amplitudes, *(q.name for q, is_free in lineshape if is_free)),
            len(amplitudes),
            torch.block_diag(sums, one),
            tuple((ratio_quantity(a, r).name, a.name, r) for a, r in pairs),
            settings.references(basis),
            tuple(q.name for q in shares),
        )


@dataclass(frozen=True)
class LeastSquares:
    """Everything about the fit of a scan that does not depend on a voxel."""

    settings: FitSettings
    tables: FitTables
    used: slice
    quiet: Tensor
    estimators: tuple[Estimator, ...]
    outputs: Outputs
    reference: ReferencePeak

    @classmethod
    def build(
        cls, settings: FitSettings, basis: Basis, acquisition: Acquisition, device: torch.device
    ) -> LeastSquares:
        """Tables for the fitted columns ``basis``, which are on the scan's axis."""
        tables = FitTables.build(settings, basis, acquisition, device)
        problem = tables.problem
        quiet = settings.quiet_bins(settings.fitted_acquisition(acquisition))
        return cls(
            settings,
            tables,
            settings.used_points(acquisition),
            torch.from_numpy(quiet).to(device),
            tuple(_estimator(settings, basis, problem, i) for i in range(len(settings.estimators))),
            Outputs.of(settings, basis, problem.free),
            ReferencePeak.of(basis, problem.band, acquisition, device),
        )

    def __call__(self, block: Block) -> None:
        """Fit every voxel of the block."""
        batches = zip(block.fids.split(_BATCH), self._noise(block).split(_BATCH), strict=True)
        parts = [self._fitted(fids, noise, block.keep_signals) for fids, noise in batches]
        block.status = torch.cat([part.status for part in parts])
        for kind in ("estimate", "sd", "measures", "signals"):
            getattr(block, kind).update(_merged([getattr(part, kind) for part in parts]))
        for reference in parts[0].covariance_with:
            tables = [part.covariance_with[reference] for part in parts]
            block.covariance_with[reference] = _merged(tables)

    def solve(self, block: Block) -> Solved:
        """The main estimator's fits of a block of few voxels, all at once."""
        return self._estimated(self.estimators[0], self._solved(block.fids, self._noise(block)))

    def signals(self, solved: Solved, points: int) -> tuple[Tensor, Tensor]:
        """Fitted model with its baseline, and the baseline, ``(voxel, time)`` of ``points``."""
        last, problem = solved.result.last, self.tables.problem
        model = self.tables.full.synthesise(*_finite(last))
        left = solved.spectra.window - problem.band.crop(model[:, self.used.start :])
        residual = torch.view_as_real(left).flatten(-2)
        smooth = problem.baseline.fitted(residual, solved.spectra.fitted_share)
        window = torch.view_as_complex(smooth.unflatten(-1, (problem.band.bins, 2)).contiguous())
        baseline = torch.zeros_like(model)
        baseline[:, self.used.start :] = problem.band.expand(window)
        to_data = self._to_data(solved)
        rest = (0, points - model.shape[1])
        return pad((model + baseline) * to_data, rest), pad(baseline * to_data, rest)

    def components(self, solved: Solved, points: int) -> Tensor:
        """What every column adds to the model, ``(voxel, column, time)`` of ``points``."""
        amplitudes, theta = _finite(solved.result.last)
        columns = amplitudes.shape[1]
        # The model is linear in amplitudes: a voxel for every column, all others 0.
        alone = torch.diag_embed(amplitudes).flatten(0, 1)
        model = self.tables.full.synthesise(alone, theta.repeat_interleave(columns, 0))
        in_units = model.unflatten(0, (-1, columns)) * self._to_data(solved)[:, None]
        return pad(in_units, (0, points - model.shape[1]))

    def covariance(self, solved: Solved) -> Tensor:
        """Of the columns' amplitudes, ``(voxel, column, column)`` float64 in data units squared.

        NaN where the data do not determine an amplitude.
        """
        bounds, outputs = Bounds.of(solved.result.last.fisher, solved.noise), self.outputs
        columns = solved.result.last.amplitudes.shape[1]
        known = bounds.sd(outputs.weights[:columns]).isfinite()
        quality = self._fit_quality(self.estimators[0], solved, bounds)
        scale = (solved.size * self._inflation(quality)).square()[:, None, None]
        both = known[:, :, None] & known[:, None, :]
        return torch.where(both, scale * bounds.covariance[:, :columns, :columns], torch.nan)

    def _noise(self, block: Block) -> Tensor:
        """SD per channel of a FID sample, ``(voxel,)``: stated, of a stage before, or measured."""
        if self.settings.noise_sd is not None:
            return torch.full_like(block.fids[:, 0].real, self.settings.noise_sd)
        if block.noise_sd is not None:
            return block.noise_sd
        return noise_sd(block.fids[:, self.used], self.quiet)

    def _solved(self, given: Tensor, noise: Tensor) -> Solved:
        """Fits of FIDs ``(voxel, time)`` before any estimator makes them its own."""
        # Squares of very small or large samples would leave the range of float32.
        largest = given.abs().amax(1)
        fids = given[:, self.used] / largest[:, None]
        unit = largest.to(torch.float64)
        noise = noise.to(torch.float64) / unit
        # Without any noise the bounds are not zero, they are not known.
        return self._searched(fids, unit, torch.where(noise > 0, noise, torch.nan))

    def _fitted(self, given: Tensor, noise: Tensor, keep_signals: bool) -> Block:
        solved = self._solved(given, noise)
        out = Block(given)
        out.status[solved.result.code != Code.SINGULAR] = Status.LEAST_SQUARES
        fits = [self._estimated(estimator, solved) for estimator in self.estimators]
        self._write_spectrum(out, fits[0])
        for estimator, own in zip(self.estimators, fits, strict=True):
            self._write(out, estimator, own)
        if keep_signals:
            model, baseline = self.signals(fits[0], given.shape[1])
            out.signals.update(corrected=given, fit=model, baseline=baseline)
        return out

    def _searched(self, fids: Tensor, unit: Tensor, noise: Tensor) -> Solved:
        """Fits from the best start points; where they did not converge, from the next best."""
        solved = self._attempt(fids, unit, noise, 0)
        for rank in range(1, _RESTARTS + 1):
            again = (~self._reached(solved.result)).nonzero().squeeze(1)
            if len(again) == 0:
                break
            other = self._attempt(fids[again], unit[again], noise[again], rank)
            less = other.result.last.cost <= solved.result.last.cost[again]
            solved.take(again, other, self._reached(other.result) & less)
        if self.settings.adaptive:
            solved = self._adapted(solved)
        return solved if self.settings.errors == "noise" else self._weighed_anew(solved)

    def _attempt(self, fids: Tensor, unit: Tensor, noise: Tensor, rank: int) -> Solved:
        """Fits from the start points of a rank."""
        problem, time = self.tables.problem, self.tables.full.time[self.used.start :]
        band, shift = problem.band, problem.model.layout.shift(0)
        start = self.tables.starts.best(band.crop(fids), rank)
        # The window follows each voxel's own frequency, by whole bins, so that it always holds the
        # same peaks and baselines stay on the bins of the spectrum.
        frame = torch.round(start[:, shift] * band.duration) / band.duration
        start[:, shift] -= frame
        window = band.crop(fids * _turn(-frame, time))
        size = torch.linalg.vector_norm(window, dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        noise = noise / size
        spectra = Spectra(window / size[:, None], precision=self._precision(noise))
        return Solved(spectra, fit(problem, spectra, start), frame, size * unit, noise)

    def _precision(self, noise: Tensor) -> Tensor | None:
        sd = self.tables.prior_sd
        if bool(sd.isinf().all()):
            return None
        return (_weighing(noise)[:, None] / sd).square()

    def _weighed_anew(self, solved: Solved) -> Solved:
        """Fits with priors on what is iterated weighed against the residual, not the noise."""
        if solved.spectra.precision is None:
            return solved
        precision = self._precision(self._trusted(solved))
        spectra = replace(solved.spectra, precision=precision)
        theta = torch.nan_to_num(solved.result.last.theta)
        return replace(solved, spectra=spectra, result=fit(self.tables.problem, spectra, theta))

    def _trusted(self, solved: Solved) -> Tensor:
        """SD that data are weighed by against priors: where errors hold the residual, its own."""
        if self.settings.errors == "noise":
            return solved.noise
        bounds = Bounds.of(solved.result.last.fisher, solved.noise)
        quality = self._fit_quality(self.estimators[0], solved, bounds)
        return solved.noise * self._inflation(quality)

    def _adapted(self, solved: Solved) -> Solved:
        """Fits with each voxel's own stiffness of the baseline."""
        problem, theta = self.tables.problem, torch.nan_to_num(solved.result.last.theta)
        shares = torch.stack([problem.baseline.shares(s) for s in self.settings.stiffnesses])
        weight = self.settings.baseline_weight
        scores = stiffness_scores(problem, solved.spectra, theta, shares, weight)
        chosen = torch.nan_to_num(scores, nan=torch.inf).argmin(1)
        spectra = replace(solved.spectra, fitted_share=shares[chosen])
        return replace(solved, spectra=spectra, result=fit(problem, spectra, theta))

    def _estimated(self, estimator: Estimator, solved: Solved) -> Solved:
        """The fits as an estimator makes them, from where the first ended."""
        if estimator.problem is self.tables.problem and estimator.priors is None:
            return solved
        spectra = self._with_priors(estimator, solved)
        theta = torch.nan_to_num(solved.result.last.theta)
        return replace(solved, spectra=spectra, result=fit(estimator.problem, spectra, theta))

    def _with_priors(self, estimator: Estimator, solved: Solved) -> Spectra:
        priors = estimator.priors
        if priors is None:
            return solved.spectra
        last, noise = solved.result.last, _weighing(self._trusted(solved))
        padding = priors.reference.new_zeros(len(priors.reference), last.cross.shape[2])
        weights = torch.cat([priors.reference, padding], dim=1)
        sd = Bounds.of(last.fisher, noise).sd(weights)
        scaled = priors.scaled(last.amplitudes, sd, solved.size, noise)
        return replace(solved.spectra, priors=scaled)

    def _write(self, out: Block, estimator: Estimator, solved: Solved) -> None:
        """What one estimator found."""
        result, suffix = solved.result, estimator.suffix
        bounds = Bounds.of(result.last.fisher, solved.noise)
        quality = self._fit_quality(estimator, solved, bounds)
        reached = self._reached(result)
        measures = (quality, result.iterations, bounds.condition, reached)
        names = (_named(q.name, suffix) for q in OF_THE_FIT)
        _write_measures(out, result, dict(zip(names, measures, strict=True)))
        self._write_parameters(out, suffix, solved, bounds, quality)
        if estimator.priors is not None and solved.spectra.priors is not None:
            columns = result.last.amplitudes.shape[1]
            covariance = bounds.covariance[:, :columns, :columns]
            shares = estimator.priors.data_share(covariance, solved.spectra.priors.spread)
            named = zip(self.outputs.data_shares, shares.unbind(1), strict=True)
            _write_measures(out, result, dict(named))

    def _fit_quality(self, estimator: Estimator, solved: Solved, bounds: Bounds) -> Tensor:
        """SD of the residual over that of the noise, ``(voxel,)``."""
        energy = residual_energy(estimator.problem, solved.spectra, solved.result.last)
        inverse = bounds.covariance / solved.noise.square()[:, None, None]
        left = solved.spectra.residual_freedom(estimator.problem, inverse)
        return (energy / left).sqrt() / solved.noise

    def _inflation(self, fit_quality: Tensor) -> Tensor:
        """What errors are multiplied by, ``(voxel,)``."""
        inflated = self.settings.errors == "residual"
        return fit_quality.clamp_min(1.0) if inflated else torch.ones_like(fit_quality)

    def _write_parameters(
        self, out: Block, suffix: str, solved: Solved, bounds: Bounds, fit_quality: Tensor
    ) -> None:
        outputs, last, problem = self.outputs, solved.result.last, self.tables.problem
        values = torch.cat([last.amplitudes, last.theta[:, problem.free]], dim=1)
        values, sd = values @ outputs.weights.T, bounds.sd(outputs.weights)
        inflation = self._inflation(fit_quality)
        values[solved.result.code == Code.SINGULAR] = torch.nan
        sd = torch.where(values.isnan(), torch.nan, sd * inflation[:, None])
        estimates = dict(zip(outputs.names, values.unbind(1), strict=True))
        sds = dict(zip(outputs.names, sd.unbind(1), strict=True))
        for name in outputs.names[: outputs.amplitudes]:
            estimates[name], sds[name] = estimates[name] * solved.size, sds[name] * solved.size
        self._to_units(estimates, sds, solved.frame)
        covariances = self._covariances(sds, solved, bounds, inflation)
        for name, amplitude, reference in outputs.ratios:
            one, other = estimates[amplitude], estimates[reference]
            estimates[name] = torch.where(other != 0, one / other, torch.nan)
            both = covariances[reference][amplitude]
            sds[name] = sd_of_ratio(one, other, sds[amplitude], sds[reference], both)
        out.estimate.update({_named(n, suffix): v for n, v in estimates.items()})
        out.sd.update({_named(n, suffix): v for n, v in sds.items()})
        for reference, table in covariances.items():
            out.covariance_with[_named(reference, suffix)] = {
                _named(n, suffix): v for n, v in table.items()
            }

    def _to_units(
        self, estimates: dict[str, Tensor], sds: dict[str, Tensor], frame: Tensor
    ) -> None:
        """From what is iterated to what is reported."""
        estimates["shift"] = estimates["shift"] + frame
        estimates["phase"] = wrapped(estimates["phase"])
        if "delay" in estimates:
            known = self.settings.first_order_phase_ms
            estimates["delay"] = estimates["delay"] + known
        for name in estimates:
            if name.startswith("gaussian"):
                root = estimates[name].sqrt()
                sds[name] = torch.where(root > 0, sds[name] / (2 * root), torch.nan)
                estimates[name] = root

    def _covariances(
        self, sds: dict[str, Tensor], solved: Solved, bounds: Bounds, inflation: Tensor
    ) -> dict[str, dict[str, Tensor]]:
        """Covariance of every amplitude with each reference, in data units squared."""
        names, weights = self.outputs.names[: self.outputs.amplitudes], self.outputs.weights
        scale = (solved.size * inflation).square()
        found = {}
        for reference in self.outputs.references:
            all_of_them = bounds.with_sum(weights, weights[names.index(reference)])
            # It is known where both errors are.
            found[reference] = {
                name: torch.where((sds[name] * sds[reference]).isnan(), torch.nan, scale * one)
                for name, one in zip(names, all_of_them.unbind(1), strict=False)
            }
        return found

    def _write_spectrum(self, out: Block, solved: Solved) -> None:
        """Measures of the data and of the main fit."""
        problem, last = self.tables.problem, solved.result.last
        height, width = self.reference.measure(problem.model, solved.result)
        # The window was divided by its norm, so that its energy is 1 but for rounding.
        measures = {
            "snr": height / solved.noise,
            "fwhm": width / self.reference.spectrometer_frequency,
            "fwhm_hz": width,
            "relative_residual": residual_energy(problem, solved.spectra, last).sqrt(),
            "noise_sd": solved.noise * solved.size,
        }
        if solved.spectra.fitted_share is not None:
            dimension = problem.baseline.degrees_of_freedom(solved.spectra.fitted_share)
            measures["baseline_dimension"] = dimension / 2
        _write_measures(out, solved.result, measures)

    def _reached(self, result: Fit) -> Tensor:
        """Whether a minimum was reached, the shift inside its bounds: else it lies elsewhere."""
        problem = self.tables.problem
        shift = problem.model.layout.shift(0)
        at = result.last.theta[:, shift]
        inside = (at > problem.lower[shift]) & (at < problem.upper[shift])
        return (result.code == Code.CONVERGED) & inside

    def _to_data(self, solved: Solved) -> Tensor:
        """What brings a fitted signal back to the data, ``(voxel, time)`` complex64."""
        turn = _turn(solved.frame, self.tables.full.time)
        return turn * solved.size.to(torch.float32)[:, None]


def _estimator(settings: FitSettings, basis: Basis, problem: Problem, number: int) -> Estimator:
    kind = settings.estimators[number]
    signed = torch.full_like(problem.signed, kind != "nonnegative")
    own = problem if bool((signed == problem.signed).all()) else replace(problem, signed=signed)
    priors = settings.prior_table.on(basis).to(problem.signed.device) if kind == "map" else None
    return Estimator("" if number == 0 else kind, own, priors)


def _write_measures(out: Block, result: Fit, measures: dict[str, Tensor]) -> None:
    failed = result.code == Code.SINGULAR
    for name, values in measures.items():
        out.measures[name] = torch.where(failed, torch.nan, values.to(torch.float64))


def _finite(last: Evaluation) -> tuple[Tensor, Tensor]:
    """Amplitudes and non-linear parameters as the model takes them, 0 where there is no fit."""
    return torch.nan_to_num(last.amplitudes).float(), torch.nan_to_num(last.theta).float()


def _weighing(noise: Tensor) -> Tensor:
    return torch.nan_to_num(noise).clamp_min(_LEAST_NOISE)


def _named(name: str, suffix: str) -> str:
    return f"{name}_{suffix}" if suffix else name


def _merged(tables: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([table[name] for table in tables]) for name in tables[0]}


def _turn(frequency: Tensor, time: Tensor) -> Tensor:
    """``exp(2*pi*i*f*t)``, ``(voxel, time)`` complex64."""
    angle = (2 * math.pi * frequency[:, None] * time).to(torch.float32)
    return torch.polar(torch.ones_like(angle), angle)
