"""Pipeline step: average transients."""

from __future__ import annotations

from typing import ClassVar, Self

from mrsi_engine.dimensions import DYNAMIC
from mrsi_engine.kernels.averaging import average
from mrsi_engine.pipeline.ranges import OptionalStage, refuse_coils
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Block, Context
from mrsi_engine.quantities import Declaration, quality

KEPT = quality("transients_kept", "1", "Share of the transients that were averaged")
SIMILARITY = quality(
    "transient_similarity",
    "1",
    "Median over transients of the normalised inner product with the median transient",
)


class Averaging(OptionalStage):
    """Mean of the transients of each voxel, without those unlike the others.

    Correct their frequency and phase first: stage ``fpc``. With ``optional`` scans without
    transients are passed over.
    """

    stage: ClassVar[str] = "averaging"
    revision: ClassVar[int | None] = 1
    processing_method: ClassVar[str] = "Signal averaging"
    remedy: ClassVar[str] = "leave the stage out"

    reject: bool = setting(True, "Leave out transients unlike the others; else all are averaged.")

    def lacks(self, context: Context) -> str:
        """The dimension ``dynamic``."""
        if DYNAMIC in context.dimensions:
            return ""
        return "the scan has no dimension 'dynamic' (DIM_DYN)"

    def leaves(self, dimensions: tuple[str, ...]) -> tuple[str, ...]:
        """The dimensions without ``dynamic``."""
        return tuple(d for d in dimensions if d != DYNAMIC)

    def declare(self, context: Context) -> Declaration:
        """The measures ``transients_kept`` and ``transient_similarity``."""
        return Declaration(measures=() if self.skipped(context) else (KEPT, SIMILARITY))

    def check(self, context: Context) -> Self:
        """This stage, once the scan is known to have transients of combined coils.

        Raises
        ------
        InputError
            If it has not.
        """
        self.refuse_lacking(context)
        refuse_coils(context, self.stage)
        return self

    def build(self, context: Context) -> Apply:
        """The average of a block."""
        if self.skipped(context):
            return lambda block: None

        def apply(block: Block) -> None:
            found = average(block.fids, reject=self.reject)
            block.fids = found.fids
            block.measures[KEPT.name] = (found.weights > 0).float().mean(1)
            block.measures[SIMILARITY.name] = found.similarity.nanmedian(1).values
            if block.water is not None and block.water.ndim > 2:
                block.water = average(block.water, reject=False).fids

        return apply
