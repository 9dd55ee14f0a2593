"""Combination of receive coils by weighted singular value decomposition with prewhitened noise.

Rodgers & Robson, Magn Reson Med 2010;63:881 (WSVD): once the coils' noise is made white and equal,
the first left singular vector of the coil x time matrix weighs the coils for the best SNR.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.errors import InputError


@dataclass(frozen=True)
class CoilWeights:
    """How coils are summed.

    ``weights`` is ``(voxel, coil)`` complex128, 0 for a voxel without a signal; ``quality``
    ``(voxel,)`` float32 from 0 (noise only) to 1 (all signal explained by one weight a coil), NaN
    without a signal.
    """

    weights: Tensor
    quality: Tensor


def whitening(covariance: Tensor) -> Tensor:
    """``W (coil, coil)`` such that the noise of ``W @ fids`` is white with variance 1.

    Raises
    ------
    InputError
        If a coil has no noise of its own (switched off, or a copy of another).
    """
    factor, info = torch.linalg.cholesky_ex(covariance)
    own = factor.diagonal().abs().square()
    if info != 0 or (own < 1e-10 * covariance.diagonal().real).any():
        coil = int(info) - 1 if info else int((own / covariance.diagonal().real).argmin())
        raise InputError(
            f"coil {coil} has no noise of its own (switched off, or a copy): leave it out"
        )
    eye = torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
    return torch.linalg.solve_triangular(factor, eye, upper=False)


def coil_weights(reference: Tensor, white: Tensor) -> CoilWeights:
    """Weights for the best SNR.

    The combined signal has the phase of the strongest coil and the root of the sum of squares of
    the coils' amplitudes.

    Parameters
    ----------
    reference
        ``(voxel, coil, time)`` complex: the water reference, or the scan itself.
    white
        From :func:`whitening`.
    """
    signal = reference.to(torch.complex128)
    usable = torch.isfinite(signal.abs()).flatten(1).all(1) & (signal != 0).flatten(1).any(1)
    signal = white @ torch.where(usable[:, None, None], signal, 0)
    values, vectors = torch.linalg.eigh(signal @ signal.mH)
    first = vectors[:, :, -1]
    pattern = torch.linalg.solve(white, first[:, :, None])[:, :, 0]
    strongest = pattern.gather(1, pattern.abs().argmax(1, keepdim=True))
    scale = torch.linalg.vector_norm(pattern, dim=1, keepdim=True) * torch.sgn(strongest)
    weights = scale * (first.conj() @ white)
    coils = values.shape[1]
    share = values[:, -1] / values.sum(1).clamp_min(torch.finfo(values.dtype).tiny)
    quality = (share * coils - 1) / (coils - 1) if coils > 1 else torch.ones_like(share)
    weights = torch.where(usable[:, None], weights, 0)
    return CoilWeights(weights, torch.where(usable, quality, torch.nan).float())


def combine(fids: Tensor, coils: CoilWeights) -> Tensor:
    """FIDs ``(voxel, ..., time)`` complex64 of ``fids (voxel, coil, ..., time)``."""
    summed = torch.einsum("vc,vc...->v...", coils.weights, fids.to(torch.complex128))
    return summed.to(torch.complex64)
