"""Cramér-Rao bounds from the full Fisher matrix.

Cavassila et al., NMR Biomed 2001;14:278. The matrix holds every real parameter of the model; the
baseline was eliminated from it (its Schur complement), so its uncertainty is in the bounds too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrsi_engine.kernels.linear import inverse_spd

#: A variance that grew by this factor through correlation says the data do not tell; the normal
#: matrices of float32 columns do not resolve more.
_UNDETERMINED = 1e5


def covariance(fisher: Tensor, noise_sd: Tensor) -> Tensor:
    """Covariance bound ``(voxel, parameter, parameter)`` float64; NaN where not determined.

    Parameters
    ----------
    fisher
        ``(voxel, parameter, parameter)`` float64 at unit noise.
    noise_sd
        ``(voxel,)``, SD of the noise per real channel.
    """
    inverse, ok = inverse_spd(fisher)
    inflation = inverse.diagonal(dim1=1, dim2=2) * fisher.diagonal(dim1=1, dim2=2)
    silent = fisher.diagonal(dim1=1, dim2=2) <= 0
    known = (inflation < _UNDETERMINED) & ~silent & ok[:, None]
    both = known[:, :, None] & known[:, None, :]
    bound = inverse * noise_sd.to(fisher.dtype)[:, None, None].square()
    return torch.where(both, bound, torch.nan)


def sums_with_sd(values: Tensor, bound: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted sums of estimates and their SDs from the covariance (``w' C w``).

    Parameters
    ----------
    values
        ``(voxel, parameter)`` float64.
    bound
        ``(voxel, parameter, parameter)`` float64.
    weights
        ``(sum, parameter)`` float64.

    Returns
    -------
    sums, sd
        ``(voxel, sum)`` float64 each.
    """
    unknown = torch.isnan(bound.diagonal(dim1=1, dim2=2)).to(weights.dtype)
    spread = weights @ torch.nan_to_num(bound) @ weights.T
    sd = spread.diagonal(dim1=1, dim2=2).clamp_min(0.0).sqrt()
    touched = unknown @ (weights != 0).to(weights.dtype).T > 0
    return values @ weights.T, torch.where(touched, torch.nan, sd)
