"""Pipeline step: denoise a scan by low rank."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from pydantic import Field

from mrsi_engine.conventions import Declaration, Quantity
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.casorati import Subspace
from mrsi_engine.kernels.denoise import project, signal_subspace
from mrsi_engine.stages.base import Apply, Block, Context, State
from mrsi_engine.stages.ranges import NoiseRange, one_fid_a_voxel
from mrsi_engine.stages.water_removal import check_rank, gram_with_noise, read_gram_with_noise

REMOVED_NOISE = Quantity(
    "denoise_removed",
    "1",
    "Energy that denoising took over that of the noise: more than 1 was signal",
    title="Removed noise",
)


class Denoise(NoiseRange):
    """Project every FID on the few time courses of the scan that stand above its noise.

    The rank is what exceeds the Marchenko-Pastur edge of the noise, or ``rank``. The noise left is
    neither white nor of known size, so error bars are computed from the noise before.
    """

    stage: ClassVar[str] = "denoise"

    rank: int | None = Field(default=None, ge=1)

    def declare(self, context: Context) -> Declaration:
        """The measure ``denoise_removed``."""
        return Declaration(measures=(REMOVED_NOISE,))

    def check(self, context: Context) -> Self:
        """This stage, once the scan's noise is known to be measurable.

        Raises
        ------
        InputError
            If it is not, the rank is larger than the FIDs are long, or they still have coils or
            transients.
        """
        one_fid_a_voxel(context, self.stage)
        check_rank(self.rank, context.acquisition.points, self.stage)
        self.quiet_bins(context.acquisition)
        return self

    def passes(self, context: Context) -> int:
        """One, for the Casorati matrix."""
        return 1

    def summarise(self, context: Context, block: Block, step: int) -> State:
        """The block's Gram matrix and the energy of its noise."""
        return gram_with_noise(block.fids, self.noise_of(block.fids, context))

    def finish(self, context: Context, summary: State, step: int) -> State:
        """``basis (time, rank)``, the time courses of the signal.

        Raises
        ------
        InputError
            If the scan has no noise, or fewer voxels than the rank asked for.
        """
        gram, noise = read_gram_with_noise(summary)
        if not noise > 0:
            raise InputError(
                f"stage {self.stage!r}: the scan has no noise outside noise_ppm = "
                f"{list(self.noise_ppm)}; leave the stage out"
            )
        return {"basis": signal_subspace(gram, noise, self.rank).basis}

    def build(self, context: Context) -> Apply:
        """The projection of a block."""

        def apply(block: Block) -> None:
            basis = context.state["basis"]
            nothing = torch.zeros(0, dtype=torch.float64)
            noise = self.noise_of(block.fids, context)
            found = project(block.fids, Subspace(basis, nothing, 0), noise)
            taken = (block.fids - found.fids).abs().square().mean(1)
            block.measures[REMOVED_NOISE.name] = taken / (2 * noise.square())
            block.fids = found.fids
            block.noise_sd = noise if block.noise_sd is None else block.noise_sd

        return apply
