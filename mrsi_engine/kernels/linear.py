"""Batched small linear algebra that never raises for a whole batch: one code per system."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Ridge, relative to a unit diagonal: several times what rounding leaves of products of float32
#: columns. It keeps the systems of identical columns solvable and changes what lies along an
#: eigenvector by a share of ``ridge / eigenvalue``: 1 in 1000 of the difference of Cr and PCr.
_RELATIVE_RIDGE = 1e-5


@dataclass(frozen=True)
class Factor:
    """Cholesky factors of symmetric positive definite matrices scaled to a unit diagonal.

    ``lower (system, n, n)``, ``scale (system, n)``, and ``ok (system,)`` where there is one.
    """

    lower: Tensor
    scale: Tensor
    ok: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> Factor:
        """Of ``(system, n, n)`` float64."""
        diagonal = matrix.diagonal(dim1=1, dim2=2)
        scale = torch.where(diagonal > 0, diagonal, torch.ones_like(diagonal)).rsqrt()
        scaled = matrix * scale[:, :, None] * scale[:, None, :]
        scaled.diagonal(dim1=1, dim2=2).add_(_RELATIVE_RIDGE)
        lower, info = torch.linalg.cholesky_ex(scaled)
        return cls(lower, scale, info == 0)

    def solve(self, rhs: Tensor) -> tuple[Tensor, Tensor]:
        """Solutions ``(system, n, m)``, NaN where they failed, and ``ok (system,)``."""
        solution = torch.cholesky_solve(rhs * self.scale[:, :, None], self.lower)
        solution = solution * self.scale[:, :, None]
        ok = self.ok & torch.isfinite(solution).all(-1).all(-1)
        return torch.where(ok[:, None, None], solution, torch.nan), ok


def solve_spd(matrix: Tensor, rhs: Tensor) -> tuple[Tensor, Tensor]:
    """Solutions of symmetric positive definite systems.

    Parameters
    ----------
    matrix
        ``(system, n, n)`` float64, symmetric.
    rhs
        ``(system, n, m)`` float64.

    Returns
    -------
    solution, ok
        ``(system, n, m)``, NaN where it failed, and ``(system,)`` bool.
    """
    return Factor.of(matrix).solve(rhs)


def inverse_spd(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Inverses ``(system, n, n)`` of symmetric positive definite matrices, and which succeeded."""
    eye = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    return solve_spd(matrix, eye.expand_as(matrix))


def solve_nonnegative(
    gram: Tensor,
    rhs: Tensor,
    free: Tensor | None = None,
    passive: Tensor | None = None,
    max_steps: int = 60,
) -> tuple[Tensor, Tensor, Tensor]:
    """Minimisers of ``x'Gx/2 - b'x`` with ``x >= 0``, by block principal pivoting.

    Kim & Park, SIAM J Sci Comput 2011;33:3261 (Algorithm 1): exchange every infeasible variable
    at once while that helps, the last one alone when it does not, which makes it finite.

    Parameters
    ----------
    gram
        ``(system, n, n)`` float64, symmetric positive definite.
    rhs
        ``(system, n)`` float64.
    free
        ``(n,)`` bool, variables without a sign constraint.
    passive
        ``(system, n)`` bool, a first guess of the variables off their bound.
    max_steps
        Exchanges before a system is given up.

    Returns
    -------
    x, passive, ok
        ``(system, n)``; which variables are off their bound ``(system, n)``; ``(system,)`` bool.
    """
    systems, n = rhs.shape
    bounded = torch.ones(n, dtype=torch.bool, device=rhs.device) if free is None else ~free
    size = gram.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(gram.dtype).tiny).sqrt()
    passive = torch.ones_like(rhs, dtype=torch.bool) if passive is None else passive.clone()
    x, ok = _solve_passive(gram, rhs, passive)
    fewest = torch.full((systems,), n + 1, device=rhs.device)
    tries = torch.full((systems,), 3, device=rhs.device)
    for _ in range(max_steps):
        wrong = bounded & _infeasible(gram, rhs, x, passive, size)
        count = wrong.sum(1)
        todo = (count > 0) & ok
        if not todo.any():
            break
        better = count < fewest
        fewest = torch.where(better, count, fewest)
        tries = torch.where(better, 3, tries - 1)
        exchange = torch.where((tries >= 0)[:, None], wrong, _last_only(wrong))
        index = todo.nonzero().squeeze(1)
        passive[index] ^= exchange[index]
        x[index], solved = _solve_passive(gram[index], rhs[index], passive[index])
        ok[index] &= solved
    else:
        ok &= ~(bounded & _infeasible(gram, rhs, x, passive, size)).any(1)
    return x, passive, ok


def restricted(matrix: Tensor, passive: Tensor) -> Tensor:
    """Matrices whose rows and columns off ``passive (system, n)`` are those of the identity."""
    both = passive[:, :, None] & passive[:, None, :]
    kept = torch.where(both, matrix, torch.zeros_like(matrix))
    kept.diagonal(dim1=1, dim2=2).add_((~passive).to(matrix.dtype))
    return kept


def _solve_passive(gram: Tensor, rhs: Tensor, passive: Tensor) -> tuple[Tensor, Tensor]:
    x, ok = solve_spd(restricted(gram, passive), (rhs * passive)[:, :, None])
    return x.squeeze(2), ok


def _infeasible(gram: Tensor, rhs: Tensor, x: Tensor, passive: Tensor, size: Tensor) -> Tensor:
    # Compared in units of each column's own length, so that no scale of data or basis matters.
    scale = (rhs.abs() / size).amax(1, keepdim=True) * 1e-10
    gradient = (torch.einsum("sij,sj->si", gram, x) - rhs) / size
    return torch.where(passive, x * size < -scale, gradient < -scale)


def _last_only(wrong: Tensor) -> Tensor:
    order = torch.arange(wrong.shape[1], device=wrong.device)
    last = torch.where(wrong, order, -1).amax(1, keepdim=True)
    return wrong & (order == last)
