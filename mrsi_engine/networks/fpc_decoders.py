"""What an encoder's outputs mean in frequency and phase correction, and what teaches it.

Four decoders are those of Shamaei et al., Magn Reson Med 2023;89:1221, learned without labels:

- ``dCrR``: phase, shift, amplitude and damping of one Lorentzian line, creatine at 3.027 ppm. The
  signal times ``exp(-500 t)`` is taken as it is, as a rough account of all that decays fast;
- ``dCrRF``: the same, compared within 2.5-3.5 ppm only;
- ``dSR``: phase and shift relative to a template;
- ``dSRF``: the same within 2.5-3.5 ppm.

A fifth is ours. ``projected``: the encoder says the shift only. Phase, amplitude and damping are
those which fit best once it is known: the likelihood of the ``robust`` method, so that a network
that has learned it perfectly is that method.

With any of them a recipe may ask that what a smooth baseline or lines of water and lipids can
explain does not count. It is not so in the paper, whose networks such signals pull away.

The public code of the paper is not followed where it errs: the phase was a bare number, which has a
jump somewhere, here it is the direction of two outputs; damping and amplitude could become
negative, here they cannot; the template was one noisy transient, here it is an average; samples
were dropped at random before the first layer, which is noise of another kind than the data's, here
all are used. The frequency limits were truncated to whole bins of an unnormalised transform.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import softplus

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels.alignment import turned
from mrsi_engine.kernels.projection import LineRange, Projection
from mrsi_engine.kernels.registration import Registration
from mrsi_engine.nuclei import nucleus

FpcKind = Literal["dCrR", "dCrRF", "dSR", "dSRF", "projected"]

#: Decay rate (1/s) of the rough baseline, as published.
_ROUGH = 500.0

#: Amplitude of creatine in a normalised signal, and its damping (1/s), an encoder begins near.
_AMPLITUDE, _DAMPING = 0.3, 30.0

_MIDDLE = math.log(2)

Ppm = tuple[float, float]
Lines = tuple[float, float, float, float, Annotated[int, Field(ge=1)]]


class FpcDecoderSettings(BaseModel):
    """Which decoder, the bound of what an encoder can say, and what counts.

    Parameters
    ----------
    kind
        See :mod:`mrsi_engine.networks.fpc_decoders`.
    points
        Samples of the signal that are compared, from the first.
    shift_hz
        The shift lies within plus and minus this; take it wider than the training range.
    window_ppm
        What is compared by ``dCrRF``, ``dSRF`` and ``projected``.
    baseline_order
        Order of a complex polynomial over what is compared that does not count; none if not given.
    nuisances
        Lines that do not count, each as low and high ppm, low and high damping (1/s) and number of
        vectors; see :class:`~mrsi_engine.kernels.projection.LineRange`.
    dampings
        Of ``projected``: dampings (1/s) of the template that are tried.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: FpcKind
    points: PositiveInt = 512
    shift_hz: PositiveFloat = 30.0
    window_ppm: Ppm = (2.5, 3.5)
    baseline_order: Annotated[int, Field(ge=0, le=10)] | None = None
    nuisances: tuple[Lines, ...] = ()
    dampings: Annotated[tuple[float, ...], Field(min_length=1)] = (0.0,)

    @property
    def needs_template(self) -> bool:
        """Whether signals are compared with a template."""
        return self.kind in ("dSR", "dSRF", "projected")

    @property
    def outputs(self) -> int:
        """Numbers a signal that the encoder must give."""
        return {"dCrR": 5, "dCrRF": 5, "dSR": 3, "dSRF": 3, "projected": 1}[self.kind]

    @property
    def limited(self) -> bool:
        """Whether only the window is compared."""
        return self.kind in ("dCrRF", "dSRF", "projected")

    def projection(self, acquisition: Acquisition) -> Projection:
        """What counts.

        Raises
        ------
        InputError
            If the window leaves the spectrum or holds too few points.
        """
        window = hertz_between(acquisition, self.window_ppm) if self.limited else None
        lines = [
            LineRange(*hertz_between(acquisition, (low, high)), slow, fast, rank)
            for low, high, slow, fast, rank in self.nuisances
        ]
        try:
            return Projection.build(
                self.points, acquisition.dwell_time, window, self.baseline_order, lines
            )
        except ValueError as error:
            raise InputError(f"decoder: window_ppm = {list(self.window_ppm)}: {error}") from error


@dataclass(frozen=True)
class FpcDecoded:
    """Where signals stand, ``(signal,)`` each: ``shift`` (Hz) and ``phase`` (rad).

    Of creatine (``dCrR``, ``dCrRF``) or relative to the template; ``amplitude`` in units of the
    signals and ``damping`` (1/s) of the line, or of the template's scale and beyond its damping.
    """

    shift: Tensor
    phase: Tensor
    amplitude: Tensor
    damping: Tensor


@dataclass(frozen=True, eq=False)
class CreatineDecoder:
    """``dCrR`` and ``dCrRF``; see :mod:`mrsi_engine.networks.fpc_decoders`.

    ``time (time,)`` float32 s and ``creatine (time,)`` complex64, the undamped line, of the samples
    that are compared.
    """

    settings: FpcDecoderSettings
    time: Tensor
    creatine: Tensor
    compared: Projection

    def decode(self, outputs: Tensor, signals: Tensor) -> FpcDecoded:
        """Where the creatine of normalised ``signals (signal, time)`` stands."""
        amplitude = _AMPLITUDE * softplus(outputs[:, 3]) / _MIDDLE
        damping = _DAMPING * softplus(outputs[:, 4]) / _MIDDLE
        return FpcDecoded(_shift(outputs, self.settings), _phase(outputs), amplitude, damping)

    def fit(self, decoded: FpcDecoded, signals: Tensor) -> Tensor:
        """The line and the rough baseline, ``(signal, time)``."""
        rough = signals[:, : len(self.time)] * torch.exp(-_ROUGH * self.time)
        angle = 2 * math.pi * decoded.shift[:, None] * self.time + decoded.phase[:, None]
        height = decoded.amplitude[:, None] * torch.exp(-decoded.damping[:, None] * self.time)
        return torch.polar(height, angle) * self.creatine + rough

    def loss(self, decoded: FpcDecoded, signals: Tensor) -> Tensor:
        """Mean squared residual, within the window with ``dCrRF``; no label enters."""
        rest = signals[:, : len(self.time)] - self.fit(decoded, signals)
        return _mean_square(rest, self.compared)


@dataclass(frozen=True, eq=False)
class TemplateDecoder:
    """``dSR`` and ``dSRF``; see :mod:`mrsi_engine.networks.fpc_decoders`.

    ``time (time,)`` float32 s and ``template (time,)`` complex64 of mean square 1, of the samples
    that are compared.
    """

    settings: FpcDecoderSettings
    time: Tensor
    template: Tensor
    compared: Projection

    def decode(self, outputs: Tensor, signals: Tensor) -> FpcDecoded:
        """Where normalised ``signals (signal, time)`` stand."""
        shift = _shift(outputs, self.settings)
        return FpcDecoded(shift, _phase(outputs), torch.ones_like(shift), torch.zeros_like(shift))

    def fit(self, decoded: FpcDecoded, signals: Tensor) -> Tensor:
        """The template moved and turned, ``(signal, time)``."""
        angle = 2 * math.pi * decoded.shift[:, None] * self.time + decoded.phase[:, None]
        return torch.polar(torch.ones_like(angle), angle) * self.template

    def loss(self, decoded: FpcDecoded, signals: Tensor) -> Tensor:
        """Mean squared residual, within the window with ``dSRF``; no label enters."""
        rest = signals[:, : len(self.time)] - self.fit(decoded, signals)
        return _mean_square(rest, self.compared)


@dataclass(frozen=True, eq=False)
class ProjectedDecoder:
    """``projected``; see :mod:`mrsi_engine.networks.fpc_decoders`.

    ``filters (time, damping)`` complex64 are the conjugated projected templates and ``norms
    (damping,)`` their energy, one for each of ``settings.dampings``.
    """

    settings: FpcDecoderSettings
    seen: Projection
    filters: Tensor
    norms: Tensor

    def decode(self, outputs: Tensor, signals: Tensor) -> FpcDecoded:
        """Where ``signals (signal, time)`` stand: the shift, and what follows from it."""
        shift = _shift(outputs[:, -1:], self.settings, 0)
        scale, _ = self._scale(signals, shift)
        best = (scale.abs().square() * self.norms).argmax(1)
        chosen = scale.gather(1, best[:, None])[:, 0]
        return FpcDecoded(shift, chosen.angle(), chosen.abs(), self._dampings[best])

    def loss(self, decoded: FpcDecoded, signals: Tensor) -> Tensor:
        """Share of what counts that the template at that shift does not explain; no label."""
        scale, back = self._scale(signals, decoded.shift)
        explained = (scale.abs().square() * self.norms).amax(1)
        return 1 - (explained / self.seen.energy(back)).mean()

    def _scale(self, signals: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Best complex amplitude with each damping, ``(signal, damping)``; signals moved back."""
        dwell = self.seen.band.dwell_time
        back = turned(signals[:, : self.settings.points], dwell, -shift)
        return (back @ self.filters) / self.norms, back

    @cached_property
    def _dampings(self) -> Tensor:
        return torch.tensor(self.settings.dampings, device=self.norms.device)


FpcDecoder = CreatineDecoder | TemplateDecoder | ProjectedDecoder


def make_fpc_decoder(
    settings: FpcDecoderSettings,
    acquisition: Acquisition,
    template: Tensor | None = None,
    device: str | torch.device = "cpu",
) -> FpcDecoder:
    """A decoder for signals on an axis.

    Parameters
    ----------
    settings
        Kind and bounds.
    acquisition
        Axis of the signals.
    template
        ``(time,)`` complex64, for the kinds that need one.
    device
        Where to decode.

    Raises
    ------
    InputError
        If the signals are shorter than what is compared, or the window is not for the axis.
    """
    if acquisition.points < settings.points:
        raise InputError(
            f"decoder: points is {settings.points}, the signals have {acquisition.points}"
        )
    # Shift and phase of a correction count from the first sample, wherever time zero is.
    elapsed = replace(acquisition, start_time=0.0).time[: settings.points]
    time = torch.as_tensor(elapsed, dtype=torch.float32, device=device)
    seen = settings.projection(acquisition).to(torch.device(device))
    if not settings.needs_template:
        lines = nucleus(acquisition.nucleus).alignment_for(f"decoder {settings.kind}")
        angle = 2 * math.pi * float(acquisition.frequency_of(lines.line)) * time.double()
        creatine = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)
        return CreatineDecoder(settings, time, creatine, seen)
    assert template is not None
    head = template[: settings.points].to(device)
    if settings.kind == "projected":
        return _projected(settings, seen, head)
    size = head.abs().square().mean().sqrt()
    return TemplateDecoder(settings, time, (head / size).to(torch.complex64), seen)


def _projected(
    settings: FpcDecoderSettings, seen: Projection, template: Tensor
) -> ProjectedDecoder:
    low, high = min(settings.dampings), max(settings.dampings)
    ready = Registration.build(
        template.cpu().to(torch.complex128),
        seen.to(torch.device("cpu")),
        (min(low, 0.0) - 1, max(high, 0.0) + 1),
    )
    weights, _ = ready.weights(torch.tensor(settings.dampings, dtype=torch.float64))
    mixed = weights.to(ready.gram.dtype)
    filters = (ready.filters.to(torch.complex128) @ mixed.T).to(torch.complex64)
    norms = ((mixed @ ready.gram) * mixed).sum(1).real.float()
    device = template.device
    return ProjectedDecoder(settings, seen, filters.to(device), norms.to(device))


def hertz_between(acquisition: Acquisition, ppm: Sequence[float]) -> tuple[float, float]:
    """(low, high) in Hz of a range in ppm."""
    first, second = sorted(acquisition.frequency_of(ppm).tolist())
    return first, second


def _shift(outputs: Tensor, settings: FpcDecoderSettings, place: int = 2) -> Tensor:
    return settings.shift_hz * torch.tanh(outputs[:, place])


def _phase(outputs: Tensor) -> Tensor:
    """Direction of the first two outputs: no number stands next to another phase's."""
    return torch.atan2(outputs[:, 1], outputs[:, 0])


def _mean_square(signals: Tensor, compared: Projection) -> Tensor:
    """Mean square of a sample, or of a bin of the window, of what counts."""
    if compared.rank == compared.band.points:
        return torch.view_as_real(signals).square().sum(-1).mean()
    window = compared.band.crop(signals)
    span = compared.span.to(signals.dtype)
    counted = window - (window @ span.conj()) @ span.T
    return torch.view_as_real(counted).square().sum(-1).mean()
