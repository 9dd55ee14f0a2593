"""The singlet that SNR and linewidth are read from."""

from __future__ import annotations

import cmath
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.lcm import LinearCombinationModel
from mrsi_engine.kernels.quality import full_width_half_height, real_spectrum
from mrsi_engine.kernels.varpro import Fit
from mrsi_engine.spectra.basis import Basis

#: Zero-filling of the spectra among which the tallest line is looked for.
_ZERO_FILLING = 4


@dataclass(frozen=True)
class ReferencePeak:
    """The singlet that SNR and linewidth are read from.

    ``column`` is its metabolite's, ``metabolites (metabolite,)`` is 0 for macromolecules,
    ``frequencies (point,)`` are Hz from the first bin of the band, around the singlet.
    ``turn`` brings the singlet to phase 0: where FIDs begin late, in time or in the basis, it has
    one.
    """

    column: int
    metabolites: Tensor
    frequencies: Tensor
    spectrometer_frequency: float
    turn: complex = 1.0

    @classmethod
    def of(
        cls, basis: Basis, band: Band, acquisition: Acquisition, device: torch.device
    ) -> ReferencePeak:
        """The first of the nucleus' list that basis and window have, else the tallest line."""
        window = acquisition.ppm_of(band.frequencies)
        known = (basis.nucleus.landmark(name) for name in basis.nucleus.reference_peaks)
        inside = (
            (mark.name, mark.ppm)
            for mark in known
            if mark.name in basis.names and window.min() < mark.ppm < window.max()
        )
        name, ppm = next(inside, None) or _tallest(basis, acquisition, window)
        centre = acquisition.frequency_of(ppm)
        around = np.arange(-30.0, 30.25, 0.25)
        metabolite = torch.tensor([n in basis.metabolites for n in basis.names])
        return cls(
            basis.names.index(name),
            metabolite.to(device, torch.float32),
            torch.from_numpy(centre + around - band.frequencies[0]).to(device),
            acquisition.spectrometer_frequency,
            _upright(basis, name, float(centre), float(band.frequencies[0])),
        )

    def measure(self, model: LinearCombinationModel, result: Fit) -> tuple[Tensor, Tensor]:
        """Height of the fitted metabolites at the peak and width (Hz) of its singlet."""
        theta = torch.nan_to_num(result.last.theta).to(torch.float32)
        theta[:, model.layout.shift(0)] = 0.0
        pure, shapes = model.pure(theta), self.turn * model.layout.lineshape(theta, model.time)
        amplitudes = torch.nan_to_num(result.last.amplitudes).to(torch.float32) * self.metabolites
        fitted = (shapes * model.by_group(amplitudes, pure)).sum(1)
        alone = shapes[:, model.group[self.column]] * pure[..., self.column, :]
        near = (self.frequencies - self.frequencies.mean()).abs() < 8.0
        height = real_spectrum(fitted, model.time, self.frequencies[near]).amax(1)
        step = float(self.frequencies[1] - self.frequencies[0])
        width = full_width_half_height(real_spectrum(alone, model.time, self.frequencies), step)
        return height.to(torch.float64), width.to(torch.float64)


def _upright(basis: Basis, name: str, centre: float, first_bin: float) -> complex:
    """What turns the line at ``centre`` (Hz) of a column to phase 0, by the band's frequencies."""
    axis = basis.acquisition
    # A window that is 0 at both ends leaves nothing of the wings of other lines.
    line = basis[name] * np.exp(-2j * np.pi * centre * axis.time) * np.hanning(axis.points)
    total = complex(line.sum()) * cmath.exp(2j * cmath.pi * first_bin * axis.start_time)
    return total.conjugate() / abs(total) if total else 1.0


def _tallest(
    basis: Basis, acquisition: Acquisition, window: NDArray[np.float64]
) -> tuple[str, float]:
    """Metabolite and place (ppm) of the tallest line of the basis inside the window."""
    axis = acquisition.with_points(_ZERO_FILLING * acquisition.points)
    inside = (axis.ppm >= window.min()) & (axis.ppm <= window.max())
    fids = np.stack([basis[name] for name in basis.metabolites])
    missing = axis.points - acquisition.points
    heights = np.abs(axis.spectrum(np.pad(fids, [(0, 0), (0, missing)])))[:, inside]
    row, column = np.unravel_index(int(heights.argmax()), heights.shape)
    return basis.metabolites[row], float(axis.ppm[inside][column])
