"""Pipeline step: correct eddy currents with the phase of the water reference."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor

from mrsi_engine.conventions import Declaration, Quantity
from mrsi_engine.errors import InputError
from mrsi_engine.kernels import eddy
from mrsi_engine.stages.base import Apply, Block, Context
from mrsi_engine.stages.ranges import OptionalStage, refuse_coils

EDDY_TRUSTED = Quantity(
    "eddy_trusted",
    "1",
    "Share of the FID over which the phase of the water reference stood out of its noise; 0 where "
    "nothing was corrected",
)


class EddyCurrent(OptionalStage):
    """Subtract the phase course of each voxel's water reference (Klose 1990).

    The water's frequency and phase go with it: its line is at 0 Hz with phase 0 afterwards. Every
    transient is corrected with the mean reference of its voxel. With ``optional`` scans without
    a water reference are passed over.
    """

    stage: ClassVar[str] = "eddy_current"

    def lacks(self, context: Context) -> str:
        """The water reference."""
        return "" if context.has_water else "the scan has no water reference: give --water FILE"

    def declare(self, context: Context) -> Declaration:
        """The measure ``eddy_trusted``."""
        return Declaration(measures=() if self.skipped(context) else (EDDY_TRUSTED,))

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
        return (lambda block: None) if self.skipped(context) else _correct


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


def _correct(block: Block) -> None:
    assert block.water is not None
    points = block.fids.shape[-1]
    reference = mean_reference(block.water, points)
    corrected, trusted = _with_reference(block.fids, reference)
    block.water, _ = _with_reference(block.water, reference)
    block.fids = corrected
    block.measures[EDDY_TRUSTED.name] = trusted.to(torch.float32) / points


def _with_reference(fids: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """FIDs ``(voxel, [dynamic,] time)`` corrected, and the trusted samples ``(voxel,)``."""
    each = fids.flatten(1, -2) if fids.ndim > 2 else fids[:, None]
    voxels, transients, points = each.shape
    spread = reference[:, None].expand(-1, transients, -1).reshape(-1, points)
    found = eddy.correct(each.reshape(-1, points), spread)
    return found.fids.reshape(fids.shape), found.trusted.view(voxels, transients)[:, 0]
