"""The fit window as a handful of frequency bins, and columns that can be reshaped inside it.

A fit over 0.2-4.2 ppm needs a quarter of a spectrum or less. The data are cropped to the bins of
their own discrete Fourier transform that lie in the window: a unitary map, so white noise stays
white and the windowed likelihood is exact. Model columns must be shifted and damped at every
iteration, so they are kept as short FIDs: low-passed to the window plus a guard band and sampled
at the width of that band. Shifting and damping commute with the low-pass except inside its
roll-off, which lies outside the window; the samples before t = 0 and after the end that hold the
filter's ringing are damped with the rest. What remains is an error of 1e-5 of a column's window
(5e-5 at a damping of 20/s, 3e-3 at 100/s, where the ringing before t = 0 is blown up; 3e-3 at a
Gaussian damping of 50/s, which brings in what lies beyond the guard band).
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
        The low-pass is 1 up to ``flat_hz`` beyond the window and rolls off over ``roll_hz`` more
        (Kaiser, in: System Analysis by Digital Computer, 1966, ch. 7).
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
        return min(self.points, int(scipy.fft.next_fast_len(self.bins + math.ceil(guard))))

    @property
    def ringing(self) -> int:
        """Samples kept on each side for the low-pass' ringing."""
        if self.short_points == self.points:
            return 0
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
        if self.short_points == self.points:
            turn = np.exp(-2j * np.pi * self.frequencies[0] * self.short_time())
            return np.asarray(fids * turn / math.sqrt(self.points))
        # Twice the length of the FID leaves room for the ringing before and after it. Bins are
        # counted from the middle of the window, so that one at the edge of the spectrum is whole.
        middle = 2 * self.first_bin + self.bins - 1
        half_bins = np.arange(middle - self.points, middle + self.points)
        filtered = np.fft.fft(fids, 2 * self.points, axis=-1) * np.fft.fft(self._low_pass())
        # The window's first bin is brought to 0 Hz, so that the bins of the window are the first
        # bins of the transform and the guard bands the last.
        frequencies = (half_bins / 2 - self.first_bin) / self.duration
        turn = np.exp(2j * np.pi * np.outer(frequencies, self.short_time()))
        scale = 1 / (2 * math.sqrt(self.points) * self.short_points)
        return np.asarray(filtered[:, half_bins % (2 * self.points)] @ turn * scale)

    def _low_pass(self) -> NDArray[np.complex128]:
        """Impulse response on the circle of twice the FID's length, ``(2 * points,)``.

        A Kaiser window as long as the ringing that is kept, so that none is cut off.
        """
        n = np.fft.fftfreq(2 * self.points, 1 / (2 * self.points))
        length = self.ringing * self.short_dwell
        attenuation = 2.285 * 2 * np.pi * self.roll_hz * 2 * length + 7.95
        inside = np.clip(1 - (n * self.dwell_time / length) ** 2, 0.0, None)
        taper = np.i0(0.1102 * (attenuation - 8.7) * np.sqrt(inside)) * (inside > 0)
        low, high = self.frequencies[[0, -1]]
        width = (high - low + 2 * self.flat_hz + self.roll_hz) * self.dwell_time
        carrier = np.exp(1j * np.pi * (low + high) * self.dwell_time * n)
        return np.asarray(width * np.sinc(width * n) * taper / taper.max() * carrier)

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
        """FIDs ``(..., time)`` whose transform is ``window (..., bin)`` inside it.

        Beyond the window its edges fade to 0, so that zero-filling the FIDs does not ring.
        """
        spectra = window.new_zeros((*window.shape[:-1], self.points))
        fading = min(self.bins // 4, (self.points - self.bins) // 2)
        steps = torch.arange(1, fading + 1, device=window.device)
        fade = torch.cos(0.5 * torch.pi * steps / (fading + 1)).square()
        first, last = self.first_bin, self.first_bin + self.bins - 1
        inside = first + torch.arange(self.bins, device=window.device)
        spectra[..., inside % self.points] = window
        spectra[..., (first - steps) % self.points] = window[..., :1] * fade
        spectra[..., (last + steps) % self.points] = window[..., -1:] * fade
        return torch.fft.ifft(spectra, norm="ortho")
