"""Charts as they are described once: a page shows them as SVG, a notebook on Matplotlib's axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

INK, MUTED, RULE = "#1b2129", "#5f6873", "#c9ced6"
FIT, BASELINE, BARS = "#c8352b", "#2b6cb0", "#7c8ea6"

#: Room that curves leave to the edges of a chart, as a share of their height.
_MARGIN = 0.05

#: Steps of ticks, in powers of ten.
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, eq=False)
class Curve:
    """A line through points ``(n,)``; one with a ``name`` stands in the legend."""

    x: NDArray[np.floating]
    y: NDArray[np.floating]
    colour: str
    width: float
    opacity: float = 1.0
    name: str = ""


@dataclass(frozen=True)
class Rule:
    """A line across the whole chart, at a height or, ``upright``, at a place."""

    at: float
    colour: str
    width: float
    upright: bool = False
    dashed: bool = False


@dataclass(frozen=True, eq=False)
class Bars:
    """Heights ``(n,)`` between edges ``(n + 1,)``."""

    edges: NDArray[np.floating]
    heights: NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Chart:
    """What is drawn in one frame.

    Parameters
    ----------
    curves
        In the order in which they are drawn, over the rules.
    x
        Values at the left and at the right edge.
    y
        Values at the bottom and at the top; what shows all curves and rules by default.
    ticks
        Where the lower edge is marked.
    below
        What stands there.
    left, right
        Words beside the chart, at heights.
    above
        Words over the chart, at a place.
    title, note
        Over the chart, one bold, one small.
    legend
        ``"left"`` or ``"right"`` over the chart; empty for none.
    """

    curves: tuple[Curve, ...]
    x: tuple[float, float]
    y: tuple[float, float] | None = None
    ticks: tuple[float, ...] = ()
    below: str = ""
    rules: tuple[Rule, ...] = ()
    bars: Bars | None = None
    left: tuple[tuple[float, str], ...] = ()
    right: tuple[tuple[float, str], ...] = ()
    above: tuple[float, str] | None = None
    title: str = ""
    note: str = ""
    legend: str = ""

    @property
    def heights(self) -> tuple[float, float]:
        """Values at the bottom and at the top."""
        if self.y is not None:
            return self.y
        if self.bars is not None:
            return 0.0, (1 + _MARGIN) * (float(self.bars.heights.max(initial=0)) or 1.0)
        ends = [end for curve in self.curves for end in _ends(curve.y)]
        ends += [rule.at for rule in self.rules if not rule.upright]
        low, high = (min(ends), max(ends)) if ends else (0.0, 1.0)
        room = _MARGIN * (high - low or 1.0)
        return low - room, high + room


def _ends(values: NDArray[np.floating]) -> tuple[float, ...]:
    known = values[np.isfinite(values)]
    return (float(known.min()), float(known.max())) if known.size else ()


def even_ticks(low: float, high: float, step: float) -> tuple[float, ...]:
    """Multiples of a step between two values."""
    first = np.ceil(low / step - 1e-9)
    return tuple(float(t) for t in step * np.arange(first, high / step + 1e-9))


def round_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """Up to so many round numbers between two values."""
    rough = (high - low) / max(most - 1, 1)
    if not np.isfinite(rough) or rough <= 0:
        return ()
    power = 10.0 ** np.floor(np.log10(rough))
    step = next(s * power for s in _STEPS if s * power >= rough * (1 - 1e-9))
    return even_ticks(low, high, step)


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Ticks as text, all with as many decimals as the finest of them needs."""
    size = max((abs(tick) for tick in ticks), default=0.0)
    decimals = next((d for d in range(5) if _exact(ticks, d, size)), None)
    if decimals is None or size >= 1e5:
        return [f"{tick:.3g}".replace("e-0", "e-").replace("e+0", "e+").replace("-", "−")
                for tick in ticks]  # fmt: skip
    return [f"{tick + 0.0:.{decimals}f}".replace("-", "−") for tick in ticks]


def _exact(ticks: Sequence[float], decimals: int, size: float) -> bool:
    return all(abs(round(tick, decimals) - tick) <= 1e-6 * size for tick in ticks)
