"""Simulated signals made while training, so that no signal is seen twice.

``fid = exp(i*phase) * sum_m a_m x_m(t) * exp(2*pi*i*shift*t - damping*t) + baseline + noise``, the
model of :mod:`mrsi_engine.kernels.lcm`; every parameter is drawn from a range of a recipe, uniform
but for the noise. Noise is white unless ``damped_noise`` asks for that of the published simulation
(Shamaei et al., Comput Biol Med 2023;158:106837), whose code adds it before shift, damping and
phase: its signals are nearly free of noise at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict
from torch import Tensor

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.lcm import LinearCombinationModel
from mrsi_engine.spectra.basis import Basis

#: Humps of a simulated baseline: how many, between which ppm, and their FWHM in Hz.
_HUMPS, _HUMPS_PPM, _HUMPS_FWHM = 6, (0.5, 4.2), (60.0, 150.0)


def _ordered(span: tuple[float, float]) -> tuple[float, float]:
    if not (all(map(math.isfinite, span)) and span[0] <= span[1]):
        raise ValueError(f"a range is [smallest, largest], found {list(span)}")
    return span


def _not_negative(span: tuple[float, float]) -> tuple[float, float]:
    if span[0] < 0:
        raise ValueError(f"expected a range from 0 or above, found {list(span)}")
    return span


Span = Annotated[tuple[float, float], AfterValidator(_ordered)]
PositiveSpan = Annotated[Span, AfterValidator(_not_negative)]


class SimulationSettings(BaseModel):
    """What varies from signal to signal.

    Parameters
    ----------
    amplitudes
        Range of each column of the basis, in units of the basis.
    shift_hz, phase_deg
        Ranges of shift (Hz) and zero-order phase (degrees).
    damping
        Range of the Lorentzian damping (1/s) beyond the basis' own.
    noise_sd
        Range of the SD per real channel and sample, in units of the FIDs; drawn log-uniformly
        unless it begins at 0.
    damped_noise
        Noise takes part in phase, shift and damping.
    baseline
        SD of the amplitude of each of six broad humps with a phase of their own, in units of the
        FIDs' first sample.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    amplitudes: dict[str, PositiveSpan]
    shift_hz: Span
    phase_deg: Span
    damping: PositiveSpan
    noise_sd: PositiveSpan
    damped_noise: bool = False
    baseline: float = 0.0

    def check(self, basis: Basis) -> SimulationSettings:
        """These settings, once they are known to be for a basis.

        Raises
        ------
        InputError
            If a column has no range or a range no column.
        """
        missing = [name for name in basis.names if name not in self.amplitudes]
        unknown = [name for name in self.amplitudes if name not in basis.names]
        if missing or unknown:
            raise InputError(
                f"simulation amplitudes: no range for {missing}, no column in {basis.source} for "
                f"{unknown}; give a range [smallest, largest] for each column"
            )
        return self

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """Ranges by the names and in the units of the fit's parameters."""
        low, high = self.phase_deg
        return {
            **self.amplitudes,
            "shift": self.shift_hz,
            "lorentzian": self.damping,
            "phase": (math.radians(low), math.radians(high)),
        }


@dataclass(frozen=True)
class Batch:
    """Simulated signals and the truth about them.

    ``fids (signal, time)`` complex64; ``amplitudes (signal, column)``, ``theta (signal, 4)`` and
    ``noise_sd (signal,)`` float32.
    """

    fids: Tensor
    amplitudes: Tensor
    theta: Tensor
    noise_sd: Tensor


@dataclass(frozen=True, eq=False)
class Simulator:
    """Draws signals from a basis.

    Raises
    ------
    InputError
        When drawing, if the settings are not for the basis.
    """

    settings: SimulationSettings
    basis: Basis
    device: str | torch.device = "cpu"

    def draw(self, count: int, seed: int) -> Batch:
        """``count`` signals; a seed stands for the same ones on the same kind of device."""
        chance = torch.Generator(self.device).manual_seed(seed)
        amplitudes = self._uniform(self._spans, count, chance)
        theta = self._theta(count, chance)
        noise_sd = self._noise_sd(count, chance)
        fids = self._model.synthesise(amplitudes, theta)
        noise = self._normal(fids.shape, chance) * noise_sd[:, None]
        if self.settings.damped_noise:
            noise = noise * self._model.layout.lineshape(theta, self._model.time)[:, 0]
        if self.settings.baseline:
            noise = noise + self._baseline(count, chance)
        return Batch(fids + noise, amplitudes, theta, noise_sd)

    @cached_property
    def _model(self) -> LinearCombinationModel:
        columns = torch.as_tensor(self.basis.fids, dtype=torch.complex64, device=self.device)
        group = torch.zeros(len(columns), dtype=torch.long, device=self.device)
        time = torch.as_tensor(self.basis.acquisition.time, dtype=torch.float32)
        return LinearCombinationModel(columns, group, time.to(self.device))

    @cached_property
    def _spans(self) -> Tensor:
        """Ranges of the amplitudes, ``(column, 2)``."""
        ranges = self.settings.check(self.basis).amplitudes
        return torch.tensor([ranges[name] for name in self.basis.names], device=self.device)

    def _theta(self, count: int, chance: torch.Generator) -> Tensor:
        s = self.settings
        low, high = s.phase_deg
        spans = ((math.radians(low), math.radians(high)), s.shift_hz, s.damping, (0.0, 0.0))
        return self._uniform(torch.tensor(spans, device=self.device), count, chance)

    def _noise_sd(self, count: int, chance: torch.Generator) -> Tensor:
        low, high = self.settings.noise_sd
        span = (math.log(low), math.log(high)) if low else (low, high)
        drawn = self._uniform(torch.tensor([span], device=self.device), count, chance)[:, 0]
        return drawn.exp() if low else drawn

    def _baseline(self, count: int, chance: torch.Generator) -> Tensor:
        axis, time = self.basis.acquisition, self._model.time
        far, near = (float(f) for f in axis.frequency_of(_HUMPS_PPM))
        span = torch.tensor([(near, far), _HUMPS_FWHM], device=self.device)
        drawn = self._uniform(span, count * _HUMPS, chance).view(count, _HUMPS, 2)
        size = self.settings.baseline * self._normal((count, _HUMPS), chance)
        width = (math.pi * drawn[:, :, 1, None] * time) ** 2 / (4 * math.log(2))
        humps = torch.polar(torch.exp(-width), 2 * math.pi * drawn[:, :, 0, None] * time)
        return (size[:, :, None] * humps).sum(1)

    def _uniform(self, spans: Tensor, count: int, chance: torch.Generator) -> Tensor:
        """``(count, parameter)`` within ``spans (parameter, 2)``."""
        drawn = torch.rand(count, len(spans), generator=chance, device=self.device)
        return spans[:, 0] + (spans[:, 1] - spans[:, 0]) * drawn

    def _normal(self, shape: tuple[int, ...], chance: torch.Generator) -> Tensor:
        """Complex, SD 1 per real channel."""
        parts = torch.randn((*shape, 2), generator=chance, device=self.device)
        return torch.view_as_complex(parts)
