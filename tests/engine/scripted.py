"""Stages with a simple known answer, or that fail, sleep and kill by a script.

Workers import this module, so it must stay importable on its own.
"""

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import torch
from pydantic import Field

from mrsi_engine.conventions import Status
from mrsi_engine.pipeline.stage import Stage
from mrsi_engine.quantities import Declaration, amplitude, lineshape, quality
from mrsi_engine.quantities import signal as fids_kept


class Moments(Stage):
    """Mean and maximum magnitude of the FID; refuses input the engine must screen out."""

    stage: ClassVar[str] = "test_moments"
    factor: float = 1.0

    def declare(self, context):
        return Declaration(
            parameters=(
                amplitude("mean", "mean magnitude", title="Mean", units="au"),
                lineshape("peak", "au", "largest magnitude"),
            ),
            measures=(quality("energy", "au", "sum of squares"),),
            signals=(fids_kept("corrected", "scaled FIDs", "au"), fids_kept("fit", "half", "au")),
        )

    def build(self, context):
        def apply(block):
            assert torch.isfinite(torch.view_as_real(block.fids)).all()
            assert (block.fids != 0).any(dim=1).all()
            magnitude = block.fids.abs().double()
            block.estimate["mean"] = self.factor * magnitude.mean(dim=1)
            block.estimate["peak"] = magnitude.amax(dim=1)
            block.sd["mean"] = magnitude.std(dim=1)
            block.sd["peak"] = torch.ones(len(magnitude))
            block.measures["energy"] = (magnitude**2).sum(dim=1)
            block.status[:] = Status.LEAST_SQUARES
            if block.keep_signals:
                block.signals["corrected"] = self.factor * block.fids
                block.signals["fit"] = block.fids / 2

        return apply


class Script(Stage):
    """Act by a table: voxel that begins a block -> what its 1st, 2nd, ... run does.

    Runs are counted in ``folder``; blocks that are not in the table sleep ``pause`` s.
    """

    stage: ClassVar[str] = "test_script"
    folder: str
    table: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    pause: float = 0.0

    def declare(self, context):
        return Declaration()

    def build(self, context):
        Path(self.folder, f"built-{os.getpid()}-{time.monotonic_ns()}").touch()
        return self.act

    def act(self, block):
        voxel = round(float(block.fids[0, 0].real)) - 1
        path = Path(self.folder, f"runs-{voxel}")
        with path.open("a") as file:
            file.write("x")
        script = self.table.get(str(voxel), ())
        action = script[min(path.stat().st_size, len(script)) - 1] if script else ""
        if action == "fail":
            raise ValueError(f"scripted failure at voxel {voxel}")
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(action.removeprefix("sleep ")) if "sleep" in action else self.pause)


class Work(Stage):
    """Batched complex matrix products, about as heavy as a fit."""

    stage: ClassVar[str] = "test_work"
    repeats: int = 4

    def declare(self, context):
        return Declaration()

    def build(self, context):
        n = context.acquisition.points
        table = torch.randn(
            n, 128, dtype=torch.complex64, generator=torch.Generator().manual_seed(0)
        )

        def apply(block):
            for _ in range(self.repeats):
                part = block.fids @ table
                gram = part[:, :25, None] * part[:, None, :25].conj()
                gram = gram + 1e3 * torch.eye(25)
                torch.linalg.cholesky_ex(gram)

        return apply


def runs(folder):
    """How often each block ran, by the voxel it begins with."""
    return {int(p.name[5:]): p.stat().st_size for p in Path(folder).glob("runs-*")}
