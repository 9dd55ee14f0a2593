"""How signals stand to a template: what every method of frequency and phase correction returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mrsi_engine.kernels.varpro import Code

#: A signal is trusted where noise alone would look as much like the template this rarely.
_RARE = 1e-3

#: Fine steps of a carrier computed from a coarse and a fine factor.
_FINE = 32


@dataclass(frozen=True)
class Alignment:
    """``signal = amplitude * exp(i*phase + 2*pi*i*shift*t - damping*t) * template + noise``.

    All ``(signal,)``: ``shift`` (Hz), ``phase`` (rad, -pi to pi), ``amplitude`` and ``damping``
    (1/s) float64; ``shift_sd`` (Hz) and ``phase_sd`` (rad) are their Cramér-Rao bounds for the
    noise level given; ``chance`` is how often white noise alone would look as much like the
    template, at any shift; ``match`` is the share the template explains of what cannot be noise;
    ``searched`` whether all shifts were looked at, and not only those about a start; ``code`` a
    :class:`mrsi_engine.kernels.varpro.Code`. NaN where the signal says nothing (zero, not finite).
    """

    shift: Tensor
    phase: Tensor
    amplitude: Tensor
    damping: Tensor
    shift_sd: Tensor
    phase_sd: Tensor
    chance: Tensor
    match: Tensor
    searched: Tensor
    code: Tensor

    @property
    def trusted(self) -> Tensor:
        """Which signals converged to what is more than noise, ``(signal,)`` bool."""
        return (self.code == Code.CONVERGED) & (self.chance < _RARE)

    @classmethod
    def empty(cls, device: torch.device) -> Alignment:
        """The alignment of no signals."""
        none = torch.zeros(0, dtype=torch.float64, device=device)
        no_flag, no_code = none.to(torch.bool), none.to(torch.int64)
        return cls(none, none, none, none, none, none, none, none, no_flag, no_code)

    @classmethod
    def join(cls, parts: list[Alignment]) -> Alignment:
        """The alignments of several runs of signals, one after the other."""
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def turned(
    fids: Tensor, dwell_time: float, shift: Tensor, phase: Tensor | None = None, first: int = 0
) -> Tensor:
    """FIDs times ``exp(i*phase + 2*pi*i*shift*t)``, ``(signal, time)``.

    Parameters
    ----------
    fids
        ``(signal, time)`` complex.
    dwell_time
        s.
    shift, phase
        ``(signal,)`` float64, Hz and rad.
    first
        Number of the first sample given, counted from ``t = 0``.
    """
    points = fids.shape[1]
    step = 2 * math.pi * dwell_time * shift[:, None]
    start = step * first if phase is None else step * first + phase[:, None]
    rows = torch.arange(math.ceil(points / _FINE), device=fids.device)
    # The angle grows to hundreds of radians: float64, but of few numbers.
    coarse = _carrier(start + step * _FINE * rows).to(fids.dtype)
    fine = _carrier(step * torch.arange(_FINE, device=fids.device)).to(fids.dtype)
    carrier = (coarse[:, :, None] * fine[:, None, :]).flatten(1)
    return fids * carrier[:, :points]


def corrected(fids: Tensor, dwell_time: float, shift: Tensor, phase: Tensor) -> Tensor:
    """FIDs ``(signal, time)`` brought to the template's frequency and phase.

    Signals whose ``shift`` or ``phase`` ``(signal,)`` is not finite are left as they are.
    """
    known = torch.isfinite(shift) & torch.isfinite(phase)
    back = torch.where(known, -shift, 0.0), torch.where(known, -phase, 0.0)
    return turned(fids, dwell_time, *back)


def wrapped(phase: Tensor) -> Tensor:
    """Phases between -pi and pi."""
    return torch.remainder(phase + math.pi, 2 * math.pi) - math.pi


def _carrier(angle: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(angle), angle)
