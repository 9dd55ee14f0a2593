"""What a fit of a scan is made of, before any voxel is seen."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.fit.quantities import (
    amplitude_quantities,
    lineshape_quantities,
    ratio_quantities,
)
from mrsi_engine.fit.settings import FitSettings
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.baseline import Baseline
from mrsi_engine.kernels.evaluation import Problem
from mrsi_engine.kernels.late_start import late_derivative, started_late
from mrsi_engine.kernels.lcm import Delay, Layout, LinearCombinationModel
from mrsi_engine.kernels.start import StartGrid, grid
from mrsi_engine.quantities import CRLB, POSTERIOR_SD, Quantity
from mrsi_engine.spectra.basis import Basis

_SHIFT_STEP_HZ = 2.0
_START_DAMPINGS = (2.0, 8.0, 20.0, 40.0)

#: Stiffness that an adaptive baseline is first fitted with, as far as its range allows.
_FIRST_STIFFNESS = 0.1

#: Limits of own shifts and of the delay, in SDs of their priors.
_PRIOR_REACH = 6.0


@dataclass(frozen=True)
class FitTables:
    """Model, bounds and start points of one scan.

    ``full`` is the model on all acquired points, for signals; ``prior_sd (parameter,)`` float64
    that of the prior around 0 on each non-linear parameter, infinite where there is none.
    """

    problem: Problem
    starts: StartGrid
    full: LinearCombinationModel
    prior_sd: Tensor

    @classmethod
    def build(
        cls, settings: FitSettings, basis: Basis, acquisition: Acquisition, device: torch.device
    ) -> FitTables:
        """Tables for the fitted columns ``basis``, which are on the scan's axis."""
        band, used = settings.band(acquisition), settings.used_points(acquisition)
        suffixes = settings.group_suffixes(basis)
        group = torch.tensor([suffixes.index(settings.group_of(n, basis)) for n in basis.names])
        own = settings.metabolite_shift_sd_hz > 0
        movable = torch.tensor([own and n in basis.metabolites for n in basis.names])
        columns = _Columns(settings, basis, acquisition, band)
        parts = LinearCombinationModel(
            torch.from_numpy(band.reduce(columns.fids[:, used])).to(device, torch.complex64),
            group.to(device),
            torch.from_numpy(band.short_time() + acquisition.time[used.start]).float().to(device),
            columns.delay(used, device) if settings.starts_late else None,
            movable.to(device) if own else None,
        )
        full = replace(
            parts,
            columns=torch.from_numpy(columns.fids[:, : used.stop]).to(device, torch.complex64),
            time=torch.from_numpy(acquisition.time[: used.stop]).float().to(device),
            delay=columns.full_delay(used.stop, device) if settings.starts_late else None,
        )
        problem = _problem(settings, band, parts, acquisition)
        return cls(problem, _starts(settings, basis, problem), full, _prior_sd(settings, parts))


@dataclass(frozen=True)
class _Columns:
    """Full FIDs of the columns and how they change with a delay."""

    settings: FitSettings
    basis: Basis
    acquisition: Acquisition
    band: Band

    @property
    def pivot(self) -> float:
        """Hz of the middle of the window, which a delay does not turn."""
        return float(self.band.frequencies.mean())

    @property
    def fids(self) -> NDArray[np.complex128]:
        """``(metabolite, time)``, with the delay that is known."""
        delay = 1e-3 * self.settings.first_order_phase.delay_ms
        if delay == 0:
            return self.basis.fids
        return started_late(self.basis.fids, self.acquisition.time, self.pivot, delay)

    def delay(self, used: slice, device: torch.device) -> Delay:
        """On the bins of the band."""
        change, fids = self._change(used)
        frequencies = self.band.frequencies - self.pivot
        turned = 2j * np.pi * frequencies * self.band.crop(fids).numpy()
        return _delay(frequencies, self.band.crop(change).numpy() - turned, device)

    def full_delay(self, stop: int, device: torch.device) -> Delay:
        """On all bins of the unshifted transform of all acquired points."""
        change, fids = (np.fft.fft(f.numpy(), norm="ortho") for f in self._change(slice(0, stop)))
        frequencies = np.fft.fftfreq(stop, self.acquisition.dwell_time) - self.pivot
        return _delay(frequencies, change - 2j * np.pi * frequencies * fids, device)

    def _change(self, used: slice) -> tuple[Tensor, Tensor]:
        fids = self.fids
        change = late_derivative(fids, self.acquisition.time, self.pivot)
        return torch.from_numpy(change[:, used]), torch.from_numpy(fids[:, used])


def _delay(
    frequencies: NDArray[np.floating], edge: NDArray[np.complex128], device: torch.device
) -> Delay:
    return Delay(
        torch.from_numpy(frequencies).to(device, torch.float32),
        torch.from_numpy(1e-3 * edge).to(device, torch.complex64),
    )


def parameters(settings: FitSettings, basis: Basis) -> list[Quantity]:
    """Everything that is estimated, in order: of the main estimator, then of the others."""
    lineshape = lineshape_quantities(settings, basis)
    free, _, _ = _bounds(settings, _layout(settings, basis))
    once = [
        *amplitude_quantities(basis),
        *(q for q, is_free in zip(lineshape, free.tolist(), strict=True) if is_free),
        *ratio_quantities(settings, basis),
    ]
    first, *others = settings.estimators
    return [_with_error_of(q, settings, first) for q in once] + [
        _with_error_of(q, settings, estimator).by(estimator) for estimator in others for q in once
    ]


def _with_error_of(quantity: Quantity, settings: FitSettings, estimator: str) -> Quantity:
    """With priors the bound is that of the posterior."""
    priors = estimator == "map" or settings.metabolite_shift_sd_hz > 0 or settings.starts_late
    bounded = priors and quantity.sd_doc == CRLB
    return replace(quantity, sd_doc=POSTERIOR_SD) if bounded else quantity


def _layout(settings: FitSettings, basis: Basis) -> Layout:
    own = len(basis.metabolites) if settings.metabolite_shift_sd_hz > 0 else 0
    return Layout(len(settings.group_suffixes(basis)), settings.starts_late, own)


def _baseline(
    settings: FitSettings, band: Band, coefficients: int, device: torch.device
) -> Baseline:
    if settings.baseline.kind == "none":
        return Baseline.none(band.bins, device)
    if settings.baseline.kind == "polynomial":
        return Baseline.polynomial(band.bins, settings.baseline.order, device)
    stiffness = settings.baseline.stiffness
    low, high = settings.baseline.stiffness_range
    first = min(max(_FIRST_STIFFNESS, low), high) if isinstance(stiffness, str) else stiffness
    return Baseline.splines(band.bins, coefficients, first, device)


def _problem(
    settings: FitSettings, band: Band, model: LinearCombinationModel, acquisition: Acquisition
) -> Problem:
    device = model.columns.device
    free, lower, upper = (t.to(device) for t in _bounds(settings, model.layout))
    reach = min(2 * _SHIFT_STEP_HZ + 0.5 / band.duration, settings.max_shift_hz)
    lower[model.layout.shift(0)], upper[model.layout.shift(0)] = -reach, reach
    baseline = _baseline(settings, band, settings.baseline_coefficients(acquisition), device)
    signed = torch.full_like(model.group, settings.estimators[0] != "nonnegative", dtype=torch.bool)
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
        reach = settings.macromolecules.max_offset_hz
        free[layout.shift(g)] = g == 0 or reach > 0
        upper[layout.shift(g)], lower[layout.shift(g)] = reach, -reach
        free[layout.lorentzian(g)] = settings.lineshape != "gaussian"
        free[layout.gaussian(g)] = settings.lineshape != "lorentzian"
        upper[layout.lorentzian(g)] = settings.max_damping
        upper[layout.gaussian(g)] = settings.max_damping**2
    free[layout.delay :] = True
    upper[layout.delay :] = _PRIOR_REACH * settings.first_order_phase.sd_ms
    upper[layout.own] = _PRIOR_REACH * settings.metabolite_shift_sd_hz
    lower[layout.delay :] = -upper[layout.delay :]
    return free, lower, upper


def _prior_sd(settings: FitSettings, model: LinearCombinationModel) -> Tensor:
    sd = torch.full((model.layout.size,), math.inf, dtype=torch.float64)
    sd[model.layout.delay :] = settings.first_order_phase.sd_ms
    sd[model.layout.own] = settings.metabolite_shift_sd_hz
    return sd.to(model.columns.device)


def _starts(settings: FitSettings, basis: Basis, problem: Problem) -> StartGrid:
    model, device = problem.model, problem.model.columns.device
    points = _start_points(settings, model.layout, device)
    # Large shifts are rare; at low SNR the noise alone would find them.
    unlikely = (points[:, model.layout.shift(0)] / (0.5 * settings.max_shift_hz)).square()
    landmarks = _landmarks(basis).to(device)
    return StartGrid.build(problem.band, model, problem.baseline, points, landmarks, unlikely)


def _start_points(settings: FitSettings, layout: Layout, device: torch.device) -> Tensor:
    """Grid of shift and damping, ``(point, parameter)`` float64; all groups damped alike."""
    # The fit may move two steps away from its start.
    steps = max(0, math.floor(settings.max_shift_hz / _SHIFT_STEP_HZ) - 2)
    shifts = [_SHIFT_STEP_HZ * n for n in range(-steps, steps + 1)]
    dampings = [d for d in _START_DAMPINGS if d <= settings.max_damping] or [settings.max_damping]
    axes = {layout.shift(0): shifts, layout.lorentzian(0): dampings}
    points = grid(axes, torch.zeros(layout.size, dtype=torch.float64))
    damping = points[:, layout.lorentzian(0)].clone()
    lorentzian = settings.lorentzian_share
    for g in range(layout.groups):
        points[:, layout.lorentzian(g)] = lorentzian * damping
        points[:, layout.gaussian(g)] = ((1 - lorentzian) * damping).square()
    return points.to(device)


def _landmarks(basis: Basis) -> Tensor:
    """What a spectrum is recognised by, ``(landmark, metabolite)``: the basis where it has none."""
    rows = [[float(n in names) for n in basis.names] for names in basis.nucleus.patterns]
    rows += [[float(n == mm) for n in basis.names] for mm in basis.macromolecules]
    found = torch.tensor([row for row in rows if any(row)], dtype=torch.float64)
    return found if len(found) else torch.eye(len(basis.names), dtype=torch.float64)
