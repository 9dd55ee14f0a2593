"""Where to start: the best point of a coarse grid of shift and damping, the phase in closed form.

For every grid point the columns are the same for all voxels, so their span is made orthonormal
once. How much of a voxel's spectrum lies in it, at the best phase, is a two by two eigenvalue
problem: with ``u`` and ``v`` the projections of the data and of the data turned by 90 degrees, the
explained energy at phase ``p`` is ``cos(p)^2 |u|^2 + 2 sin(p) cos(p) u.v + sin(p)^2 |v|^2``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.kernels.alignment import wrapped
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.baseline import Baseline
from mrsi_engine.kernels.lcm import LinearCombinationModel

#: Start points whose shifts differ by no more lead to the same minimum.
_ELSEWHERE_HZ = 4.0


@dataclass(frozen=True)
class StartGrid:
    """Orthonormal spans of the model at each point of a grid.

    ``theta (grid, parameter)`` float64; ``span (2 * bins, grid, column)`` float32;
    ``mean (grid, 2 * bins)`` float32 is the sum of the columns, which tells a phase from the
    opposite one; ``unlikely (grid,)`` float32 is minus twice the log of a point's prior.
    """

    theta: Tensor
    span: Tensor
    mean: Tensor
    unlikely: Tensor
    baseline: Baseline

    @classmethod
    def build(
        cls,
        band: Band,
        model: LinearCombinationModel,
        baseline: Baseline,
        theta: Tensor,
        landmarks: Tensor,
        unlikely: Tensor,
    ) -> StartGrid:
        """The spans at ``theta (grid, parameter)`` float64.

        ``landmarks (landmark, metabolite)`` float64 sums columns to the few strong patterns a
        spectrum is recognised by: more columns would fit noise at any shift. ``unlikely (grid,)``
        decides where the data do not.
        """
        shapes = model.layout.lineshape(theta.to(torch.float32), model.time)
        spectra = band.spectrum(model.modulated(model.columns, shapes))
        rows = landmarks @ torch.view_as_real(spectra).flatten(-2).to(torch.float64)
        mean = rows.sum(1)
        rows = baseline.remove(rows)
        span, triangle = torch.linalg.qr(rows.mT)
        # Directions that the columns hardly differ in would only explain noise.
        size = triangle.diagonal(dim1=1, dim2=2).abs()
        span = span * (size > 1e-3 * size.amax(1, keepdim=True))[:, None, :]
        span = span.permute(1, 0, 2).to(torch.float32).contiguous()
        return cls(theta, span, mean.float(), unlikely.float(), baseline)

    def best(self, window: Tensor, rank: int = 0) -> Tensor:
        """Best grid point with its phase, ``theta (voxel, parameter)`` float64.

        ``window`` is ``(voxel, bin)`` complex64. With a rank above 0 the best of those whose shift
        is elsewhere than the shifts of lower ranks, as far as the grid reaches.
        """
        straight = self.baseline.remove(torch.view_as_real(window).flatten(-2))
        turned = self.baseline.remove(torch.view_as_real(-1j * window).flatten(-2))
        u, v = self._projections(straight), self._projections(turned)
        uu, vv, uv = u.square().sum(2), v.square().sum(2), (u * v).sum(2)
        explained = 0.5 * (uu + vv) + torch.hypot(0.5 * (uu - vv), uv)
        left = straight.square().sum(1) - explained.amax(1)
        variance = left.clamp_min(0) / straight.shape[1]
        point = self._ranked(explained - self.unlikely * variance[:, None], rank)
        voxel = torch.arange(len(window), device=window.device)
        phase = 0.5 * torch.atan2(2 * uv, uu - vv)[voxel, point]
        mean = self.mean[point]
        along = torch.cos(phase) * (straight * mean).sum(1)
        across = torch.sin(phase) * (turned * mean).sum(1)
        phase = torch.where(along + across < 0, phase + torch.pi, phase)
        theta = self.theta[point].clone()
        theta[:, 0] = wrapped(phase)
        return theta

    def _ranked(self, score: Tensor, rank: int) -> Tensor:
        shift = self.theta[:, 1]
        for _ in range(rank):
            taken = (shift - shift[score.argmax(1)][:, None]).abs() <= _ELSEWHERE_HZ
            left = score.masked_fill(taken, -torch.inf)
            score = torch.where(left.isfinite().any(1, keepdim=True), left, score)
        return score.argmax(1)

    def _projections(self, rows: Tensor) -> Tensor:
        points, columns = self.span.shape[1:]
        return (rows @ self.span.flatten(1)).view(len(rows), points, columns)


def grid(axes: dict[int, list[float]], fixed: Tensor) -> Tensor:
    """All combinations of values of some parameters, the others as in ``fixed (parameter,)``."""
    values = [torch.tensor(v, dtype=torch.float64) for v in axes.values()]
    mesh = torch.stack([m.flatten() for m in torch.meshgrid(*values, indexing="ij")], dim=1)
    theta = fixed.expand(len(mesh), len(fixed)).clone()
    theta[:, list(axes)] = mesh
    return theta
