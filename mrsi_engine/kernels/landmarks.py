"""How much a spectrum looks like its nucleus' landmark lines, at every shift it may have.

Lines that stand close together share a window. In each window, moved by every shift, the pattern
of its lines is matched to the spectrum without a straight line under it; the share of the energy it
explains is between 0 and 1 whatever else is there. The likelihood of white noise in ``n`` complex
dimensions being explained by a share ``r`` or more is ``(1 - r)^n``, so ``-n log(1 - r)`` is what
a window says for a shift. Shares are cut off: a lipid at the place of one landmark is explained as
well as a landmark can be, but it is one window's word against the others', and one voxel's against
the other voxels'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.conventions import Acquisition

#: From the start of the FID that are looked at, s, and the damping they are given, 1/s: what is
#: asked for is where lines are, not how they look, and truncated water must not ring.
_SECONDS, _APODISATION = 0.2, 8.0

#: Damping of the lines themselves, 1/s.
_DAMPING = 8.0

#: Spectrum on both sides of the lines of a window, whichever is more.
_MARGIN_PPM, _MARGIN_HZ = 0.2, 25.0

#: Largest share that counts.
_MOST = 0.8

#: Bins of the twice zero-filled spectrum from one shift to the next: half a line apart.
_STEP = 2

#: Signals worked on together.
_CHUNK = 1024


@dataclass(frozen=True)
class _Window:
    """One window's filters.

    ``bins (bin,)`` of the spectrum are all it sees over all shifts; ``pattern (bin, shift)`` and
    ``straight (bin, shift, 2)`` complex64 are the unit pattern and the straight lines under it,
    ``inside (bin, shift)`` float32 is 1 in the window; ``dimensions`` the free ones of noise.
    """

    bins: Tensor
    pattern: Tensor
    straight: Tensor
    inside: Tensor
    dimensions: float

    def to(self, device: torch.device) -> _Window:
        tensors = ("bins", "pattern", "straight", "inside")
        return replace(self, **{name: getattr(self, name).to(device) for name in tensors})

    def shares(self, spectra: Tensor) -> Tensor:
        """Share of the energy that the pattern explains, ``(signal, shift)``."""
        seen = spectra[:, self.bins]
        whole = seen.abs().square() @ self.inside
        smooth = (seen @ self.straight.flatten(1)).abs().square()
        explained = (seen @ self.pattern).abs().square()
        left = whole - smooth.unflatten(1, self.straight.shape[1:]).sum(2)
        # Under water a thousand times as large rounding leaves little or nothing.
        least = torch.maximum(explained, 1e-6 * whole).clamp_min(torch.finfo(whole.dtype).tiny)
        return explained / torch.maximum(left, least)


@dataclass(frozen=True)
class Landmarks:
    """Landmark lines made ready for one acquisition.

    ``shifts (shift,)`` float64 Hz are those looked at; ``taper (time,)`` float32.
    """

    shifts: Tensor
    taper: Tensor
    windows: tuple[_Window, ...]

    @classmethod
    def build(
        cls, acquisition: Acquisition, lines: Sequence[tuple[float, float]], reach_hz: float
    ) -> Landmarks:
        """Filters for lines at known places.

        Parameters
        ----------
        acquisition
            Axis of the signals.
        lines
            Chemical shift (ppm) and usual relative height of each.
        reach_hz
            Largest shift looked for.

        Raises
        ------
        ValueError
            If there are no lines.
        """
        if not lines:
            raise ValueError("no landmark lines")
        points = min(acquisition.points, round(_SECONDS / acquisition.dwell_time))
        bin_hz = 1 / (2 * points * acquisition.dwell_time)
        reach = max(1, round(reach_hz / bin_hz / _STEP))
        moves = _STEP * np.arange(-reach, reach + 1)
        taper = np.exp(-_APODISATION * acquisition.time[:points])
        groups = _neighbours(lines, _margin(acquisition) / acquisition.spectrometer_frequency)
        windows = (_window(acquisition, taper, group, moves) for group in groups)
        return cls(
            torch.from_numpy(moves * bin_hz), torch.from_numpy(taper).float(), tuple(windows)
        )

    def to(self, device: torch.device) -> Landmarks:
        """The same on another device."""
        windows = tuple(window.to(device) for window in self.windows)
        return Landmarks(self.shifts.to(device), self.taper.to(device), windows)

    def votes(self, fids: Tensor) -> Tensor:
        """What each of ``fids (signal, time)`` says for each shift, ``(signal, shift)`` float64.

        A log likelihood: 0 where nothing is seen, more where lines are.
        """
        if len(fids) == 0:
            return self.shifts.new_zeros((0, len(self.shifts)))
        return torch.cat([self._votes(part) for part in fids.split(_CHUNK)])

    def _votes(self, fids: Tensor) -> Tensor:
        points = len(self.taper)
        size = fids.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        spectra = torch.fft.fft(fids[:, :points] / size * self.taper, 2 * points)
        total = spectra.real.new_zeros((len(fids), len(self.shifts)))
        for window in self.windows:
            share = window.shares(spectra).clamp_max(_MOST)
            total -= window.dimensions * torch.log1p(-share)
        return total.to(torch.float64)


def strongest(votes: Tensor, shifts: Tensor) -> Tensor:
    """Shift (Hz) of the largest of ``votes (..., shift)``, between points by a parabola."""
    inner = votes[..., 1:-1]
    top = inner.argmax(-1, keepdim=True) + 1
    left, middle, right = (votes.gather(-1, top + k).squeeze(-1) for k in (-1, 0, 1))
    curve = (2 * middle - left - right).clamp_min(torch.finfo(votes.dtype).tiny)
    offset = (0.5 * (right - left) / curve).clamp(-0.5, 0.5)
    return shifts[top.squeeze(-1)] + offset * (shifts[1] - shifts[0])


def _margin(acquisition: Acquisition) -> float:
    return max(_MARGIN_PPM * acquisition.spectrometer_frequency, _MARGIN_HZ)


def _neighbours(
    lines: Sequence[tuple[float, float]], margin_ppm: float
) -> list[list[tuple[float, float]]]:
    """Lines in groups whose windows do not overlap by more than a margin."""
    groups: list[list[tuple[float, float]]] = []
    for line in sorted(lines):
        if groups and line[0] - groups[-1][-1][0] < margin_ppm:
            groups[-1].append(line)
        else:
            groups.append([line])
    return groups


def _window(
    acquisition: Acquisition,
    taper: NDArray[np.float64],
    lines: Sequence[tuple[float, float]],
    moves: NDArray[np.int_],
) -> _Window:
    points = len(taper)
    bin_hz = 1 / (2 * points * acquisition.dwell_time)
    ppm = np.array([line[0] for line in lines])
    hertz, margin = acquisition.frequency_of(ppm), _margin(acquisition)
    first, last = round((hertz.min() - margin) / bin_hz), round((hertz.max() + margin) / bin_hz)
    bins = last - first + 1
    straight, _ = np.linalg.qr(np.vander(np.linspace(-1, 1, bins), 2))
    turns = np.exp(np.outer(2j * np.pi * hertz - _DAMPING, acquisition.time[:points]))
    fid = np.array([line[1] for line in lines]) @ turns * taper
    pattern = np.fft.fft(fid, 2 * points)[(first + np.arange(bins)) % (2 * points)]
    pattern -= straight @ (straight.T @ pattern)
    pattern /= np.linalg.norm(pattern)
    seen = np.arange(first + moves[0], last + moves[-1] + 1)
    filters = np.zeros((len(seen), len(moves), 4), complex)
    for number, move in enumerate(moves - moves[0]):
        filters[move : move + bins, number, 0] = pattern.conj()
        filters[move : move + bins, number, 1:3] = straight
        filters[move : move + bins, number, 3] = 1
    parts = torch.from_numpy(filters).to(torch.complex64)
    return _Window(
        torch.from_numpy(seen % (2 * points)),
        parts[:, :, 0].contiguous(),
        parts[:, :, 1:3].contiguous(),
        parts[:, :, 3].real.contiguous(),
        _dimensions(pattern, straight, taper),
    )


def _dimensions(
    pattern: NDArray[np.complex128], straight: NDArray[np.float64], taper: NDArray[np.float64]
) -> float:
    """Complex dimensions of white noise in a window, by the share a pattern explains of it.

    Zero-filling and taper make neighbouring bins alike: there are fewer than bins.
    """
    lags = np.arange(len(pattern))
    between = np.fft.fft(taper**2, 2 * len(taper))
    covariance = between[(lags[:, None] - lags) % (2 * len(taper))]
    total = np.trace(covariance) - np.trace(straight.T @ covariance @ straight)
    return float((total / (pattern.conj() @ covariance @ pattern)).real)
