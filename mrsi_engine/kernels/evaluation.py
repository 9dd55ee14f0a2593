"""The cost of a fit at some parameters, with all that a step and the error bars need.

Amplitudes and baseline are linear and solved for exactly: what :mod:`mrsi_engine.kernels.varpro`
iterates are the few non-linear parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.baseline import Baseline
from mrsi_engine.kernels.lcm import LinearCombinationModel
from mrsi_engine.kernels.linear import Factor, restricted, solve_nonnegative
from mrsi_engine.kernels.priors import ScaledPriors


@dataclass(frozen=True)
class Problem:
    """Everything about a fit that is the same for all voxels of a scan.

    Parameters
    ----------
    model
        Columns reduced to ``band``.
    free
        ``(parameter,)`` bool, the non-linear parameters that are estimated.
    lower, upper
        ``(parameter,)`` float64 bounds of the non-linear parameters.
    signed
        ``(metabolite,)`` bool, amplitudes that may be negative.
    max_iterations
        Evaluations after the first.
    tolerance
        A voxel is converged once the Gauss-Newton step to the minimum is this many standard
        errors long.
    """

    band: Band
    model: LinearCombinationModel
    baseline: Baseline
    free: Tensor
    lower: Tensor
    upper: Tensor
    signed: Tensor
    max_iterations: int = 30
    tolerance: float = 2e-3

    @property
    def bytes_a_voxel(self) -> int:
        """Most memory that the fit of a voxel takes at a time: measured, 3.5 to 5.7 of these 6.

        In units of its complex64 rows on the band, one for each real parameter.
        """
        return 6 * 8 * self.band.bins * (len(self.signed) + int(self.free.sum()))


@dataclass(frozen=True)
class Spectra:
    """What a fit is given of each voxel.

    Parameters
    ----------
    window
        ``(voxel, bin)`` complex64, unitary spectra cropped to the problem's band.
    priors
        Gaussian priors on amplitudes, in units of each voxel's noise.
    precision
        ``(voxel, parameter)`` float64, noise variance over the variance of a prior around 0 on
        each non-linear parameter; 0 where there is none.
    fitted_share
        ``(voxel, curve)`` float32, a stiffness of the baseline of each voxel's own.
    """

    window: Tensor
    priors: ScaledPriors | None = None
    precision: Tensor | None = None
    fitted_share: Tensor | None = None

    def rows(self, index: Tensor) -> Spectra:
        """Some voxels."""
        return Spectra(
            self.window[index],
            None if self.priors is None else self.priors.rows(index),
            None if self.precision is None else self.precision[index],
            None if self.fitted_share is None else self.fitted_share[index],
        )

    def degrees_of_freedom(self, problem: Problem) -> Tensor:
        """Real data and priors minus real parameters, the baseline by its effective number.

        ``(voxel,)`` float64: what the cost is of noise alone, in units of its variance.
        """
        left = self._free_data(problem) - problem.baseline.degrees_of_freedom(self.fitted_share)
        if self.priors is not None:
            left = left + self.priors.count
        if self.precision is not None:
            left = left + (self.precision > 0).sum(1)
        return left.clamp_min(1.0)

    @property
    def has_priors(self) -> bool:
        """Whether anything is estimated under a prior."""
        return self.priors is not None or self.precision is not None

    def residual_freedom(self, problem: Problem, inverse: Tensor | None) -> Tensor:
        """What the residual energy is of noise alone, in units of its variance, ``(voxel,)``.

        ``inverse (voxel, parameter, parameter)`` is that of the Fisher matrix at unit noise: it
        says how much of a parameter its prior holds, and is needed only where there is one.
        """
        share = problem.baseline.fitted_share if self.fitted_share is None else self.fitted_share
        share = share.to(torch.float64)
        left = self._free_data(problem) - (share * (2 - share)).sum(-1)
        columns = len(problem.signed)
        if inverse is None:
            return left.clamp_min(1.0)
        if self.priors is not None:
            left = left + (self.priors.gram * inverse[:, :columns, :columns]).sum((1, 2))
        if self.precision is not None:
            variances = inverse.diagonal(dim1=1, dim2=2)[:, columns:]
            left = left + (self.precision[:, problem.free] * variances).sum(1)
        return left.clamp_min(1.0)

    def _free_data(self, problem: Problem) -> Tensor:
        data = 2.0 * problem.band.bins - len(problem.signed) - int(problem.free.sum())
        shape, device = (len(self.window),), self.window.device
        return torch.full(shape, data, dtype=torch.float64, device=device)

    def turned_back(self, theta: Tensor) -> Tensor:
        """The windows at phase 0, ``(voxel, bin)`` complex64."""
        turn = torch.polar(torch.ones_like(theta[:, :1]), -theta[:, :1])
        return self.window * turn.to(self.window.dtype)

    def real_rows(self, problem: Problem, spectra: Tensor) -> Tensor:
        """Real rows ``(voxel, row, 2 * bins)`` float32 of spectra, the baseline eliminated."""
        rows = torch.view_as_real(spectra).flatten(-2)
        return problem.baseline.remove(rows, self.fitted_share)


@dataclass(frozen=True)
class Evaluation:
    """Normal equations of all real parameters at one ``theta``, the baseline eliminated.

    Priors count as data: they are in all of it.

    ``theta (voxel, parameter)``, ``amplitudes (voxel, metabolite)``, ``passive`` which of them are
    off their bound, ``gram (voxel, metabolite, metabolite)``, ``cross (voxel, metabolite, free)``,
    ``curvature (voxel, free, free)``, ``gradient (voxel, free)``; ``response (voxel, metabolite,
    free)``, how the best amplitudes fall as the free parameters grow; ``energy`` of the data,
    ``cost`` (what the model leaves of it) and ``ok`` ``(voxel,)``.
    """

    theta: Tensor
    amplitudes: Tensor
    passive: Tensor
    gram: Tensor
    cross: Tensor
    curvature: Tensor
    gradient: Tensor
    response: Tensor
    energy: Tensor
    cost: Tensor
    ok: Tensor

    @property
    def fisher(self) -> Tensor:
        """Normal matrix of (amplitudes, free parameters): the Fisher matrix at unit noise."""
        top = torch.cat([self.gram, self.cross], dim=2)
        bottom = torch.cat([self.cross.mT, self.curvature], dim=2)
        return torch.cat([top, bottom], dim=1)

    @property
    def reduced(self) -> Tensor:
        """Schur complement ``(voxel, free, free)`` of the amplitudes that are off their bound."""
        return self.curvature - self.cross.mT @ self.response

    def rows(self, index: Tensor) -> Evaluation:
        """The evaluation of some voxels."""
        return Evaluation(*(getattr(self, f.name)[index] for f in fields(self)))

    def write(self, index: Tensor, other: Evaluation) -> None:
        """Take another evaluation in place of this one's voxels ``index``."""
        for field in fields(self):
            getattr(self, field.name)[index] = getattr(other, field.name)


def evaluate(
    problem: Problem,
    spectra: Spectra,
    theta: Tensor,
    passive: Tensor | None,
    amplitudes: Tensor | None = None,
) -> Evaluation:
    """Amplitudes, the best unless given, and normal equations at ``theta (voxel, parameter)``."""
    parts = _parts(problem, theta)
    linear = spectra.real_rows(problem, parts.columns)
    turned = spectra.turned_back(theta)
    data = spectra.real_rows(problem, turned[:, None, :])

    gram = _product(linear, linear)
    moment = _product(linear, data).squeeze(2)
    if spectra.priors is not None:
        gram, moment = gram + spectra.priors.gram, moment + spectra.priors.moment
    energy = data.to(torch.float64).square().sum((1, 2))
    best, passive, factor, ok = _amplitudes(problem, gram, moment, passive)
    amplitudes = best if amplitudes is None else amplitudes
    finite = torch.nan_to_num(amplitudes)
    known = finite.to(linear.dtype)[:, None, :]
    residual = data - known @ linear
    cost = residual.to(torch.float64).square().sum((1, 2))
    if spectra.priors is not None:
        cost = cost + spectra.priors.cost(finite)

    curved = spectra.real_rows(problem, _derivatives(problem, parts, known.squeeze(1)))
    cross = _product(linear, curved)
    curvature = _product(curved, curved)
    gradient = _product(curved, residual).squeeze(2)
    if spectra.precision is not None:
        precision, at = spectra.precision[:, problem.free], theta[:, problem.free]
        cost = cost + (precision * at.square()).sum(1)
        curvature = curvature + torch.diag_embed(precision)
        gradient = gradient - precision * at
    response, solved = factor.solve(cross * passive[:, :, None])
    return Evaluation(
        theta=theta,
        amplitudes=amplitudes,
        passive=passive,
        gram=gram,
        cross=cross,
        curvature=curvature,
        gradient=gradient,
        response=response,
        energy=energy,
        cost=cost,
        ok=ok & solved,
    )


def residual_energy(problem: Problem, spectra: Spectra, last: Evaluation) -> Tensor:
    """Squared norm of data less model and baseline, at the last estimates, ``(voxel,)`` float64.

    Unlike the cost it holds neither the penalty of the baseline nor that of priors.
    """
    model, theta = problem.model, torch.nan_to_num(last.theta)
    amplitudes, single = torch.nan_to_num(last.amplitudes).float(), theta.to(torch.float32)
    shapes = model.layout.lineshape(single, model.time)
    summed = (shapes * model.by_group(amplitudes, model.pure(single))).sum(1)
    fitted = problem.band.spectrum(summed)
    if model.delay is not None:
        delay = single[:, model.layout.delay, None]
        edge = amplitudes.to(fitted.dtype) @ model.delay.edge
        fitted = fitted * model.delay.turn(delay).squeeze(1) + edge * delay
    left = spectra.real_rows(problem, (spectra.turned_back(theta) - fitted)[:, None, :])
    # The baseline takes a row times its root once from the data and once from the residual.
    left = problem.baseline.remove(left, spectra.fitted_share)
    return left.to(torch.float64).square().sum((1, 2))


def stiffness_scores(
    problem: Problem, spectra: Spectra, theta: Tensor, shares: Tensor, weight: float
) -> Tensor:
    """How well each of several stiffnesses of the baseline suits each voxel, ``(voxel, share)``.

    Akaike's criterion, ``n log(|r|^2) + 2 weight d``, smallest where the residual ``r`` of the
    ``n`` real data is small for the ``d`` effective parameters the baseline takes (adaptive
    baseline fitting: Wilson, Magn Reson Med 2021;85:13). Amplitudes are at their best for each.

    Parameters
    ----------
    problem, spectra, theta
        As for :func:`fit`; what is iterated stays at ``theta``.
    shares
        ``(share, curve)`` float32, how far each curve is fitted at each stiffness.
    weight
        How much dearer a parameter is than in Akaike's original.
    """
    parts = _parts(problem, theta)
    turned = spectra.turned_back(theta)
    rows = torch.cat([parts.columns, turned[:, None, :]], dim=1)
    real = torch.view_as_real(rows).flatten(-2)
    products = _product(real, real)
    onto = (real @ problem.baseline.curves).to(torch.float64)
    scores = []
    for share in shares.to(torch.float64):
        normal = products - (onto * share) @ onto.mT
        factor = Factor.of(normal[:, :-1, :-1])
        amplitudes, _ = factor.solve(normal[:, :-1, -1:])
        left = torch.cat([-amplitudes, torch.ones_like(amplitudes[:, :1])], dim=1)
        energy = (left * (products @ left)).sum((1, 2))
        smooth = (left * onto).sum(1).square() @ (share * (2 - share))
        residual = (energy - smooth).clamp_min(torch.finfo(torch.float64).tiny)
        scores.append(real.shape[2] * residual.log() + 2 * weight * share.sum())
    return torch.stack(scores, dim=1)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Inner products ``(voxel, left, right)`` in float64.

    Summed in float32 (the columns are no more exact); the small systems they form are float64.
    """
    return (left @ right.mT).to(torch.float64)


def _amplitudes(
    problem: Problem, gram: Tensor, moment: Tensor, passive: Tensor | None
) -> tuple[Tensor, Tensor, Factor, Tensor]:
    """Best amplitudes, which are off their bound, the factor of their normal matrix, and ok."""
    if bool(problem.signed.all()):
        factor = Factor.of(gram)
        solution, ok = factor.solve(moment[:, :, None])
        return solution.squeeze(2), torch.ones_like(moment, dtype=torch.bool), factor, ok
    solution, passive, ok = solve_nonnegative(gram, moment, problem.signed, passive)
    return solution, passive, Factor.of(restricted(gram, passive)), ok


@dataclass(frozen=True)
class _Parts:
    """What derivatives are made of: ``theta`` in float32, pure columns, lineshapes, the spectra
    of the modulated columns, and those FIDs that have own shifts times t."""

    theta: Tensor
    pure: Tensor
    shapes: Tensor
    columns: Tensor
    moved: Tensor | None


def _parts(problem: Problem, theta: Tensor) -> _Parts:
    model, single = problem.model, theta.to(torch.float32)
    shapes, pure = model.layout.lineshape(single, model.time), model.pure(single)
    modulated = model.modulated(pure, shapes)
    moved = None if model.movable is None else modulated[:, model.movable] * model.time
    columns = problem.band.spectrum(modulated)
    if model.delay is not None:
        columns = model.delay.apply(columns, single[:, model.layout.delay, None])
    return _Parts(single, pure, shapes, columns, moved)


def _derivatives(problem: Problem, parts: _Parts, amplitudes: Tensor) -> Tensor:
    """Derivative of the model by the free parameters, ``(voxel, free, bin)`` complex64.

    A damping multiplies by -t and a shift by 2*pi*i*t, so one transform a group gives both.
    """
    model, layout, band = problem.model, problem.model.layout, problem.band
    weighted = model.by_group(amplitudes, parts.pure) * parts.shapes * model.time
    wanted = problem.free.nonzero().squeeze(1).tolist()
    rows: dict[int, Tensor] = {}
    if any(layout.gaussian(g) in wanted for g in range(layout.groups)):
        curved = band.spectrum(weighted * model.time)
        rows |= {layout.gaussian(g): -curved[:, g] for g in range(layout.groups)}
    first = band.spectrum(weighted)
    for g in range(layout.groups):
        shifted = first.sum(1) if g == 0 else first[:, g]
        rows[layout.shift(g)] = 2j * math.pi * shifted
        rows[layout.lorentzian(g)] = -first[:, g]
    if parts.moved is not None:
        own = 2j * math.pi * amplitudes[:, model.movable, None] * band.spectrum(parts.moved)
        rows |= dict(enumerate(own.unbind(1), layout.own.start))
    if model.delay is not None:
        delay = parts.theta[:, layout.delay, None]
        turn = model.delay.turn(delay).squeeze(1)
        rows = {p: row * turn for p, row in rows.items()}
        rows[layout.delay] = model.delay.derivative(amplitudes, parts.columns, delay)
    rows[0] = 1j * (amplitudes.to(parts.columns.dtype)[:, None, :] @ parts.columns).squeeze(1)
    return torch.stack([rows[p] for p in wanted], dim=1)
