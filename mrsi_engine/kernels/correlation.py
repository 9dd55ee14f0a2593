"""Shift and phase from the peak of a cross-correlation (Corr, CorrF), and the start of all others.

The correlation of a signal with a template at every shift is one Fourier transform: that of
``conj(template) * signal``. Its largest value gives the shift. Within a window it is divided by the
signal's energy there, or a shift that brings water into the window would win.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrsi_engine.kernels.band import Band


def correlation_peak(fids: Tensor, template: Tensor, band: Band, limit_hz: float) -> Tensor:
    """Shift of the largest normalised correlation, ``(signal,)`` float64 in Hz.

    Between the points of a twice zero-filled transform by a parabola.

    Parameters
    ----------
    fids
        ``(signal, time)`` complex64.
    template
        ``(time,)`` complex64, conjugated and projected to the band.
    band
        The window that counts.
    limit_hz
        Largest shift looked for.
    """
    length = 2 * band.points
    reach = min(int(limit_hz * 2 * band.duration) + 1, band.points - 1)
    spectra = torch.fft.fft(fids * template, length)
    values = torch.cat([spectra[:, -reach:], spectra[:, : reach + 1]], dim=1)
    power = values.abs().square().to(torch.float64)
    if band.bins < band.points:
        power = power / _window_energy(fids, band, reach)
    top = power[:, 1:-1].argmax(1) + 1
    left, middle, right = (power.gather(1, top[:, None] + k).squeeze(1) for k in (-1, 0, 1))
    curve = (2 * middle - left - right).clamp_min(torch.finfo(torch.float64).tiny)
    offset = (0.5 * (right - left) / curve).clamp(-0.5, 0.5)
    return (top - reach + offset) / (2 * band.duration)


def _window_energy(fids: Tensor, band: Band, reach: int) -> Tensor:
    """Energy of signals in the window moved by up to ``reach`` half bins, ``(signal, move)``."""
    margin = reach // 2 + 1
    power = torch.fft.fft(fids, norm="ortho").abs().square().to(torch.float64)
    bins = torch.arange(-margin, band.bins + margin, device=fids.device) + band.first_bin
    total = torch.nn.functional.pad(power[:, bins % band.points].cumsum(1), (1, 0))
    energy = total[:, band.bins :] - total[:, : -band.bins]
    moves = torch.arange(-reach, reach + 1, device=fids.device)
    floor = torch.finfo(torch.float32).eps * total[:, -1:]
    return torch.maximum(energy[:, torch.div(moves, 2, rounding_mode="floor") + margin], floor)
