"""The fit window as a handful of frequency bins, and columns that can be reshaped inside it.

A fit over 0.2-4.2 ppm needs a quarter of a spectrum or less. The data are cropped to the bins of
their own discrete Fourier transform that lie in the window: a unitary map, so white noise stays
white and the windowed likelihood is exact. Model columns must be shifted and damped at every
iteration, so they are kept as short FIDs: low-passed to the window plus a guard band and sampled
at the width of that band. Shifting and damping commute with the low-pass except inside its
roll-off, which lies outside the window, and samples before t = 0 and after the end hold the
filter's ringing so that it is damped as the sample it belongs to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Band:
    """Bins of a fit window and the short time axis of columns reduced to it.

    Parameters
    ----------
    points, dwell_time
        Of the full FID; dwell time in s.
    first_bin, bins
        The window is bins ``first_bin ... first_bin + bins - 1`` of the full FID's transform, in
        units of ``1 / (points * dwell_time)`` Hz from 0 Hz.
    flat_hz, roll_hz
        The low-pass is 1 up to ``flat_hz`` beyond the window and rolls off over ``roll_hz`` more.
    """

    points: int
    dwell_time: float
    first_bin: int
    bins: int
    flat_hz: float = 12.0
    roll_hz: float = 60.0

    @classmethod
    def between(cls, points: int, dwell_time: float, low_hz: float, high_hz: float) -> Band:
        """The bins from ``low_hz`` to ``high_hz``.

        Raises
        ------
        ValueError
            If the window holds fewer than 8 bins or leaves the spectral width.
        """
        duration = points * dwell_time
        first, last = math.ceil(low_hz * duration), math.floor(high_hz * duration)
        if not -points / 2 <= first <= last < points / 2:
            raise ValueError(
                f"the fit window {low_hz:.0f} to {high_hz:.0f} Hz leaves the spectral width of "
                f"{1 / dwell_time:.0f} Hz"
            )
        if last - first + 1 < 8:
            raise ValueError(f"the fit window holds {last - first + 1} points, 8 are needed")
        return cls(points, dwell_time, first, last - first + 1)

    @property
    def duration(self) -> float:
        """Length of the full FID, s."""
        return self.points * self.dwell_time

    @property
    def frequencies(self) -> NDArray[np.float64]:
        """Hz of the window's bins, ``(bin,)``."""
        return np.asarray((self.first_bin + np.arange(self.bins)) / self.duration, dtype=float)

    @property
    def short_points(self) -> int:
        """Samples of a reduced column between t = 0 and the end of the FID."""
        guard = 2 * (self.flat_hz + self.roll_hz) * self.duration
        return int(scipy.fft.next_fast_len(min(self.points, self.bins + math.ceil(guard))))

    @property
    def ringing(self) -> int:
        """Samples kept on each side for the low-pass' ringing."""
        return min(self.short_points // 2, math.ceil(3.0 / self.roll_hz / self.short_dwell))

    @property
    def short_dwell(self) -> float:
        """Dwell time of a reduced column, s."""
        return self.duration / self.short_points

    def short_time(self) -> NDArray[np.float64]:
        """Seconds of the samples of a reduced column, from before 0 to after the end."""
        n = np.arange(-self.ringing, self.short_points + self.ringing)
        return np.asarray(n * self.short_dwell, dtype=float)

    def reduce(self, fids: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """Reduced columns ``(column, short time)`` of full FIDs ``(column, time)``.

        Scaled so that :meth:`spectrum` of the result equals :meth:`crop` of ``fids``.
        """
        spectra = np.fft.fftshift(np.fft.fft(fids, 2 * self.points, axis=-1), axes=-1)
        half_bins = np.arange(-self.points, self.points) / 2
        low_pass = self._low_pass(half_bins / self.duration)
        kept = low_pass > 0
        # The window's first bin is brought to 0 Hz, so that the bins of the window are the first
        # bins of the transform and the guard bands the last.
        turn = np.exp(
            2j
            * np.pi
            * np.outer((half_bins[kept] - self.first_bin) / self.duration, self.short_time())
        )
        scale = 1 / (2 * math.sqrt(self.points) * self.short_points)
        return np.asarray((spectra[:, kept] * low_pass[kept]) @ turn * scale)

    def _low_pass(self, frequencies: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = self.frequencies[[0, -1]]
        outside = np.maximum(np.maximum(low - frequencies, frequencies - high) - self.flat_hz, 0.0)
        if self.short_points >= self.points:
            return np.ones_like(frequencies)
        x = np.minimum(outside / self.roll_hz, 1.0)
        return np.asarray(np.cos(0.5 * np.pi * x) ** 2)

    def spectrum(self, columns: Tensor) -> Tensor:
        """Window bins ``(..., bin)`` of reduced columns ``(..., short time)``, overwriting them."""
        n, r = self.short_points, self.ringing
        # Ringing belongs to its time modulo the length of the FID, as the transform sees it.
        folded = columns[..., r : r + n]
        folded[..., n - r :] += columns[..., :r]
        folded[..., :r] += columns[..., n + r :]
        return torch.fft.fft(folded)[..., : self.bins]

    def crop(self, fids: Tensor) -> Tensor:
        """Window bins ``(..., bin)`` of full FIDs ``(..., time)``, unitary transform."""
        spectra = torch.fft.fft(fids, norm="ortho")
        first = self.first_bin % self.points
        if first + self.bins <= self.points:
            return spectra[..., first : first + self.bins]
        wrapped = first + self.bins - self.points
        return torch.cat([spectra[..., first:], spectra[..., :wrapped]], dim=-1)

    def expand(self, window: Tensor) -> Tensor:
        """FIDs ``(..., time)`` whose transform is ``window (..., bin)`` inside and 0 outside."""
        spectra = window.new_zeros((*window.shape[:-1], self.points))
        index = (self.first_bin + torch.arange(self.bins, device=window.device)) % self.points
        spectra[..., index] = window
        return torch.fft.ifft(spectra, norm="ortho")
