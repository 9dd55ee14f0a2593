"""The least-squares fit made ready for one scan and applied to blocks of voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition, Status, is_macromolecule
from mrsi_engine.kernels.alignment import wrapped
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.baseline import Baseline
from mrsi_engine.kernels.crlb import sd_of_sums
from mrsi_engine.kernels.lcm import Layout, LinearCombinationModel
from mrsi_engine.kernels.noise import noise_sd
from mrsi_engine.kernels.quality import full_width_half_height, real_spectrum
from mrsi_engine.kernels.start import StartGrid, grid
from mrsi_engine.kernels.varpro import Code, Fit, Problem, fit
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.stages.base import Block
from mrsi_engine.stages.fit_settings import (
    FitSettings,
    amplitude_quantities,
    amplitude_weights,
    lineshape_quantities,
)

#: Voxels fitted at a time: what one batch touches stays in a core's cache.
_BATCH = 256

_SHIFT_STEP_HZ = 2.0
_START_DAMPINGS = (2.0, 8.0, 20.0, 40.0)

#: Strong patterns of a brain spectrum; members of one overlap so that their sum is the pattern.
_LANDMARKS = (("NAA", "NAAG"), ("Cr", "PCr"), ("GPC", "PCh"), ("Glu", "Gln"), ("Ins",), ("Lac",))

#: Singlets that SNR and linewidth may be read from (ppm); the first that the basis has.
_REFERENCE_SINGLETS = {"NAA": 2.008, "Cr": 3.027, "PCr": 3.029, "GPC": 3.212, "PCh": 3.208}


@dataclass(frozen=True)
class LeastSquares:
    """Everything about the fit of a scan that does not depend on a voxel."""

    problem: Problem
    starts: StartGrid
    full: LinearCombinationModel
    quiet: Tensor
    names: tuple[str, ...]
    weights: Tensor
    reference: ReferencePeak

    @classmethod
    def build(
        cls, settings: FitSettings, basis: Basis, acquisition: Acquisition, device: torch.device
    ) -> LeastSquares:
        """Tables for the fitted columns ``basis``, which are on the scan's axis."""
        band = settings.band(acquisition)
        own_group = settings.groups(basis) > 1
        group = torch.tensor([int(own_group and is_macromolecule(n)) for n in basis.names])
        full = _model(basis.fids, group, acquisition.time, device)
        model = _model(band.reduce(basis.fids), group, band.short_time(), device)
        baseline = _baseline(settings, band, acquisition, device)
        problem = _problem(settings, band, model, baseline)
        points = _start_points(settings, model.layout, device)
        # Large shifts are rare; at low SNR the noise alone would find them.
        unlikely = (points[:, model.layout.shift(0)] / (0.5 * settings.max_shift_hz)).square()
        names, weights = _outputs(settings, basis, problem.free)
        return cls(
            problem,
            StartGrid.build(band, model, baseline, points, _landmarks(basis).to(device), unlikely),
            full,
            torch.from_numpy(settings.quiet_bins(acquisition)).to(device),
            names,
            weights.to(device),
            ReferencePeak.of(basis, band, acquisition, device),
        )

    def __call__(self, block: Block) -> None:
        """Fit every voxel of the block."""
        given = noise_sd(block.fids, self.quiet) if block.noise_sd is None else block.noise_sd
        batches = zip(block.fids.split(_BATCH), given.split(_BATCH), strict=True)
        parts = [self._fitted(fids, noise, block.keep_signals) for fids, noise in batches]
        block.status = torch.cat([part.status for part in parts])
        for kind in ("estimate", "sd", "measures", "signals"):
            tables = [getattr(part, kind) for part in parts]
            merged = {name: torch.cat([t[name] for t in tables]) for name in tables[0]}
            getattr(block, kind).update(merged)

    def _fitted(self, given: Tensor, noise: Tensor, keep_signals: bool) -> Block:
        band, shift = self.problem.band, self.problem.model.layout.shift(0)
        # Squares of very small or large samples would leave the range of float32.
        largest = given.abs().amax(1, keepdim=True)
        fids = given / largest
        unit = largest.squeeze(1).to(torch.float64)
        noise = noise.to(torch.float64) / unit
        # Without any noise the bounds are not zero, they are not known.
        noise = torch.where(noise > 0, noise, torch.nan)
        start = self.starts.best(band.crop(fids))
        # The window follows each voxel's own frequency, by whole bins, so that it always holds the
        # same peaks and baselines stay on the bins of the spectrum.
        frame = torch.round(start[:, shift] * band.duration) / band.duration
        start[:, shift] -= frame
        window = band.crop(fids * _turn(-frame, self.full.time))
        size = torch.linalg.vector_norm(window, dim=1).clamp_min(torch.finfo(torch.float32).tiny)
        window = window / size[:, None]
        result = fit(self.problem, window, start)
        size, noise = size * unit, noise * unit
        out = Block(given)
        out.status[result.code != Code.SINGULAR] = Status.LEAST_SQUARES
        self._write_parameters(out, result, frame, size, noise)
        self._write_measures(out, result, size, noise)
        if keep_signals:
            self._write_signals(out, result, window, frame, size.to(torch.float32))
        return out

    def _write_parameters(
        self, out: Block, result: Fit, frame: Tensor, size: Tensor, noise: Tensor
    ) -> None:
        last = result.last
        values = torch.cat([last.amplitudes, last.theta[:, self.problem.free]], dim=1)
        values = values @ self.weights.T
        sd = sd_of_sums(last.fisher, noise / size, self.weights)
        failed = result.code == Code.SINGULAR
        values[failed], sd[failed] = torch.nan, torch.nan
        for i, name in enumerate(self.names):
            out.estimate[name], out.sd[name] = values[:, i], sd[:, i]
        amplitudes = len(self.names) - int(self.problem.free.sum())
        for name in self.names[:amplitudes]:
            out.estimate[name] = out.estimate[name] * size
            out.sd[name] = out.sd[name] * size
        out.estimate["shift"] = out.estimate["shift"] + frame
        out.estimate["phase"] = wrapped(out.estimate["phase"])
        for name in self.names[amplitudes:]:
            if name.startswith("gaussian"):
                root = out.estimate[name].sqrt()
                spread = torch.where(root > 0, out.sd[name] / (2 * root), torch.nan)
                out.estimate[name], out.sd[name] = root, spread

    def _write_measures(self, out: Block, result: Fit, size: Tensor, noise: Tensor) -> None:
        height, width = self.reference.measure(self.problem.model, result)
        residual = (result.last.cost / self.problem.degrees_of_freedom).sqrt()
        converged = result.code == Code.CONVERGED
        # The window was divided by its norm, so that its energy is 1 but for rounding.
        measures = {
            "snr": height * size / noise,
            "fwhm": width / self.reference.spectrometer_frequency,
            "fwhm_hz": width,
            "fit_quality": residual * size / noise,
            "relative_residual": result.last.cost.sqrt(),
            "noise_sd": noise,
            "iterations": result.iterations.to(noise.dtype),
            "converged": (converged & ~self._on_bound(result)).to(noise.dtype),
        }
        failed = result.code == Code.SINGULAR
        out.measures = {name: torch.where(failed, torch.nan, m) for name, m in measures.items()}

    def _on_bound(self, result: Fit) -> Tensor:
        """Whether the shift ended on its bound: the true minimum lies elsewhere."""
        shift = self.problem.model.layout.shift(0)
        at = result.last.theta[:, shift]
        return (at <= self.problem.lower[shift]) | (at >= self.problem.upper[shift])

    def _write_signals(
        self, out: Block, result: Fit, window: Tensor, frame: Tensor, size: Tensor
    ) -> None:
        last, band = result.last, self.problem.band
        model = self.full.synthesise(
            torch.nan_to_num(last.amplitudes).to(torch.float32),
            torch.nan_to_num(last.theta).to(torch.float32),
        )
        residual = torch.view_as_real(window - band.crop(model)).flatten(-2)
        smooth = self.problem.baseline.fitted(residual).unflatten(-1, (band.bins, 2))
        to_data = _turn(frame, self.full.time) * size[:, None]
        baseline = band.expand(torch.view_as_complex(smooth.contiguous())) * to_data
        out.signals["corrected"] = out.fids
        out.signals["fit"] = model * to_data + baseline
        out.signals["baseline"] = baseline


@dataclass(frozen=True)
class ReferencePeak:
    """The singlet that SNR and linewidth are read from.

    ``column`` is its metabolite's, ``metabolites (metabolite,)`` is 0 for macromolecules,
    ``frequencies (point,)`` are Hz from the first bin of the band, around the singlet.
    """

    column: int
    metabolites: Tensor
    frequencies: Tensor
    spectrometer_frequency: float

    @classmethod
    def of(
        cls, basis: Basis, band: Band, acquisition: Acquisition, device: torch.device
    ) -> ReferencePeak:
        """The first of a list that basis and window have, else the basis' first metabolite."""
        window = acquisition.ppm_of(band.frequencies)
        inside = (
            name
            for name, ppm in _REFERENCE_SINGLETS.items()
            if name in basis.names and window.min() < ppm < window.max()
        )
        name = next(inside, basis.metabolites[0])
        middle = float(window.mean())
        centre = acquisition.frequency_of(_REFERENCE_SINGLETS.get(name, middle))
        around = np.arange(-30.0, 30.25, 0.25)
        metabolite = torch.tensor([not is_macromolecule(n) for n in basis.names])
        return cls(
            basis.names.index(name),
            metabolite.to(device, torch.float32),
            torch.from_numpy(centre + around - band.frequencies[0]).to(device),
            acquisition.spectrometer_frequency,
        )

    def measure(self, model: LinearCombinationModel, result: Fit) -> tuple[Tensor, Tensor]:
        """Height of the fitted metabolites at the peak and width (Hz) of its singlet."""
        theta = torch.nan_to_num(result.last.theta).to(torch.float32)
        theta[:, model.layout.shift(0)] = 0.0
        shapes = model.layout.lineshape(theta, model.time)
        amplitudes = torch.nan_to_num(result.last.amplitudes).to(torch.float32) * self.metabolites
        fitted = (shapes * model.by_group(amplitudes)).sum(1)
        alone = shapes[:, model.group[self.column]] * model.columns[self.column]
        near = (self.frequencies - self.frequencies.mean()).abs() < 8.0
        height = real_spectrum(fitted, model.time, self.frequencies[near]).amax(1)
        step = float(self.frequencies[1] - self.frequencies[0])
        width = full_width_half_height(real_spectrum(alone, model.time, self.frequencies), step)
        return height.to(torch.float64), width.to(torch.float64)


def free_parameters(settings: FitSettings, size: int) -> list[int]:
    """Columns of ``theta`` that the settings leave free."""
    free, _, _ = _bounds(settings, Layout((size - 1) // 3))
    return [p for p in range(size) if free[p]]


def _model(
    fids: np.ndarray, group: Tensor, time: np.ndarray, device: torch.device
) -> LinearCombinationModel:
    return LinearCombinationModel(
        torch.from_numpy(fids).to(device, torch.complex64),
        group.to(device),
        torch.from_numpy(time).to(device, torch.float32),
    )


def _turn(frequency: Tensor, time: Tensor) -> Tensor:
    """``exp(2*pi*i*f*t)``, ``(voxel, time)`` complex64."""
    angle = (2 * math.pi * frequency[:, None] * time).to(torch.float32)
    return torch.polar(torch.ones_like(angle), angle)


def _baseline(
    settings: FitSettings, band: Band, acquisition: Acquisition, device: torch.device
) -> Baseline:
    if settings.baseline == "none":
        return Baseline.none(band.bins, device)
    coefficients = settings.baseline_coefficients(acquisition)
    return Baseline.splines(band.bins, coefficients, settings.baseline_stiffness, device)


def _problem(
    settings: FitSettings, band: Band, model: LinearCombinationModel, baseline: Baseline
) -> Problem:
    free, lower, upper = (t.to(model.columns.device) for t in _bounds(settings, model.layout))
    reach = min(2 * _SHIFT_STEP_HZ + 0.5 / band.duration, settings.max_shift_hz)
    lower[model.layout.shift(0)], upper[model.layout.shift(0)] = -reach, reach
    signed = torch.full_like(model.group, settings.amplitudes == "free", dtype=torch.bool)
    return Problem(
        band, model, baseline, free, lower, upper, signed, max_iterations=settings.max_iterations
    )


def _bounds(settings: FitSettings, layout: Layout) -> tuple[Tensor, Tensor, Tensor]:
    """Which non-linear parameters are free, and their lower and upper bounds."""
    free = torch.zeros(layout.size, dtype=torch.bool)
    upper = torch.zeros(layout.size, dtype=torch.float64)
    lower = torch.zeros(layout.size, dtype=torch.float64)
    free[0], upper[0], lower[0] = True, math.inf, -math.inf
    for g in range(layout.groups):
        reach = settings.max_macromolecule_offset_hz
        free[layout.shift(g)] = g == 0 or reach > 0
        upper[layout.shift(g)], lower[layout.shift(g)] = reach, -reach
        free[layout.lorentzian(g)] = settings.lineshape != "gaussian"
        free[layout.gaussian(g)] = settings.lineshape != "lorentzian"
        upper[layout.lorentzian(g)] = settings.max_damping
        upper[layout.gaussian(g)] = settings.max_damping**2
    return free, lower, upper


def _start_points(settings: FitSettings, layout: Layout, device: torch.device) -> Tensor:
    """Grid of shift and damping, ``(point, parameter)`` float64; all groups damped alike."""
    # The fit may move two steps away from its start.
    steps = max(0, math.floor(settings.max_shift_hz / _SHIFT_STEP_HZ) - 2)
    shifts = [_SHIFT_STEP_HZ * n for n in range(-steps, steps + 1)]
    dampings = [d for d in _START_DAMPINGS if d <= settings.max_damping] or [settings.max_damping]
    axes = {layout.shift(0): shifts, layout.lorentzian(0): dampings}
    points = grid(axes, torch.zeros(layout.size, dtype=torch.float64))
    damping = points[:, layout.lorentzian(0)].clone()
    lorentzian = {"lorentzian": 1.0, "gaussian": 0.0, "voigt": 0.5}[settings.lineshape]
    for g in range(layout.groups):
        points[:, layout.lorentzian(g)] = lorentzian * damping
        points[:, layout.gaussian(g)] = ((1 - lorentzian) * damping).square()
    return points.to(device)


def _landmarks(basis: Basis) -> Tensor:
    """What a spectrum is recognised by, ``(landmark, metabolite)``: the basis where it has none."""
    rows = [[float(n in names) for n in basis.names] for names in _LANDMARKS]
    rows += [[float(n == mm) for n in basis.names] for mm in basis.macromolecules]
    found = torch.tensor([row for row in rows if any(row)], dtype=torch.float64)
    return found if len(found) else torch.eye(len(basis.names), dtype=torch.float64)


def _outputs(settings: FitSettings, basis: Basis, free: Tensor) -> tuple[tuple[str, ...], Tensor]:
    """Names of what is reported, and the weights ``(output, parameter)`` that make it."""
    lineshape = lineshape_quantities(settings.groups(basis))
    names = [q.name for q in amplitude_quantities(basis)]
    names += [q.name for q, is_free in zip(lineshape, free.tolist(), strict=True) if is_free]
    amplitudes = torch.from_numpy(amplitude_weights(basis))
    weights = torch.block_diag(amplitudes, torch.eye(int(free.sum()), dtype=torch.float64))
    return tuple(names), weights
