"""Fine-tune on real signals: ``bench_fine_tuning.py RUN [--basis slaser-3t-te40] [--out DIR]``.

``RUN`` is the output folder of ``mrsi run ... --keep corrected``. A network is trained on simulated
signals of that axis and basis, then fine-tuned on nine tenths of the scan's own, varied. Printed is
the mean squared residual of normalised signals before and after, of those learned from and of those
held out, and its floor: what least squares leaves of each. No label exists, none is used.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor  # noqa: E402

from mrsi_engine.networks.kinds import RealSignals  # noqa: E402
from mrsi_engine.networks.model import Model, is_model, load_model  # noqa: E402
from mrsi_engine.networks.quantification import Recipe, _split, train_quantifier  # noqa: E402
from mrsi_engine.networks.quantifier import Quantifier, normalise  # noqa: E402
from mrsi_engine.networks.simulation import Simulator  # noqa: E402
from mrsi_engine.runs.bases import BasisChoice, load_basis  # noqa: E402
from mrsi_engine.runs.training import signals_to_learn  # noqa: E402
from mrsi_engine.spectra.basis import Basis  # noqa: E402

#: Steps of Adam that find the floor, from the network's estimate, and their size.
_FLOOR_STEPS, _FLOOR_RATE = 600, 0.02


def simulated(recipe: str) -> Recipe:
    """The recipe of the start, for the axis of the scan and any of its nuisances."""
    settings = Recipe.load(recipe).model_dump()
    settings |= {"axis": {}, "target": "noiseless"}
    settings["encoder"] = {"kind": "dense", "widths": (256, 128, 64)}
    settings["simulation"] |= {"baseline": 10.0, "residual_water": 15.0}
    settings["training"] |= {"steps": 1500, "learning_rate": 3e-3, "validation": 512}
    return Recipe.model_validate(settings)


def real(start: Recipe) -> Recipe:
    """The recipe of the fine-tuning: a tenth of the learning rate, varied signals."""
    settings = start.model_dump() | {"target": "measured"}
    settings["augmentation"] |= {
        "shift_hz": (-3.0, 3.0),
        "phase_deg": (-9.0, 9.0),
        "damping": (0.0, 5.0),
    }
    settings["training"] |= {
        "steps": 400, "batch": 64, "validate_every": 25, "learning_rate": 3e-4,
    }  # fmt: skip
    return Recipe.model_validate(settings)


def residuals(model: Model, signals: Tensor) -> Tensor:
    """Mean squared residual of each normalised signal."""
    decoder = Quantifier.of(model).decoder
    normalised, _ = normalise(signals, model.card.input_points)
    with torch.no_grad():
        return _each(decoder, model.encoder(normalised), normalised)


def floor(model: Model, signals: Tensor) -> Tensor:
    """The same at the least squares solution of each signal, from the network's estimate."""
    decoder = Quantifier.of(model).decoder
    normalised, _ = normalise(signals, model.card.input_points)
    with torch.no_grad():
        outputs = model.encoder(normalised).clone()
    outputs.requires_grad_()
    optimiser = torch.optim.Adam([outputs], lr=_FLOOR_RATE)
    for _ in range(_FLOOR_STEPS):
        optimiser.zero_grad()
        loss = decoder.loss(decoder.decode(outputs, normalised), normalised) * len(normalised)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return _each(decoder, outputs, normalised)


def _each(decoder, outputs: Tensor, normalised: Tensor) -> Tensor:
    pairs = zip(outputs.split(1), normalised.split(1), strict=True)
    return torch.stack([decoder.loss(decoder.decode(o, n), n) for o, n in pairs])


def measure(scan: RealSignals, basis: Basis, out: Path, console: Console) -> None:
    """Train, fine-tune, and print what was gained."""
    start, tuned = simulated("press-3t-te30"), out / "tuned"
    if not is_model(out / "start"):
        train_quantifier(start, basis, out / "start")
    before, recipe = load_model(out / "start"), real(start)
    if not is_model(tuned):
        train_quantifier(recipe, basis, tuned, scan=scan, start=before)
    after = load_model(tuned)
    parts = _split(scan, Simulator(recipe.simulation, basis), recipe.training.seed)
    table = Table("signals", "number", "before", "after", "floor", "above floor, median %")
    for name, signals in zip(("learned from", "held out"), parts, strict=True):
        one, other, least = (
            residuals(before, signals), residuals(after, signals), floor(before, signals),
        )  # fmt: skip
        above = (f"{100 * (found / least - 1).median():.2g}" for found in (one, other))
        figures = (f"{found.mean():.4g}" for found in (one, other, least))
        table.add_row(name, str(len(signals)), *figures, " → ".join(above))
    console.print(table)


def main(arguments: list[str] | None = None) -> None:
    """Fine-tune on the scan asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--basis", default="slaser-3t-te40")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    scan, axis = signals_to_learn(chosen.run)
    basis = load_basis(BasisChoice(chosen.basis), axis).matched_to(axis)
    measure(scan, basis, chosen.out or Path(tempfile.mkdtemp()), Console(width=120))


if __name__ == "__main__":
    main()
