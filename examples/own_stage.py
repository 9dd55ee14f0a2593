"""A stage of one's own, in Python and from the command line (README, "A stage of one's own")."""

import numpy as np
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.pipeline.pipeline import Pipeline, prepare_pipeline
from mrsi_engine.pipeline.settings import setting
from mrsi_engine.pipeline.stage import Apply, Block, Context, Stage
from mrsi_engine.quantities import Declaration, quality


class Apodise(Stage):
    """Multiply FIDs by an exponential, and say what share of their energy stayed."""

    stage = "apodise"
    damping: float = setting(5.0, "Of the exponential.", unit="1/s", ge=0)

    def declare(self, context: Context) -> Declaration:
        return Declaration(measures=(quality("energy_kept", "1", "share of the FID's energy"),))

    def build(self, context: Context) -> Apply:
        window = torch.exp(-self.damping * torch.from_numpy(context.acquisition.time).float())

        def apply(block: Block) -> None:
            before = block.fids.abs().square().sum(1)
            block.fids = block.fids * window.to(block.fids.device)
            block.measures["energy_kept"] = block.fids.abs().square().sum(1) / before

        return apply


if __name__ == "__main__":
    tables = [{"stage": "apodise", "damping": 10.0}, {"stage": "water_removal"}]
    pipeline = Pipeline.from_settings({"name": "own", "stages": tables})
    scan = Context(Acquisition(points=512, dwell_time=1e-3, spectrometer_frequency=123.2))
    rng = np.random.default_rng(0)
    fids = torch.from_numpy(rng.standard_normal((100, 512, 2)).astype("f4").view("c8")[..., 0])
    print(prepare_pipeline(pipeline.check(scan), scan)(Block(fids)).measures)
