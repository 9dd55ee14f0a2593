"""How alike signals are: the matrix behind the similarity index of a set.

Shamaei et al., Magn Reson Med 2023;89:1221: normalised scalar products of the spectra within
a window (2.5-3.5 ppm there), all pairs. Correction raises them where it aligns signals.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrsi_engine.kernels.band import Band


def unit_spectra(fids: Tensor, band: Band) -> Tensor:
    """Spectra of unit length in a band, ``(signal, bin)`` complex64; zero where there is none."""
    window = band.crop(fids[:, : band.points])
    unit = window / torch.linalg.vector_norm(window, dim=1, keepdim=True)
    return torch.where(torch.isfinite(unit.abs()).all(1, keepdim=True), unit, 0)


def similarity_matrix(fids: Tensor, band: Band) -> Tensor:
    """Normalised scalar products of all pairs, ``(signal, signal)`` float32 from -1 to 1."""
    unit = unit_spectra(fids, band)
    return (unit @ unit.conj().T).real


def similarity_to(template: Tensor, fids: Tensor, band: Band) -> Tensor:
    """Normalised scalar product of each signal with a template ``(time,)``, ``(signal,)``."""
    unit = unit_spectra(template[None].to(fids.dtype), band)
    return (unit_spectra(fids, band) @ unit[0].conj()).real
