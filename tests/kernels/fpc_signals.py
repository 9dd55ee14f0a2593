"""Signals with known shifts and phases, shared by the tests of frequency and phase correction."""

from __future__ import annotations

import math

import numpy as np
import torch

from mrsi_engine.conventions import Acquisition

#: 3 T, short enough to be quick.
AXIS = Acquisition(512, 0.5e-3, 123.25)
TIME = torch.from_numpy(AXIS.time)


def spectrum_3t(damping: float = 20.0) -> torch.Tensor:
    """A brain-like FID of eight singlets, ``(time,)`` complex128."""
    lines = ((2.01, 10), (3.03, 7), (3.21, 4), (2.35, 3), (3.55, 4), (3.92, 5), (3.75, 3), (2.6, 2))
    t = AXIS.time
    turns = [h * np.exp(2j * np.pi * float(AXIS.frequency_of(p)) * t) for p, h in lines]
    return torch.from_numpy(sum(turns) * np.exp(-damping * t))


def placed(template, shift, phase, amplitude, damping):
    """``amplitude * template`` shifted (Hz), turned (rad) and damped (1/s), in float64."""
    shift, phase, amplitude, damping = (
        torch.as_tensor(v)[:, None] for v in (shift, phase, amplitude, damping)
    )
    angle = phase + 2 * math.pi * shift * TIME
    return template * torch.polar(amplitude * torch.exp(-damping * TIME), angle)


def white(signals: int, sd: float, seed: int) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        sd * rng.standard_normal((signals, AXIS.points, 2)).view(complex)[..., 0]
    )


def hertz(low: float, high: float) -> tuple[float, float]:
    """A window in ppm as (low, high) Hz."""
    return float(AXIS.frequency_of(high)), float(AXIS.frequency_of(low))


def angle_between(first, second) -> torch.Tensor:
    return torch.exp(1j * (torch.as_tensor(first) - torch.as_tensor(second))).angle()
