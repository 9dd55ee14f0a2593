"""Batched separable least squares: variable projection with a Levenberg-Marquardt step a voxel.

Golub & Pereyra, Inverse Probl 2003;19:R1, in Kaufman's form. Amplitudes and baseline are linear
and solved for exactly at every evaluation; what is iterated are the few non-linear parameters. The
step comes from the Schur complement of the amplitude block of the full normal matrix, which is
also the Fisher matrix of the Cramér-Rao bounds. Every voxel has its own damping, its own
acceptance test and its own result code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
from torch import Tensor

from mrsi_engine.kernels.evaluation import Evaluation, Problem, Spectra, evaluate
from mrsi_engine.kernels.linear import restricted, solve_spd

_FIRST_DAMPING = 1e-3

_MAX_DAMPING = 1e8

#: Less damping than this is hardly felt by a step.
_FELT_DAMPING = 0.02

#: Exchanges of parameters held on their bounds in one step.
_MAX_PIVOTS = 8

#: A short step, as a share of the distance between a parameter's bounds.
_SHORT = 0.01

#: What float32 columns resolve: of the cost, relative to the root of cost times energy of the data
#: (a rounding error of the data times the residual); of the squared length of a step, relative to
#: that energy.
_COST_RESOLUTION = 1e-6

_STEP_RESOLUTION = 1e-12


class Code(IntEnum):
    """How the fit of one voxel ended; ``GIVEN`` is a point that was taken without any step."""

    RUNNING = 0
    CONVERGED = 1
    STALLED = 2
    MAX_ITERATIONS = 3
    SINGULAR = 4
    GIVEN = 5


@dataclass(frozen=True)
class Fit:
    """Where the fit of each voxel ended: its last evaluation, code and number of iterations."""

    last: Evaluation
    code: Tensor
    iterations: Tensor


def fit(problem: Problem, spectra: Spectra, theta: Tensor) -> Fit:
    """Minimise the squared residual of every voxel.

    Parameters
    ----------
    problem
        Model, bounds and settings.
    spectra
        The voxels' data and priors.
    theta
        ``(voxel, parameter)`` float64 start.
    """
    now = evaluate(problem, spectra, theta.clamp(problem.lower, problem.upper), None)
    code = torch.full((len(theta),), Code.RUNNING, device=theta.device)
    iterations = torch.zeros_like(code)
    running = torch.arange(len(theta), device=theta.device)
    damping = torch.full_like(now.cost, _FIRST_DAMPING)
    left = spectra.degrees_of_freedom(problem)
    last = now.rows(running)
    for iteration in range(problem.max_iterations + 1):
        step, ended = _next_step(problem, now, damping, now.cost / left)
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
            running, spectra, damping = running[go_on], spectra.rows(go_on), damping[go_on]
            left = left[go_on]
        new = evaluate(problem, spectra, now.theta + step.theta, now.passive)
        gained = now.cost - new.cost
        accepted = new.ok & (gained >= -_COST_RESOLUTION * (now.cost * now.energy).sqrt())
        damping = _next_damping(damping, accepted, gained / step.promised)
        now = _chosen(accepted, new, now)
    return Fit(last, code, iterations)


def given(
    problem: Problem, spectra: Spectra, theta: Tensor, amplitudes: Tensor | None = None
) -> Fit:
    """The fits at ``theta (voxel, parameter)`` float64 without a step.

    Amplitudes are the best ones there unless they are given, too, ``(voxel, metabolite)`` float64.
    """
    at = evaluate(problem, spectra, theta.clamp(problem.lower, problem.upper), None, amplitudes)
    code = torch.where(at.ok, int(Code.GIVEN), int(Code.SINGULAR))
    return Fit(at, code, torch.zeros_like(code))


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
    side of the tolerance a rounding error left the step before it. A step that is not short in
    parameters is left: it goes along what the data do not tell, where the linearised model is no
    guide.
    """
    span = torch.where(problem.upper.isinf(), 2 * math.pi, problem.upper - problem.lower)
    short = (step.theta.abs() <= _SHORT * span).all(1)
    taken = ((code == Code.CONVERGED) & short)[:, None]
    moved = state.amplitudes + step.amplitudes
    moved = torch.where(problem.signed, moved, moved.clamp_min(0.0))
    return replace(
        state,
        theta=torch.where(taken, state.theta + step.theta, state.theta),
        amplitudes=torch.where(taken, moved, state.amplitudes),
    )


def _next_step(
    problem: Problem, state: Evaluation, damping: Tensor, variance: Tensor
) -> tuple[_Step, Tensor]:
    """Levenberg-Marquardt step in all parameters, and the code with which a voxel would end now.

    ``variance (voxel,)`` is that of the residual.
    """
    schur = state.reduced
    free = problem.free.nonzero().squeeze(1)
    at = state.theta[:, free]
    gradient = state.gradient
    damped = schur + torch.diag_embed(schur.diagonal(dim1=1, dim2=2) * damping[:, None])
    ends = (problem.lower[free] - at, problem.upper[free] - at)
    move, solvable, best = _within(damped, gradient, *ends)
    promised = _gain(schur, gradient, move)
    # What a step without damping would gain, in units of the residual variance, is its squared
    # length in standard errors.
    possible = promised.clone()
    felt = (damping >= _FELT_DAMPING).nonzero().squeeze(1)
    if len(felt):
        rest = schur[felt], gradient[felt]
        ideal, _, best[felt] = _within(*rest, ends[0][felt], ends[1][felt])
        possible[felt] = _gain(*rest, ideal)
    enough = problem.tolerance**2 * variance + _STEP_RESOLUTION * state.energy
    small = best & (possible <= enough)
    ended = torch.full_like(damping, Code.RUNNING, dtype=torch.int64)
    ended[damping > _MAX_DAMPING] = Code.STALLED
    ended[small] = Code.CONVERGED
    ended[~(solvable & state.ok)] = Code.SINGULAR

    step = torch.zeros_like(state.theta)
    step[:, free] = move
    # Rounding may have left the sum outside.
    step = (state.theta + step).clamp(problem.lower, problem.upper) - state.theta
    amplitudes = -(state.response @ step[:, free, None]).squeeze(2)
    return _Step(step, amplitudes, promised), ended


def _next_damping(damping: Tensor, accepted: Tensor, ratio: Tensor) -> Tensor:
    """Damping after a step whose gain was ``ratio`` times what the linearised model promised.

    It falls as far as that was right and grows where it was not (Nielsen, IMM-REP-1999-05).
    """
    factor = (1 - (2 * ratio - 1) ** 3).clamp(0.1, 4.0)
    factor = torch.where(accepted, torch.nan_to_num(factor, nan=0.1), 8.0)
    return torch.where(factor > 1, (damping * factor).clamp_min(_FELT_DAMPING), damping * factor)


def _gain(normal: Tensor, gradient: Tensor, move: Tensor) -> Tensor:
    """How much the linearised model says a step lowers the cost, ``(voxel,)``."""
    return (move * (2 * gradient - (normal @ move[:, :, None]).squeeze(2))).sum(1)


def _within(
    normal: Tensor, gradient: Tensor, lowest: Tensor, highest: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Steps ``(voxel, free)`` between two ends, which could be solved for, and which are the best.

    A parameter whose step would leave its ends is held there while it is pushed outwards, and the
    others are solved for again: block pivoting, as :func:`solve_nonnegative` does it.
    """
    solved, ok = solve_spd(normal, gradient[:, :, None])
    move = torch.nan_to_num(solved.squeeze(2))
    held = torch.zeros_like(move, dtype=torch.bool)
    wrong = (move < lowest) | (move > highest)
    for _ in range(_MAX_PIVOTS):
        if not bool(wrong.any()):
            break
        held = held ^ wrong
        fixed = torch.where(held, move.clamp(lowest, highest), 0.0)
        rest = (gradient - (normal @ fixed[:, :, None]).squeeze(2)) * ~held
        solved, again = solve_spd(restricted(normal, ~held), rest[:, :, None])
        move, ok = fixed + torch.nan_to_num(solved.squeeze(2)), ok & again
        pushed = gradient - (normal @ move[:, :, None]).squeeze(2)
        inwards = torch.where(move <= lowest, pushed > 0, pushed < 0)
        wrong = torch.where(held, inwards, (move < lowest) | (move > highest))
    return move.clamp(lowest, highest), ok, ~wrong.any(1)


def _chosen(better: Tensor, new: Evaluation, old: Evaluation) -> Evaluation:
    """The new evaluation where it is better, else the old one."""
    if bool(better.all()):
        return new
    worse = (~better).nonzero().squeeze(1)
    new.write(worse, old.rows(worse))
    return new
