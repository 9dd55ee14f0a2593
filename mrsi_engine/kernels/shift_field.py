"""A smooth map of the shift over a scan, and what it adds to what each voxel says of itself.

The shift of a voxel is a polynomial of its place plus a deviation of its own of variance ``v``,
measured with the variance of its registration. The polynomial is fitted by weighted least squares
from sums over blocks, ``v`` by the method of moments (DerSimonian & Kacker, Contemp Clin Trials
2007;28:105, eq. 6). The best linear unbiased prediction (Henderson, Biometrics 1975;31:423) then
is the mean of the voxel's own shift and the polynomial's, weighted by their precisions: a voxel
measured well keeps its own, one in the noise gets that of its surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

#: Standard errors beyond which a shift does not belong to the field.
_OUTLIER = 4.0

#: An outlier is a feature of the voxel, not a false peak, where noise is this unlikely.
_CERTAIN = 1e-9

#: Voxels per coefficient below which no field is fitted.
_VOXELS_EACH = 2


@dataclass(frozen=True)
class Grid:
    """Polynomials up to total degree ``order`` over the box ``low`` to ``high``, ``(3,)`` each."""

    low: Tensor
    high: Tensor
    order: int

    def values(self, coordinates: Tensor) -> Tensor:
        """Products of Legendre polynomials at ``coordinates (voxel, 3)``, ``(voxel, column)``."""
        half = (0.5 * (self.high - self.low)).to(torch.float64)
        centred = coordinates.to(torch.float64) - self.low - half
        axes = _legendre(centred / half.clamp_min(0.5), self.order)
        x, y, z = self._degrees().unbind(1)
        return (axes[x, :, 0] * axes[y, :, 1] * axes[z, :, 2]).T

    def _degrees(self) -> Tensor:
        # More degrees than steps between voxels would be no different from lower ones.
        steps = [min(self.order, int(n)) for n in self.high - self.low]
        degrees = product(*(range(n + 1) for n in steps))
        return torch.tensor([d for d in degrees if sum(d) <= self.order])


@dataclass(frozen=True)
class FieldSums:
    """Sums over voxels of weight ``w``, shift ``s``, variance ``e`` and polynomials ``p``.

    ``normal`` and ``moment`` are of ``w p p'`` and ``w s p``; ``scalars`` of ``1, w, w s^2, w e``;
    ``spread`` of ``w^2 p p'`` and ``w^2 e p p'``, ``(2, column, column)``. All float64.
    """

    normal: Tensor
    moment: Tensor
    scalars: Tensor
    spread: Tensor


@dataclass(frozen=True)
class ShiftField:
    """``coefficients (column,)`` with their ``covariance``, and the ``variance`` of deviations."""

    grid: Grid
    coefficients: Tensor
    covariance: Tensor
    variance: Tensor

    @classmethod
    def unknown(cls, grid: Grid, limit_hz: float) -> ShiftField:
        """Nothing but that shifts are smaller than ``limit_hz``."""
        columns = grid.values(grid.low[None]).shape[1]
        none = torch.zeros(columns, dtype=torch.float64, device=grid.low.device)
        return cls(grid, none, torch.diag(none), none.new_tensor(limit_hz).square())

    def at(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and variance foretold for voxels ``(voxel, 3)``, deviation included."""
        values = self.grid.values(coordinates)
        fitted = ((values @ self.covariance) * values).sum(1)
        return values @ self.coefficients, fitted + self.variance

    def summarise(self, coordinates: Tensor, shift: Tensor, sd: Tensor) -> FieldSums:
        """What voxels add to the next field; those far from this one do not count.

        Parameters
        ----------
        coordinates
            ``(voxel, 3)``.
        shift, sd
            ``(voxel,)`` Hz, finite.
        """
        foretold, variance = self.at(coordinates)
        noise = sd.square()
        near = (shift - foretold).square() <= _OUTLIER**2 * (variance + noise)
        values, s, e = self.grid.values(coordinates[near]), shift[near], noise[near]
        w = 1 / (e + self.variance)
        ones = torch.ones_like(w)
        scalars = torch.stack([ones, w, w * s.square(), w * e]).sum(1)
        spread = torch.stack([(values.T * w.square() * k) @ values for k in (ones, e)])
        return FieldSums((values.T * w) @ values, values.T @ (w * s), scalars, spread)

    def updated(self, sums: FieldSums, limit_hz: float) -> ShiftField:
        """The field of all voxels; unknown where there are too few for its coefficients."""
        count, weight, square, error = sums.scalars
        if count < _VOXELS_EACH * len(sums.moment):
            return ShiftField.unknown(self.grid, limit_hz)
        prior = torch.eye(len(sums.moment)).to(sums.moment) / limit_hz**2
        inverse = torch.linalg.inv(sums.normal + prior)
        coefficients = inverse @ sums.moment
        left = square - sums.moment @ coefficients
        fitted, fitted_error = ((inverse * part).sum() for part in sums.spread)
        variance = (left - error + fitted_error) / (weight - fitted)
        # By chance the estimate may be negative; without any deviation no voxel would count.
        variance = variance.clamp_min(1e-3 * count / weight)
        # The weights were those of the variance before, so the covariance is not their inverse.
        noise = sums.spread[0] * variance + sums.spread[1] + prior
        return ShiftField(self.grid, coefficients, inverse @ noise @ inverse, variance)

    def combined(
        self, coordinates: Tensor, shift: Tensor, sd: Tensor, chance: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Best shift of voxels and its SD, ``(voxel,)`` Hz each.

        Parameters
        ----------
        coordinates, shift, sd
            As for :meth:`summarise`, not finite where a voxel says nothing.
        chance
            ``(voxel,)`` how often noise alone looks like the voxel; a shift far from the field's
            counts only where that is next to never.
        """
        foretold, variance = self.at(coordinates)
        off = (shift - foretold).square() > _OUTLIER**2 * (variance + sd.square())
        silent = ~torch.isfinite(shift + sd) | (off & ~(chance < _CERTAIN))
        own = torch.where(silent, 0.0, 1 / sd.square())
        total = own + 1 / variance
        mean = (own * torch.where(silent, 0.0, shift) + foretold / variance) / total
        return mean, total.rsqrt()


def _legendre(x: Tensor, order: int) -> Tensor:
    """Legendre polynomials up to ``order``, ``(degree, *x.shape)``."""
    values = [torch.ones_like(x), x]
    for n in range(1, order):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
    return torch.stack(values[: order + 1])
