"""Amplitude of unsuppressed water at time zero of its FID, for a batch of voxels.

Eddy currents, shifts and phases turn a FID and leave its magnitude alone, so the magnitude is what
is fitted. The logarithm of a Voigt line's magnitude is a parabola in time,

    ln |s(t)| = ln a - d t - (s t)^2,

which weighted linear least squares solves in one step. One power of time more follows lines that
are not quite Voigt. The noise of ``ln |s|`` is that of one channel over ``|s|``, hence the weights
``|s|^2``; samples below a share of the largest, where a line's wings and the noise take over, are
left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: Terms of the polynomial in time.
_TERMS = 4

#: Samples are fitted until the magnitude first falls below this share of its largest.
_LEAST_SHARE = 0.3

#: Fewest samples of a fit: with less, noise passes for a short line.
LEAST_SAMPLES = 16

_SMOOTHED_OVER = 5

#: SD of the residual over the largest magnitude from which a signal is not water: noise alone has
#: 0.25 and more, and so has fat as strong as the water it beats with.
_MOST_RESIDUAL = 0.04


class WaterAmplitude(NamedTuple):
    """Amplitude and its SD, ``(voxel,)`` float64; both NaN where a voxel shows no water."""

    amplitude: Tensor
    sd: Tensor


def water_amplitude(fids: Tensor, before: float = 0.0) -> WaterAmplitude:
    """Magnitude at time zero of unsuppressed water FIDs.

    The SD is that of the fit, from its own residual: it holds what beats with the water, such as
    fat, as well as noise.

    Parameters
    ----------
    fids
        ``(voxel, time)`` complex; of no water where all are zero.
    before
        Samples from time zero to the first one, which the polynomial is continued over.

    Raises
    ------
    ValueError
        If the FIDs are shorter than :data:`LEAST_SAMPLES`.
    """
    if fids.shape[1] < LEAST_SAMPLES:
        raise ValueError(f"{fids.shape[1]} samples, expected at least {LEAST_SAMPLES}")
    magnitude = fids.abs().to(torch.float64)
    largest = magnitude.amax(1)
    shares = magnitude / largest.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    first, sd, residual = _at_time_zero(shares, _fitted_samples(shares), before)
    amplitude = first.exp() * largest
    known = torch.isfinite(first) & (residual < _MOST_RESIDUAL)
    return WaterAmplitude(
        torch.where(known, amplitude, torch.nan), torch.where(known, amplitude * sd, torch.nan)
    )


def _fitted_samples(shares: Tensor) -> Tensor:
    """Samples up to the first drop of the smoothed magnitude, ``(voxel, time)`` bool."""
    smooth = torch.nn.functional.avg_pool1d(
        shares[:, None], _SMOOTHED_OVER, 1, _SMOOTHED_OVER // 2, count_include_pad=False
    ).squeeze(1)
    low = smooth < _LEAST_SHARE * smooth.amax(1, keepdim=True)
    early = torch.arange(shares.shape[1], device=shares.device) < LEAST_SAMPLES
    return (low.cumsum(1) == 0) | early


def _at_time_zero(shares: Tensor, fitted: Tensor, before: float) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithm of the magnitude at time zero, its SD, and the SD of a sample's noise.

    All are NaN where every sample is zero.
    """
    weights = shares.square() * fitted
    logs = shares.clamp_min(1e-30).log()
    samples = torch.arange(shares.shape[1], dtype=shares.dtype, device=shares.device)
    powers = torch.stack([samples**n for n in range(2 * _TERMS - 1)], dim=1)
    # Time in units of each voxel's own window keeps the powers apart.
    units = fitted.sum(1, keepdim=True) ** torch.arange(2 * _TERMS - 1, device=shares.device)
    moments = (weights @ powers) / units
    right = ((weights * logs) @ powers[:, :_TERMS]) / units[:, :_TERMS]
    degree = torch.arange(_TERMS, device=shares.device)
    factor, failed = torch.linalg.cholesky_ex(moments[:, degree[:, None] + degree])
    zero = (-before / fitted.sum(1, keepdim=True)) ** degree
    solved = torch.cholesky_solve(torch.stack([right, zero.to(right.dtype)], dim=2), factor)
    solution, column = solved[:, :, 0], solved[:, :, 1]
    misfit = (weights * logs.square()).sum(1) - (solution * right).sum(1)
    noise = misfit.clamp_min(0) / (fitted.sum(1) - _TERMS)
    first = torch.where(failed == 0, (zero * solution).sum(1), torch.nan)
    return first, ((zero * column).sum(1) * noise).sqrt(), noise.sqrt()
