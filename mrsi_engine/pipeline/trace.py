"""Signals of a few voxels before and after each stage of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from mrsi_engine.pipeline.pipeline import PreparedPipeline
from mrsi_engine.pipeline.ranges import OptionalStage
from mrsi_engine.pipeline.stage import Block, Context, Stage, State
from mrsi_engine.quantities import Declaration


@dataclass(frozen=True, eq=False)
class StageTrace:
    """What one stage did to some voxels.

    Parameters
    ----------
    index, stage
        Its place in the pipeline, from 0, and the stage with its settings.
    context
        What it knew: the acquisition, the dimensions of ``before``, what its passes found.
    before, after
        FIDs as they entered and left it, ``(voxel, [coil,] [dynamic,] time)``, on the CPU.
    dimensions_after
        Of ``after`` between voxel and time.
    declaration
        What it wrote.
    skipped
        What the scan lacked for it, where it was passed over; empty where it was not.
    noise_sd
        ``(voxel,)``, where this stage changed the noise: what error bars are computed from since.
    """

    index: int
    stage: Stage
    context: Context
    before: Tensor
    after: Tensor
    dimensions_after: tuple[str, ...]
    declaration: Declaration
    skipped: str = ""
    noise_sd: Tensor | None = None

    @property
    def name(self) -> str:
        """The key of the stage in a pipeline file."""
        return self.stage.stage

    @property
    def dimensions_before(self) -> tuple[str, ...]:
        """Of ``before`` between voxel and time."""
        return self.context.dimensions

    @property
    def state(self) -> State:
        """What its passes over the scan found."""
        return self.context.state

    @property
    def changed(self) -> bool:
        """Whether it changed any sample of these voxels."""
        return not torch.equal(self.before, self.after)


def trace_pipeline(pipeline: PreparedPipeline, block: Block) -> tuple[StageTrace, ...]:
    """Run a block through every stage and keep the FIDs between them.

    Parameters
    ----------
    block
        Of few voxels: all its FIDs are kept once a stage.
    """
    return tuple(_traces(pipeline, block))


def _traces(pipeline: PreparedPipeline, block: Block) -> Iterator[StageTrace]:
    for index, step in enumerate(pipeline.stages):
        stage, known = step.stage, step.context
        entered, noise = block.fids.cpu().clone(), block.noise_sd
        step(block)
        yield StageTrace(
            index,
            stage,
            known,
            entered,
            block.fids.cpu().clone(),
            stage.leaves(known.dimensions),
            stage.declare(known),
            _lacking(stage, known),
            None if block.noise_sd is noise else block.noise_sd,
        )


def _lacking(stage: Stage, context: Context) -> str:
    if isinstance(stage, OptionalStage) and stage.skipped(context):
        return stage.lacks(context)
    return ""
