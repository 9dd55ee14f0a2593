"""Method ``water``: the line of the unsuppressed water reference, voxel by voxel."""

from __future__ import annotations

import torch
from torch import Tensor

from mrsi_engine.fpc.settings import FpcSettings
from mrsi_engine.fpc.signals import Align, chosen
from mrsi_engine.kernels.alignment import Alignment
from mrsi_engine.kernels.water_phase import water_registration, water_shift
from mrsi_engine.nuclei import nucleus
from mrsi_engine.pipeline.ranges import mean_reference
from mrsi_engine.pipeline.stage import Block, Context


def by_water(settings: FpcSettings, context: Context) -> Align:
    """Each signal by the water of its voxel."""
    water = nucleus(context.acquisition.nucleus).water_for("stage 'fpc': method = 'water'")
    line = water_registration(context.acquisition, water.ppm).to(context.device)

    def find(block: Block, fids: Tensor) -> Alignment:
        assert block.water is not None
        water = mean_reference(block.water, fids.shape[1])
        found = water_shift(line, water, settings.noise_of(water, context), settings.max_shift_hz)
        # One reference for all transients of a voxel.
        each = torch.arange(len(water), device=water.device)
        return chosen(found, each.repeat_interleave(len(fids) // len(water)))

    return find
