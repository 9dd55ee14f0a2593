"""Water referencing: the B0 map and the phase of every voxel."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fpc_signals import AXIS, angle_between, placed, white

from mrsi_engine.kernels.water_phase import water_registration, water_shift

VOXELS = 500


def water(seed: int, sd: float, ppm: float = 4.65):
    rng = np.random.default_rng(seed)
    truth = rng.uniform(-180, 180, VOXELS), rng.uniform(-3.1, 3.1, VOXELS)
    t = torch.from_numpy(AXIS.time)
    carrier = torch.polar(torch.ones_like(t), 2 * torch.pi * float(AXIS.frequency_of(ppm)) * t)
    clean = placed(carrier, *truth, np.full(VOXELS, 100.0), rng.uniform(5, 80, VOXELS))
    return (clean + white(VOXELS, sd, seed)).to(torch.complex64), *truth


def test_errors_reach_their_bounds():
    fids, shift, phase = water(1, 3.0)
    noise = torch.full((VOXELS,), 3.0, dtype=torch.float64)
    found = water_shift(water_registration(AXIS, 4.65), fids, noise)
    for error, sd in (
        (found.shift - torch.from_numpy(shift), found.shift_sd),
        (angle_between(found.phase, phase), found.phase_sd),
    ):
        # SD of 500 normal numbers: 3.2 %, 4 of these.
        assert 0.87 < float((error / sd).std()) < 1.13


def test_shift_is_counted_from_where_water_belongs():
    fids, shift, _ = water(2, 0.1, ppm=4.4)
    noise = torch.full((VOXELS,), 0.1, dtype=torch.float64)
    found = water_shift(water_registration(AXIS, water_ppm=4.4), fids, noise)
    assert float((found.shift - torch.from_numpy(shift)).abs().max()) < 0.05
