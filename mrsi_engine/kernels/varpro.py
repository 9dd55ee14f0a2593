"""Batched separable least squares: variable projection with a Levenberg-Marquardt step a voxel.

Golub & Pereyra, Inverse Probl 2003;19:R1, in Kaufman's form. Amplitudes and baseline are linear
and solved for exactly at every evaluation; what is iterated are the few non-linear parameters. The
step comes from the Schur complement of the amplitude block of the full normal matrix, which is
also the Fisher matrix of the Cramér-Rao bounds. Every voxel has its own damping, its own
acceptance test and its own result code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from enum import IntEnum

import torch
from torch import Tensor

from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.baseline import Baseline
from mrsi_engine.kernels.lcm import LinearCombinationModel
from mrsi_engine.kernels.linear import Factor, restricted, solve_nonnegative, solve_spd

_FIRST_DAMPING = 1e-3
_MAX_DAMPING = 1e8

#: A step that gains less than this share of what the linearised model promised asks for damping,
#: and less damping than ``_FELT_DAMPING`` is not felt.
_POOR_GAIN = 0.25
_FELT_DAMPING = 0.02

#: What float32 columns resolve: of the cost, relative to the root of cost times energy of the data
#: (a rounding error of the data times the residual); of the squared length of a step, relative to
#: that energy.
_COST_RESOLUTION = 1e-6
_STEP_RESOLUTION = 1e-12


class Code(IntEnum):
    """How the fit of one voxel ended."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    MAX_ITERATIONS = 3
    SINGULAR = 4


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
    def degrees_of_freedom(self) -> float:
        """Real data minus real parameters, the baseline by its effective number."""
        used = len(self.signed) + int(self.free.sum()) + self.baseline.degrees_of_freedom
        return max(2 * self.band.bins - used, 1.0)


@dataclass(frozen=True)
class Evaluation:
    """Normal equations of all real parameters at one ``theta``, the baseline eliminated.

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


@dataclass(frozen=True)
class Fit:
    """Where the fit of each voxel ended: its last evaluation, code and number of iterations."""

    last: Evaluation
    code: Tensor
    iterations: Tensor


def fit(problem: Problem, window: Tensor, theta: Tensor) -> Fit:
    """Minimise the squared residual of every voxel.

    Parameters
    ----------
    problem
        Model, bounds and settings.
    window
        ``(voxel, bin)`` complex64, unitary spectra cropped to the problem's band.
    theta
        ``(voxel, parameter)`` float64 start.
    """
    now = evaluate(problem, window, theta.clamp(problem.lower, problem.upper), None)
    code = torch.full((len(window),), Code.RUNNING, device=window.device)
    iterations = torch.zeros_like(code)
    running = torch.arange(len(window), device=window.device)
    damping = torch.full_like(now.cost, _FIRST_DAMPING)
    last = now.rows(running)
    for iteration in range(problem.max_iterations + 1):
        step, ended = _next_step(problem, now, damping)
        iterations[running] = iteration
        over = ended != Code.RUNNING
        if iteration == problem.max_iterations:
            over = torch.ones_like(over)
            ended[ended == Code.RUNNING] = Code.MAX_ITERATIONS
        done, go_on = over.nonzero().squeeze(1), (~over).nonzero().squeeze(1)
        code[running[done]] = ended[done]
        last.write(running[done], _finished(problem, now.rows(done), step.rows(done), ended[done]))
        if len(go_on) == 0:
            break
        if len(done):
            now, step = now.rows(go_on), step.rows(go_on)
            running, window, damping = running[go_on], window[go_on], damping[go_on]
        new = evaluate(problem, window, now.theta + step.theta, now.passive)
        gained = now.cost - new.cost
        accepted = new.ok & (gained >= -_COST_RESOLUTION * (now.cost * now.energy).sqrt())
        good = accepted & (gained > _POOR_GAIN * step.promised)
        damping = torch.where(good, damping / 10, (damping * 8).clamp_min(_FELT_DAMPING))
        now = _chosen(accepted, new, now)
    return Fit(last, code, iterations)


def evaluate(problem: Problem, window: Tensor, theta: Tensor, passive: Tensor | None) -> Evaluation:
    """Best amplitudes and the normal equations at ``theta (voxel, parameter)`` float64."""
    model, band = problem.model, problem.band
    shapes = model.layout.lineshape(theta.to(torch.float32), model.time)
    columns = band.spectrum(model.modulated(shapes))
    linear = _rows(problem, columns)
    turned = window * torch.polar(torch.ones_like(theta[:, :1]), -theta[:, :1]).to(window.dtype)
    data = _rows(problem, turned[:, None, :])

    gram = _product(linear, linear)
    moment = _product(linear, data).squeeze(2)
    energy = data.to(torch.float64).square().sum((1, 2))
    amplitudes, passive, factor, ok = _amplitudes(problem, gram, moment, passive)
    known = torch.nan_to_num(amplitudes).to(linear.dtype)[:, None, :]
    residual = data - known @ linear
    cost = residual.to(torch.float64).square().sum((1, 2))

    curved = _rows(problem, _derivatives(problem, columns, shapes, known))
    cross = _product(linear, curved)
    response, solved = factor.solve(cross * passive[:, :, None])
    return Evaluation(
        theta=theta,
        amplitudes=amplitudes,
        passive=passive,
        gram=gram,
        cross=cross,
        curvature=_product(curved, curved),
        gradient=_product(curved, residual).squeeze(2),
        response=response,
        energy=energy,
        cost=cost,
        ok=ok & solved,
    )


@dataclass(frozen=True)
class _Step:
    """A step ``theta (voxel, parameter)`` within the bounds, the ``amplitudes (voxel,
    metabolite)`` that follow it, and how much the linearised model promises to lower the cost."""

    theta: Tensor
    amplitudes: Tensor
    promised: Tensor

    def rows(self, index: Tensor) -> _Step:
        return _Step(self.theta[index], self.amplitudes[index], self.promised[index])


def _finished(problem: Problem, state: Evaluation, step: _Step, code: Tensor) -> Evaluation:
    """The evaluation a voxel ends with: where it converged, its last step is taken.

    It is too short to be worth another evaluation, but without it a result would depend on which
    side of the tolerance a rounding error left the step before it.
    """
    taken = (code == Code.CONVERGED)[:, None]
    moved = state.amplitudes + step.amplitudes
    moved = torch.where(problem.signed, moved, moved.clamp_min(0.0))
    return replace(
        state,
        theta=torch.where(taken, state.theta + step.theta, state.theta),
        amplitudes=torch.where(taken, moved, state.amplitudes),
    )


def _next_step(problem: Problem, state: Evaluation, damping: Tensor) -> tuple[_Step, Tensor]:
    """Levenberg-Marquardt step in all parameters, and the code with which a voxel would end now."""
    schur = state.reduced
    free = problem.free.nonzero().squeeze(1)
    at = state.theta[:, free]
    # A parameter on its bound that is pushed outwards stays there and leaves the system.
    held = ((at <= problem.lower[free]) & (state.gradient < 0)) | (
        (at >= problem.upper[free]) & (state.gradient > 0)
    )
    moving = (~held).to(schur.dtype)
    schur = schur * moving[:, :, None] * moving[:, None, :]
    gradient = state.gradient * moving
    damped = schur + torch.diag_embed(schur.diagonal(dim1=1, dim2=2) * damping[:, None])
    solved, solvable = solve_spd(damped, gradient[:, :, None])
    move = solved.squeeze(2)
    # Newton decrement in units of the residual variance: the squared length of the step in
    # standard errors, as it would be without damping.
    decrement = (move * gradient).sum(1) * (1 + damping)
    variance = state.cost / problem.degrees_of_freedom
    small = decrement <= problem.tolerance**2 * variance + _STEP_RESOLUTION * state.energy
    ended = torch.full_like(damping, Code.RUNNING, dtype=torch.int64)
    ended[damping > _MAX_DAMPING] = Code.STALLED
    ended[small] = Code.CONVERGED
    ended[~(solvable & state.ok)] = Code.SINGULAR

    step = torch.zeros_like(state.theta)
    step[:, free] = torch.nan_to_num(move)
    step = (state.theta + step).clamp(problem.lower, problem.upper) - state.theta
    move = step[:, free]
    promised = (move * (2 * gradient - (schur @ move[:, :, None]).squeeze(2))).sum(1)
    amplitudes = -(state.response @ move[:, :, None]).squeeze(2)
    return _Step(step, amplitudes, promised), ended


def _chosen(better: Tensor, new: Evaluation, old: Evaluation) -> Evaluation:
    """The new evaluation where it is better, else the old one."""
    if bool(better.all()):
        return new
    worse = (~better).nonzero().squeeze(1)
    new.write(worse, old.rows(worse))
    return new


def _rows(problem: Problem, spectra: Tensor) -> Tensor:
    """Real rows ``(voxel, row, 2 * bins)`` float32 of spectra, the baseline eliminated."""
    return problem.baseline.remove(torch.view_as_real(spectra).flatten(-2))


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


def _derivatives(problem: Problem, columns: Tensor, shapes: Tensor, amplitudes: Tensor) -> Tensor:
    """Derivative of the model by the free parameters, ``(voxel, free, bin)`` complex64.

    A damping multiplies by -t and a shift by 2*pi*i*t, so one transform a group gives both.
    """
    model, layout, band = problem.model, problem.model.layout, problem.band
    weighted = model.by_group(amplitudes.squeeze(1)) * shapes * model.time
    wanted = problem.free.nonzero().squeeze(1).tolist()
    second = any(layout.gaussian(g) in wanted for g in range(layout.groups))
    rows = {0: 1j * (amplitudes.to(columns.dtype) @ columns).squeeze(1)}
    if second:
        curved = band.spectrum(weighted * model.time)
        rows |= {layout.gaussian(g): -curved[:, g] for g in range(layout.groups)}
    first = band.spectrum(weighted)
    for g in range(layout.groups):
        moved = first.sum(1) if g == 0 else first[:, g]
        rows[layout.shift(g)] = 2j * math.pi * moved
        rows[layout.lorentzian(g)] = -first[:, g]
    return torch.stack([rows[p] for p in wanted], dim=1)
