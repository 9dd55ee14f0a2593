"""What of a signal counts for registration: a spectral window, without what is not the template.

A smooth complex baseline, or the subspace spanned by water and lipid lines, is projected out. The
projection stands in the frame of the template: signals are shifted back before they are projected,
so a window never loses a peak to a shift and nuisances that drift with the signal stay in reach.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.kernels.band import Band

#: Singular values below this share of the largest add nothing to a span.
_NEGLIGIBLE = 1e-6


@dataclass(frozen=True)
class LineRange:
    """Where nuisance lines may lie, in Hz and 1/s.

    ``rank`` is how many vectors of their singular value decomposition are projected out.
    """

    low_hz: float
    high_hz: float
    low_damping: float
    high_damping: float
    rank: int


@dataclass(frozen=True)
class Projection:
    """An orthogonal projection of FIDs ``(time,)``.

    ``band`` are the bins that count; ``span (bin, column)`` complex128, orthonormal, is projected
    out of them.
    """

    band: Band
    span: Tensor

    @classmethod
    def build(
        cls,
        points: int,
        dwell_time: float,
        window_hz: tuple[float, float] | None = None,
        baseline_order: int | None = None,
        nuisances: Sequence[LineRange] = (),
    ) -> Projection:
        """A window, or the whole spectrum, without a baseline and without nuisance lines.

        Parameters
        ----------
        points, dwell_time
            Of the FIDs; s.
        window_hz
            Lowest and highest frequency that counts; ``None`` is the whole spectrum.
        baseline_order
            Order of a complex polynomial over the window; ``None`` is no baseline.
        nuisances
            Ranges of lines to project out.

        Raises
        ------
        ValueError
            If the window leaves the spectrum or is left with fewer than 4 dimensions.
        """
        band = (
            Band(points, dwell_time, -(points // 2), points)
            if window_hz is None
            else Band.between(points, dwell_time, *window_hz)
        )
        columns = [np.zeros((band.bins, 0), complex)]
        if baseline_order is not None:
            axis = np.linspace(-1, 1, band.bins)
            columns.append(np.polynomial.legendre.legvander(axis, baseline_order).astype(complex))
        columns += [_line_vectors(band, lines) for lines in nuisances]
        span = _orthonormal(np.concatenate(columns, axis=1))
        if band.bins - span.shape[1] < 4:
            raise ValueError(
                f"the window holds {band.bins} points and {span.shape[1]} of their dimensions are "
                "projected out; 4 must be left: widen it or lower the baseline order"
            )
        return cls(band, torch.from_numpy(span))

    @property
    def rank(self) -> int:
        """Complex dimensions that are left."""
        return self.band.bins - self.span.shape[1]

    def to(self, device: torch.device) -> Projection:
        """The same on another device."""
        return replace(self, span=self.span.to(device))

    def energy(self, fids: Tensor) -> Tensor:
        """Squared length of projected FIDs ``(signal, time)``, ``(signal,)`` float64."""
        if self.rank == self.band.points:
            return fids.abs().square().sum(1, dtype=torch.float64)
        window = self.band.crop(fids)
        out = window @ self.span.conj().to(fids.dtype)
        whole, removed = (part.abs().square().sum(1, dtype=torch.float64) for part in (window, out))
        return whole - removed

    def apply(self, fids: Tensor) -> Tensor:
        """Projected FIDs ``(..., time)`` of FIDs ``(..., time)``."""
        window = self.band.crop(fids)
        span = self.span.to(device=fids.device, dtype=fids.dtype)
        spectra = fids.new_zeros(fids.shape)
        bins = self.band.first_bin + torch.arange(self.band.bins, device=fids.device)
        spectra[..., bins % self.band.points] = window - (window @ span.conj()) @ span.T
        return torch.fft.ifft(spectra, norm="ortho")


def _line_vectors(band: Band, lines: LineRange) -> NDArray[np.complex128]:
    """Leading singular vectors ``(bin, rank)`` of all lines of a range, seen in the band."""
    t = np.arange(band.points) * band.dwell_time
    # Half the width of the narrowest line apart, so that none falls between two.
    width = lines.low_damping / math.pi
    count = max(5, math.ceil(2 * (lines.high_hz - lines.low_hz) / width) + 1)
    frequencies = np.linspace(lines.low_hz, lines.high_hz, count)
    dampings = np.geomspace(lines.low_damping, lines.high_damping, 5)
    rates = (2j * np.pi * frequencies[:, None] - dampings).ravel()
    fids = torch.from_numpy(np.exp(np.outer(rates, t)))
    spectra = band.crop(fids).numpy()
    spectra /= np.linalg.norm(spectra, axis=1, keepdims=True)
    _, size, vectors = np.linalg.svd(spectra, full_matrices=False)
    keep = min(lines.rank, int((size > _NEGLIGIBLE * size[0]).sum()))
    return np.asarray(vectors[:keep].T)


def _orthonormal(columns: NDArray[np.complex128]) -> NDArray[np.complex128]:
    if columns.shape[1] == 0:
        return columns
    vectors, size, _ = np.linalg.svd(columns, full_matrices=False)
    return np.ascontiguousarray(vectors[:, size > _NEGLIGIBLE * size[0]])
