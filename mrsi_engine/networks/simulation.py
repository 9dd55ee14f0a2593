"""Simulated signals made while training, and real ones varied: no signal is seen twice.

``fid = exp(i*phase) * sum_m a_m x_m(t) * exp(2*pi*i*shift*t - damping*t) + nuisances + noise``,
the model of :mod:`mrsi_engine.kernels.lcm`; every parameter is drawn from a range of a recipe,
uniform but for the noise. Nuisances are a broad baseline and what water removal leaves. Noise is
white unless ``damped_noise`` asks for that of the published simulation (Shamaei et al., Comput
Biol Med 2023;158:106837), whose code adds it before shift, damping and phase: its signals are
nearly free of noise at the end.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    NonNegativeFloat,
    model_validator,
)
from torch import Tensor

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.lcm import LinearCombinationModel
from mrsi_engine.nuclei import Nucleus
from mrsi_engine.spectra.basis import Basis

#: Humps of a simulated baseline: how many, between which ppm, their FWHM in Hz, and when (s) the
#: narrowest is over.
_HUMPS, _HUMPS_BETWEEN, _HUMPS_FWHM, _HUMPS_LAST = 6, (0.5, 4.2), (60.0, 150.0), 0.04

#: Lines of simulated nuisances: how many, and their damping in 1/s; the nucleus says where. Of
#: water they are what removal leaves at the feet of a line, most of it broad.
_WATER, _WATER_DAMPING = 3, (5.0, 300.0)
_LIPIDS, _LIPIDS_DAMPING = 3, (30.0, 90.0)


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
        unless it begins at 0. Either this or ``snr``.
    snr
        Range of the SNR, drawn log-uniformly: height of the NAA peak in the real spectrum over the
        SD of the noise there, of NAA's column alone in the middle of its range and that of the
        damping, at phase and shift 0. As a phantom's, so the noise of a signal does not follow
        from how much NAA it has.
    damped_noise
        Noise takes part in phase, shift and damping.
    baseline, residual_water, lipids
        Nuisances, each with a phase of its own: six broad humps, three lines near water, three
        between 0.8 and 2.1 ppm. The SD of their amplitudes per channel, in units of the FIDs' first
        sample, is drawn for each signal, uniform from 0 to this.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    amplitudes: dict[str, PositiveSpan]
    shift_hz: Span
    phase_deg: Span
    damping: PositiveSpan
    noise_sd: PositiveSpan | None = None
    snr: PositiveSpan | None = None
    damped_noise: bool = False
    baseline: NonNegativeFloat = 0.0
    residual_water: NonNegativeFloat = 0.0
    lipids: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _one_noise(self) -> SimulationSettings:
        if (self.noise_sd is None) == (self.snr is None):
            raise ValueError("expected one of noise_sd and snr")
        if self.snr is not None and self.snr[0] == 0:
            raise ValueError(f"an SNR is above 0, found {list(self.snr)}")
        return self

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
        if self.snr is not None and "NAA" not in basis.names:
            raise InputError(
                f"simulation snr: refers to NAA, which {basis.source} has not; give noise_sd"
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

    ``fids (signal, time)`` complex64 and ``clean``, the same without noise and nuisances;
    ``amplitudes (signal, column)``, ``theta (signal, 4)`` and ``noise_sd (signal,)`` float32.
    """

    fids: Tensor
    clean: Tensor
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
        clean = self._model.synthesise(amplitudes, theta)
        fids = clean + self._noise(theta, noise_sd, chance) + self._nuisances(count, chance)
        return Batch(fids, clean, amplitudes, theta, noise_sd)

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
        low, high = self._noise_range
        span = (math.log(low), math.log(high)) if low else (low, high)
        drawn = self._uniform(torch.tensor([span], device=self.device), count, chance)[:, 0]
        return drawn.exp() if low else drawn

    @cached_property
    def _noise_range(self) -> tuple[float, float]:
        """Smallest and largest SD per real channel and sample."""
        if self.settings.snr is None:
            assert self.settings.noise_sd is not None
            return self.settings.noise_sd
        axis, (low, high) = self.basis.acquisition, self.settings.snr
        amplitude, damping = (
            sum(span) / 2 for span in (self.settings.amplitudes["NAA"], self.settings.damping)
        )
        spectrum = axis.spectrum(amplitude * self.basis["NAA"] * np.exp(-damping * axis.time)).real
        table = self.basis.nucleus
        near = np.abs(axis.ppm - table.landmark("NAA").ppm) < table.lines.search
        height = float(spectrum[near].max())
        one = height / math.sqrt(axis.points)
        return one / high, one / low

    def _noise(self, theta: Tensor, noise_sd: Tensor, chance: torch.Generator) -> Tensor:
        noise = self._normal((len(theta), len(self._model.time)), chance) * noise_sd[:, None]
        if self.settings.damped_noise:
            noise = noise * self._model.layout.lineshape(theta, self._model.time)[:, 0]
        return noise

    def _nuisances(self, count: int, chance: torch.Generator) -> Tensor:
        nuisances = torch.zeros((), dtype=torch.complex64, device=self.device)
        if self.settings.baseline:
            nuisances = nuisances + self._baseline(count, chance)
        table = self.basis.nucleus
        for largest, lines, damping, where in (
            (self.settings.residual_water, _WATER, _WATER_DAMPING, _water_range),
            (self.settings.lipids, _LIPIDS, _LIPIDS_DAMPING, _lipid_range),
        ):
            if largest:
                shift, width = self._lines(where(table), damping, count, lines, chance)
                sizes, time = self._sizes(largest, count, lines, chance), self._model.time
                nuisances = nuisances + _summed(sizes, shift, width * time, time)
        return nuisances

    def _baseline(self, count: int, chance: torch.Generator) -> Tensor:
        shift, width = self._lines(_HUMPS_BETWEEN, _HUMPS_FWHM, count, _HUMPS, chance)
        sizes = self._sizes(self.settings.baseline, count, _HUMPS, chance)
        # The narrowest has fallen to 1e-9 by then.
        time = self._model.time[self._model.time < _HUMPS_LAST]
        decay = (math.pi * width * time) ** 2 / (4 * math.log(2))
        broad = _summed(sizes, shift, decay, time)
        return torch.nn.functional.pad(broad, (0, len(self._model.time) - len(time)))

    def _sizes(self, largest: float, count: int, lines: int, chance: torch.Generator) -> Tensor:
        """Complex amplitudes ``(count, line)``, of an SD that is each signal's own."""
        sd = self._uniform(torch.tensor([(0.0, largest)], device=self.device), count, chance)
        return sd * self._normal((count, lines), chance)

    def _lines(
        self, ppm: Span, width: Span, count: int, lines: int, chance: torch.Generator
    ) -> Iterator[Tensor]:
        """Frequencies (Hz) and widths of lines, ``(count, line, 1)`` each."""
        high, low = (float(f) for f in self.basis.acquisition.frequency_of(ppm))
        spans = torch.tensor([(low, high), width], device=self.device)
        drawn = self._uniform(spans, count * lines, chance)
        return iter(drawn.view(count, lines, 2, 1).unbind(2))

    def _uniform(self, spans: Tensor, count: int, chance: torch.Generator) -> Tensor:
        """``(count, parameter)`` within ``spans (parameter, 2)``."""
        drawn = torch.rand(count, len(spans), generator=chance, device=self.device)
        return spans[:, 0] + (spans[:, 1] - spans[:, 0]) * drawn

    def _normal(self, shape: tuple[int, ...], chance: torch.Generator) -> Tensor:
        """Complex, SD 1 per real channel."""
        parts = torch.randn((*shape, 2), generator=chance, device=self.device)
        return torch.view_as_complex(parts)


def _water_range(table: Nucleus) -> Span:
    return table.water_for("simulation residual_water").residual


def _lipid_range(table: Nucleus) -> Span:
    return table.lipids_for("simulation lipids").simulated


def _summed(size: Tensor, shift: Tensor, decay: Tensor, time: Tensor) -> Tensor:
    """Lines of ``size (count, line)``, ``shift`` in Hz, ``decay (count, line, time)``."""
    lines = torch.polar(torch.exp(-decay), 2 * math.pi * shift * time)
    return (size[:, None, :] @ lines)[:, 0]


class AugmentationSettings(BaseModel):
    """How real signals are varied, so that few of them teach more.

    Each is multiplied by ``amplitude * exp(i*phase + 2*pi*i*shift*t - damping*t)``, its noise
    included, and noise is added to that. A signal that was corrected stands for what it was before.

    Parameters
    ----------
    shift_hz, phase_deg, damping
        Ranges of what is added to the signal's own (Hz, degrees, 1/s).
    amplitude
        Range of the factor; it matters where noise is added.
    noise
        Range of the SD per real channel and sample of the added noise, as a share of the root mean
        square magnitude of the signal before.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shift_hz: Span = (0.0, 0.0)
    phase_deg: Span = (0.0, 0.0)
    damping: PositiveSpan = (0.0, 0.0)
    amplitude: PositiveSpan = (1.0, 1.0)
    noise: PositiveSpan = (0.0, 0.0)

    def vary(self, fids: Tensor, time: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Varied ``fids (signal, time)`` with and without the added noise; ``time`` in s."""
        chance = torch.Generator(fids.device).manual_seed(seed)
        spans = (self.phase_deg, self.shift_hz, self.damping, self.amplitude, self.noise)
        low, high = torch.tensor(spans, device=fids.device).T
        drawn = low + (high - low) * torch.rand(
            len(fids), len(spans), generator=chance, device=fids.device
        )
        phase, shift, damping, amplitude, noise = drawn.T[:, :, None]
        angle = torch.deg2rad(phase) + 2 * math.pi * shift * time
        varied = fids * torch.polar(amplitude * torch.exp(-damping * time), angle)
        size = torch.view_as_real(fids).square().sum(-1).mean(1, keepdim=True).sqrt()
        parts = torch.randn((*fids.shape, 2), generator=chance, device=fids.device)
        return varied + noise * size * torch.view_as_complex(parts), varied
