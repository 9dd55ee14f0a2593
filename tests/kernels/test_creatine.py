"""Creatine referencing finds creatine's shift and phase, not choline's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fpc_signals import AXIS, angle_between, placed, spectrum_3t, white

from mrsi_engine.kernels.creatine import CreatineReferencing, reference_to_creatine
from mrsi_engine.nuclei import nucleus

SIGNALS, SD = 300, 0.3
#: Creatine of the test spectrum stands at 3.03 ppm.
CREATINE = nucleus("1H").alignment_for("test").line
OFFSET = float(AXIS.frequency_of(3.03) - AXIS.frequency_of(CREATINE))


@pytest.mark.parametrize("whole", [True, False])
def test_large_shifts_and_any_phase(whole):
    rng = np.random.default_rng(4)
    shift, phase = rng.uniform(-60, 60, SIGNALS), rng.uniform(-3.1, 3.1, SIGNALS)
    clean = placed(spectrum_3t(), shift, phase, np.ones(SIGNALS), np.zeros(SIGNALS))
    fids = (clean + white(SIGNALS, SD, 5)).to(torch.complex64)
    noise = torch.full((SIGNALS,), SD, dtype=torch.float64)
    found = reference_to_creatine(CreatineReferencing.build(AXIS, whole), fids, noise)
    error = found.shift - torch.from_numpy(shift) - OFFSET
    # Choline is 22 Hz away; the tails of its line move the estimate by less than a tenth of that.
    assert float(error.abs().max()) < 2.2
    assert float(angle_between(found.phase, phase).abs().max()) < 0.5


def test_one_line_alone_is_exact():
    t = torch.from_numpy(AXIS.time)
    turn = 2 * torch.pi * float(AXIS.frequency_of(CREATINE)) * t
    line = torch.polar(7 * torch.exp(-18 * t), turn)
    fids = placed(line, [11.0], [0.7], [1.0], [0.0]).to(torch.complex64)
    noise = torch.full((1,), 0.01, dtype=torch.float64)
    found = reference_to_creatine(CreatineReferencing.build(AXIS), fids, noise)
    assert float(found.shift[0]) == pytest.approx(11, abs=0.01)
    assert float(found.phase[0]) == pytest.approx(0.7, abs=1e-3)
    assert float(found.amplitude[0]) == pytest.approx(7, rel=1e-3)
    assert float(found.damping[0]) == pytest.approx(18, abs=0.05)


def test_silence_gets_no_estimate():
    fids = torch.zeros((2, AXIS.points), dtype=torch.complex64)
    noise = torch.ones(2, dtype=torch.float64)
    found = reference_to_creatine(CreatineReferencing.build(AXIS), fids, noise)
    assert bool(torch.isnan(found.shift).all())
