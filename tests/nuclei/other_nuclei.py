"""31P and 2H scans from a little simulation of their own: lines as the literature has them.

Nothing here comes from the engine's spin systems or from its signal model: multiplets are first
order, each voxel's lines are Lorentzian with a spread of frequencies, and every line has a width of
its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mrsi_engine.conventions import Acquisition
from mrsi_engine.io.nifti_mrs import write_nifti_mrs, write_volume

SHAPE = (4, 4, 1)

#: Name: ppm, amplitude, lines as (offset in Hz, share).
Lines = Mapping[str, tuple[float, float, tuple[tuple[float, float], ...]]]

_SINGLET = ((0.0, 1.0),)
_J = 16.2
_DOUBLET = ((-_J / 2, 0.5), (_J / 2, 0.5))
_TRIPLET = ((-_J, 0.25), (0.0, 0.5), (_J, 0.25))

PHOSPHORUS: Lines = {
    "PCr": (0.0, 10.0, _SINGLET),
    "gATP": (-2.53, 8.0, _DOUBLET),
    "aATP": (-7.56, 8.0, _DOUBLET),
    "bATP": (-16.15, 8.0, _TRIPLET),
    "Pi": (4.82, 3.0, _SINGLET),
    "PE": (6.77, 3.5, _SINGLET),
    "PC": (6.24, 1.0, _SINGLET),
    "GPE": (3.49, 2.0, _SINGLET),
    "GPC": (2.95, 3.0, _SINGLET),
}
DEUTERIUM: Lines = {
    "HDO": (4.65, 12.0, _SINGLET),
    "Glc": (3.79, 6.0, _SINGLET),
    "Glx": (2.38, 4.0, _SINGLET),
    "Lac": (1.31, 1.5, _SINGLET),
}


@dataclass(frozen=True)
class Experiment:
    """One nucleus: its axis, what is in a voxel, and Lorentzian and Gaussian widths in Hz."""

    acquisition: Acquisition
    lines: Lines
    lorentzian: float
    gaussian: float
    noise: float

    def fids(self, seed: int = 1) -> NDArray[np.complex64]:
        """``(x, y, z, time)``: voxels differ in frequency, phase and noise, not in amounts."""
        rng, axis = np.random.default_rng(seed), self.acquisition
        shift = rng.uniform(-6, 6, (*SHAPE, 1))
        phase = rng.uniform(-0.3, 0.3, (*SHAPE, 1))
        total = np.zeros(axis.points, complex)
        for ppm, amplitude, multiplet in self.lines.values():
            for offset, share in multiplet:
                hertz = (axis.reference_ppm - ppm) * axis.spectrometer_frequency + offset
                total += amplitude * share * np.exp(2j * np.pi * hertz * axis.time)
        spread = self.gaussian / (2 * np.sqrt(2 * np.log(2)))
        total *= np.exp(-np.pi * self.lorentzian * axis.time)
        total *= np.exp(-2 * (np.pi * spread * axis.time) ** 2)
        noise = rng.standard_normal((*SHAPE, axis.points, 2)) @ [1, 1j]
        turned = total * np.exp(1j * phase + 2j * np.pi * shift * axis.time)
        return (turned + self.noise * noise).astype(np.complex64)

    def write(self, folder: Path, **header: object) -> list[object]:
        """Scan and mask as files; the arguments of ``mrsi run`` for them."""
        affine = np.diag([20.0, 20.0, 20.0, 1.0])
        scan, mask = folder / "scan.nii.gz", folder / "mask.nii.gz"
        write_nifti_mrs(scan, self.fids(), self.acquisition, affine, header)
        write_volume(mask, np.ones(SHAPE, bool), affine)
        return ["run", scan, "--mask", mask, "--workers", 0]


PHOSPHORUS_7T = Experiment(
    Acquisition(1024, 0.2e-3, 120.65, 0.0, "31P"), PHOSPHORUS, lorentzian=10, gaussian=4, noise=0.4
)
DEUTERIUM_7T = Experiment(
    Acquisition(512, 0.8e-3, 45.75, 4.65, "2H"), DEUTERIUM, lorentzian=13, gaussian=3, noise=0.15
)
