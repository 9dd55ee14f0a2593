"""Pipeline step: correct eddy currents with the phase of the water reference."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels import eddy
from mrsi_engine.kernels.registration import Registration
from mrsi_engine.kernels.water_phase import water_registration, water_shift
from mrsi_engine.pipeline.ranges import OptionalStage, refuse_coils
from mrsi_engine.pipeline.stage import Apply, Block, Context
from mrsi_engine.quantities import Declaration, lineshape, quality

EDDY_TRUSTED = quality(
    "eddy_trusted",
    "1",
    "Share of the FID over which the phase of the water reference stood out of its noise; 0 where "
    "nothing was corrected",
    "Eddy currents trusted",
)

SHIFT = lineshape(
    "eddy_shift",
    "Hz",
    "frequency of the water reference, which was corrected; positive is towards lower ppm",
    "Eddy current shift",
    adds_to="b0shift",
    signed=True,
)
PHASE = lineshape(
    "eddy_phase",
    "rad",
    "phase of the water reference, which was corrected",
    "Eddy current phase",
    adds_to="phase",
    signed=True,
)

#: From the start of the water reference, where its frequency is read.
_WATER_SECONDS = 0.2


class EddyCurrent(OptionalStage):
    """Subtract the phase course of each voxel's water reference (Klose 1990).

    The water's frequency and phase go with it: its line is at 0 Hz with phase 0 afterwards. Every
    transient is corrected with the mean reference of its voxel. With ``optional`` scans without
    a water reference are passed over.
    """

    stage: ClassVar[str] = "eddy_current"
    processing_method: ClassVar[str] = "Eddy current correction"
    remedy: ClassVar[str] = "give --water FILE"

    def lacks(self, context: Context) -> str:
        """The water reference."""
        return "" if context.has_water else "the scan has no water reference"

    def declare(self, context: Context) -> Declaration:
        """Shift and phase of the water, which were corrected, and the measure ``eddy_trusted``."""
        if self.skipped(context):
            return Declaration()
        return Declaration(parameters=(SHIFT, PHASE), measures=(EDDY_TRUSTED,))

    def check(self, context: Context) -> Self:
        """This stage, once the scan is known to have a water reference and one coil.

        Raises
        ------
        InputError
            If it has not.
        """
        self.refuse_lacking(context)
        refuse_coils(context, self.stage)
        return self

    def build(self, context: Context) -> Apply:
        """The correction of a block."""
        if self.skipped(context):
            return lambda block: None
        line = _line(context.acquisition).to(context.device)
        return lambda block: _correct(block, line)


def mean_reference(water: Tensor, points: int) -> Tensor:
    """The water reference of a voxel, ``(voxel, time)``: the mean of its transients.

    Raises
    ------
    InputError
        If it is not as long as the FIDs.
    """
    if water.shape[-1] != points:
        raise InputError(
            f"the water reference has {water.shape[-1]} points, the scan {points}: both must be "
            "acquired alike"
        )
    return water.flatten(1, -2).mean(1) if water.ndim > 2 else water


def _line(acquisition: Acquisition) -> Registration:
    """Water at 0 Hz, where the correction puts it."""
    points = min(acquisition.points, round(_WATER_SECONDS / acquisition.dwell_time))
    return water_registration(acquisition.with_points(points), acquisition.reference_ppm)


def _correct(block: Block, line: Registration) -> None:
    assert block.water is not None
    points = block.fids.shape[-1]
    reference = mean_reference(block.water, points)
    turn, trusted = eddy.undoing(reference)
    block.fids, block.water = _times(block.fids, turn), _times(block.water, turn)
    block.measures[EDDY_TRUSTED.name] = trusted.to(torch.float32) / points
    water = water_shift(line, reference, eddy.noise_sd(reference))
    for name in ("estimate", "sd"):
        suffix = "_sd" if name == "sd" else ""
        for quantity, value in ((SHIFT, "shift"), (PHASE, "phase")):
            values = getattr(water, value + suffix)
            getattr(block, name)[quantity.name] = values.masked_fill(trusted == 0, torch.nan)


def _times(fids: Tensor, turn: Tensor) -> Tensor:
    """FIDs ``(voxel, [dynamic,] time)`` times one turn ``(voxel, time)`` for each voxel."""
    return fids * (turn[:, None] if fids.ndim > 2 else turn)
