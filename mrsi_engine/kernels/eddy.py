"""Eddy current correction with the phase of the water reference.

Klose, Magn Reson Med 1990;14:26: gradients' eddy currents shift all frequencies of a voxel alike,
so the phase of its water FID, taken from the FID of the metabolites sample by sample, removes
them, and with them the water's frequency offset and zero-order phase. Late in the reference there
is noise only, whose phase would be put on the data: from there on the last trusted frequency is
kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.kernels.alignment import turned

#: Magnitude of the reference, in noise SDs per real channel, below which its phase is not used.
_TRUSTED = 8.0

#: Share of the samples at the end that measure the noise, samples that smooth the magnitude, and
#: the fewest that must be trusted.
_TAIL, _SMOOTH, _FEWEST = 1 / 8, 8, 16


#: Samples of the same, largest value that a channel holds where a receiver was overdriven.
_CLIPPED = 3


@dataclass(frozen=True)
class PhaseCourse:
    """How the phase of water references runs, ``(voxel,)`` each; NaN where there is none.

    ``frequency`` is the mean one, weighted by energy, and ``unrest`` the SD about it, both in
    cycles a sample.
    """

    frequency: Tensor
    unrest: Tensor


@dataclass(frozen=True)
class EddyCorrected:
    """``fids`` ``(voxel, time)`` complex64 and ``trusted`` ``(voxel,)``, samples of usable phase.

    Where ``trusted`` is 0 there was no usable reference and the FID is as it was.
    """

    fids: Tensor
    trusted: Tensor


def correct(fids: Tensor, water: Tensor) -> EddyCorrected:
    """FIDs without the phase course of their water references.

    Parameters
    ----------
    fids, water
        ``(voxel, time)`` complex, of the same length.
    """
    turn, trusted = undoing(water)
    return EddyCorrected((fids * turn).to(torch.complex64), trusted)


def undoing(water: Tensor) -> tuple[Tensor, Tensor]:
    """What FIDs are multiplied by, ``(voxel, time)`` complex64, and ``trusted (voxel,)``.

    1 throughout where there is no usable reference.
    """
    usable = torch.isfinite(water.abs()).all(1, keepdim=True)
    safe = torch.where(usable, water, 0)
    trusted = _trusted(safe)
    inside = torch.arange(water.shape[1], device=water.device) < trusted[:, None]
    own = torch.where(inside, torch.sgn(safe).conj(), _late(safe, trusted))
    return torch.where((trusted > 0)[:, None], own, 1).to(torch.complex64), trusted


def phase_course(water: Tensor, trusted: Tensor) -> PhaseCourse:
    """How the phase of ``water (voxel, time)`` runs over its first ``trusted (voxel,)`` samples."""
    inside = torch.arange(water.shape[1] - 1, device=water.device) < trusted[:, None] - 1
    steps = torch.where(inside, water[:, 1:] * water[:, :-1].conj(), 0).to(torch.complex128)
    mean = steps.sum(1) / steps.abs().sum(1)
    # Of small angles the circular SD is the SD.
    unrest = (-2 * mean.abs().clamp(1e-12, 1.0).log()).sqrt()
    known = trusted > 0
    return PhaseCourse(
        torch.where(known, mean.angle() / (2 * math.pi), torch.nan),
        torch.where(known, unrest / (2 * math.pi), torch.nan),
    )


def saturated(water: Tensor) -> Tensor:
    """Whether the receiver was overdriven, ``(voxel,)`` bool: its largest value stands in a row.

    Of a line that decays no two samples are the same; where they are cut off, the phase is wrong.
    """
    channels = torch.view_as_real(water).abs()
    most = channels.amax((1, 2), keepdim=True)
    top = (channels >= (1 - 1e-6) * most) & (most > 0)
    in_a_row = top.unfold(1, _CLIPPED, 1).all(-1)
    return in_a_row.flatten(1).any(1)


def noise_sd(water: Tensor) -> Tensor:
    """SD of the noise per real channel at the end of water references, ``(voxel,)``."""
    tail = water[:, -max(4, int(_TAIL * water.shape[1])) :]
    # Second differences: what is left of a slow signal does not count as noise.
    rough = torch.view_as_real(tail.diff(n=2, dim=1)).flatten(1)
    return rough.square().mean(1).sqrt() / math.sqrt(6)


def _trusted(water: Tensor) -> Tensor:
    """How many samples from the start stand out of the noise; 0 if too few for a phase course."""
    points = water.shape[1]
    noise = noise_sd(water)[:, None]
    smooth = torch.nn.functional.avg_pool1d(
        water.abs()[:, None], _SMOOTH, 1, _SMOOTH // 2, count_include_pad=False
    )[:, 0, :points]
    lost = smooth <= _TRUSTED * noise
    count = torch.where(lost.any(1), lost.to(torch.uint8).argmax(1), points)
    return torch.where(count >= _FEWEST, count, 0)


def _late(water: Tensor, trusted: Tensor) -> Tensor:
    """Turns ``(voxel, time)`` back along the phase of the last third of the trusted samples."""
    sample = torch.arange(water.shape[1], device=water.device)
    third = (sample < trusted[:, None]) & (sample >= 2 * trusted[:, None] // 3)
    last = torch.where(third, water, 0)
    # Sums of complex numbers weigh each phase by its precision.
    step = (last[:, 1:] * last[:, :-1].conj()).sum(1, dtype=torch.complex128).angle()
    back = turned(last, 1.0, -step / (2 * math.pi))
    phase = (back * last.abs()).sum(1, dtype=torch.complex128).angle()
    return turned(torch.ones_like(water), 1.0, -step / (2 * math.pi), -phase)
