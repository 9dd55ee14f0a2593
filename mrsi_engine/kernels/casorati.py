"""Removal of a band from a whole scan through the few time courses that its voxels share.

The time x voxel (Casorati) matrix of a scan with strong water has low rank: its leading left
singular vectors hold the water of every voxel. HSVD takes the water out of those few vectors
instead of out of every voxel (Shamaei et al., Magn Reson Med 2024;91:1694). A vector is a FID like
any other here, so :func:`mrsi_engine.kernels.hsvd.remove_band` does it.

The left singular vectors are the eigenvectors of the time x time Gram matrix, which is a sum over
voxels: blocks are summarised one by one and never held together. ``removed = B (U^H D)`` with B the
band's part of U: two thin matrix products a block.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.hsvd import BandPlan, Removal, remove_band

#: Roughness left in the band over the noise's, above which a voxel is done alone.
DEFAULT_RESIDUAL = 2.0

#: Most bytes of a state that workers hold and add to another: the Gram matrix of 2048 points.
MOST_BYTES = 2**26

_BYTES = 16


def refuse_large(what: str, matrices: int, side: int, remedy: str) -> None:
    """Refuse square complex128 matrices that take more than :data:`MOST_BYTES` together.

    Raises
    ------
    InputError
        If they do: names ``what`` needs them, and the ``remedy``.
    """
    size = matrices * side**2 * _BYTES
    if size > MOST_BYTES:
        raise InputError(
            f"{what}: {matrices} matrices of {side} x {side} would take {size / 1e6:.0f} MB in "
            f"every worker, and {MOST_BYTES / 1e6:.0f} MB are allowed; {remedy}"
        )


@dataclass(frozen=True)
class Gram:
    """What a block adds to the scan's Casorati matrix.

    ``matrix`` is ``(time, time)`` complex128, the sum over voxels of ``fid fid^H``; ``voxels`` the
    number of usable ones.
    """

    matrix: Tensor
    voxels: int


@dataclass(frozen=True)
class Subspace:
    """Time courses shared by the voxels of a scan, strongest first.

    ``basis`` is ``(time, rank)`` complex128 with orthonormal columns, ``singular_values``
    ``(time,)`` float64 all those of the Casorati matrix, descending.
    """

    basis: Tensor
    singular_values: Tensor
    voxels: int

    @property
    def rank(self) -> int:
        """Number of time courses."""
        return self.basis.shape[1]


@dataclass(frozen=True)
class BandSubspace:
    """The ``basis`` of a :class:`Subspace` and each column's part in a band, ``(time, rank)``."""

    basis: Tensor
    in_band: Tensor


@dataclass(frozen=True)
class CasoratiRemoval:
    """Result of :func:`remove`.

    ``removed`` is ``(voxel, time)`` complex64; ``residual`` ``(voxel,)`` the roughness left in
    the band over the noise's (1 = noise only); ``by_voxel`` ``(voxel,)`` bool where HSVD of the
    voxel itself was used.
    """

    removed: Tensor
    residual: Tensor
    by_voxel: Tensor


def summarise(fids: Tensor) -> Gram:
    """The Gram matrix of ``(voxel, time)``; voxels with NaN, Inf or only zeros are left out."""
    usable = torch.isfinite(fids.abs()).all(1) & (fids != 0).any(1)
    kept = fids[usable].to(torch.complex128)
    return Gram(kept.T @ kept.conj(), len(kept))


def combine(first: Gram, second: Gram) -> Gram:
    """The Gram matrix of both."""
    return Gram(first.matrix + second.matrix, first.voxels + second.voxels)


def finish(gram: Gram, rank: int | None = None, noise_sd: float | None = None) -> Subspace:
    """The scan's leading time courses.

    Parameters
    ----------
    gram
        Of all blocks.
    rank
        How many; found by :func:`automatic_rank` if not given.
    noise_sd
        SD of the noise per real channel of a FID sample, if known; for the automatic rank.

    Raises
    ------
    InputError
        If ``rank`` is not between 1 and the smaller side of the Casorati matrix, or no voxel had a
        signal.
    """
    points = len(gram.matrix)
    most = min(points, gram.voxels)
    if most == 0:
        raise InputError("Casorati: no voxel has a signal; check the mask and the data")
    if rank is not None and not 1 <= rank <= most:
        raise InputError(
            f"Casorati: rank {rank} asked for, but {gram.voxels} voxels of {points} points allow "
            f"1 to {most}; ask for fewer"
        )
    squares, vectors = torch.linalg.eigh(gram.matrix)
    values = squares.flip(0).clamp_min(0).sqrt()
    found = automatic_rank(values, points, gram.voxels, noise_sd) if rank is None else rank
    return Subspace(vectors.flip(1)[:, :found].contiguous(), values, gram.voxels)


def automatic_rank(values: Tensor, points: int, voxels: int, noise_sd: float | None = None) -> int:
    """Number of singular values above the optimal hard threshold, at least 1.

    Gavish & Donoho, IEEE Trans Inf Theory 2014;60:5040: ``omega(beta)`` times the median singular
    value where the noise is unknown, ``lambda(beta) sqrt(n) sigma`` where it is known. Never fails:
    every value may lie above the threshold, or none.

    Parameters
    ----------
    values
        ``(time,)`` descending; those beyond the smaller side are rounding.
    points, voxels
        Sides of the Casorati matrix.
    noise_sd
        Per real channel.
    """
    values = values[: min(points, voxels)]
    beta = min(points, voxels) / max(points, voxels)
    if noise_sd is None:
        limit = (0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43) * float(values.median())
    else:
        root = math.sqrt(beta**2 + 14 * beta + 1)
        factor = math.sqrt(2 * (beta + 1) + 8 * beta / (beta + 1 + root))
        limit = factor * math.sqrt(2 * max(points, voxels)) * noise_sd
    return max(1, int((values > limit).sum()))


def band_of(subspace: Subspace, plan: BandPlan) -> BandSubspace:
    """The part of each time course that lies in the band, by HSVD."""
    removed = remove_band(subspace.basis.T.contiguous(), plan).removed
    return BandSubspace(subspace.basis, removed.T.to(subspace.basis.dtype))


def apply(fids: Tensor, state: BandSubspace) -> Tensor:
    """The band's part of each FID, ``(voxel, time)`` complex64; 0 for voxels with NaN or Inf."""
    usable = torch.isfinite(fids.abs()).all(1, keepdim=True)
    basis, in_band = (part.to(fids.device) for part in (state.basis, state.in_band))
    safe = torch.where(usable, fids, 0).to(basis.dtype)
    removed = (safe @ basis.conj()) @ in_band.T
    return removed.to(torch.complex64)


def remove(
    fids: Tensor,
    state: BandSubspace,
    plan: BandPlan,
    noise_sd: Tensor,
    most_residual: float = DEFAULT_RESIDUAL,
) -> CasoratiRemoval:
    """:func:`apply`, and HSVD voxel by voxel where it leaves too much.

    A voxel whose water is unlike the others' (shifted, or far stronger) is not in the subspace; its
    residual shows it.

    Parameters
    ----------
    fids
        ``(voxel, time)`` complex.
    state
        From :func:`band_of`.
    plan
        The same band, for the voxels done alone.
    noise_sd
        ``(voxel,)`` per real channel of a FID sample, see :mod:`mrsi_engine.kernels.noise`.
    most_residual
        :func:`band_roughness` that may stay, over that of the noise.
    """
    removed = apply(fids, state)
    residual = band_roughness(fids - removed, plan) / (2 * noise_sd.square())
    by_voxel = torch.zeros_like(residual, dtype=torch.bool)
    index = (residual > most_residual).nonzero().squeeze(1)
    if len(index):
        alone = remove_band(fids[index], plan)
        left = band_roughness(fids[index] - alone.removed, plan) / (2 * noise_sd[index].square())
        better = alone.code == Removal.REMOVED
        index = index[better]
        removed[index], residual[index] = alone.removed[better], left[better]
        by_voxel[index] = True
    return CasoratiRemoval(removed, residual, by_voxel)


def band_roughness(fids: Tensor, plan: BandPlan) -> Tensor:
    """Half the mean squared difference of neighbouring bins in the band, ``(voxel,)``.

    Of the unitary spectrum: for noise its energy in a bin. Peaks are rough, the tails of peaks
    outside the band are not.

    Raises
    ------
    InputError
        If no two bins lie in the band.
    """
    hertz = torch.fft.fftfreq(plan.points, plan.dwell_time, dtype=torch.float64)
    inside = ((hertz >= plan.band[0]) & (hertz <= plan.band[1])).to(fids.device)
    inside &= inside.roll(-1)
    if not inside.any():
        raise InputError(
            f"Casorati: no two points of the spectrum lie in {plan.band[0]:.1f} to "
            f"{plan.band[1]:.1f} Hz; choose a wider band"
        )
    spectra = torch.fft.fft(fids, norm="ortho")
    return (spectra.roll(-1, dims=1) - spectra)[:, inside].abs().square().mean(1) / 2
