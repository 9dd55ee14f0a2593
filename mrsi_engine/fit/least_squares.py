"""The least-squares fit made ready for one scan and applied to blocks of voxels."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from mrsi_engine.conventions import WHITE, Acquisition, Flag, ScanNoise, Status
from mrsi_engine.fit.network_start import NetworkStart, Start
from mrsi_engine.fit.quantities import (
    NOVELTY,
    OF_THE_FIT,
    amplitude_quantities,
    amplitude_weights,
    crlb_part,
    data_share_quantities,
    epistemic_part,
    gaussian_name,
    lineshape_quantities,
    ratio_quantities,
)
from mrsi_engine.fit.reference_peak import ReferencePeak
from mrsi_engine.fit.search import Method, Search, Solved, turn, weighing
from mrsi_engine.fit.settings import FitSettings
from mrsi_engine.fit.tables import FitTables
from mrsi_engine.kernels.alignment import wrapped
from mrsi_engine.kernels.batching import batch_size, in_batches
from mrsi_engine.kernels.crlb import Bounds, sd_of_ratio
from mrsi_engine.kernels.evaluation import Evaluation, Problem, Spectra
from mrsi_engine.kernels.noise import noise_sd
from mrsi_engine.kernels.priors import Priors
from mrsi_engine.kernels.tabulated import TabulatedSteps
from mrsi_engine.kernels.varpro import Code, Fit, fit
from mrsi_engine.networks.model import Calibration
from mrsi_engine.networks.quantifier import Quantifier
from mrsi_engine.pipeline.stage import Block
from mrsi_engine.quantities import MAIN, named_by
from mrsi_engine.spectra.basis import Basis

#: Voxels fitted at a time on a CPU: what one batch touches stays in a core's cache.
_BATCH = 256

#: What a block holds by name of each voxel.
_TABLES = ("estimate", "sd", "measures", "signals")


@dataclass(frozen=True)
class Estimator:
    """One way to estimate amplitudes; ``name`` is ``"main"`` of the first."""

    name: str
    problem: Problem
    priors: Priors | None


@dataclass(frozen=True)
class Outputs:
    """Names of what one estimator writes and how it is made of the fitted parameters.

    The first ``amplitudes`` of ``names`` are in data units; ``weights (name, parameter)``.
    ``ratios`` are names with the amplitude and the reference they are of; ``references`` are the
    amplitudes whose covariance with all others is kept. ``error_parts`` are names of what the
    errors of a network's amplitudes are made of, ``roots`` of parameters iterated as their square.
    """

    names: tuple[str, ...]
    amplitudes: int
    weights: Tensor
    ratios: tuple[tuple[str, str, str], ...]
    references: tuple[str, ...]
    data_shares: tuple[str, ...]
    error_parts: dict[str, tuple[str, ...]]
    roots: tuple[str, ...]

    @classmethod
    def of(cls, settings: FitSettings, basis: Basis, free: Tensor) -> Outputs:
        """Of the columns that are fitted and the parameters that are ``free (parameter,)``."""
        amplitudes = amplitude_quantities(basis)
        lineshape = zip(lineshape_quantities(settings, basis), free.tolist(), strict=True)
        sums = torch.from_numpy(amplitude_weights(basis)).to(free.device)
        one = torch.eye(int(free.sum()), dtype=torch.float64, device=free.device)
        shares = data_share_quantities(settings, basis) if "map" in settings.estimators else []
        return cls(
            (
                *(q.name for q in amplitudes),
                *(q.name for q, is_free in lineshape if is_free),
            ),
            len(amplitudes),
            torch.block_diag(sums, one),
            tuple((q.name, q.of, q.reference) for q in ratio_quantities(settings, basis)),
            settings.references(basis),
            tuple(q.name for q in shares),
            {
                "crlb": tuple(crlb_part(q).name for q in amplitudes),
                "epistemic": tuple(epistemic_part(q).name for q in amplitudes),
            },
            tuple(gaussian_name(suffix) for suffix in settings.group_suffixes(basis)),
        )


@dataclass(frozen=True)
class LeastSquares:
    """Everything about the fit of a scan that does not depend on a voxel.

    ``calibration`` is that of the network's error bars, where its own estimates are wanted;
    ``measurable`` says whether the noise can be measured.
    """

    settings: FitSettings
    tables: FitTables
    used: slice
    quiet: Tensor
    estimators: tuple[Estimator, ...]
    outputs: Outputs
    reference: ReferencePeak
    search: Search
    calibration: Calibration | None = None
    measurable: bool = True

    @classmethod
    def build(
        cls,
        settings: FitSettings,
        basis: Basis,
        acquisition: Acquisition,
        device: torch.device,
        method: Method = "least-squares",
        quantifier: Quantifier | None = None,
        noise: ScanNoise = WHITE,
    ) -> LeastSquares:
        """Tables for the fitted columns ``basis``, which are on the scan's axis."""
        settings = settings.resolved(acquisition)
        tables = FitTables.build(settings, basis, acquisition, device)
        problem, used = tables.problem, settings.used_points(acquisition)
        fitted = settings.fitted_acquisition(acquisition)
        quiet = settings.noise_bins(fitted, noise)
        network, calibration = None, None
        if quantifier is not None:
            members = 1 if method == "auto" else None
            layout, share = problem.model.layout, settings.lorentzian_share
            network = NetworkStart(quantifier, layout, share, members)
            calibration = quantifier.model.card.calibration
        tabulated = None
        if method == "auto" and network is not None and TabulatedSteps.suits(problem):
            tabulated = TabulatedSteps.build(problem)
        noise_bins = int(quiet.sum()) if settings.noise_sd is None else 0
        return cls(
            settings,
            tables,
            used,
            torch.from_numpy(quiet).to(device),
            tuple(_estimator(settings, basis, problem, i) for i in range(len(settings.estimators))),
            Outputs.of(settings, basis, problem.free),
            ReferencePeak.of(basis, problem.band, acquisition, device),
            Search(settings, tables, used, noise_bins, method, network, tabulated),
            calibration if method == "network" else None,
            not settings.unknown_noise(fitted, noise),
        )

    def __call__(self, block: Block) -> None:
        """Fit every voxel of the block."""
        fids, noise, keep = block.fids, self._noise(block), block.keep_signals
        found = self._batches(fids, noise, self._start(fids), keep)
        rest = (found.status == Status.NOT_PROCESSED).nonzero().squeeze(1)
        if len(rest):
            _put(found, rest, self._batches(fids[rest], noise[rest], None, keep))
        block.status = found.status
        block.flags |= found.flags
        for kind in _TABLES:
            getattr(block, kind).update(getattr(found, kind))
        block.covariance_with.update(found.covariance_with)
        block.flags[~(noise > 0)] |= int(Flag.UNKNOWN_NOISE)

    def solve(self, block: Block) -> Solved:
        """The main estimator's fits of a block of few voxels, all at once."""
        fids, noise = block.fids, self._noise(block)
        solved = self._solved(fids, noise, self._start(fids))
        rest = (solved.way == Status.NOT_PROCESSED).nonzero().squeeze(1)
        if len(rest):
            other = self._solved(fids[rest], noise[rest], None)
            solved = solved.taking(rest, other, torch.ones_like(rest, dtype=torch.bool))
        return self._estimated(self.estimators[0], solved)

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
        bounds, outputs = self._bounds(solved), self.outputs
        columns = solved.result.last.amplitudes.shape[1]
        known = bounds.sd(outputs.weights[:columns]).isfinite()
        scale = (solved.size * self.search.inflation(solved)).square()[:, None, None]
        both = known[:, :, None] & known[:, None, :]
        return torch.where(both, scale * bounds.covariance[:, :columns, :columns], torch.nan)

    def _bounds(self, solved: Solved) -> Bounds:
        """Covariance of the errors: Cramér-Rao bounds, with what members of a network disagree."""
        bounds = Bounds.of(solved.result.last.fisher, self.search.error_noise(solved))
        if solved.spread is None:
            return bounds
        return replace(bounds, covariance=bounds.covariance + solved.spread)

    def _noise(self, block: Block) -> Tensor:
        """SD per channel of a FID sample, ``(voxel,)``: stated, of a stage before, or measured.

        NaN where none of that can be.
        """
        stated = self.settings.noise_sd
        if stated is not None or not self.measurable:
            known = torch.nan if stated is None else stated
            return torch.full_like(block.fids[:, 0].real, known)
        if block.noise_sd is not None:
            return block.noise_sd
        batches = block.fids.split(_BATCH)
        return torch.cat([noise_sd(fids[:, self.used], self.quiet) for fids in batches])

    def _start(self, fids: Tensor) -> Start | None:
        """What the network says of FIDs, if there is one."""
        return None if self.search.network is None else self.search.network(fids)

    def _batches(self, fids: Tensor, noise: Tensor, start: Start | None, keep: bool) -> Block:
        """What is found of FIDs, a batch at a time."""

        def fitted(rows: slice) -> Block:
            own = None if start is None else start.rows(rows)
            return self._fitted(fids[rows], noise[rows], own, keep)

        size = batch_size(fids.device, self.tables.problem.bytes_a_voxel, on_cpu=_BATCH)
        parts = in_batches(fitted, len(fids), size)
        found = Block(fids)
        found.status = torch.cat([part.status for part in parts])
        found.flags = torch.cat([part.flags for part in parts])
        for kind in _TABLES:
            getattr(found, kind).update(_merged([getattr(part, kind) for part in parts]))
        for reference in parts[0].covariance_with:
            tables = [part.covariance_with[reference] for part in parts]
            found.covariance_with[reference] = _merged(tables)
        return found

    def _solved(self, given: Tensor, noise: Tensor, start: Start | None) -> Solved:
        """Fits of FIDs ``(voxel, time)`` before any estimator makes them its own."""
        # Squares of very small or large samples would leave the range of float32.
        largest = given.abs().amax(1)
        fids = given[:, self.used] / largest[:, None]
        unit = largest.to(torch.float64)
        noise = noise.to(torch.float64) / unit
        # Without any noise the bounds are not zero, they are not known.
        known = torch.where(noise > 0, noise, torch.nan)
        if start is not None and start.amplitudes is not None:
            start = replace(start, amplitudes=start.amplitudes / unit[:, None])
        return self.search(fids, unit, known, start)

    def _fitted(
        self, given: Tensor, noise: Tensor, start: Start | None, keep_signals: bool
    ) -> Block:
        solved = self._solved(given, noise, start)
        out = Block(given)
        out.status = solved.status
        out.flags[self.search.at_shift_bound(solved)] |= int(Flag.AT_SHIFT_BOUND)
        if start is not None:
            out.measures[NOVELTY.name] = start.novelty.to(torch.float64)
        fits = [self._estimated(estimator, solved) for estimator in self.estimators]
        self._write_spectrum(out, fits[0])
        for estimator, own in zip(self.estimators, fits, strict=True):
            self._write(out, estimator, own)
        if keep_signals:
            model, baseline = self.signals(fits[0], given.shape[1])
            out.signals.update(corrected=given, fit=model, baseline=baseline)
        return out

    def _estimated(self, estimator: Estimator, solved: Solved) -> Solved:
        """The fits as an estimator makes them, from where the first ended."""
        if estimator.problem is self.tables.problem and estimator.priors is None:
            return solved
        spectra = self._with_priors(estimator, solved)
        theta = torch.nan_to_num(solved.result.last.theta)
        result = fit(estimator.problem, spectra, theta)
        return replace(solved, problem=estimator.problem, spectra=spectra, result=result)

    def _with_priors(self, estimator: Estimator, solved: Solved) -> Spectra:
        priors = estimator.priors
        if priors is None:
            return solved.spectra
        last, noise = solved.result.last, weighing(self.search.trusted(solved))
        padding = priors.reference.new_zeros(len(priors.reference), last.cross.shape[2])
        weights = torch.cat([priors.reference, padding], dim=1)
        sd = Bounds.of(last.fisher, noise).sd(weights)
        scaled = priors.scaled(last.amplitudes, sd, solved.size, noise)
        return replace(solved.spectra, priors=scaled)

    def _write(self, out: Block, estimator: Estimator, solved: Solved) -> None:
        """What one estimator found."""
        result = solved.result
        bounds = self._bounds(solved)
        quality = solved.fit_quality
        reached = self.search.reached(solved)
        measures = (quality, result.iterations, bounds.condition, reached)
        names = (named_by(q.name, estimator.name) for q in OF_THE_FIT)
        _write_measures(out, result, dict(zip(names, measures, strict=True)))
        self._write_parameters(out, estimator.name, solved, bounds, quality)
        if estimator.priors is not None and solved.spectra.priors is not None:
            columns = result.last.amplitudes.shape[1]
            covariance = bounds.covariance[:, :columns, :columns]
            shares = estimator.priors.data_share(covariance, solved.spectra.priors.spread)
            named = zip(self.outputs.data_shares, shares.unbind(1), strict=True)
            _write_measures(out, result, dict(named))
        if self.search.method == "network":
            self._write_parts_of_errors(out, solved)

    def _write_parameters(
        self, out: Block, estimator: str, solved: Solved, bounds: Bounds, fit_quality: Tensor
    ) -> None:
        outputs, last, problem = self.outputs, solved.result.last, self.tables.problem
        values = torch.cat([last.amplitudes, last.theta[:, problem.free]], dim=1)
        values, sd = values @ outputs.weights.T, bounds.sd(outputs.weights)
        inflation = self.search.inflation(solved)[:, None] * self._factors(out)
        values[solved.result.code == Code.SINGULAR] = torch.nan
        sd = torch.where(values.isnan(), torch.nan, sd * inflation)
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
        out.estimate.update({named_by(n, estimator): v for n, v in estimates.items()})
        out.sd.update({named_by(n, estimator): v for n, v in sds.items()})
        for reference, table in covariances.items():
            out.covariance_with[named_by(reference, estimator)] = {
                named_by(n, estimator): v for n, v in table.items()
            }

    def _to_units(
        self, estimates: dict[str, Tensor], sds: dict[str, Tensor], frame: Tensor
    ) -> None:
        """From what is iterated to what is reported."""
        estimates["shift"] = estimates["shift"] + frame
        estimates["phase"] = wrapped(estimates["phase"])
        if "delay" in estimates:
            known = self.settings.first_order_phase.delay_ms
            estimates["delay"] = estimates["delay"] + known
        for name in estimates.keys() & set(self.outputs.roots):
            root = estimates[name].sqrt()
            sds[name] = torch.where(root > 0, sds[name] / (2 * root), torch.nan)
            estimates[name] = root

    def _covariances(
        self, sds: dict[str, Tensor], solved: Solved, bounds: Bounds, inflation: Tensor
    ) -> dict[str, dict[str, Tensor]]:
        """Covariance of every amplitude with each reference, in data units squared."""
        names, weights = self.outputs.names[: self.outputs.amplitudes], self.outputs.weights
        scale = solved.size[:, None] * inflation
        found = {}
        for reference in self.outputs.references:
            at = names.index(reference)
            all_of_them = bounds.with_sum(weights, weights[at]) * scale * scale[:, at, None]
            # It is known where both errors are.
            found[reference] = {
                name: torch.where((sds[name] * sds[reference]).isnan(), torch.nan, one)
                for name, one in zip(names, all_of_them.unbind(1), strict=False)
            }
        return found

    def _factors(self, out: Block) -> Tensor:
        """What the calibration multiplies errors by, ``(voxel, name)``."""
        snr = out.measures["snr"]
        if self.calibration is None:
            return snr.new_ones(len(snr), len(self.outputs.names))
        return self.calibration.at(self.outputs.names, snr)

    def _write_parts_of_errors(self, out: Block, solved: Solved) -> None:
        """Of the network's amplitudes: the Cramér-Rao bound, and what an ensemble disagrees by."""
        outputs, last = self.outputs, solved.result.last
        weights, size = outputs.weights[: outputs.amplitudes], solved.size[:, None]
        parts = {"crlb": Bounds.of(last.fisher, solved.noise).sd(weights)}
        if solved.spread is not None:
            parts["epistemic"] = ((weights @ solved.spread) * weights).sum(2).sqrt()
        for part, sd in parts.items():
            named = zip(outputs.error_parts[part], (sd * size).unbind(1), strict=True)
            _write_measures(out, solved.result, dict(named))

    def _write_spectrum(self, out: Block, solved: Solved) -> None:
        """Measures of the data and of the main fit."""
        problem = self.tables.problem
        height, width = self.reference.measure(problem.model, solved.result)
        # The window was divided by its norm, so that its energy is 1 but for rounding.
        measures = {
            "snr": height / solved.noise,
            "fwhm": width / self.reference.spectrometer_frequency,
            "fwhm_hz": width,
            "relative_residual": solved.energy.sqrt(),
            "noise_sd": solved.noise * solved.size,
        }
        if solved.spectra.fitted_share is not None:
            dimension = problem.baseline.degrees_of_freedom(solved.spectra.fitted_share)
            measures["baseline_dimension"] = dimension / 2
        _write_measures(out, solved.result, measures)

    def _to_data(self, solved: Solved) -> Tensor:
        """What brings a fitted signal back to the data, ``(voxel, time)`` complex64."""
        moved = turn(solved.frame, self.tables.full.time)
        return moved * solved.size.to(torch.float32)[:, None]


def _estimator(settings: FitSettings, basis: Basis, problem: Problem, number: int) -> Estimator:
    kind = settings.estimators[number]
    signed = torch.full_like(problem.signed, kind != "nonnegative")
    own = problem if bool((signed == problem.signed).all()) else replace(problem, signed=signed)
    priors = settings.prior_table.on(basis).to(problem.signed.device) if kind == "map" else None
    return Estimator(MAIN if number == 0 else kind, own, priors)


def _write_measures(out: Block, result: Fit, measures: dict[str, Tensor]) -> None:
    failed = result.code == Code.SINGULAR
    for name, values in measures.items():
        out.measures[name] = torch.where(failed, torch.nan, values.to(torch.float64))


def _finite(last: Evaluation) -> tuple[Tensor, Tensor]:
    """Amplitudes and non-linear parameters as the model takes them, 0 where there is no fit."""
    return torch.nan_to_num(last.amplitudes).float(), torch.nan_to_num(last.theta).float()


def _put(found: Block, rows: Tensor, other: Block) -> None:
    """Put what was found of some voxels in the place of their rows."""
    found.status[rows], found.flags[rows] = other.status, other.flags
    tables = [(getattr(found, kind), getattr(other, kind)) for kind in _TABLES]
    tables += [(found.covariance_with[r], table) for r, table in other.covariance_with.items()]
    for whole, part in tables:
        for name, values in part.items():
            whole[name][rows] = values


def _merged(tables: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([table[name] for table in tables]) for name in tables[0]}
