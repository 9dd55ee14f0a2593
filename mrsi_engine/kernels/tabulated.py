"""Cheap Gauss-Newton steps of the separable fit: its normal matrices from a table.

With one lineshape for all columns the products of two modulated columns depend on shift and damping
alone, the same for all voxels: they are tabulated on a grid and interpolated. Of a voxel's data
only products with the unmodulated columns are left to take. With ``T`` the map from reduced columns
``X`` to the bins of the window, ``D`` the lineshape and ``W`` what the baseline leaves,

    C = T D X,  C_1 = T D t X,  C' W y = X' conj(D) T' W y

so that ``T' W y`` is taken once and a step costs one lineshape and one product with ``X`` instead
of a transform of every column. The gradient is exact but for the interpolation (1e-4 of the norm of
the data); :mod:`mrsi_engine.kernels.varpro` polishes what these steps reach.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from mrsi_engine.kernels.evaluation import Problem
from mrsi_engine.kernels.linear import Factor, solve_spd

#: Distance of the nodes: shift in bins of the window (lines that are cut off at the end of the FID
#: ring across its edges with a period of one), damping in the logarithm of what is this much (1/s)
#: larger.
_SHIFT_STEP, _DAMPING_STEP, _BEND = 0.125, 0.07, 6.0

#: Nodes that each value is interpolated from, along an axis.
_NODES = 4

#: What float32 tables resolve of the cost, as a share of the energy of the data.
_COST_RESOLUTION = 1e-6

#: What is left of a step that went too far.
_SHORTER = 0.25

_TURN = 2 * math.pi


@dataclass(frozen=True)
class Axis:
    """Evenly spaced nodes ``first + step * n``, ``count`` of them."""

    first: float
    step: float
    count: int

    @classmethod
    def covering(cls, low: float, high: float, step: float) -> Axis:
        """From ``low`` to ``high`` with a node more at each end, so that cubics have four."""
        return cls(low - step, step, math.ceil((high - low) / step) + 3)

    @property
    def nodes(self) -> list[float]:
        """Their values."""
        return [self.first + self.step * n for n in range(self.count)]

    def weights(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes ``(voxel, 4)`` int64 and weights of the cubic through them at ``at (voxel,)``."""
        place = (at - self.first) / self.step
        left = place.floor().clamp(1, self.count - 3)
        x = (place - left)[:, None]
        offsets = torch.arange(-1, _NODES - 1, device=at.device)
        weights = torch.ones(len(at), _NODES, dtype=at.dtype, device=at.device)
        for other in range(-1, _NODES - 1):
            apart = (offsets - other).to(at.dtype)
            factor = (x - other) / torch.where(apart == 0, 1.0, apart)
            weights = weights * torch.where(apart == 0, 1.0, factor)
        return left[:, None].long() + offsets, weights


@dataclass(frozen=True)
class TabulatedSteps:
    """Tables of a problem with one Lorentzian group; see :meth:`suits`.

    ``products (node, entry)`` float32 holds the products of the columns at each node: real parts
    of ``C'WC``, imaginary parts, those of ``C'WC_1``, and the real parts of ``C_1'WC_1``.
    ``columns (time, metabolite)`` are the conjugate reduced ones.
    """

    problem: Problem
    shifts: Axis
    dampings: Axis
    products: Tensor
    columns: Tensor

    @staticmethod
    def suits(problem: Problem) -> bool:
        """Whether the problem is one that tables are small for."""
        layout = problem.model.layout
        free = problem.free.tolist()
        plain = layout.groups == 1 and layout.size == layout.delay
        return plain and free == [True, True, True, False] and bool(problem.signed.all())

    @classmethod
    def build(cls, problem: Problem) -> TabulatedSteps:
        """The tables of a problem that :meth:`suits`."""
        reach = float(problem.upper[1])
        shifts = Axis.covering(-reach, reach, _SHIFT_STEP / problem.band.duration)
        low, high = (math.log(d + _BEND) for d in (0.0, float(problem.upper[2])))
        dampings = Axis.covering(low, high, _DAMPING_STEP)
        values = [math.exp(node) - _BEND for node in dampings.nodes]
        rows = [_products(problem, shift, values) for shift in shifts.nodes]
        columns = problem.model.columns.conj().resolve_conj().T.contiguous()
        return cls(problem, shifts, dampings, torch.cat(rows), columns)

    def refined(self, window: Tensor, theta: Tensor, steps: int) -> Tensor:
        """Parameters after Gauss-Newton steps, within the problem's bounds.

        Parameters
        ----------
        window
            ``(voxel, bin)`` complex64, as in :class:`~mrsi_engine.kernels.evaluation.Spectra`.
        theta
            ``(voxel, parameter)`` float64 start.
        steps
            How many. One that raised the cost is taken back, and a shorter one tried.
        """
        spread, energy = self._spread(window)
        best = theta = theta.clamp(self.problem.lower, self.problem.upper)
        lowest, move = torch.full_like(energy, torch.inf), torch.zeros_like(theta)
        for _ in range(steps):
            new, cost = self._step(spread, energy, theta)
            better = (cost <= lowest + _COST_RESOLUTION * energy)[:, None]
            best = torch.where(better, theta, best)
            move = torch.where(better, new, _SHORTER * move)
            lowest = torch.minimum(cost, lowest)
            theta = (best + move).clamp(self.problem.lower, self.problem.upper)
        return theta

    def _spread(self, window: Tensor) -> tuple[Tensor, Tensor]:
        """``T'Wy (voxel, time)`` and the energy ``y'Wy (voxel,)``."""
        problem, band = self.problem, self.problem.band
        rows = problem.baseline.remove(torch.view_as_real(window).flatten(-2))
        energy = rows.to(torch.float64).square().sum(1)
        weighted = problem.baseline.remove(rows).unflatten(-1, (band.bins, 2))
        spectra = torch.view_as_complex(weighted.contiguous())
        folded = torch.fft.ifft(spectra, band.short_points) * band.short_points
        if band.ringing == 0:
            return folded, energy
        ends = folded[:, -band.ringing :], folded[:, : band.ringing]
        return torch.cat([ends[0], folded, ends[1]], dim=1), energy

    def _step(self, spread: Tensor, energy: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """The next step ``(voxel, parameter)``, and the cost where it begins ``(voxel,)``."""
        own, timed = self._moments(spread, theta)
        products = self._interpolated(theta)
        factor = Factor.of(products[:, 0].to(torch.float64))
        solution, ok = factor.solve(own.real[:, :, None])
        a = solution.squeeze(2)
        along = (products @ a.to(products.dtype)[:, None, :, None]).squeeze(3).to(torch.float64)
        _, imaginary, mixed_real, mixed_imaginary, _ = along.unbind(1)
        cross = torch.stack([-imaginary, -_TURN * mixed_imaginary, -mixed_real], dim=2)
        s0, _, s1_real, s1_imaginary, s2 = (along @ a[:, :, None]).squeeze(2).unbind(1)
        # The ridge of the factor keeps the amplitudes from being quite the best.
        cost = torch.where(ok, energy - 2 * (own.real * a).sum(1) + s0, torch.inf)
        gradient = torch.stack(
            [
                (a * own.imag).sum(1),
                _TURN * ((a * timed.imag).sum(1) + s1_imaginary),
                s1_real - (a * timed.real).sum(1),
            ],
            dim=1,
        )
        zero = torch.zeros_like(s0)
        upper = [s0, _TURN * s1_real, -s1_imaginary, _TURN**2 * s2, zero, s2]
        curvature = torch.stack([upper[n] for n in (0, 1, 2, 1, 3, 4, 2, 4, 5)], dim=1)
        response, _ = factor.solve(cross)
        reduced = curvature.unflatten(1, (3, 3)) - cross.mT @ response
        free, _ = solve_spd(reduced, gradient[:, :, None])
        move = torch.zeros_like(theta)
        move[:, :3] = torch.nan_to_num(free.squeeze(2))
        return move, cost

    def _moments(self, spread: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """``exp(-i*phase)`` times ``C'Wy`` and ``C_1'Wy``, ``(voxel, metabolite)`` complex128."""
        model = self.problem.model
        shape = model.layout.lineshape(theta.to(torch.float32), model.time)[:, 0]
        own = spread * shape.conj()
        phase = theta[:, :1]
        back = torch.polar(torch.ones_like(phase), -phase)
        plain, timed = own @ self.columns, (own * model.time) @ self.columns
        return plain * back, timed * back

    def _interpolated(self, theta: Tensor) -> Tensor:
        """The five products at ``theta``, ``(voxel, 5, metabolite, metabolite)`` float32."""
        i, wi = self.shifts.weights(theta[:, 1])
        j, wj = self.dampings.weights((theta[:, 2] + _BEND).log())
        nodes = (i[:, :, None] * self.dampings.count + j[:, None, :]).flatten(1)
        weights = (wi[:, :, None] * wj[:, None, :]).flatten(1).to(torch.float32)
        entries = embedding_bag(nodes, self.products, per_sample_weights=weights, mode="sum")
        count = len(self.problem.signed)
        return entries.unflatten(1, (5, count, count))


def _products(problem: Problem, shift: float, dampings: list[float]) -> Tensor:
    """Products of the columns at one shift and all dampings, ``(node, entry)`` float32."""
    model, device = problem.model, problem.model.columns.device
    theta = torch.zeros(len(dampings), model.layout.size, device=device)
    theta[:, 1], theta[:, 2] = shift, torch.tensor(dampings, device=device)
    modulated = model.columns * model.layout.lineshape(theta, model.time)
    timed = modulated * model.time
    # A transform overwrites what it is given.
    plain = _weighed(problem, problem.band.spectrum(modulated))
    first = _weighed(problem, problem.band.spectrum(timed))
    own, mixed, second = plain.conj() @ plain.mT, plain.conj() @ first.mT, first.conj() @ first.mT
    parts = (own.real, own.imag, mixed.real, mixed.imag, second.real)
    return torch.stack(parts, dim=1).flatten(1).to(torch.float32)


def _weighed(problem: Problem, spectra: Tensor) -> Tensor:
    """Spectra times the root of what the baseline leaves, complex128."""
    rows = problem.baseline.remove(torch.view_as_real(spectra).flatten(-2))
    return torch.view_as_complex(rows.to(torch.float64).unflatten(-1, (-1, 2)).contiguous())
