"""How alike signals are: the similarity index of a set and the matrix behind it.

Shamaei et al., Comput Biol Med 2023;158:106837: normalised scalar products of the spectra within
a window (2.5-3.5 ppm there), all pairs. Correction raises them where it aligns signals.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.kernels.band import Band


@dataclass(frozen=True)
class SimilaritySums:
    """Sum of unit spectra ``(bin,)`` complex128 and how many they are, float64."""

    total: Tensor
    count: Tensor


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


def summarise_similarity(fids: Tensor, band: Band) -> SimilaritySums:
    """What a block adds to the similarity index; signals that are zero or not finite do not count.

    Parameters
    ----------
    fids
        ``(signal, time)`` complex64.
    band
        Window of the comparison.
    """
    unit = unit_spectra(fids, band)
    count = (unit != 0).any(1).sum()
    return SimilaritySums(unit.sum(0, dtype=torch.complex128), count.to(torch.float64))


def combine_similarity(first: SimilaritySums, second: SimilaritySums) -> SimilaritySums:
    """Sums of two runs of signals."""
    return SimilaritySums(first.total + second.total, first.count + second.count)


def finish_similarity(sums: SimilaritySums) -> float:
    """Mean of the scalar products of all pairs of different signals; NaN for fewer than two.

    The squared length of the sum of unit vectors holds every pair, so no matrix is needed.
    """
    pairs = sums.count * (sums.count - 1)
    return (
        float((sums.total.abs().square().sum() - sums.count) / pairs) if pairs > 0 else float("nan")
    )
