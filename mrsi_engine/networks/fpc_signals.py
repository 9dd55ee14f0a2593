"""Signals with known shift and phase that networks for frequency and phase correction learn from.

``transients`` are those of the published simulation
(:mod:`mrsi_engine.spectra.fpc_simulation`); ``basis`` mixes the columns of a basis
(:mod:`mrsi_engine.networks.simulation`). The truth is for scores only: training never sees it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from mrsi_engine.conventions import Acquisition
from mrsi_engine.networks.simulation import SimulationSettings, Simulator
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.fpc_simulation import (
    RAT_BRAIN,
    FpcSettings,
    rat_brain_template,
    simulate_transients,
)

Share = Annotated[float, Field(ge=0, le=1)]


class TransientSettings(BaseModel):
    """The published simulation; see :class:`~mrsi_engine.spectra.fpc_simulation.FpcSettings`.

    ``shift_hz`` and ``phase_deg`` are uniform between plus and minus this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["transients"] = "transients"
    shift_hz: PositiveFloat = 20.0
    phase_deg: PositiveFloat = 90.0
    water_share: Share = 1 - math.exp(-0.5)
    lipid_share: Share = 1 - math.exp(-0.5)
    noise_sd: NonNegativeFloat = 0.05

    def of(self, signals: int, seed: int) -> FpcSettings:
        """As the simulation takes them."""
        return FpcSettings(
            signals=signals,
            seed=seed,
            shift_hz=self.shift_hz,
            phase_rad=math.radians(self.phase_deg),
            water_share=self.water_share,
            lipid_share=self.lipid_share,
            noise_sd=self.noise_sd,
        )

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of shift (Hz) and phase (rad)."""
        return _ranges((-self.shift_hz, self.shift_hz), (-self.phase_deg, self.phase_deg))


class MixtureSettings(SimulationSettings):
    """Mixtures of the columns of a basis, as for quantification."""

    kind: Literal["basis"] = "basis"


FpcSimulationSettings = Annotated[TransientSettings | MixtureSettings, Field(discriminator="kind")]


@dataclass(frozen=True)
class Transients:
    """``fids (signal, time)`` complex64; true ``shift`` (Hz) and ``phase`` (rad), ``noise_sd``."""

    fids: Tensor
    shift: Tensor
    phase: Tensor
    noise_sd: Tensor


class Source(Protocol):
    """Where signals come from; the same seed stands for the same signals."""

    @property
    def acquisition(self) -> Acquisition:
        """Axis of whole signals."""
        ...

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of shift (Hz), phase (rad) and what else varies."""
        ...

    def draw(self, count: int, seed: int, points: int | None = None) -> Transients:
        """``count`` signals, or their first ``points``."""
        ...


@dataclass(frozen=True, eq=False)
class TransientSource:
    """The published simulation, of a template ``(time,)``; ``None`` is our own rat brain."""

    settings: TransientSettings
    template: NDArray[np.complexfloating] | None = None
    acquisition: Acquisition = RAT_BRAIN

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of shift (Hz) and phase (rad)."""
        return self.settings.ranges

    def draw(self, count: int, seed: int, points: int | None = None) -> Transients:
        """``count`` signals, or their first ``points``."""
        points = points or self.acquisition.points
        made = simulate_transients(
            self.settings.of(count, seed),
            self._spectrum[:points],
            self.acquisition.with_points(points),
        )
        truth = (torch.from_numpy(v) for v in (made.shift, made.phase, made.noise_sd))
        return Transients(torch.from_numpy(made.fids), *truth)

    @cached_property
    def _spectrum(self) -> NDArray[np.complexfloating]:
        return _rat_brain(self.acquisition) if self.template is None else self.template


@dataclass(frozen=True, eq=False)
class MixtureSource:
    """Mixtures of a basis.

    Raises
    ------
    InputError
        When drawing, if the settings are not for the basis.
    """

    settings: MixtureSettings
    basis: Basis

    @property
    def acquisition(self) -> Acquisition:
        """Axis of the basis."""
        return self.basis.acquisition

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Of shift (Hz), phase (rad) and what else varies."""
        return self.settings.ranges

    def draw(self, count: int, seed: int, points: int | None = None) -> Transients:
        """``count`` signals, or their first ``points``."""
        batch = self._simulator(points or self.acquisition.points).draw(count, seed)
        return Transients(batch.fids, batch.theta[:, 1], batch.theta[:, 0], batch.noise_sd)

    def _simulator(self, points: int) -> Simulator:
        if points not in self._made:
            axis = self.acquisition.with_points(points)
            short = Basis(self.basis.names, self.basis.fids[:, :points], axis)
            self._made[points] = Simulator(self.settings, short)
        return self._made[points]

    @cached_property
    def _made(self) -> dict[int, Simulator]:
        return {}


@lru_cache(maxsize=2)
def _rat_brain(acquisition: Acquisition) -> NDArray[np.complexfloating]:
    return rat_brain_template(acquisition)


def _ranges(
    shift_hz: tuple[float, float], phase_deg: tuple[float, float]
) -> dict[str, tuple[float, float]]:
    low, high = phase_deg
    return {"shift": shift_hz, "phase": (math.radians(low), math.radians(high))}
