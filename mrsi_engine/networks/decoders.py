"""Decoders: what an encoder's outputs mean, as parameters of the linear combination model.

The signal model is :mod:`mrsi_engine.kernels.lcm`, the one of the fit. Four decoders, after
Shamaei et al., Comput Biol Med 2023;158:106837:

- ``nMM`` (DQ-nMM): an amplitude for each column of the basis, its measured macromolecules (MM)
  included;
- ``pMM`` (DQ-pMM): MM as 18 Lorentzian lines, each with an amplitude of its own;
- ``rpMM`` (DQ-rpMM): the same, and a cut-off time after which metabolites alone must explain the
  signal, which keeps MM to the beginning;
- ``projected``: the encoder says shift, damping and phase only. Amplitudes are the linear least
  squares solution given those (variable projection), so that no mean of a training set can leak
  into them.

The public code of that paper is not followed where it errs: its parametric MM were shifted against
the metabolites (one conjugate too many), here one lineshape acts on all columns; damping could
become negative, here it cannot; the phase was an unbounded number, here it is an angle within
stated bounds, as the shift is. Its simulation damped the noise with the signal; see
:mod:`mrsi_engine.networks.simulation`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveFloat, model_validator
from torch import Tensor
from torch.nn.functional import softplus

from mrsi_engine.kernels.lcm import Layout, LinearCombinationModel
from mrsi_engine.kernels.linear import solve_spd
from mrsi_engine.nuclei import nucleus
from mrsi_engine.spectra.basis import Basis
from mrsi_engine.spectra.macromolecules import pattern_lines

DecoderKind = Literal["nMM", "pMM", "rpMM", "projected"]

_LAYOUT = Layout(groups=1)
_THETA = 3

#: Softplus of 0: what an untrained encoder's outputs are near.
_MIDDLE = math.log(2)

#: How sharply amplitudes that move along directions turn off at 0, and what an output of 1 moves
#: along a direction, in SDs of the amplitudes there: with Adam's small steps, more learns faster.
_SHARP, _STRIDE = 4.0, 5.0

#: Width (s) of the step at the cut-off time, and the logit it starts from (7 ms), as published.
_STEP, _START = math.sqrt(1e-7), -5.0


class DecoderSettings(BaseModel):
    """Which decoder, and the bounds of what an encoder can say.

    Parameters
    ----------
    kind
        See :mod:`mrsi_engine.networks.decoders`.
    shift_hz, phase_deg
        Shift and phase lie within plus and minus this. Take them wider than the training ranges:
        a bound is reached slowly.
    damping
        Lorentzian damping (1/s) that an untrained encoder begins near; any from 0 can be reached.
    cutoff_weight
        Of ``rpMM``: what a second of cut-off time costs, relative to the mean square of the
        signal. The published 3, of signals that were not normalised, is 0.34 on their
        simulation; 0.5 cost accuracy there (docs/networks.md).
    directions
        Amplitude outputs are not of one column each, but along the principal directions of all
        columns' overlap (see :func:`principal_directions`): what is hard to tell apart, such as
        GPC and PCh, has an output of its own and is not drowned by their sum while training.
    skip
        Samples at the beginning that the residual leaves out, as published 1: what a decoder
        cannot explain there, others would have to. Of amplitude decoders only.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: DecoderKind = "projected"
    shift_hz: PositiveFloat = 15.0
    phase_deg: PositiveFloat = 60.0
    damping: PositiveFloat = 10.0
    cutoff_weight: PositiveFloat = 0.05
    directions: bool = False
    skip: NonNegativeInt = 0

    @model_validator(mode="after")
    def _all_samples_are_projected(self) -> DecoderSettings:
        if self.skip and self.kind == "projected":
            raise ValueError("skip is not for projected amplitudes, which all samples decide")
        return self


@dataclass(frozen=True)
class Decoded:
    """Parameters of the model of each signal.

    ``amplitudes (signal, column)`` in units of the columns, ``theta (signal, parameter)`` as
    :class:`~mrsi_engine.kernels.lcm.Layout` orders it, ``cutoff (signal,)`` s with ``rpMM``.
    """

    amplitudes: Tensor
    theta: Tensor
    cutoff: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decoder bound to the columns of a basis; see :func:`make_decoder`.

    Parameters
    ----------
    settings
        Kind and bounds.
    names
        Of the columns.
    model
        The signal model, in single precision.
    typical
        ``(column,)``, amplitudes in a normalised signal that an untrained encoder begins near.
        ``projected`` does not use it.
    mixing
        ``(column, direction)``, with ``directions``: change of each amplitude, as a share of its
        typical one, that an output of 1 makes.
    symbol
        Nucleus of the basis.
    """

    settings: DecoderSettings
    names: tuple[str, ...]
    model: LinearCombinationModel
    typical: Tensor
    mixing: Tensor | None = None
    symbol: str = "1H"

    @property
    def outputs(self) -> int:
        """Numbers a signal that the encoder must give."""
        amplitudes = 0 if self.settings.kind == "projected" else len(self.names)
        return amplitudes + _THETA + (self.settings.kind == "rpMM")

    def decode(self, outputs: Tensor, signals: Tensor) -> Decoded:
        """Parameters of normalised ``signals (signal, time)`` from ``outputs (signal, output)``."""
        theta = self.theta(outputs)
        if self.settings.kind == "projected":
            return Decoded(self.project(signals, theta), theta)
        count = len(self.names)
        amplitudes = self._amplitudes(outputs[:, _THETA : _THETA + count])
        cutoff = None
        if self.settings.kind == "rpMM":
            cutoff = torch.sigmoid(outputs[:, _THETA + count] + _START)
        return Decoded(amplitudes, theta, cutoff)

    def fit(self, decoded: Decoded) -> Tensor:
        """Signals of the model, ``(signal, time)`` complex64."""
        return self.model.synthesise(decoded.amplitudes, decoded.theta)

    def project(self, signals: Tensor, theta: Tensor) -> Tensor:
        """Amplitudes ``(signal, column)`` that fit ``signals (signal, time)`` best, given theta.

        Golub & Pereyra, Inverse Probl 2003;19:R1. The normal equations need products of columns
        only, weighted with the squared lineshape.
        """
        shape = _LAYOUT.lineshape(theta, self.model.time)[:, 0]
        turned = signals * torch.polar(torch.ones_like(theta[:, :1]), -theta[:, :1])
        rhs = ((turned * shape.conj()) @ self.model.columns.conj().T).real
        weights = shape.real.square() + shape.imag.square()
        gram = (weights @ self._products)[:, self._pair]
        solution, _ = solve_spd(gram.double(), rhs.double()[:, :, None])
        return solution[:, :, 0].to(theta.dtype)

    def loss(self, decoded: Decoded, signals: Tensor) -> Tensor:
        """Mean squared residual of normalised ``signals``; no label enters.

        Amplitudes that are projected count as constant: at a least squares solution the residual
        does not change with them to first order, so the gradient is the same and cheaper.
        """
        if self.settings.kind == "projected":
            decoded = Decoded(decoded.amplitudes.detach(), decoded.theta)
        residual = _mean_square((signals - self.fit(decoded))[:, self.settings.skip :])
        if decoded.cutoff is None:
            return residual
        return residual + 0.5 * self._late(decoded, decoded.cutoff, signals)

    def _late(self, decoded: Decoded, cutoff: Tensor, signals: Tensor) -> Tensor:
        """What metabolites alone leave after the cut-off time, and what its length costs."""
        late = self.model.time - cutoff[:, None]
        step = 0.5 * (1 + late / torch.hypot(late, torch.full_like(late, _STEP)))
        metabolites = Decoded(decoded.amplitudes * self._is_metabolite, decoded.theta)
        left = _mean_square(step * (signals - self.fit(metabolites)))
        return left + self.settings.cutoff_weight * cutoff.mean()

    def _amplitudes(self, outputs: Tensor) -> Tensor:
        if self.mixing is None:
            return self.typical * softplus(outputs) / _MIDDLE
        share = 1 + outputs @ self.mixing.T
        return self.typical * softplus(share, beta=_SHARP)

    def theta(self, outputs: Tensor) -> Tensor:
        """Shift, damping and phase of ``outputs (signal, output)``, ``(signal, parameter)``."""
        bound = torch.tanh(outputs[:, :_THETA])
        phase = math.radians(self.settings.phase_deg) * bound[:, 0]
        shift = self.settings.shift_hz * bound[:, 1]
        damping = self.settings.damping * softplus(outputs[:, 2]) / _MIDDLE
        return torch.stack([phase, shift, damping, torch.zeros_like(phase)], dim=1)

    @property
    def _is_metabolite(self) -> Tensor:
        kept = [float(not nucleus(self.symbol).is_macromolecule(name)) for name in self.names]
        return torch.tensor(kept, device=self.typical.device)

    @cached_property
    def _products(self) -> Tensor:
        """Real parts of the products of two columns, ``(time, pair)``."""
        columns = self.model.columns
        first, second = torch.triu_indices(len(columns), len(columns), device=columns.device)
        return (columns[first].conj() * columns[second]).real.T.contiguous()

    @cached_property
    def _pair(self) -> Tensor:
        """Where the product of two columns stands in :attr:`_products`, ``(column, column)``."""
        count = len(self.names)
        first, second = torch.triu_indices(count, count, device=self.typical.device)
        place = torch.zeros(count, count, dtype=torch.long, device=self.typical.device)
        order = torch.arange(len(first), device=self.typical.device)
        place[first, second] = order
        place[second, first] = order
        return place


def make_decoder(
    settings: DecoderSettings,
    basis: Basis,
    typical: Tensor | None = None,
    device: str | torch.device = "cpu",
    mixing: Tensor | None = None,
) -> Decoder:
    """A decoder for signals on the axis of a basis.

    Parameters
    ----------
    settings
        Kind and bounds.
    basis
        With macromolecules for ``nMM``; ``pMM`` and ``rpMM`` put their lines in their place.
    typical
        See :class:`Decoder`; ones if not given.
    device
        Where to decode.
    mixing
        See :class:`Decoder`.

    Raises
    ------
    InputError
        If ``pMM`` or ``rpMM`` is asked for at another field than 3 T.
    """
    full = decoder_basis(settings, basis)
    columns = torch.as_tensor(full.fids, dtype=torch.complex64, device=device)
    group = torch.zeros(len(full.names), dtype=torch.long, device=device)
    time = torch.as_tensor(full.acquisition.time, dtype=torch.float32, device=device)
    typical = torch.ones(len(full.names)) if typical is None else typical
    model = LinearCombinationModel(columns, group, time)
    mixing = None if mixing is None else mixing.float().to(device)
    symbol = full.acquisition.nucleus
    return Decoder(settings, full.names, model, typical.float().to(device), mixing, symbol)


def principal_directions(columns: Tensor, typical: Tensor, spread: Tensor) -> Tensor:
    """What :class:`Decoder` mixes amplitudes with, ``(column, direction)``.

    The directions are the principal ones of the signals that ``columns (column, time)`` make when
    their amplitudes, ``typical (column,)``, vary with the SD ``spread (column,)``: along each, the
    signal changes independently of the others. Adam then scales the steps of each by itself.
    """
    scaled = columns * spread[:, None]
    gram = (scaled @ scaled.conj().T).real.double()
    _, vectors = torch.linalg.eigh(gram)
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    directions: Tensor = (vectors * largest.sign()).to(spread.dtype)
    return _STRIDE * (spread / typical)[:, None] * directions


def decoder_basis(settings: DecoderSettings, basis: Basis) -> Basis:
    """The columns that a decoder has amplitudes for."""
    if settings.kind in ("nMM", "projected"):
        return basis
    lines = pattern_lines(basis.acquisition)
    return basis.select(basis.metabolites).extended(lines, np.stack(list(lines.values())))


def _mean_square(signals: Tensor) -> Tensor:
    return torch.view_as_real(signals).square().sum(-1).mean()
