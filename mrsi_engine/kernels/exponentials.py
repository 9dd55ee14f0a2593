"""Sums of damped exponentials fitted to data: amplitudes, products and derivatives in closed form.

Products of exponentials and of their derivatives are geometric sums, so that matrices are of
components by components and never of samples by components.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Exponentials:
    """Exponentials fitted to decimated data, in terms of columns ``z**n`` of length 1.

    ``rates``, ``kept``, ``lengths`` (of ``z**n``), ``weights`` and ``moment`` (voxel, component);
    ``factor`` (voxel, component, component) of the columns' normal matrix (Cholesky); ``first`` and
    ``second`` the products with ``n`` and ``n**2`` in them, and ``moment`` of the data with
    ``n z**n``; ``energy`` left and ``ok`` (voxel,).
    """

    rates: Tensor
    kept: Tensor
    lengths: Tensor
    first: Tensor
    second: Tensor
    moment: Tensor
    factor: Tensor
    weights: Tensor
    energy: Tensor
    ok: Tensor

    @classmethod
    def fit(cls, narrow: Tensor, rates: Tensor, kept: Tensor, step: int) -> Exponentials:
        """The best amplitudes of these exponentials."""
        poles = torch.exp(rates * step)
        lengths, plain, first, second = _normals(poles, kept, narrow.shape[1])
        data, moment = (part * (kept / lengths) for part in _products(poles, narrow))
        # Poles that coincide make the matrix singular; the ridge splits the amplitude between them.
        plain.diagonal(dim1=1, dim2=2).add_((~kept).to(lengths.dtype) + 1e-12)
        factor, info = torch.linalg.cholesky_ex(plain)
        weights = torch.cholesky_solve(data[:, :, None], factor)[:, :, 0]
        before = energy_of(narrow)
        energy = before - (data.conj() * weights).sum(1).real
        ok = (info == 0) & torch.isfinite(energy)
        energy = torch.maximum(energy, 1e-15 * before)
        return cls(rates, kept, lengths, first, second, moment, factor, weights, energy, ok)

    def chosen(self, better: Tensor, other: Exponentials) -> Exponentials:
        """The other model where it is better, this one elsewhere."""
        pairs = ((getattr(self, f.name), getattr(other, f.name)) for f in fields(self))
        return Exponentials(
            *(torch.where(better.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs)
        )


def _normals(poles: Tensor, kept: Tensor, number: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Length of each column, and the products of all pairs, with 1, n and n**2 between them.

    Geometric sums: ``sum w**n = (1 - w**N) / (1 - w)`` and its derivatives by log w.
    """
    ratio = poles.conj()[:, :, None] * poles[:, None, :]
    last = poles**number
    end = last.conj()[:, :, None] * last[:, None, :]
    rest = 1 / (1 - ratio)
    plain = (1 - end) * rest
    first = (ratio * plain - number * end) * rest
    second = (ratio * (plain + 2 * first) - number**2 * end) * rest
    lengths = plain.diagonal(dim1=1, dim2=2).real.sqrt()
    scale = kept / lengths
    pairs = scale[:, :, None] * scale[:, None, :]
    return lengths, plain * pairs, first * pairs, second * pairs


def _products(poles: Tensor, narrow: Tensor) -> tuple[Tensor, Tensor]:
    """``sum conj(z**n) y[n]`` and ``sum n conj(z**n) y[n]``, ``(voxel, component)`` each.

    A sample is ``coarse*inner + fine``: one small matrix product over fine, one sum over coarse.
    """
    number, components = narrow.shape[1], poles.shape[1]
    inner = math.isqrt(number - 1) + 1
    outer = -(-number // inner)
    padded = torch.nn.functional.pad(narrow.conj(), (0, inner * outer - number))
    fine = powers(poles, inner)
    coarse = powers(fine[:, -1] * poles, outer)
    weighted = torch.cat([fine, fine * count(inner, narrow)[:, None]], 2)
    both = padded.unflatten(1, (outer, inner)) @ weighted
    plain = both[:, :, :components] * coarse
    within = both[:, :, components:] * coarse
    moment = within + plain * (inner * count(outer, narrow))[:, None]
    return plain.sum(1).conj(), moment.sum(1).conj()


def powers(poles: Tensor, number: int) -> Tensor:
    """``poles**n`` for n from 0, ``(voxel, number, component)``, by doubling their number."""
    powers, factor = torch.ones_like(poles)[:, None], poles[:, None]
    while powers.shape[1] < number:
        powers = torch.cat([powers, powers * factor], 1)
        factor = factor.square()
    return powers[:, :number]


def count(number: int, like: Tensor) -> Tensor:
    """0, 1, 2, ... so many, float64."""
    return torch.arange(number, device=like.device, dtype=torch.float64)


def energy_of(signal: Tensor) -> Tensor:
    """Energy of each signal."""
    return squared(signal).sum(1)


def squared(numbers: Tensor) -> Tensor:
    """Squared magnitude; ``abs`` guards against overflow, at ten times the price."""
    return torch.view_as_real(numbers.resolve_conj()).square().sum(-1)
