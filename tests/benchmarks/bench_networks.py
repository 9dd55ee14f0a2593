"""Train networks and measure them: ``bench_networks.py [--out DIR] [--only NAME ...]``.

On the simulation of Shamaei et al. (Comput Biol Med 2023;158:106837), whose basis must be there:
R2 and mean absolute percentage error of amplitudes, SD of the error of shift, damping and phase,
after training and along it. Every experiment is a shipped recipe with some of its settings changed;
each goes on from its checkpoint when started again. Writes ``networks.json`` and
``networks.svg`` to ``--out``, with a folder for each model.

* ``published-*``: the published loss, residual to the noisy signal;
* ``ours-*``: the residual to the noiseless signal, that of the simulation;
* ``lambda-*``: what the cut-off time of DQ-rpMM costs; ``size-*``: a fixed training set.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from safetensors import safe_open  # noqa: E402

from mrsi_engine.networks.decoders import Decoder  # noqa: E402
from mrsi_engine.networks.encoders import Encoder  # noqa: E402
from mrsi_engine.networks.model import is_model, load_model  # noqa: E402
from mrsi_engine.networks.quantification import Recipe, _decoder, train_quantifier  # noqa: E402
from mrsi_engine.networks.quantifier import Quantifier, normalise  # noqa: E402
from mrsi_engine.networks.simulation import Batch, Simulator  # noqa: E402
from mrsi_engine.networks.training import CHECKPOINT, TrainingProgress  # noqa: E402
from mrsi_engine.spectra.basis import Basis  # noqa: E402
from tests.scenes import thesis_basis  # noqa: E402

#: The metabolites of the published mean R2, and those whose percentage errors were published.
SELECTED = ("Cr", "GPC", "Ins", "NAA", "PCh", "Tau")
PUBLISHED_MAPE = ("Cr", "GPC", "PCh", "PCr")

#: Signals of the test set, which no training sees, and their seed.
TEST, TEST_SEED = 10_000, 987_654_321

PUBLISHED, OURS = "thesis-nmm", "thesis-nmm-noiseless"


@dataclass(frozen=True)
class Experiment:
    """A shipped recipe and what is changed of it, by dotted name."""

    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)

    def made(self) -> Recipe:
        """The recipe, checked again."""
        settings = Recipe.load(self.recipe).model_dump()
        for name, value in self.changes.items():
            *sections, last = name.split(".")
            part = settings
            for section in sections:
                part = part[section]
            part[last] = value
        return Recipe.model_validate(settings)


def _ours(kind: str, steps: int, **changes: Any) -> Experiment:
    named = {name.replace("__", "."): value for name, value in changes.items()}
    # The published loss leaves the first sample out: lines are far from it, as it was edited.
    skip = int(kind != "nMM")
    fixed = {"decoder.kind": kind, "decoder.skip": skip, "training.steps": steps}
    return Experiment(OURS, fixed | named)


#: The published loss, with the encoder and the learning rate of ours: what the loss alone does.
_SAME = {"target": "measured"}

EXPERIMENTS = {
    "ours-nMM": _ours("nMM", 12000),
    "ours-pMM": _ours("pMM", 4000),
    "ours-rpMM": _ours("rpMM", 4000),
    "published-nMM": Experiment(
        PUBLISHED,
        {"training.steps": 1000, "training.schedule": "cosine", "training.validate_every": 250,
         "training.validation": 2048},
    ),
    "published-nMM-dense": _ours("nMM", 8000, **_SAME),
    "published-pMM-dense": _ours("pMM", 4000, **_SAME),
    "published-rpMM-dense": _ours("rpMM", 4000, **_SAME),
    **{
        f"lambda-{weight:g}": _ours("rpMM", 1000, decoder__cutoff_weight=weight)
        for weight in (0.005, 0.05, 0.5)
    },
    "lambda-none": _ours("pMM", 1000),
    **{f"size-{size}": _ours("nMM", 2000, signals=size) for size in (3072, 12032)},
    "size-none": _ours("nMM", 2000),
}  # fmt: skip


def thesis_signals(recipe: Recipe) -> tuple[Basis, Batch]:
    """The basis on the recipe's axis, and the test set.

    As in the public code, the first sample of the macromolecules is set so that their spectrum is
    zero at its edge (as stored it is a quarter of the next), and 4.7 ppm are at 0 Hz, which matters
    to where parametric macromolecules stand.
    """
    basis = thesis_basis(2048)
    fids = basis.fids.copy()
    fids[basis.names.index("MM"), 0] -= np.fft.fftshift(np.fft.fft(basis["MM"]))[0]
    axis = replace(basis.acquisition, reference_ppm=4.7)
    edited = replace(basis, fids=fids, acquisition=axis)
    fitted = edited.matched_to(recipe.axis.of(axis))
    return fitted, Simulator(recipe.simulation, fitted).draw(TEST, TEST_SEED)


def measured(name: str, out: Path, console: Console) -> dict[str, Any]:
    """Train what is not trained yet; figures of the model, and its mean R2 along the training."""
    recipe, folder = EXPERIMENTS[name].made(), out / name
    basis, test = thesis_signals(recipe)
    decoder = _decoder(recipe, Simulator(recipe.simulation, basis), None)
    kept = out / f"{name}.json"
    curve = json.loads(kept.read_text()) if kept.exists() else []

    def note(progress: TrainingProgress) -> None:
        checkpoint = folder / "member0" / CHECKPOINT
        if not checkpoint.exists() or progress.step in [step for step, *_ in curve]:
            return
        encoder = Encoder(recipe.encoder, recipe.input_points, decoder.outputs)
        encoder.load_state_dict(_latest(checkpoint))
        mean = scores(encoder, decoder, recipe.input_points, test)["mean R2"]
        curve.append((progress.step, progress.seconds, mean))
        kept.write_text(json.dumps(curve))
        console.print(f"{name}: step {progress.step}, {progress.seconds:.0f} s, R2 {mean:.3f}")

    if not is_model(folder):
        train_quantifier(recipe, basis, folder, resume=folder.exists(), on_point=note)
    model = load_model(folder, "quantification")
    card = model.card.training
    assert card is not None
    found = scores(model.encoder, Quantifier.of(model).decoder, recipe.input_points, test)
    return {"steps": card.steps, "seconds": card.seconds, **found, "curve": curve}


def _latest(checkpoint: Path) -> dict[str, torch.Tensor]:
    with safe_open(checkpoint, framework="pt") as file:
        names = [name for name in file.keys() if name.startswith("now.")]  # noqa: SIM118
        return {name.removeprefix("now."): file.get_tensor(name) for name in names}


@torch.inference_mode()
def scores(encoder: Encoder, decoder: Decoder, points: int, test: Batch) -> dict[str, float]:
    """R2 and MAPE (%) of amplitudes, and SD of the errors of shift, damping and phase."""
    found: dict[str, float] = {}
    signals, size = normalise(test.fids, points)
    parts = [decoder.decode(encoder(part), part) for part in signals.split(1000)]
    amplitudes = size * torch.cat([part.amplitudes for part in parts])
    for i, name in enumerate(thesis_basis(2048).names):
        if name in decoder.names:
            truth, guess = test.amplitudes[:, i], amplitudes[:, decoder.names.index(name)]
            left = (guess - truth).square().mean()
            found[f"R2 {name}"] = 1 - (left / truth.var(correction=0)).item()
            found[f"MAPE {name}"] = 100 * ((guess - truth).abs() / truth).mean().item()
    phase, shift, damping, _ = (torch.cat([p.theta for p in parts]) - test.theta).std(0).tolist()
    found |= {"SD shift": shift, "SD damping": damping, "SD phase": math.degrees(phase)}
    mean = statistics.fmean(found[f"R2 {name}"] for name in SELECTED)
    return {"mean R2": mean, **found}


def show(console: Console, results: Mapping[str, Mapping[str, Any]]) -> None:
    """One row a model."""
    columns = ("steps", "seconds", "mean R2", *(f"R2 {n}" for n in (*SELECTED, "PCr", "Glu")))
    columns += (*(f"MAPE {n}" for n in PUBLISHED_MAPE), "SD shift", "SD damping", "SD phase")
    table = Table("model", *columns, title="The thesis' simulation (Hz, 1/s, degrees)")
    for name, figures in results.items():
        table.add_row(name, *(f"{figures[column]:.3g}" for column in columns))
    console.print(table)


def draw(results: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Mean R2 against steps."""
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, figures in results.items():
        steps, _, mean = zip(*figures["curve"], strict=True) if figures["curve"] else ((), (), ())
        axes.plot(steps, mean, label=name)
    axes.axhline(0.753, color="0.4", linestyle=":", label="published DQ-nMM")
    axes.set(xlabel="step", ylabel="mean R2 of " + ", ".join(SELECTED), ylim=(0.3, 0.9))
    axes.legend(fontsize=7)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Train and measure what is asked for, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("networks"))
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    console, results = Console(width=200), {}
    for name in chosen.only:
        results[name] = measured(name, chosen.out, console)
        (chosen.out / "networks.json").write_text(json.dumps(results, indent=2) + "\n")
    show(console, results)
    draw(results).savefig(chosen.out / "networks.svg")


if __name__ == "__main__":
    main()
