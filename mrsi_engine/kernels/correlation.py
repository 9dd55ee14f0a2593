"""Shift and phase from the peak of a cross-correlation (Corr, CorrF), and the start of all others.

The correlation of a signal with a template at every shift is one Fourier transform: that of
``conj(template) * signal``. Its largest value gives the shift, the angle there the phase.
"""

from __future__ import annotations

import torch
from torch import Tensor


def correlation_peak(product: Tensor, dwell_time: float, limit_hz: float) -> tuple[Tensor, Tensor]:
    """Shift of the largest correlation within ``limit_hz``, and the complex value there.

    Parameters
    ----------
    product
        ``(signal, time)`` complex64, ``conj(template) * signal``.
    dwell_time
        s.
    limit_hz
        Largest shift looked for.

    Returns
    -------
    shift, value
        ``(signal,)`` float64 in Hz, between the points of the transform by a parabola, and
        ``(signal,)`` complex64 at the nearest point.
    """
    length = 2 * product.shape[1]
    reach = min(int(limit_hz * length * dwell_time) + 1, product.shape[1] - 1)
    spectra = torch.fft.fft(product, length)
    values = torch.cat([spectra[:, -reach:], spectra[:, : reach + 1]], dim=1)
    power = values.abs().square().to(torch.float64)
    top = power[:, 1:-1].argmax(1) + 1
    left, middle, right = (power.gather(1, top[:, None] + k).squeeze(1) for k in (-1, 0, 1))
    curve = (2 * middle - left - right).clamp_min(torch.finfo(torch.float64).tiny)
    offset = (0.5 * (right - left) / curve).clamp(-0.5, 0.5)
    shift = (top - reach + offset) / (length * dwell_time)
    return shift, values.gather(1, top[:, None]).squeeze(1)
