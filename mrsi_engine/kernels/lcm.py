"""The linear combination model of a spectrum: one model for fit, network decoder and phantom.

    s(t) = exp(i*phase) * sum_g exp(2*pi*i*f_g*t - d_g*t - q_g*t^2) * sum_{m in g} a_m x_m(t)

with ``f_0`` the shift of the first group and ``f_g = f_0 + offset_g`` for the others (B0 moves all
of them), Lorentzian damping ``d`` (1/s; FWHM d/pi Hz) and squared Gaussian damping ``q`` (1/s^2;
FWHM 2*sqrt(ln 2)*sqrt(q)/pi Hz). The square is iterated because the model is smooth in it at 0.
Provencher, Magn Reson Med 1993;30:672; Clarke et al., Magn Reson Med
2021;85:2950.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Where the non-linear parameters stand in ``theta (voxel, parameter)``.

    Column 0 is the phase (rad); group ``g`` has its shift (Hz; for others an offset to group 0),
    Lorentzian damping (1/s) and squared Gaussian damping (1/s^2) in the three columns from
    ``1 + 3 g``.
    """

    groups: int

    @property
    def size(self) -> int:
        """Number of non-linear parameters."""
        return 1 + 3 * self.groups

    def shift(self, group: int) -> int:
        """Column of a group's shift."""
        return 1 + 3 * group

    def lorentzian(self, group: int) -> int:
        """Column of a group's Lorentzian damping."""
        return 2 + 3 * group

    def gaussian(self, group: int) -> int:
        """Column of a group's squared Gaussian damping."""
        return 3 + 3 * group

    def shifts(self, theta: Tensor) -> Tensor:
        """Shift of every group against the basis, Hz, ``(voxel, group)``."""
        own = theta[:, 1::3]
        return torch.cat([own[:, :1], own[:, :1] + own[:, 1:]], dim=1)

    def lineshape(self, theta: Tensor, time: Tensor) -> Tensor:
        """What multiplies a group's columns, without the phase, ``(voxel, group, time)``.

        ``time`` is in s, ``(time,)``; ``theta`` decides precision and device.
        """
        decay = (theta[:, 2::3, None] + theta[:, 3::3, None] * time) * time
        return torch.polar(torch.exp(-decay), 2 * math.pi * self.shifts(theta)[:, :, None] * time)


@dataclass(frozen=True)
class LinearCombinationModel:
    """Basis columns and their groups on a time axis.

    Parameters
    ----------
    columns
        ``(metabolite, time)`` complex.
    group
        ``(metabolite,)`` int64, the lineshape group of each column.
    time
        ``(time,)`` s.
    """

    columns: Tensor
    group: Tensor
    time: Tensor

    @cached_property
    def layout(self) -> Layout:
        """Of this model's non-linear parameters."""
        return Layout(int(self.group.max()) + 1)

    @cached_property
    def member(self) -> Tensor:
        """``(group, metabolite)`` of the columns' type, 1 where a column belongs to a group."""
        groups = torch.arange(self.layout.groups, device=self.group.device)
        return (self.group == groups[:, None]).to(self.columns.dtype)

    def modulated(self, shapes: Tensor) -> Tensor:
        """Columns under lineshapes ``(voxel, group, time)``: ``(voxel, metabolite, time)``."""
        if self.layout.groups == 1:
            return self.columns * shapes
        return self.columns * shapes[:, self.group]

    def by_group(self, amplitudes: Tensor) -> Tensor:
        """Sums of the scaled pure columns of each group, ``(voxel, group, time)``."""
        scaled = self.member * amplitudes.to(self.columns.dtype)[:, None, :]
        return scaled @ self.columns

    def synthesise(self, amplitudes: Tensor, theta: Tensor) -> Tensor:
        """Signals ``(voxel, time)`` of amplitudes ``(voxel, metabolite)``.

        The columns are summed before they are modulated, so that memory grows with voxels times
        groups only.
        """
        shapes = self.layout.lineshape(theta, self.time)
        summed = (shapes * self.by_group(amplitudes)).sum(1)
        return summed * torch.polar(torch.ones_like(theta[:, :1]), theta[:, :1])
