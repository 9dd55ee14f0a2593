"""Denoising by low rank of the Casorati (voxel x time) matrix, globally or in spatial patches.

The singular values of pure noise follow the Marchenko-Pastur law; what stands above it is signal
(MP-PCA: Veraart et al., NeuroImage 2016;142:394, here with the noise level known). Globally the
matrix is a reduction of Gram matrices over blocks (:mod:`mrsi_engine.kernels.casorati`) and the
FIDs are projected on the leading time courses. In patches the scan is first reduced to its leading
time courses, and every patch has a Gram matrix of theirs: sums over blocks again, whatever voxels
a block holds. Patches overlap, and their estimates are averaged with hat functions.

The noise left in a denoised FID is neither white nor of known size, so errors of a later fit must
be computed with the noise SD of the data as they were: it goes in here and is never recomputed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.casorati import Gram, Subspace, finish

#: Most time courses that those of patches are made of.
MOST_COURSES = 128

_SPARE_COURSES = 4


@dataclass(frozen=True)
class Reduction:
    """Leading time courses of a scan, ``basis (time, course)`` complex128, orthonormal.

    ``scores = basis^H fid / scale`` have noise of SD 1 per real channel, ``scale (course,)``.
    Courses of noise were chosen for being large in it; their scale is what they are.
    """

    basis: Tensor
    scale: Tensor


@dataclass(frozen=True)
class PatchGrid:
    """Nodes of hat functions on a grid of voxels; a patch is where a node's hat is above 0.

    ``low`` is the first node, ``nodes`` their number along each axis, ``step`` their distance.
    """

    low: tuple[int, ...]
    nodes: tuple[int, ...]
    step: int

    @classmethod
    def over(cls, low: tuple[int, ...], high: tuple[int, ...], patch: int) -> PatchGrid:
        """Patches of ``patch`` voxels along each axis, rounded up to odd, from low to high."""
        step = (patch + 2) // 2
        return cls(
            low, tuple(-(-(b - a) // step) + 1 for a, b in zip(low, high, strict=True)), step
        )

    @property
    def patches(self) -> int:
        """Number of all patches."""
        return math.prod(self.nodes)

    def members(self, coordinates: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """For every corner of the cell a voxel lies in: its patch and weight, ``(voxel,)`` each.

        Weights of a voxel sum to 1; patches with weight 0 are no patches of the voxel.
        """
        offset = coordinates.to(torch.int64) - torch.tensor(self.low, device=coordinates.device)
        cell, inside = offset // self.step, (offset % self.step).to(torch.float64) / self.step
        for corner in product((0, 1), repeat=len(self.nodes)):
            weight, patch = torch.ones_like(inside[:, 0]), torch.zeros_like(cell[:, 0])
            for axis, upper in enumerate(corner):
                weight = weight * (inside[:, axis] if upper else 1 - inside[:, axis])
                patch = patch * self.nodes[axis] + cell[:, axis] + upper
            yield patch, weight


@dataclass(frozen=True)
class PatchGrams:
    """Sums of ``scores scores^H`` over the voxels of each patch, and their numbers.

    ``matrices`` is ``(patch, course, course)`` complex128, ``voxels`` ``(patch,)`` float64.
    """

    matrices: Tensor
    voxels: Tensor


def marchenko_pastur_edge(rows: int, columns: int, noise_sd: float) -> float:
    """Largest singular value, for large sizes, of complex noise of that SD per real channel."""
    return math.sqrt(2) * noise_sd * (math.sqrt(rows) + math.sqrt(columns))


def signal_subspace(gram: Gram, noise_sd: float, rank: int | None = None) -> Subspace:
    """The scan's time courses above the Marchenko-Pastur edge, or the leading ``rank``.

    Raises
    ------
    InputError
        If ``noise_sd`` is not positive and finite, or the rank is impossible.
    """
    _refuse_noise(noise_sd)
    if rank is not None:
        return finish(gram, rank)
    whole = finish(gram, min(len(gram.matrix), max(gram.voxels, 1)))
    edge = marchenko_pastur_edge(len(gram.matrix), gram.voxels, noise_sd)
    above = int((whole.singular_values[: whole.rank] > edge).sum())
    return Subspace(whole.basis[:, :above], whole.singular_values, whole.voxels)


def project(fids: Tensor, basis: Tensor) -> Tensor:
    """FIDs ``(voxel, time)`` on time courses ``(time, rank)``; with NaN or Inf they stay as are."""
    usable = torch.isfinite(fids.abs()).all(1, keepdim=True)
    basis = basis.to(fids.device)
    safe = torch.where(usable, fids, 0).to(basis.dtype)
    projected = ((safe @ basis.conj()) @ basis.T).to(torch.complex64)
    return torch.where(usable, projected, fids)


def reduction(gram: Gram, noise_sd: float, courses: int | None = None, least: int = 1) -> Reduction:
    """The leading time courses of a scan, and what noise is in each.

    Parameters
    ----------
    gram
        Of all blocks.
    noise_sd
        Per real channel.
    courses
        How many. If not given those above the Marchenko-Pastur edge and a quarter more, for signal
        that is strong in few places; more let more noise through.
    least
        Number below which that is not to fall.

    Raises
    ------
    InputError
        If ``noise_sd`` is not positive and finite, or no voxel has a signal.
    """
    _refuse_noise(noise_sd)
    most = min(len(gram.matrix), max(gram.voxels, 1))
    whole = finish(gram, most)
    values = whole.singular_values
    is_signal = values > marchenko_pastur_edge(len(gram.matrix), gram.voxels, noise_sd)
    above = int(is_signal.sum())
    wanted = courses or max(least, min(MOST_COURSES, above + max(_SPARE_COURSES, above // 4)))
    number = min(wanted, most)
    own = values / math.sqrt(2 * max(gram.voxels, 1))
    scale = torch.where(is_signal, noise_sd, own.clamp_min(noise_sd))
    return Reduction(whole.basis[:, :number], scale[:number])


def summarise_patches(scores: Tensor, coordinates: Tensor, grid: PatchGrid) -> PatchGrams:
    """What voxels with ``scores (voxel, course)`` at ``coordinates (voxel, axis)`` add."""
    courses = scores.shape[1]
    matrices = scores.new_zeros(grid.patches, courses, courses)
    voxels = torch.zeros(grid.patches, dtype=torch.float64, device=scores.device)
    for patch, weight in grid.members(coordinates):
        for number, index in _by_patch(patch, weight):
            matrices[number] += scores[index].T @ scores[index].conj()
            voxels[number] += len(index)
    return PatchGrams(matrices, voxels)


def patch_projectors(grams: PatchGrams, rank: int | None = None) -> Tensor:
    """Projectors ``(patch, course, course)`` complex64 on what stands above the noise of a patch.

    That is above the Marchenko-Pastur edge for its number of voxels, or the leading ``rank``.
    """
    squares, vectors = torch.linalg.eigh(grams.matrices)
    courses = squares.shape[1]
    if rank is None:
        edge = 2 * (grams.voxels.sqrt() + math.sqrt(courses)).square()
        kept = squares > edge[:, None]
    else:
        kept = (torch.arange(courses, device=squares.device) >= courses - rank).expand_as(squares)
    chosen = vectors * kept[:, None, :]
    return (chosen @ chosen.mH).to(torch.complex64)


def project_patches(
    scores: Tensor, coordinates: Tensor, grid: PatchGrid, projectors: Tensor
) -> Tensor:
    """Scores ``(voxel, course)`` on the signal of their patches, averaged with the hats."""
    total = torch.zeros_like(scores)
    for patch, weight in grid.members(coordinates):
        for number, index in _by_patch(patch, weight):
            found = scores[index] @ projectors[number].to(scores.dtype).T
            total[index] += weight[index, None] * found
    return total


def _by_patch(patch: Tensor, weight: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Every patch with members, and their indices."""
    index = (weight > 0).nonzero().squeeze(1)
    order = index[patch[index].argsort(stable=True)]
    numbers, counts = patch[order].unique_consecutive(return_counts=True)
    yield from zip(numbers.tolist(), order.split(counts.tolist()), strict=True)


def _refuse_noise(noise_sd: float) -> None:
    if not (math.isfinite(noise_sd) and noise_sd > 0):
        raise InputError(f"denoise: noise SD must be above 0 and finite, found {noise_sd}")
