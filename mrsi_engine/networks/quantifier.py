"""A quantification network that predicts.

Signals are normalised before the encoder sees them: divided by the root mean square magnitude of
the points it looks at. Amplitudes are multiplied by it again, so predictions are in the units of
the data over those of the basis, whatever the scale of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from mrsi_engine.errors import InputError
from mrsi_engine.networks.decoders import Decoded, Decoder, DecoderSettings, make_decoder
from mrsi_engine.networks.model import Model
from mrsi_engine.networks.novelty import Novelty

#: Tensors of a model beside its weights, and parameters that its amplitudes go with.
TYPICAL, MIXING = "typical", "mixing"
THETA = ("phase", "shift", "lorentzian")


def normalise(signals: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Signals over their root mean square magnitude in the first ``points``, and it.

    Of ``(signal, time)`` complex: the same, and ``(signal, 1)``, 1 where a signal is zero.
    """
    head = torch.view_as_real(signals[:, :points].resolve_conj())
    size = head.square().sum(-1).mean(1, keepdim=True).sqrt()
    size = torch.where(size > 0, size, torch.ones_like(size))
    return signals / size, size


@dataclass(frozen=True)
class Prediction:
    """What a network says of signals.

    ``amplitudes (signal, column)`` in the order of ``names``; ``theta (signal, parameter)`` as
    :class:`~mrsi_engine.kernels.lcm.Layout` orders it; ``residual_variance (signal,)`` per real
    channel and sample, in units of the data. Of an ensemble it is the mean.
    """

    names: tuple[str, ...]
    amplitudes: Tensor
    theta: Tensor
    residual_variance: Tensor

    def chi_square(self, noise_sd: Tensor) -> Tensor:
        """Reduced chi-square ``(signal,)``, 1 for noise alone, of its SD ``(signal,)`` or ``()``.

        It counts samples, not degrees of freedom: those are fewer by the parameters.
        """
        return self.residual_variance / noise_sd**2


@dataclass(frozen=True)
class Opinions:
    """What the members of an ensemble say of signals, before anything is fitted to them.

    ``theta (member, signal, parameter)`` as :class:`~mrsi_engine.kernels.lcm.Layout` orders it;
    ``amplitudes (member, signal, column)`` in units of the data, none with a ``projected`` decoder;
    ``novelty (signal,)``, above 1 for signals unlike those of training.
    """

    theta: Tensor
    amplitudes: Tensor | None
    novelty: Tensor


@dataclass(frozen=True, eq=False)
class Quantifier:
    """A quantification model ready to predict on a device; make it once and use it for blocks."""

    model: Model
    decoder: Decoder
    novelty: Novelty

    @classmethod
    def of(cls, model: Model, device: str | torch.device = "cpu") -> Quantifier:
        """Of a loaded model.

        Raises
        ------
        InputError
            If the model is not for quantification, or its decoder's settings are wrong.
        """
        if model.card.kind != "quantification":
            raise InputError(f"{model.source}: kind is {model.card.kind!r}, not quantification")
        try:
            settings = DecoderSettings.model_validate(model.card.decoder)
        except ValidationError as error:
            raise InputError(f"{model.source}: decoder: {error}") from error
        here = model.to(device)
        try:
            typical, novelty = here.tensors[TYPICAL], Novelty.from_tensors(here.tensors)
        except KeyError as error:
            raise InputError(f"{model.source}: no tensor {error}; copy the model again") from error
        mixing = here.tensors.get(MIXING)
        return cls(here, make_decoder(settings, here.basis, typical, device, mixing), novelty)

    @torch.inference_mode()
    def predict(self, fids: Tensor | NDArray[Any], batch: int = 1024) -> Prediction:
        """Of ``fids (signal, time)``, ``batch`` at once; NaN where a signal is not finite.

        But for rounding, a signal's numbers do not depend on the others of its batch.
        """
        signals = torch.as_tensor(fids, dtype=torch.complex64)
        parts = [self._predict(part) for part in signals.split(batch)]
        whole = [torch.cat(column) for column in zip(*parts, strict=True)]
        return Prediction(self.decoder.names, *whole)

    @torch.inference_mode()
    def opinions(self, fids: Tensor, members: int | None = None, batch: int = 1024) -> Opinions:
        """Of ``fids (signal, time)`` by the first ``members`` of the ensemble, by default all."""
        parts = [self._opinions(part, members) for part in fids.split(batch)]
        theta = torch.cat([part.theta for part in parts], dim=1)
        novelty = torch.cat([part.novelty for part in parts])
        if self.decoder.settings.kind == "projected":
            return Opinions(theta, None, novelty)
        amplitudes = [part.amplitudes for part in parts if part.amplitudes is not None]
        return Opinions(theta, torch.cat(amplitudes, dim=1), novelty)

    def inside_ranges(self, theta: Tensor, margin: float = 0.0) -> Tensor:
        """Whether shift, damping and phase lie within the ranges of training, ``(signal,)`` bool.

        Amplitudes do not count, as the scale of data is free. ``margin`` widens each range by that
        share of its width.
        """
        ranges = [self.model.card.ranges[name] for name in THETA]
        low, high = torch.tensor(ranges, device=theta.device).T
        slack = margin * (high - low)
        known = theta[:, : len(ranges)]
        return ((known >= low - slack) & (known <= high + slack)).all(1)

    def _predict(self, signals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        signals, size = self._normalised(signals)
        decoded = self._mean(signals)
        residual = torch.view_as_real(signals - self.decoder.fit(decoded))
        variance = residual.square().mean((1, 2)) * size[:, 0] ** 2
        return decoded.amplitudes * size, decoded.theta, variance

    def _mean(self, signals: Tensor) -> Decoded:
        """Of all members, of normalised signals."""
        said, amplitudes = self._said(signals, None)
        theta = said.mean(0)
        if amplitudes is None:
            return Decoded(self.decoder.project(signals, theta), theta)
        return Decoded(amplitudes.mean(0), theta)

    def _opinions(self, signals: Tensor, members: int | None) -> Opinions:
        signals, size = self._normalised(signals)
        novelty = self.novelty.score(signals[:, : self.model.card.input_points])
        theta, amplitudes = self._said(signals, members)
        return Opinions(theta, None if amplitudes is None else amplitudes * size, novelty)

    def _said(self, signals: Tensor, members: int | None) -> tuple[Tensor, Tensor | None]:
        """Theta, and amplitudes if the decoder has them, by member, of normalised signals."""
        outputs = [encoder(signals) for encoder in self.model.encoders[:members]]
        theta = torch.stack([self.decoder.theta(o) for o in outputs])
        if self.decoder.settings.kind == "projected":
            return theta, None
        decoded = [self.decoder.decode(o, signals).amplitudes for o in outputs]
        return theta, torch.stack(decoded)

    def _normalised(self, signals: Tensor) -> tuple[Tensor, Tensor]:
        here = signals.to(self.decoder.typical.device)
        return normalise(here, self.model.card.input_points)


def predict(
    model: Model,
    fids: Tensor | NDArray[Any],
    *,
    batch: int = 1024,
    device: str | torch.device = "cpu",
) -> Prediction:
    """What a quantification model says of ``fids (signal, time)``; see :class:`Quantifier`."""
    return Quantifier.of(model, device).predict(fids, batch)
