"""What a trained network tells the fit of each voxel: where to begin, and whether to believe it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.kernels.lcm import Layout
from mrsi_engine.networks.quantifier import Quantifier

_PHASE, _SHIFT, _LORENTZIAN = 0, 1, 2


@dataclass(frozen=True)
class Start:
    """What the network says of each voxel.

    ``theta (voxel, parameter)`` float64 in the layout of the fit, shifts as of the data;
    ``members (member, voxel, parameter)`` the same by each member of the ensemble; ``amplitudes
    (member, voxel, column)`` float64 in data units where its decoder says any; ``novelty
    (voxel,)``; ``known (voxel,)`` bool, within what it was trained on.
    """

    theta: Tensor
    members: Tensor
    amplitudes: Tensor | None
    novelty: Tensor
    known: Tensor

    def rows(self, index: Tensor | slice) -> Start:
        """Of some voxels."""
        amplitudes = None if self.amplitudes is None else self.amplitudes[:, index]
        theta, members = self.theta[index], self.members[:, index]
        return Start(theta, members, amplitudes, self.novelty[index], self.known[index])


@dataclass(frozen=True, eq=False)
class NetworkStart:
    """A network bound to the parameters of a fit.

    Parameters
    ----------
    quantifier
        The trained model.
    layout
        Of the fit's non-linear parameters.
    lorentzian
        Share of the damping that is Lorentzian in the fit; networks know Lorentzian lines only.
    members
        Of the ensemble that are asked; all if not given.
    """

    quantifier: Quantifier
    layout: Layout
    lorentzian: float
    members: int | None

    def __call__(self, fids: Tensor) -> Start:
        """What it says of ``fids (voxel, time)``."""
        said = self.quantifier.opinions(fids, self.members)
        members = self._in_layout(said.theta.to(torch.float64))
        theta = members.mean(0)
        known = self.inside_ranges(theta) & (said.novelty <= 1)
        amplitudes = None if said.amplitudes is None else said.amplitudes.to(torch.float64)
        return Start(theta, members, amplitudes, said.novelty, known)

    def inside_ranges(self, theta: Tensor) -> Tensor:
        """Whether ``theta (voxel, parameter)`` of the fit lies in the trained ranges."""
        layout = self.layout
        damping = theta[:, layout.lorentzian(0)] + theta[:, layout.gaussian(0)].clamp_min(0).sqrt()
        known = torch.stack([theta[:, _PHASE], theta[:, layout.shift(0)], damping], dim=1)
        return self.quantifier.inside_ranges(known)

    def _in_layout(self, said: Tensor) -> Tensor:
        """``(..., parameter)`` of the network's layout in that of the fit; all groups alike."""
        layout = self.layout
        theta = said.new_zeros((*said.shape[:-1], layout.size))
        theta[..., 0], theta[..., layout.shift(0)] = said[..., _PHASE], said[..., _SHIFT]
        damping = said[..., _LORENTZIAN]
        for g in range(layout.groups):
            theta[..., layout.lorentzian(g)] = self.lorentzian * damping
            theta[..., layout.gaussian(g)] = ((1 - self.lorentzian) * damping).square()
        return theta
