"""Stages that pass over the whole scan with simple known answers.

Workers import this module, so it must stay importable on its own.
"""

import os
import signal
from pathlib import Path
from typing import ClassVar

import torch

from mrsi_engine.conventions import Status
from mrsi_engine.pipeline.stage import Stage
from mrsi_engine.quantities import Declaration, amplitude, quality


def count(folder, what, block):
    """Add a mark to what was done with a block, by the voxel it begins with."""
    voxel = round(float(block.fids.reshape(len(block.fids), -1)[0, 0].real)) - 1
    with Path(folder, f"{what}-{voxel}").open("a") as file:
        file.write("x")


def counts(folder, what):
    """How often that was done, by the voxel a block begins with."""
    marks = Path(folder).glob(f"{what}-*")
    return {int(p.name.removeprefix(f"{what}-")): p.stat().st_size for p in marks}


class Template(Stage):
    """The mean FID of the scan in one pass, the scatter around it in a second.

    Fails or kills its process where a file in ``folder`` says so.
    """

    stage: ClassVar[str] = "test_template"
    folder: str = ""
    fail_at: int = -1
    passes_wanted: int = 2

    def declare(self, context):
        return Declaration(
            parameters=(amplitude("distance", "from the mean", units="au"),),
            measures=(
                quality("scatter", "au", "of the scan"),
                quality("voxels", "1", "in the sums"),
            ),
        )

    def passes(self, context):
        return self.passes_wanted

    def summarise(self, context, block, step):
        assert torch.isfinite(torch.view_as_real(block.fids)).all()
        assert (block.fids != 0).flatten(1).any(dim=1).all()
        if self.folder:
            count(self.folder, f"step{step}", block)
            if Path(self.folder, "fail").exists() and (block.fids[:, 0].real == self.fail_at).any():
                raise ValueError("scripted failure")
            kill = Path(self.folder, f"kill-in-step{step}")
            if kill.exists() and len(counts(self.folder, f"step{step}")) == 5:
                kill.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        fids = block.fids.to(torch.complex128)
        voxels = torch.tensor(float(len(fids)), dtype=torch.float64)
        if step == 0:
            return {"sum": fids.sum(0), "voxels": voxels}
        return {"squares": (fids - context.state["mean"]).abs().square().sum()}

    def finish(self, context, summary, step):
        if step == 0:
            return {"mean": summary["sum"] / summary["voxels"], "voxels": summary["voxels"]}
        return {"scatter": (summary["squares"] / context.state["voxels"]).sqrt()}

    def build(self, context):
        mean, voxels = context.state["mean"], context.state["voxels"]
        scatter = context.state.get("scatter", torch.tensor(0.0))

        def apply(block):
            if self.folder:
                count(self.folder, "apply", block)
            block.estimate["distance"] = (block.fids - mean).abs().mean(1)
            block.sd["distance"] = torch.ones(len(block.fids))
            block.measures["scatter"] = scatter.expand(len(block.fids))
            block.measures["voxels"] = voxels.expand(len(block.fids))
            block.status[:] = Status.LEAST_SQUARES

        return apply


class Scale(Stage):
    """Multiply every FID; NaN where it began with ``spoil``."""

    stage: ClassVar[str] = "test_scale"
    factor: float = 2.0
    spoil: float = -1.0

    def declare(self, context):
        return Declaration(measures=(quality("first", "au", "magnitude of the first sample"),))

    def build(self, context):
        def apply(block):
            spoilt = block.fids.flatten(1)[:, 0].real == self.spoil
            block.fids = self.factor * block.fids
            block.fids[spoilt] = float("nan")
            block.measures["first"] = block.fids.flatten(1)[:, 0].abs()

        return apply


class MeanCoil(Stage):
    """The mean over coils."""

    stage: ClassVar[str] = "test_mean_coil"

    def declare(self, context):
        return Declaration()

    def leaves(self, dimensions):
        return tuple(d for d in dimensions if d != "coil")

    def build(self, context):
        assert context.dimensions[0] == "coil"

        def apply(block):
            block.fids = block.fids.mean(1)

        return apply


class Casorati(Stage):
    """The time x time Gram matrix of the scan: the largest summary there is."""

    stage: ClassVar[str] = "test_gram"

    def declare(self, context):
        return Declaration(measures=(quality("energy", "au", "of the scan"),))

    def passes(self, context):
        return 1

    def summarise(self, context, block, step):
        gram = block.fids.mT @ block.fids.conj()
        return {"gram": gram.to(torch.complex128)}

    def finish(self, context, summary, step):
        return {"energy": summary["gram"].diagonal().real.sum()}

    def build(self, context):
        def apply(block):
            block.measures["energy"] = context.state["energy"].expand(len(block.fids))

        return apply
