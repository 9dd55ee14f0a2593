"""Cramér-Rao bounds from the full Fisher matrix.

Cavassila et al., NMR Biomed 2001;14:278. The matrix holds every real parameter of the model; the
baseline was eliminated from it (its Schur complement), so its uncertainty is in the bounds too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.kernels.linear import inverse_spd

#: A variance that is this many times what it were without correlation says that the data do not
#: tell; the normal matrices of float32 columns resolve little more.
_UNDETERMINED = 2e4


@dataclass(frozen=True)
class Bounds:
    """Covariance bounds of the parameters of each voxel.

    ``covariance (voxel, parameter, parameter)`` float64, NaN where there is none; ``alone (voxel,
    parameter)``, each variance were all others known, infinite for a parameter that changes
    nothing; ``condition (voxel,)``, the condition number (1-norm) of the Fisher matrix scaled to a
    unit diagonal.
    """

    covariance: Tensor
    alone: Tensor
    condition: Tensor

    @classmethod
    def of(cls, fisher: Tensor, noise_sd: Tensor) -> Bounds:
        """The inverse of the Fisher matrix.

        Parameters
        ----------
        fisher
            ``(voxel, parameter, parameter)`` float64 at unit noise.
        noise_sd
            ``(voxel,)``, SD of the noise per real channel.
        """
        inverse, _ = inverse_spd(fisher)
        information = fisher.diagonal(dim1=1, dim2=2)
        root = information.clamp_min(0).sqrt()
        size = root[:, :, None] * root[:, None, :]
        condition = _norm(fisher / torch.where(size > 0, size, 1.0)) * _norm(inverse * size)
        variance = noise_sd.to(fisher.dtype).square()
        alone = torch.where(information > 0, variance[:, None] / information, torch.inf)
        return cls(inverse * variance[:, None, None], alone, condition)

    def sd(self, weights: Tensor) -> Tensor:
        """SDs ``(voxel, sum)`` of sums of parameters ``weights (sum, parameter)``: ``w'Cw``.

        NaN where the data do not determine the sum. That of two parameters that only their sum is
        known of is one that they do.
        """
        variance = ((weights @ self.covariance) * weights).sum(2)
        silent = self.alone.isinf()
        alone = torch.where(silent, 0.0, self.alone) @ weights.square().T
        touched = silent.to(weights.dtype) @ (weights != 0).to(weights.dtype).T > 0
        known = ~touched & (variance < _UNDETERMINED * alone)
        return torch.where(known, variance, torch.nan).sqrt()

    def with_sum(self, weights: Tensor, reference: Tensor) -> Tensor:
        """Covariances ``(voxel, sum)`` of sums with one more, ``reference (parameter,)``."""
        return (self.covariance @ reference) @ weights.T


def sd_of_ratio(
    value: Tensor, reference: Tensor, sd: Tensor, reference_sd: Tensor, covariance: Tensor
) -> Tensor:
    """SD of ``value / reference`` to first order (delta method), of the tensors' shape.

    It holds where the reference is several of its own SDs large; NaN where that is 0 or any SD is
    unknown.
    """
    ratio = value / reference
    variance = sd.square() - 2 * ratio * covariance + (ratio * reference_sd).square()
    return torch.where(reference != 0, variance.clamp_min(0).sqrt() / reference.abs(), torch.nan)


def _norm(matrix: Tensor) -> Tensor:
    return matrix.abs().sum(1).amax(1)
