"""Settings of a fit that belong together: a table each."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field

from mrsi_engine.pipeline.settings import Settings, setting


def _stiffer(value: tuple[float, float]) -> tuple[float, float]:
    low, high = value
    if not 0 < low <= high:
        raise ValueError(f"must be [least, most] above 0, found [{low:g}, {high:g}]")
    return value


class BaselineSettings(Settings):
    """What is fitted below the metabolites."""

    leading: ClassVar[str] = "kind"

    kind: Literal["none", "spline", "polynomial"] = setting(
        "none", "What it is made of: nothing, a spline or a polynomial."
    )
    splines_per_ppm: float = setting(
        4.0, "Splines across the fit window.", unit="1/ppm", gt=0, le=50
    )
    stiffness: Annotated[float, Field(ge=0)] | Literal["adaptive"] = setting(
        1.0,
        "Of a spline: 0 leaves it free, a large one makes it a straight line; `adaptive` chooses "
        "it for each voxel, see weight.",
    )
    stiffness_range: Annotated[
        tuple[float, float], AfterValidator(_stiffer), "0 < least ≤ most"
    ] = setting(
        (1e-3, 1e3),
        "[least, most] that an adaptive one chooses from. A limit above keeps it from being "
        "stiffer than the data can tell, which would make error bars too small.",
    )
    weight: float = setting(
        5.0,
        "How much dearer a parameter of an adaptive one is than by Akaike's criterion; 5 is the "
        "published value, a larger one makes baselines stiffer.",
        gt=0,
        le=100,
    )
    order: int = setting(2, "Of a polynomial.", ge=0, le=20)

    @property
    def adaptive(self) -> bool:
        """Whether every voxel has one of its own stiffness."""
        return self.kind == "spline" and self.stiffness == "adaptive"

    @property
    def stiffnesses(self) -> list[float]:
        """Those an adaptive one chooses from, about two a factor of 10."""
        low, high = self.stiffness_range
        return [float(s) for s in np.geomspace(low, high, 1 + round(2 * np.log10(high / low)))]

    def coefficients(self, width_ppm: float) -> int:
        """Complex coefficients across a window of this width; 0 without a baseline."""
        if self.kind == "none":
            return 0
        if self.kind == "polynomial":
            return self.order + 1
        return max(4, round(self.splines_per_ppm * width_ppm))


class MacromoleculeSettings(Settings):
    """What is fitted of macromolecules."""

    leading: ClassVar[str] = "source"

    source: Literal["basis", "none", "pattern", "lines"] = setting(
        "basis", "As the basis has them, nothing, a measured 3 T pattern or single lines."
    )
    lines: Literal["gaussian", "lorentzian"] = setting("gaussian", "Shape of single lines.")
    lineshape: Literal["shared", "own"] = setting(
        "shared", "Shift and damping of the metabolites, or of their own."
    )
    max_offset_hz: float = setting(
        6.0,
        "How far their own shift, and that of the lipids, may lie from the metabolites'.",
        unit="Hz",
        ge=0,
        le=50,
    )


class LipidSettings(Settings):
    """What is fitted of mobile lipids."""

    leading: ClassVar[str] = "source"

    source: Literal["basis", "none", "lines"] = setting(
        "basis", "As the basis has them, nothing or single lines."
    )
    lineshape: Literal["shared", "own"] = setting(
        "shared", "That of the macromolecules, or one of their own."
    )


class DelaySettings(Settings):
    """How much later than the header and the basis say the FIDs begin: a first-order phase."""

    leading: ClassVar[str] = "delay_ms"

    delay_ms: float = setting(
        0.0,
        "How much later; 1 degree per ppm is 0.0225 ms at 123.2 MHz.",
        unit="ms",
        ge=-2,
        le=10,
    )
    sd_ms: float = setting(0.0, "SD of its prior; 0 keeps it fixed.", unit="ms", ge=0, le=0.5)
