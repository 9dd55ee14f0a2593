"""How alike signals are, whatever their scale."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fpc_signals import AXIS, hertz, placed, spectrum_3t, white

from mrsi_engine.kernels.alignment import corrected
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.similarity import similarity_matrix, similarity_to

BAND = Band.between(AXIS.points, AXIS.dwell_time, *hertz(2.5, 3.5))
SIGNALS = 30


@pytest.fixture(scope="module")
def signals():
    rng = np.random.default_rng(6)
    shift, phase = rng.uniform(-20, 20, SIGNALS), rng.uniform(-3, 3, SIGNALS)
    clean = placed(spectrum_3t(), shift, phase, rng.uniform(0.5, 2, SIGNALS), np.zeros(SIGNALS))
    return (clean + white(SIGNALS, 0.2, 7)).to(torch.complex64), shift, phase


def test_correction_raises_it(signals):
    fids, shift, phase = signals
    back = corrected(fids, AXIS.dwell_time, torch.from_numpy(shift), torch.from_numpy(phase))
    assert similarity_matrix(fids, BAND).mean() < 0.35
    assert similarity_matrix(back, BAND).mean() > 0.97
    assert float(similarity_to(spectrum_3t(), back, BAND).min()) > 0.97


def test_opposite_signals_and_scales():
    fid = spectrum_3t().to(torch.complex64)
    matrix = similarity_matrix(torch.stack([fid, -3 * fid, 0.1 * fid]), BAND)
    expected = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    torch.testing.assert_close(matrix, expected)


def test_silence_is_like_nothing(signals):
    fids = signals[0][:3].clone()
    fids[1], fids[2, 3] = 0, complex("nan")
    matrix = similarity_matrix(fids, BAND)
    torch.testing.assert_close(matrix, torch.diag(torch.tensor([1.0, 0, 0])))
