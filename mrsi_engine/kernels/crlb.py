"""Cramér-Rao bounds from the full Fisher matrix.

Cavassila et al., NMR Biomed 2001;14:278. The matrix holds every real parameter of the model; the
baseline was eliminated from it (its Schur complement), so its uncertainty is in the bounds too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrsi_engine.kernels.linear import inverse_spd

#: A variance that is this many times what it were without correlation says that the data do not
#: tell; the normal matrices of float32 columns resolve little more.
_UNDETERMINED = 2e4


def covariance(fisher: Tensor, noise_sd: Tensor) -> Tensor:
    """Covariance bound ``(voxel, parameter, parameter)`` float64; NaN where there is none.

    Parameters
    ----------
    fisher
        ``(voxel, parameter, parameter)`` float64 at unit noise.
    noise_sd
        ``(voxel,)``, SD of the noise per real channel.
    """
    inverse, _ = inverse_spd(fisher)
    return inverse * noise_sd.to(fisher.dtype)[:, None, None].square()


def sd_of_sums(fisher: Tensor, noise_sd: Tensor, weights: Tensor) -> Tensor:
    """SDs ``(voxel, sum)`` float64 of weighted sums of parameters, from the covariance (``w'Cw``).

    NaN where the data do not determine the sum. That of two parameters that only their sum is
    known of is one that they do.

    Parameters
    ----------
    fisher, noise_sd
        As for :func:`covariance`.
    weights
        ``(sum, parameter)`` float64.
    """
    variance = ((weights @ covariance(fisher, noise_sd)) * weights).sum(2)
    information = fisher.diagonal(dim1=1, dim2=2)
    silent = information <= 0
    uncorrelated = torch.where(
        silent, 0.0, noise_sd.to(fisher.dtype).square()[:, None] / information
    )
    alone = uncorrelated @ weights.square().T
    touched = silent.to(weights.dtype) @ (weights != 0).to(weights.dtype).T > 0
    known = ~touched & (variance < _UNDETERMINED * alone)
    return torch.where(known, variance, torch.nan).sqrt()
