"""Spectral registration: shift and phase of signals against a template by Gauss-Newton.

Near et al., Magn Reson Med 2015;73:44 (time domain) and its frequency-limited form, with three
additions: the part of the spectrum that counts is any projection (a window, without a baseline or
nuisance lines), amplitude and damping are fitted along, and a cross-correlation finds the start,
so any phase and large shifts converge.

With the signal ``y`` shifted back by the current shift, ``m(d)`` the template damped by ``d`` and
``P`` the projection, a step needs ``<m, P y>`` and ``<m', P y>`` only, ``m' = dm/dd = -t m``. As
function of ``d`` the damped template is a short Chebyshev series, ``exp(-d t) = sum_k T_k(x) c_k``
with modified Bessel functions ``c_k(t)``, so both come from one matrix product of the signals with
fixed filters. A shift acts on the model as an imaginary damping, so the step in both is one
complex number and the Cramér-Rao bounds have a closed form.

How much of a signal the template explains says whether it is there at all: of white noise in ``n``
complex dimensions one vector explains a share above ``r`` with probability ``(1 - r)^(n-1)``, and
the search looks at about ``2 * limit * duration`` independent shifts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.kernels.alignment import Alignment, turned, wrapped
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.correlation import correlation_peak
from mrsi_engine.kernels.projection import Projection
from mrsi_engine.kernels.varpro import Code

#: Relative error of the damped template at which its series ends.
_SERIES_TOLERANCE = 1e-6

#: Steps taken in full before they are halved.
_FULL_STEPS = 5

#: SDs of the noise's energy that the match of a signal is on the safe side.
_SURE = 3.0

#: Signals worked on together: many enough to hide the cost of a call, few enough for any memory.
_CHUNK = 1024


@dataclass(frozen=True)
class Solver:
    """How a registration iterates.

    Parameters
    ----------
    limit_hz
        Largest shift looked for by the start.
    fit_damping
        Whether the damping is fitted or held at the start value.
    max_iterations
        Gauss-Newton steps.
    tolerance
        A signal is converged once a step is shorter than this many standard errors.
    """

    limit_hz: float = 70.0
    fit_damping: bool = True
    max_iterations: int = 20
    tolerance: float = 0.03


@dataclass(frozen=True)
class Registration:
    """A template made ready: what does not depend on the signals.

    ``seen`` is what counts; ``filters (time, order)`` complex64 are the conjugated projected terms
    of the damped template, ``gram (order, order)`` complex128 their inner products; ``damping`` is
    (low, high) in 1/s, ``start_damping`` where the fit begins; ``first`` samples of every FID are
    left out.
    ``start_filter (time,)`` complex64 and ``start_band`` are for the cross-correlation.
    """

    seen: Projection
    filters: Tensor
    gram: Tensor
    start_filter: Tensor
    start_band: Band
    damping: tuple[float, float]
    start_damping: float
    first: int = 0

    @classmethod
    def build(
        cls,
        template: Tensor,
        projection: Projection,
        damping: tuple[float, float] = (-8.0, 40.0),
        start_damping: float = 0.0,
        first: int = 0,
        start: Projection | None = None,
    ) -> Registration:
        """Filters for one template.

        Parameters
        ----------
        template
            ``(time,)`` complex, from ``t = 0``; samples beyond those the projection was made for
            are not used.
        projection
            Made for ``points`` samples after the first ``first``.
        damping
            Range of dampings relative to the template, 1/s.
        start_damping
            Where in that range the fit begins.
        first
            Samples left out at the beginning.
        start
            What counts in the cross-correlation; ``None`` is ``projection``. Where nuisance lines
            are projected out of a whole spectrum this should be a window without them: at a wrong
            shift they are not in their subspace.

        Raises
        ------
        ValueError
            If the template is shorter than the projection, or the range does not hold the start.
        """
        band = projection.band
        last = first + band.points
        if len(template) < last:
            raise ValueError(f"the template has {len(template)} points, {last} are needed")
        if not damping[0] <= start_damping <= damping[1] or damping[0] == damping[1]:
            raise ValueError(f"damping range {damping} does not hold the start {start_damping}")
        t = np.arange(first, last, dtype=np.float64) * band.dwell_time
        series = torch.from_numpy(_chebyshev_terms(t, damping)).to(template.device)
        terms = series * template[first:last].to(torch.complex128)
        projected = projection.apply(terms)
        start = start or projection
        begin = template[first:last] * torch.exp(-start_damping * torch.from_numpy(t)).to(template)
        return cls(
            seen=projection.to(template.device),
            filters=projected.conj().mT.to(torch.complex64).contiguous(),
            gram=terms.conj() @ projected.mT,
            start_filter=start.apply(begin.to(torch.complex128)).conj().to(torch.complex64),
            start_band=start.band,
            damping=damping,
            start_damping=start_damping,
            first=first,
        )

    def to(self, device: torch.device) -> Registration:
        """The same on another device."""
        return replace(
            self,
            seen=self.seen.to(device),
            filters=self.filters.to(device),
            gram=self.gram.to(device),
            start_filter=self.start_filter.to(device),
        )

    @property
    def dwell_time(self) -> float:
        """Time between samples, s."""
        return self.start_band.dwell_time

    @property
    def last(self) -> int:
        """Number of samples of a FID that are looked at, the first ones included."""
        return self.first + len(self.filters)

    def weights(self, damping: Tensor) -> tuple[Tensor, Tensor]:
        """Chebyshev polynomials at ``damping (signal,)`` and their derivatives by it.

        ``(signal, order)`` float64 each.
        """
        low, high = self.damping
        half = 0.5 * (high - low)
        x = ((damping - low) / half - 1).clamp(-1 + 1e-12, 1 - 1e-12)
        angle = torch.arccos(x)[:, None]
        order = torch.arange(self.filters.shape[1], device=damping.device)
        slope = order * torch.sin(order * angle) / torch.sin(angle)
        return torch.cos(order * angle), slope / half


@dataclass(frozen=True)
class _Point:
    """Everything known at one shift and damping, ``(signal,)`` each.

    ``scale`` is the best complex amplitude, ``step`` the complex Gauss-Newton step (damping plus
    imaginary shift), ``curvature`` its information per unit amplitude and noise, ``norm`` the
    template's energy, ``coupling`` how step and scale correlate.
    """

    scale: Tensor
    step: Tensor
    curvature: Tensor
    norm: Tensor
    coupling: Tensor

    @property
    def explained(self) -> Tensor:
        """Energy of the signals that the template takes away."""
        return self.scale.abs().square() * self.norm


def register(
    registration: Registration,
    fids: Tensor,
    noise_sd: Tensor,
    solver: Solver | None = None,
    start_shift: Tensor | None = None,
) -> Alignment:
    """Shift, phase, amplitude and damping of signals relative to a template.

    Parameters
    ----------
    registration
        The template made ready, on the device of the signals.
    fids
        ``(signal, time)`` complex64 from ``t = 0``, at least ``registration.last`` samples.
    noise_sd
        ``(signal,)`` SD of the noise per real channel of a sample.
    solver
        Settings of the iteration.
    start_shift
        ``(signal,)`` float64 Hz, where to start instead of the cross-correlation's peak.
    """
    solver = solver or Solver()
    if len(fids) == 0:
        return Alignment.empty(fids.device)
    kept = fids[:, registration.first : registration.last]
    noise = noise_sd.to(torch.float64)
    parts = []
    for chunk in torch.arange(len(fids), device=fids.device).split(_CHUNK):
        shift = None if start_shift is None else start_shift[chunk]
        parts.append(_register(registration, kept[chunk], noise[chunk], solver, shift))
    return Alignment.join(parts)


def correlate(
    registration: Registration, fids: Tensor, noise_sd: Tensor, limit_hz: float = 70.0
) -> Alignment:
    """Shift and phase from the cross-correlation's peak alone (Corr; CorrF within a window).

    Parameters as for :func:`register`. The bounds are those of a registration without damping,
    which this estimate does not reach.
    """
    found = register(registration, fids, noise_sd, Solver(limit_hz, False, max_iterations=0))
    done = found.code == Code.MAX_ITERATIONS
    return replace(found, code=torch.where(done, int(Code.CONVERGED), found.code))


def hold(
    registration: Registration,
    fids: Tensor,
    noise_sd: Tensor,
    shift: Tensor,
    shift_sd: Tensor,
    damping: Tensor,
) -> Alignment:
    """Phase and amplitude of signals whose shift is known otherwise, to ``shift_sd``.

    Nothing is searched for, so ``chance`` is that of noise at this one shift.

    Parameters
    ----------
    registration, fids, noise_sd
        As for :func:`register`.
    shift, shift_sd, damping
        ``(signal,)`` float64 in Hz, Hz and 1/s.
    """
    kept, noise = fids[:, registration.first : registration.last], noise_sd.to(torch.float64)
    code = torch.full_like(shift, Code.CONVERGED, dtype=torch.int64)
    still = Solver(limit_hz=0.0)
    found = _finish(registration, kept, noise, still, shift, damping, code)
    # The bound on the phase holds what an unknown shift adds, in proportion to its variance.
    alone = _phase_sd_alone(registration, found, noise)
    share = (shift_sd / found.shift_sd).square()
    added = (found.phase_sd.square() - alone.square()) * share
    return replace(found, shift_sd=shift_sd, phase_sd=(alone.square() + added).sqrt())


def _phase_sd_alone(registration: Registration, found: Alignment, noise: Tensor) -> Tensor:
    """Error of the phase where shift and damping are known."""
    value, _ = registration.weights(found.damping)
    norm = _form(registration.gram, value, value).real
    return noise / (found.amplitude * norm.sqrt())


def _register(
    registration: Registration, fids: Tensor, noise: Tensor, solver: Solver, shift: Tensor | None
) -> Alignment:
    damping = torch.full_like(noise, registration.start_damping)
    searched = torch.full_like(noise, shift is None, dtype=torch.bool)
    if shift is None:
        template, band = registration.start_filter, registration.start_band
        shift = correlation_peak(fids, template, band, solver.limit_hz)
    shift = shift.clone()
    code = torch.full_like(shift, Code.MAX_ITERATIONS, dtype=torch.int64)
    running = torch.arange(len(fids), device=fids.device)
    # A longer step than the resolution of the data leaves the valley the start lies in.
    longest = math.pi / (len(registration.filters) * registration.dwell_time)
    for iteration in range(solver.max_iterations):
        point = _evaluate(registration, fids[running], shift[running], damping[running])
        step = point.step if solver.fit_damping else 1j * point.step.imag
        # Where the residual is large (a nuisance) full steps may go to and fro for ever.
        step = step * (1.0 if iteration < _FULL_STEPS else 0.5)
        step = step * (longest / step.abs().clamp_min(longest))
        sure = torch.isfinite(step.abs()) & (point.curvature > 0)
        code[running[~sure]] = Code.SINGULAR
        running, step = running[sure], step[sure]
        shift[running] -= step.imag / (2 * math.pi)
        damping[running] = (damping[running] + step.real).clamp(*registration.damping)
        error = noise[running] / _information(point)[sure]
        small = step.abs() <= solver.tolerance * error + 1e-6 * longest
        code[running[small]] = Code.CONVERGED
        running = running[~small]
        if len(running) == 0:
            break
    found = _finish(registration, fids, noise, solver, shift, damping, code)
    return replace(found, searched=searched)


def _evaluate(registration: Registration, fids: Tensor, shift: Tensor, damping: Tensor) -> _Point:
    back = turned(fids, registration.dwell_time, -shift, first=registration.first)
    products = (back @ registration.filters).to(torch.complex128)
    value, slope = registration.weights(damping)
    seen, seen_slope = (products * value).sum(1), (products * slope).sum(1)
    rows = slope.to(registration.gram.dtype) @ registration.gram.mT
    norm = _form(registration.gram, value, value).real
    coupling = (rows * value).sum(1) / norm
    curvature = (rows * slope).sum(1).real - coupling.abs().square() * norm
    scale = seen / norm
    step = (seen_slope - seen * coupling.conj()) / (scale * curvature)
    return _Point(scale, step, curvature, norm, coupling)


def _form(gram: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return ((left.to(gram.dtype) @ gram) * right).sum(1)


def _information(point: _Point) -> Tensor:
    """Inverse of the standard error of damping, and of 2*pi*shift, at unit noise."""
    return point.scale.abs() * point.curvature.clamp_min(0.0).sqrt()


def _finish(
    registration: Registration,
    fids: Tensor,
    noise: Tensor,
    solver: Solver,
    shift: Tensor,
    damping: Tensor,
    code: Tensor,
) -> Alignment:
    point = _evaluate(registration, fids, shift, damping)
    information = _information(point)
    # The damping is coupled to the phase by the imaginary part, the shift by the real part.
    coupling = point.coupling.abs() if solver.fit_damping else point.coupling.real
    own = 1 / (point.scale.abs().square() * point.norm)
    phase_sd = noise * (own + (coupling / information).square()).sqrt()
    known = (code != Code.SINGULAR) & torch.isfinite(information)
    step = point.step if solver.fit_damping else point.step.imag
    arrived = (code == Code.MAX_ITERATIONS) & (step.abs() <= solver.tolerance * noise / information)
    code = torch.where(arrived, int(Code.CONVERGED), code)
    chance, match = _likeness(registration, fids, noise, shift, point, solver.limit_hz)
    return Alignment(
        shift=torch.where(known, shift, torch.nan),
        phase=torch.where(known, wrapped(point.scale.angle()), torch.nan),
        amplitude=torch.where(known, point.scale.abs(), torch.nan),
        damping=torch.where(known, damping, torch.nan),
        shift_sd=torch.where(known, noise / (2 * math.pi * information), torch.nan),
        phase_sd=torch.where(known, phase_sd, torch.nan),
        chance=torch.where(known, chance, torch.nan),
        match=torch.where(known, match, torch.nan),
        searched=torch.zeros_like(known),
        code=torch.where(known, code, torch.full_like(code, Code.SINGULAR)),
    )


def _likeness(
    registration: Registration,
    fids: Tensor,
    noise: Tensor,
    shift: Tensor,
    point: _Point,
    limit_hz: float,
) -> tuple[Tensor, Tensor]:
    """How often white noise is explained as well, at any of the shifts looked at; and the match."""
    seen = registration.seen
    back = turned(fids, registration.dwell_time, -shift, first=registration.first)
    energy = seen.energy(back)
    explained = point.scale.abs().square() * point.norm
    tried = 1 + 2 * limit_hz * seen.band.duration
    chance = tried * (1 - explained / energy).clamp_min(0.0) ** (seen.rank - 1)
    least_noise = 2 * noise.square() * max(seen.rank - _SURE * math.sqrt(seen.rank), 0.0)
    return chance, explained / torch.maximum(energy - least_noise, explained)


def _chebyshev_terms(t: NDArray[np.float64], damping: tuple[float, float]) -> NDArray[np.float64]:
    """Terms ``c_k(t)`` of ``exp(-d t) = sum_k T_k(x(d)) c_k(t)``, ``(order, time)``."""
    low, high = damping
    reach = 0.5 * (high - low) * t
    order = np.arange(int(2 * reach[-1]) + 20)
    sign = np.where(order % 2, -1.0, 1.0) * np.where(order == 0, 1.0, 2.0)
    terms = sign[:, None] * scipy.special.ive(order[:, None], reach) * np.exp(-low * t)
    size = np.abs(terms).max(1)
    return np.asarray(terms[: int(np.flatnonzero(size > _SERIES_TOLERANCE * size.max())[-1]) + 1])
