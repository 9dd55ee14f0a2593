"""Shift and phase of the unsuppressed water of every voxel: the B0 map and the receiver phase.

One Lorentzian line is registered to the water FID, over as wide a range of shifts as asked for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.kernels.alignment import Alignment
from mrsi_engine.kernels.projection import Projection
from mrsi_engine.kernels.registration import Registration, Solver, register

#: Damping of water at which the fit begins, 1/s.
_START_DAMPING = 25.0


def water_registration(
    acquisition: Acquisition,
    water_ppm: float,
    damping: tuple[float, float] = (2.0, 150.0),
) -> Registration:
    """The line of water made ready.

    Parameters
    ----------
    acquisition
        Axis of the water reference.
    water_ppm
        Where water stands without a shift, ppm.
    damping
        Range of its damping, 1/s.
    """
    angle = 2 * torch.pi * float(acquisition.frequency_of(water_ppm)) * acquisition.time
    line = torch.polar(torch.ones(len(angle), dtype=torch.float64), torch.from_numpy(angle))
    projection = Projection.build(acquisition.points, acquisition.dwell_time)
    return Registration.build(line, projection, damping, _START_DAMPING)


def water_shift(
    registration: Registration, water: Tensor, noise_sd: Tensor, limit_hz: float = 200.0
) -> Alignment:
    """Shift (Hz), phase, height and damping of water, voxel by voxel.

    Parameters
    ----------
    registration
        From :func:`water_registration`.
    water
        ``(voxel, time)`` complex64.
    noise_sd
        ``(voxel,)`` SD of the noise per real channel of a sample.
    limit_hz
        Largest shift looked for.
    """
    return register(registration, water, noise_sd, Solver(limit_hz))
