"""The report of a training: what a model learned, from its card alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mrsi_engine.io.files import write_atomically
from mrsi_engine.networks.model import Calibration, Card, TrainingCard
from mrsi_engine.nuclei import Nucleus, nucleus
from mrsi_engine.report.charts import FIT, MUTED, RULE
from mrsi_engine.report.html import template
from mrsi_engine.report.plotted import svg_uri
from mrsi_engine.report.png import BACKGROUND
from mrsi_engine.report.tables import number

#: Share of 95 % intervals, in percent, that are to hold the truth once they are calibrated.
COVERED = (94.0, 96.0)

_UNITS = {"shift": "Hz", "lorentzian": "1/s", "phase": "rad"}

_LOSSES = {
    "measured": "The loss is the mean squared residual to the signal, whose mean square is 1; "
    "noise keeps it above 0.",
    "noiseless": "The loss is the mean squared residual to the signal without noise and "
    "nuisances, whose mean square is near 1.",
}


def write_training_report(card: Card, out: Path) -> Path:
    """Write one HTML file that needs nothing else; replaced if it is there.

    Raises
    ------
    RunError
        If the file cannot be written.
    """
    training = card.training
    content = {
        "card": card,
        "facts": list(_facts(card)),
        "curve": learning_curve(training) if training and training.curve else None,
        "calibration": card.calibration,
        "coverage": calibration_figure(card) if card.calibration else "",
        "covered": covered_bins(card.calibration) if card.calibration else (0, 0),
        "loss_text": _LOSSES.get(card.recipe.get("target", ""), ""),
        "scores": [(name, value, _unit(name)) for name, value in card.scores.items()],
        "ranges": [(name, span, _UNITS.get(name, "")) for name, span in card.ranges.items()],
        "axis": list(_axis(card)),
        "recipe": list(_sections(card.recipe)),
        "background": BACKGROUND,
    }
    page = template("training.html.j2").render(content)
    return write_atomically(out, page.encode())


def learning_curve(training: TrainingCard) -> str:
    """Training and validation loss against steps, the best point marked, as a data URI."""
    return svg_uri((9.6, 3.2), lambda figure: _draw(figure.add_subplot(), training))


def calibration_figure(card: Card) -> str:
    """Coverage of 95 % intervals and factors, by parameter and SNR bin, as a data URI."""
    calibration, table = card.calibration, nucleus(card.axis.nucleus)
    assert calibration is not None
    return svg_uri((10.6, 5.0), lambda figure: _draw_calibration(figure, calibration, table))


def covered_bins(calibration: Calibration) -> tuple[int, int]:
    """In how many bins of how many the measured coverage is within :data:`COVERED`."""
    low, high = COVERED
    percent = [100 * share for bins in calibration.coverage.values() for share in bins]
    return sum(low <= one <= high for one in percent), len(percent)


def _draw_calibration(figure: Figure, calibration: Calibration, table: Nucleus) -> None:
    above, below = figure.subplots(2, 1, sharex=True)
    percent = {n: [100 * s for s in bins] for n, bins in calibration.coverage.items()}
    names = list(dict.fromkeys([*percent, *calibration.factors]))
    above.axhspan(*COVERED, color=RULE, alpha=0.6, linewidth=0)
    _draw_bins(above, names, percent, _bins(calibration))
    _draw_bins(below, names, calibration.factors, _bins(calibration))
    below.axhline(1, color=RULE, linewidth=0.8)
    above.set(ylabel="coverage, %")
    below.set(ylabel="factor of errors", xticks=range(len(names)))
    below.set_xticklabels([table.title_of(name) for name in names], rotation=90)
    above.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=len(_bins(calibration)), frameon=False
    )


def _draw_bins(
    axes: Axes, names: list[str], values: Mapping[str, Sequence[float]], bins: list[str]
) -> None:
    """A dot for every name and bin, bins side by side."""
    shades = matplotlib.colormaps["viridis"].resampled(len(bins) + 1)
    for k, label in enumerate(bins):
        known = [(n + 0.12 * (k - (len(bins) - 1) / 2), values[name][k])
                 for n, name in enumerate(names) if name in values]  # fmt: skip
        place, height = zip(*known, strict=True) if known else ((), ())
        axes.plot(place, height, "o", color=shades(k), markersize=3.5, label=label)
    axes.grid(axis="y", color=RULE, linewidth=0.5, alpha=0.5)


def _bins(calibration: Calibration) -> list[str]:
    """What the bins of SNR are called."""
    edges = [number(edge) for edge in calibration.snr]
    if not edges:
        return ["any SNR"]
    between = [f"{low} to {high}" for low, high in pairwise(edges)]
    return [f"SNR up to {edges[0]}", *between, f"above {edges[-1]}"]


def _draw(axes: Axes, training: TrainingCard) -> None:
    steps, learned, held_out = zip(*training.curve, strict=True)
    axes.plot(steps, learned, color=MUTED, linewidth=1, label="training")
    axes.plot(steps, held_out, color=FIT, linewidth=1.4, label="validation")
    best = held_out.index(min(held_out))
    axes.plot(steps[best], held_out[best], "o", color=FIT, markersize=5)
    axes.annotate(
        f"{held_out[best]:.4g}", (steps[best], held_out[best]), xytext=(0, 8),
        textcoords="offset points", ha="right",
    )  # fmt: skip
    axes.set(xlabel="step", ylabel="loss", yscale="log")
    axes.grid(color=RULE, linewidth=0.5, which="both", alpha=0.5)
    axes.legend(frameon=False)


def _facts(card: Card) -> Iterator[tuple[str, str]]:
    yield "kind", card.kind
    yield "encoder", card.encoder.kind
    yield "decoder", str(card.decoder.get("kind", ""))
    yield "points the encoder sees", str(card.input_points)
    yield "members", str(card.members)
    if card.training is not None:
        yield "learned from", card.training.data
        yield "began", card.training.start or "untrained"
        yield "steps", number(card.training.steps)
        yield "signals", number(card.training.signals)
        yield "time", f"{number(card.training.seconds)} s on {card.training.device}"
    yield "licence", card.licence


def _axis(card: Card) -> Iterator[tuple[str, str]]:
    for name, value in card.axis.model_dump().items():
        yield name.replace("_", " "), "unknown" if value is None else str(value)


def _sections(recipe: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Settings by section of the recipe's file, those of none first."""
    alone = {name: value for name, value in recipe.items() if not isinstance(value, dict)}
    sections = {name: value for name, value in recipe.items() if isinstance(value, dict)}
    for name, settings in {"recipe": alone, **sections}.items():
        yield name, [(key, _text(value)) for key, value in settings.items() if value is not None]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_text(one)}" for name, one in value.items())
    if isinstance(value, list | tuple):
        return " to ".join(map(str, value)) if len(value) == 2 else ", ".join(map(str, value))
    return str(value)


def _unit(score: str) -> str:
    return _UNITS.get(score.removeprefix("rmse "), "") if score.startswith("rmse ") else ""
