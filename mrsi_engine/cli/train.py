"""The command that trains networks."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from mrsi_engine.choices import AUTO, DEFAULT_PIPELINE
from mrsi_engine.cli import output
from mrsi_engine.cli.places import LocalPlace, Place


def train_command(
    *,
    basis: str | None = None,
    recipe: str = "press-3t-te30",
    out: LocalPlace,
    pipeline: str = DEFAULT_PIPELINE,
    scan: Place | None = None,
    start: str | None = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
    device: str = AUTO,
) -> None:
    """Train a network, on simulated signals or on those of a scan, without labels.

    Parameters
    ----------
    basis
        As mrsi run takes it, e.g. press-3t-te30; recipes that simulate a spectrum of their own
        need none.
    recipe
        Name of a ready-made recipe or a TOML file, for quantification or for frequency and phase
        correction (fpc-...).
    out
        Folder of the model.
    pipeline
        Whose fit the error bars of the network's own estimates are calibrated for, where the
        recipe asks for that.
    scan
        Output folder of a run with --keep corrected, or a scan store without water, to learn from.
    start
        Folder or name of a trained model to begin with: fine-tuning.
    resume
        Go on with a training that was stopped.
    device
        auto (a GPU if there is one), cpu or cuda.
    """
    from mrsi_engine.engine.devices import device_here
    from mrsi_engine.networks.model import REPORT
    from mrsi_engine.networks.recipes import load_recipe
    from mrsi_engine.pipeline.pipeline import Pipeline
    from mrsi_engine.runs.bases import BasisChoice
    from mrsi_engine.runs.training import train

    chosen = load_recipe(recipe)
    source = BasisChoice(basis) if basis else None
    steps = Pipeline.load(pipeline)
    with output.TrainingBar(chosen.training.steps) as bar:
        model, progress = train(
            out,
            chosen,
            source,
            pipeline=steps,
            scan=scan,
            start=start,
            resume=resume,
            device=device,
            on_point=bar,
        )
    output.say(
        f"{out}: {chosen.name}, {progress.step} steps in {progress.seconds:.0f} s on "
        f"{device_here(device)}, "
        f"best validation loss {progress.best:.4g} after {progress.best_step}"
    )
    output.say(", ".join(f"{name} {score:.3g}" for name, score in model.card.scores.items()))
    output.say(f"report: {out / REPORT}")
