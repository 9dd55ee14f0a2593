"""The report of a training: what a model learned, from its card alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from mrsi_engine.io.files import write_atomically
from mrsi_engine.networks.model import Card, TrainingCard
from mrsi_engine.report.figures import FIT, MUTED, RULE, svg_uri
from mrsi_engine.report.html import template
from mrsi_engine.report.mosaic import BACKGROUND
from mrsi_engine.report.tables import number

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
