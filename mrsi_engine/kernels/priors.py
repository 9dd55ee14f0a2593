"""Gaussian priors on amplitudes and on ratios of them, as further rows of the linear solve.

A prior says that ``r'a`` has a mean and an SD. For an amount ``r`` picks one amplitude; for a ratio
``a_m / (w'a) = ratio +- sd`` it is ``r'a = a_m - ratio * w'a`` with mean 0 and SD ``sd * w'a``, in
which ``w'a`` is taken from a first solve without priors: linearised, so that the amplitudes stay
linear (the soft constraints of Provencher, Magn Reson Med 1993;30:672). Divided by its SD and
multiplied by that of the noise, a prior is one more datum.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

#: Smallest spread of a prior, relative to the data: below it, it would be all that counts.
_LEAST_SPREAD = 1e-9


@dataclass(frozen=True)
class ScaledPriors:
    """Priors of a batch of voxels in units of their noise.

    ``gram (voxel, metabolite, metabolite)``, ``moment (voxel, metabolite)`` and ``constant
    (voxel,)`` are what they add to the normal equations and the cost; ``spread (voxel, prior)`` is
    the SD of each; ``count`` is how many there are, ``(voxel,)``. All float64.
    """

    gram: Tensor
    moment: Tensor
    constant: Tensor
    spread: Tensor
    count: Tensor

    def rows(self, index: Tensor) -> ScaledPriors:
        """Of some voxels."""
        return ScaledPriors(*(getattr(self, f.name)[index] for f in fields(self)))

    def cost(self, amplitudes: Tensor) -> Tensor:
        """Squared distance of ``amplitudes (voxel, metabolite)`` from the priors, ``(voxel,)``."""
        bent = (self.gram @ amplitudes[:, :, None]).squeeze(2)
        return (amplitudes * (bent - 2 * self.moment)).sum(1) + self.constant


@dataclass(frozen=True)
class Priors:
    """Priors of a basis in the units of the data.

    Parameters
    ----------
    rows
        ``(prior, metabolite)`` float64, the ``r`` of each.
    mean, sd
        ``(prior,)`` float64, of ``r'a``; ``sd`` of a ratio is in units of its reference.
    reference
        ``(prior, metabolite)`` float64, the ``w`` of each ratio; 0 for an amount.
    """

    rows: Tensor
    mean: Tensor
    sd: Tensor
    reference: Tensor

    def to(self, device: torch.device) -> Priors:
        """The same on a device."""
        return Priors(*(getattr(self, f.name).to(device) for f in fields(self)))

    def scaled(
        self, amplitudes: Tensor, reference_sd: Tensor, size: Tensor, noise: Tensor
    ) -> ScaledPriors:
        """What they add to the fit of voxels.

        Parameters
        ----------
        amplitudes
            ``(voxel, metabolite)`` of the first solve, in units of ``size``.
        reference_sd
            ``(voxel, prior)``, SD of each ratio's reference. A reference that is smaller, or
            negative, is taken to be this large: noise may not make a prior sharp.
        size
            ``(voxel,)``, data units that are 1 in the fit.
        noise
            ``(voxel,)``, SD of the noise in units of ``size``.
        """
        is_ratio = (self.reference != 0).any(1)
        reference = torch.nan_to_num(amplitudes) @ self.reference.T
        reference = torch.maximum(reference, torch.nan_to_num(reference_sd))
        spread = torch.where(is_ratio, self.sd * reference, self.sd / size[:, None])
        spread = spread.clamp_min(_LEAST_SPREAD)
        strength = (noise[:, None] / spread).square()
        mean = self.mean / size[:, None]
        return ScaledPriors(
            gram=(self.rows.T * strength[:, None, :]) @ self.rows,
            moment=(strength * mean) @ self.rows,
            constant=(strength * mean.square()).sum(1),
            spread=spread,
            count=torch.full_like(noise, len(self.rows)),
        )

    def data_share(self, covariance: Tensor, spread: Tensor) -> Tensor:
        """Share of what is known of each ``r'a`` that the data gave, ``(voxel, prior)``.

        1 - posterior variance / prior variance: 0 is all prior, 1 is all data.

        Parameters
        ----------
        covariance
            ``(voxel, metabolite, metabolite)`` of the posterior, in units of the fit.
        spread
            ``(voxel, prior)`` of :class:`ScaledPriors`.
        """
        posterior = ((self.rows @ covariance) * self.rows).sum(2)
        return (1 - posterior / spread.square()).clamp(0.0, 1.0)
