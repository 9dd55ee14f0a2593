"""Denoising by low rank of the Casorati (voxel x time) matrix, globally or in spatial patches.

The singular values of pure noise follow the Marchenko-Pastur law; what stands above it is signal
(MP-PCA: Veraart et al., NeuroImage 2016;142:394, here with the noise level known). Globally the
matrix is a reduction of Gram matrices over blocks (:mod:`mrsi_engine.kernels.casorati`) and the
FIDs are projected on the leading time courses. In patches each voxel's neighbours make a matrix
of their own, and overlapping estimates are averaged.

The noise left in a denoised FID is neither white nor of known size, so errors of a later fit must
be computed with the noise SD of the data as they were: it goes in here and is never recomputed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from torch import Tensor

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.casorati import Gram, Subspace, finish

_PATCHES_AT_ONCE = 64


@dataclass(frozen=True)
class Denoised:
    """``fids`` ``(voxel, time)`` complex64, ``rank`` and the untouched ``noise_sd``, ``(voxel,)``.

    The rank is that of the voxel's own patch; 0 means that nothing but noise was found there.
    """

    fids: Tensor
    rank: Tensor
    noise_sd: Tensor


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
    if not (math.isfinite(noise_sd) and noise_sd > 0):
        raise InputError(f"denoise: noise SD must be above 0 and finite, found {noise_sd}")
    whole = finish(gram, rank or min(len(gram.matrix), max(gram.voxels, 1)))
    if rank is not None:
        return whole
    edge = marchenko_pastur_edge(len(gram.matrix), gram.voxels, noise_sd)
    above = int((whole.singular_values[: whole.rank] > edge).sum())
    return Subspace(whole.basis[:, : max(1, above)], whole.singular_values, whole.voxels)


def project(fids: Tensor, subspace: Subspace, noise_sd: Tensor) -> Denoised:
    """FIDs ``(voxel, time)`` on the scan's time courses; those with NaN or Inf come back as are."""
    usable = torch.isfinite(fids.abs()).all(1, keepdim=True)
    basis = subspace.basis.to(fids.device)
    safe = torch.where(usable, fids, 0).to(basis.dtype)
    projected = ((safe @ basis.conj()) @ basis.T).to(torch.complex64)
    rank = torch.full((len(fids),), subspace.rank, device=fids.device)
    return Denoised(torch.where(usable, projected, fids), rank, noise_sd)


def in_patches(
    fids: Tensor,
    coordinates: ArrayLike,
    noise_sd: Tensor,
    neighbours: int = 125,
    rank: int | None = None,
) -> Denoised:
    """Low-rank approximation in patches of the nearest voxels, averaged where patches overlap.

    Parameters
    ----------
    fids
        ``(voxel, time)`` complex. Voxels with NaN or Inf belong to no patch and come back as are.
    coordinates
        ``(voxel, axis)``, in units in which a patch is a ball.
    noise_sd
        ``(voxel,)`` per real channel; a patch uses its members' median.
    neighbours
        Voxels of a patch; all of them when there are fewer.
    rank
        Kept by every patch; what stands above the Marchenko-Pastur edge if not given.

    Raises
    ------
    InputError
        If ``neighbours`` or ``rank`` is below 1, or the rank exceeds what a patch can have.
    """
    usable = torch.isfinite(fids.abs()).all(1) & torch.isfinite(noise_sd)
    index = usable.nonzero().squeeze(1)
    size = min(neighbours, len(index))
    most = min(size, fids.shape[1])
    if neighbours < 1 or (rank is not None and not 1 <= rank <= most):
        raise InputError(
            f"denoise: patches of {size} voxels x {fids.shape[1]} points have ranks 1 to {most}; "
            f"found {neighbours} neighbours and rank {rank}; choose others"
        )
    places = np.asarray(coordinates, dtype=float)[index.cpu().numpy()]
    ranks = torch.zeros(len(fids), dtype=torch.int64, device=fids.device)
    if not size:
        return Denoised(fids.to(torch.complex64), ranks, noise_sd)
    _, near = cKDTree(places).query(places, k=size)
    members = index[torch.from_numpy(near.reshape(len(index), size)).to(fids.device)]
    total = torch.zeros_like(fids, dtype=torch.complex128)
    count = torch.zeros(len(fids), dtype=torch.float64, device=fids.device)
    for own, patch in zip(
        index.split(_PATCHES_AT_ONCE), members.split(_PATCHES_AT_ONCE), strict=True
    ):
        estimate, ranks[own] = _low_rank(fids[patch], noise_sd[patch].median(1).values, rank)
        total.index_add_(0, patch.flatten(), estimate.flatten(0, 1))
        count.index_add_(0, patch.flatten(), torch.ones(patch.numel(), device=fids.device).double())
    mean = (total / count.clamp_min(1)[:, None]).to(torch.complex64)
    return Denoised(torch.where(usable[:, None], mean, fids), ranks, noise_sd)


def _low_rank(patches: Tensor, noise_sd: Tensor, rank: int | None) -> tuple[Tensor, Tensor]:
    """Patches ``(patch, voxel, time)`` on their leading spatial patterns, and their number."""
    patches = patches.to(torch.complex128)
    squares, patterns = torch.linalg.eigh(patches @ patches.mH)
    _, rows, columns = patches.shape
    if rank is None:
        edge = marchenko_pastur_edge(rows, columns, 1.0) * noise_sd.double()
        kept = squares.clamp_min(0).sqrt() > edge[:, None]
    else:
        kept = torch.arange(rows, device=patches.device).expand_as(squares) >= rows - rank
    chosen = patterns * kept[:, None, :]
    return chosen @ (chosen.mH @ patches), kept.sum(1)
