"""Removal of subcutaneous lipid signal from MRSI.

Two ways. The signal of the scalp leaks into the brain through the point-spread function, so that
the lipids of a brain voxel are combinations of those of scalp voxels: :func:`finish` learns their
time courses from a scalp mask and :func:`remove` takes them out by L2-regularised projection
(Bilgic et al., Magn Reson Med 2014;72:1381: ``(I + beta L L^H)^-1`` applied to each FID, with L
the lipid time courses; what metabolites share with them goes too). And :func:`lipid_band` names
the band for frequency-selective HSVD with :func:`mrsi_engine.kernels.hsvd.remove_band`, which
needs no mask.

Learning is a reduction of :class:`mrsi_engine.kernels.casorati.Gram` matrices over the scalp's
voxels: :func:`mrsi_engine.kernels.casorati.summarise` and ``combine``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.casorati import Gram
from mrsi_engine.kernels.casorati import finish as subspace

#: Where the methyl and methylene protons of lipids stand, ppm.
LIPID_PPM = (0.3, 1.8)


@dataclass(frozen=True)
class LipidBasis:
    """Time courses ``(time, rank)`` complex128, orthonormal, and the share of each that is removed.

    ``weights`` is ``(rank,)`` float64 between 0 and 1.
    """

    basis: Tensor
    weights: Tensor


def finish(gram: Gram, strength: float, rank: int | None = None) -> LipidBasis:
    """The lipid basis of a scan.

    In the basis of L's singular vectors the operator of the L2 penalty keeps
    ``1 / (1 + beta s**2)`` of each. ``beta`` is given relative to the energy of the whole scalp, so
    that it depends neither on the scale of the data nor on the number of voxels.

    Parameters
    ----------
    gram
        Of the scalp's voxels.
    strength
        ``beta`` times that energy: a time course that holds a share p of it keeps
        ``1 / (1 + strength * p)``.
    rank
        Number of time courses; those above the noise if not given.

    Raises
    ------
    InputError
        If ``strength`` is not positive and finite, the rank is impossible, or no scalp voxel has a
        signal.
    """
    if not (math.isfinite(strength) and strength > 0):
        raise InputError(f"lipid removal: strength must be above 0 and finite, found {strength}")
    if gram.voxels == 0:
        raise InputError("lipid removal: no voxel of the scalp mask has a signal; check the mask")
    found = subspace(gram, rank)
    shares = found.singular_values[: found.rank].square() / found.singular_values.square().sum()
    weights = strength * shares
    return LipidBasis(found.basis, weights / (1 + weights))


def remove(fids: Tensor, lipids: LipidBasis) -> Tensor:
    """The lipid part of each FID, ``(voxel, time)`` complex64; 0 for voxels with NaN or Inf."""
    usable = torch.isfinite(fids.abs()).all(1, keepdim=True)
    basis, weights = lipids.basis.to(fids.device), lipids.weights.to(fids.device)
    safe = torch.where(usable, fids, 0).to(basis.dtype)
    return (((safe @ basis.conj()) * weights) @ basis.T).to(torch.complex64)


def lipid_band(acquisition: Acquisition) -> tuple[float, float]:
    """(low, high) in Hz of :data:`LIPID_PPM`, for :meth:`BandPlan.design`."""
    low, high = sorted(float(f) for f in acquisition.frequency_of(LIPID_PPM))
    return low, high
