"""The similarity index: the mean over pairs, whatever the blocks."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from fpc_signals import AXIS, hertz, placed, spectrum_3t, white

from mrsi_engine.kernels.alignment import corrected
from mrsi_engine.kernels.band import Band
from mrsi_engine.kernels.similarity import (
    combine_similarity,
    finish_similarity,
    similarity_matrix,
    similarity_to,
    summarise_similarity,
)

BAND = Band.between(AXIS.points, AXIS.dwell_time, *hertz(2.5, 3.5))
SIGNALS = 30


@pytest.fixture(scope="module")
def signals():
    rng = np.random.default_rng(6)
    shift, phase = rng.uniform(-20, 20, SIGNALS), rng.uniform(-3, 3, SIGNALS)
    clean = placed(spectrum_3t(), shift, phase, rng.uniform(0.5, 2, SIGNALS), np.zeros(SIGNALS))
    return (clean + white(SIGNALS, 0.2, 7)).to(torch.complex64), shift, phase


def test_index_is_the_mean_of_the_matrix(signals):
    fids = signals[0]
    matrix = similarity_matrix(fids, BAND).double()
    pairs = matrix.sum() - matrix.diagonal().sum()
    expected = float(pairs) / (SIGNALS * (SIGNALS - 1))
    assert finish_similarity(summarise_similarity(fids, BAND)) == pytest.approx(expected, abs=1e-5)
    parts = [summarise_similarity(f, BAND) for f in fids.split(7)]
    total = parts[0]
    for part in parts[1:]:
        total = combine_similarity(total, part)
    assert finish_similarity(total) == pytest.approx(expected, abs=1e-5)


def test_correction_raises_it(signals):
    fids, shift, phase = signals
    back = corrected(fids, AXIS.dwell_time, torch.from_numpy(shift), torch.from_numpy(phase))
    before = finish_similarity(summarise_similarity(fids, BAND))
    after = finish_similarity(summarise_similarity(back, BAND))
    assert before < 0.3
    assert after > 0.97
    assert float(similarity_to(spectrum_3t(), back, BAND).min()) > 0.97


def test_opposite_signals_and_scales():
    fid = spectrum_3t().to(torch.complex64)
    matrix = similarity_matrix(torch.stack([fid, -3 * fid, 0.1 * fid]), BAND)
    expected = torch.tensor([[1.0, -1, 1], [-1, 1, -1], [1, -1, 1]])
    torch.testing.assert_close(matrix, expected)


def test_silence_does_not_count(signals):
    fids = signals[0]
    bad = torch.zeros((2, AXIS.points), dtype=torch.complex64)
    bad[1, 3] = complex("nan")
    index = finish_similarity(summarise_similarity(fids, BAND))
    assert finish_similarity(summarise_similarity(torch.cat([fids, bad]), BAND)) == pytest.approx(
        index
    )
    assert math.isnan(finish_similarity(summarise_similarity(fids[:1], BAND)))
