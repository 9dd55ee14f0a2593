"""Height and width of a fitted peak, the raw material of SNR and linewidth.

Definitions follow the experts' consensus (Kreis et al., NMR Biomed 2021;34:e4347; Near et al.,
2021;34:e4257): SNR is the height of a peak over the SD of the noise, both in the real spectrum
without apodisation; linewidth is the full width at half height of a singlet.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def real_spectrum(columns: Tensor, time: Tensor, frequencies: Tensor) -> Tensor:
    """Real part of ``sum_t column(t) exp(-2*pi*i*f*t)`` at any frequencies.

    Parameters
    ----------
    columns
        ``(voxel, time)`` complex64.
    time
        ``(time,)`` s.
    frequencies
        ``(frequency,)`` Hz.
    """
    angle = -2 * math.pi * time.to(torch.float64)[:, None] * frequencies.to(torch.float64)
    kernel = torch.polar(torch.ones_like(angle), angle).to(columns.dtype)
    return (columns @ kernel).real


def full_width_half_height(spectra: Tensor, step: float) -> Tensor:
    """Full width at half height of the tallest peak, ``(voxel,)`` in the unit of ``step``.

    The crossings of the half height are found by linear interpolation; NaN where there is no
    positive peak or it does not fall to its half within the axis.

    Parameters
    ----------
    spectra
        ``(voxel, point)`` real.
    step
        Distance between points.
    """
    height, top = spectra.max(dim=1)
    below = spectra < 0.5 * height[:, None]
    point = torch.arange(spectra.shape[1], device=spectra.device)
    left = torch.where(below & (point < top[:, None]), point, -1).amax(1)
    right = torch.where(below & (point > top[:, None]), point, len(point)).amin(1)
    found = (left >= 0) & (right < len(point)) & (height > 0)
    left, right = left.clamp_min(0), right.clamp_max(len(point) - 1)
    start = left + _share(spectra, left, left + 1, 0.5 * height)
    stop = right - _share(spectra, right, right - 1, 0.5 * height)
    return torch.where(found, (stop - start) * step, torch.nan)


def _share(spectra: Tensor, outside: Tensor, inside: Tensor, level: Tensor) -> Tensor:
    """How far from the point outside to the one inside the level is crossed, 0 to 1."""
    voxel = torch.arange(len(spectra), device=spectra.device)
    low = spectra[voxel, outside]
    high = spectra[voxel, inside.clamp(0, spectra.shape[1] - 1)]
    return (level - low) / (high - low).clamp_min(torch.finfo(spectra.dtype).tiny)
