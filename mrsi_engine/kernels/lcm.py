"""The linear combination model of a spectrum: one model for fit, network decoder and phantom.

    s(t) = exp(i*phase) * sum_g exp(2*pi*i*f_g*t - d_g*t - q_g*t^2) * sum_{m in g} a_m x_m(t)

with ``f_0`` the shift of the first group and ``f_g = f_0 + offset_g`` for the others (B0 moves all
of them), Lorentzian damping ``d`` (1/s; FWHM d/pi Hz) and squared Gaussian damping ``q`` (1/s^2;
FWHM 2*sqrt(ln 2)*sqrt(q)/pi Hz). The square is iterated because the model is smooth in it at 0.
Columns may have small shifts of their own, ``x_m(t) exp(2*pi*i*e_m*t)``, and the whole signal may
begin a delay late, ``s(t + delay)``, a first-order phase. Provencher, Magn Reson Med 1993;30:672;
Clarke et al., Magn Reson Med 2021;85:2950.
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
    ``1 + 3 g``. Then comes the delay (ms) if there is one, and the own shifts (Hz) of columns.
    """

    groups: int
    delayed: bool = False
    own_shifts: int = 0

    @property
    def size(self) -> int:
        """Number of non-linear parameters."""
        return self.delay + self.delayed + self.own_shifts

    @property
    def delay(self) -> int:
        """Column of the delay, where there is one."""
        return 1 + 3 * self.groups

    @property
    def own(self) -> slice:
        """Columns of the own shifts."""
        return slice(self.delay + self.delayed, self.size)

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
        own = theta[:, 1 : self.delay : 3]
        return torch.cat([own[:, :1], own[:, :1] + own[:, 1:]], dim=1)

    def lineshape(self, theta: Tensor, time: Tensor) -> Tensor:
        """What multiplies a group's columns, without the phase, ``(voxel, group, time)``.

        ``time`` is in s, ``(time,)``; ``theta`` decides precision and device.
        """
        lorentzian, gaussian = theta[:, 2 : self.delay : 3], theta[:, 3 : self.delay : 3]
        decay = (lorentzian[:, :, None] + gaussian[:, :, None] * time) * time
        return torch.polar(torch.exp(-decay), 2 * math.pi * self.shifts(theta)[:, :, None] * time)


@dataclass(frozen=True)
class Delay:
    """What a delay does to the spectra of columns, to first order beyond a turn by its phase.

    A column sampled from ``delay`` on, ``x(t + delay)``, is turned by ``2*pi*f*delay`` and lacks
    what it was before: a broad signal of about ``-x(0) * delay / dwell_time``. The phase is 0 in
    the middle of the window, so that it hardly depends on the zero-order phase.

    Parameters
    ----------
    frequencies
        ``(bin,)`` Hz from the middle of the window.
    edge
        ``(metabolite, bin)`` complex, per ms: what the turn alone gets wrong.
    """

    frequencies: Tensor
    edge: Tensor

    def turn(self, delay: Tensor) -> Tensor:
        """``exp(2*pi*i*f*delay)``, ``(voxel, 1, bin)``, of ``delay (voxel, 1)`` in ms."""
        angle = 2e-3 * math.pi * delay[:, :, None] * self.frequencies
        return torch.polar(torch.ones_like(angle), angle)

    def apply(self, spectra: Tensor, delay: Tensor) -> Tensor:
        """Spectra of columns ``(voxel, metabolite, bin)`` that begin ``delay (voxel, 1)`` late."""
        return spectra * self.turn(delay) + self.edge * delay[:, :, None]

    def derivative(self, amplitudes: Tensor, delayed: Tensor, delay: Tensor) -> Tensor:
        """Of the sum of delayed columns by the delay, ``(voxel, bin)`` per ms."""
        edge = amplitudes.to(self.edge.dtype) @ self.edge
        summed = (amplitudes.to(delayed.dtype)[:, None, :] @ delayed).squeeze(1)
        return 2e-3j * math.pi * self.frequencies * (summed - edge * delay) + edge


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
    delay
        Of the whole signal; ``None`` if it has none.
    movable
        ``(metabolite,)`` bool, columns with a shift of their own; ``None`` if there are none.
    """

    columns: Tensor
    group: Tensor
    time: Tensor
    delay: Delay | None = None
    movable: Tensor | None = None

    @cached_property
    def layout(self) -> Layout:
        """Of this model's non-linear parameters."""
        own_shifts = 0 if self.movable is None else int(self.movable.sum())
        return Layout(int(self.group.max()) + 1, self.delay is not None, own_shifts)

    @cached_property
    def member(self) -> Tensor:
        """``(group, metabolite)`` of the columns' type, 1 where a column belongs to a group."""
        groups = torch.arange(self.layout.groups, device=self.group.device)
        return (self.group == groups[:, None]).to(self.columns.dtype)

    @cached_property
    def _spread(self) -> Tensor:
        """``(own shift, metabolite)``, 1 where an own shift is a column's."""
        assert self.movable is not None
        return torch.eye(len(self.group), device=self.group.device)[self.movable]

    def pure(self, theta: Tensor) -> Tensor:
        """Columns under their own shifts: ``(metabolite, time)``, or one set a voxel."""
        if self.movable is None:
            return self.columns
        angle = 2 * math.pi * (theta[:, self.layout.own] @ self._spread.to(theta.dtype))
        angle = angle[:, :, None] * self.time.to(theta.dtype)
        return self.columns * torch.polar(torch.ones_like(angle), angle)

    def modulated(self, pure: Tensor, shapes: Tensor) -> Tensor:
        """Pure columns under lineshapes ``(voxel, group, time)``: ``(voxel, metabolite, time)``."""
        if self.layout.groups == 1:
            return pure * shapes
        return pure * shapes[:, self.group]

    def by_group(self, amplitudes: Tensor, pure: Tensor) -> Tensor:
        """Sums of the scaled pure columns of each group, ``(voxel, group, time)``."""
        scaled = self.member * amplitudes.to(self.columns.dtype)[:, None, :]
        return scaled @ pure

    def synthesise(self, amplitudes: Tensor, theta: Tensor) -> Tensor:
        """Signals ``(voxel, time)`` of amplitudes ``(voxel, metabolite)``.

        The columns are summed before they are modulated, so that memory grows with voxels times
        groups only. With a delay the model's spectra must be those of the unshifted, unitary
        transform of its time axis.
        """
        shapes = self.layout.lineshape(theta, self.time)
        summed = (shapes * self.by_group(amplitudes, self.pure(theta))).sum(1)
        if self.delay is not None:
            summed = self._delayed(summed, amplitudes, theta[:, self.layout.delay, None])
        return summed * torch.polar(torch.ones_like(theta[:, :1]), theta[:, :1])

    def _delayed(self, summed: Tensor, amplitudes: Tensor, delay: Tensor) -> Tensor:
        assert self.delay is not None
        spectra = torch.fft.fft(summed, norm="ortho") * self.delay.turn(delay)[:, 0]
        edge = amplitudes.to(self.delay.edge.dtype) @ self.delay.edge
        return torch.fft.ifft(spectra + delay * edge, norm="ortho")
