"""The singlet that SNR and linewidth are read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition, is_macromolecule
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.lcm import LinearCombinationModel
from mrsi_engine.kernels.quality import full_width_half_height, real_spectrum
from mrsi_engine.kernels.varpro import Fit
from mrsi_engine.spectra.basis import Basis

#: Singlets that SNR and linewidth may be read from (ppm); the first that the basis has.
_REFERENCE_SINGLETS = {"NAA": 2.008, "Cr": 3.027, "PCr": 3.029, "GPC": 3.212, "PCh": 3.208}


@dataclass(frozen=True)
class ReferencePeak:
    """The singlet that SNR and linewidth are read from.

    ``column`` is its metabolite's, ``metabolites (metabolite,)`` is 0 for macromolecules,
    ``frequencies (point,)`` are Hz from the first bin of the band, around the singlet.
    """

    column: int
    metabolites: Tensor
    frequencies: Tensor
    spectrometer_frequency: float

    @classmethod
    def of(
        cls, basis: Basis, band: Band, acquisition: Acquisition, device: torch.device
    ) -> ReferencePeak:
        """The first of a list that basis and window have, else the basis' first metabolite."""
        window = acquisition.ppm_of(band.frequencies)
        inside = (
            name
            for name, ppm in _REFERENCE_SINGLETS.items()
            if name in basis.names and window.min() < ppm < window.max()
        )
        name = next(inside, basis.metabolites[0])
        middle = float(window.mean())
        centre = acquisition.frequency_of(_REFERENCE_SINGLETS.get(name, middle))
        around = np.arange(-30.0, 30.25, 0.25)
        metabolite = torch.tensor([not is_macromolecule(n) for n in basis.names])
        return cls(
            basis.names.index(name),
            metabolite.to(device, torch.float32),
            torch.from_numpy(centre + around - band.frequencies[0]).to(device),
            acquisition.spectrometer_frequency,
        )

    def measure(self, model: LinearCombinationModel, result: Fit) -> tuple[Tensor, Tensor]:
        """Height of the fitted metabolites at the peak and width (Hz) of its singlet."""
        theta = torch.nan_to_num(result.last.theta).to(torch.float32)
        theta[:, model.layout.shift(0)] = 0.0
        pure, shapes = model.pure(theta), model.layout.lineshape(theta, model.time)
        amplitudes = torch.nan_to_num(result.last.amplitudes).to(torch.float32) * self.metabolites
        fitted = (shapes * model.by_group(amplitudes, pure)).sum(1)
        alone = shapes[:, model.group[self.column]] * pure[..., self.column, :]
        near = (self.frequencies - self.frequencies.mean()).abs() < 8.0
        height = real_spectrum(fitted, model.time, self.frequencies[near]).amax(1)
        step = float(self.frequencies[1] - self.frequencies[0])
        width = full_width_half_height(real_spectrum(alone, model.time, self.frequencies), step)
        return height.to(torch.float64), width.to(torch.float64)
