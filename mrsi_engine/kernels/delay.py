"""FIDs whose acquisition began late: first-order phase, and the missing first points.

A FID sampled from ``t0`` on has its peaks turned by ``2*pi*f*t0``, a first-order phase. Turning
them back leaves a rolling baseline, since the samples before ``t0`` are still missing; where the
delay is a whole number of samples they can be put back by backward linear prediction (Kumaresan &
Tufts 1982; Barkhuijsen et al., J Magn Reson 1985;61:465).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mrsi_engine.errors import InputError

#: Samples that are predicted for each coefficient of the prediction, and the ridge on the normal
#: matrix relative to its mean diagonal: without it noise is amplified.
_EQUATIONS, _RIDGE = 8, 1e-8


def first_order_phase(fids: Tensor, dwell_time: float, delay: float) -> Tensor:
    """FIDs ``(voxel, time)`` as if sampled ``delay`` s earlier (later if negative); s both.

    Exact for signals that are periodic in the record, e.g. when the FID has decayed at its end.
    """
    hertz = torch.fft.fftfreq(fids.shape[-1], dwell_time, dtype=torch.float64, device=fids.device)
    turn = torch.polar(torch.ones_like(hertz), -2 * math.pi * hertz * delay)
    return torch.fft.ifft(torch.fft.fft(fids.to(torch.complex128)) * turn).to(torch.complex64)


def prepend(fids: Tensor, missing: int, order: int = 32) -> Tensor:
    """FIDs ``(voxel, missing + time)`` complex64 with their first points predicted backwards.

    Parameters
    ----------
    fids
        ``(voxel, time)`` complex. Voxels with NaN or Inf get NaN there, zeros get zeros.
    missing
        Samples lost between excitation and the first sample.
    order
        Coefficients of the prediction: at least as many as there are lines in the spectrum.

    Raises
    ------
    InputError
        If the FIDs are too short for the order, or a number is below 1.
    """
    points = fids.shape[1]
    if missing < 1 or order < 1 or points < 3 * order:
        raise InputError(
            f"missing points: {missing} to predict by order {order} from {points} samples; "
            "expected both at least 1 and three samples a coefficient; lower the order"
        )
    usable = torch.isfinite(fids.abs()).all(1, keepdim=True)
    signal = torch.where(usable, fids, 0).to(torch.complex128)
    coefficients = _backward(signal[:, : (_EQUATIONS + 1) * order], order)
    for _ in range(missing):
        previous = (signal[:, :order] * coefficients).sum(1, keepdim=True)
        signal = torch.cat([previous, signal], dim=1)
    predicted = torch.where(usable, signal[:, :missing], torch.nan).to(torch.complex64)
    return torch.cat([predicted, fids.to(torch.complex64)], dim=1)


def _backward(signal: Tensor, order: int) -> Tensor:
    """``a`` of ``x[n] = sum_k a[k] x[n + 1 + k]``, ridge-regularised least squares."""
    windows = signal.unfold(1, order + 1, 1)
    known, later = windows[:, :, 0], windows[:, :, 1:]
    normal = later.mH @ later
    mean = normal.diagonal(dim1=1, dim2=2).real.mean(1)
    ridge = torch.where(mean > 0, _RIDGE * mean, 1.0)
    normal.diagonal(dim1=1, dim2=2).add_(ridge[:, None])
    factor, _ = torch.linalg.cholesky_ex(normal)
    return torch.cholesky_solve(later.mH @ known[:, :, None], factor)[:, :, 0]
