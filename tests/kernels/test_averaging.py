"""Averaging of transients: who is left out, and what is left."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.averaging import average

POINTS, TRANSIENTS = 512, 16
TIME = np.arange(POINTS) * 5e-4
SIGNAL = np.exp((2j * np.pi * 120 - 15) * TIME) + 0.5 * np.exp((-2j * np.pi * 90 - 15) * TIME)


def transients(seed: int = 0, sd: float = 0.2, voxels: int = 2):
    rng = np.random.default_rng(seed)
    shape = (voxels, TRANSIENTS, POINTS)
    return SIGNAL + sd * (rng.standard_normal(shape) + 1j * rng.standard_normal(shape))


def tensor(values):
    return torch.from_numpy(np.asarray(values))


def test_noise_falls_by_the_root_of_the_number():
    result = average(tensor(transients(voxels=20)), reject=False)
    left = (result.fids.numpy() - SIGNAL).real.std()
    assert abs(left / (0.2 / np.sqrt(TRANSIENTS)) - 1) < 5 / np.sqrt(2 * 20 * POINTS)
    np.testing.assert_allclose(result.weights.numpy(), 1 / TRANSIENTS)


def test_few_good_transients_are_rejected():
    weights = average(tensor(transients(voxels=100))).weights
    assert (weights == 0).float().mean() < 0.03


@pytest.mark.parametrize(
    "spoil",
    [
        lambda fid: -fid,
        lambda fid: fid * np.exp(2j * np.pi * 15 * TIME),
        lambda fid: fid + 5 * np.exp((2j * np.pi * 10 - 40) * TIME),
        lambda fid: np.roll(fid, 100),
    ],
)
def test_outlier_is_left_out(spoil):
    fids = transients()
    fids[0, 5] = spoil(fids[0, 5])
    result = average(tensor(fids))
    assert result.weights[0, 5] == 0
    assert result.similarity[0].argmin() == 5
    assert np.linalg.norm(result.fids[0].numpy() - SIGNAL) < 0.2 * np.linalg.norm(SIGNAL)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_lost_transient_is_left_out(value):
    fids = transients()
    fids[0, 3] = value
    result = average(tensor(fids))
    assert result.weights[0, 3] == 0
    assert torch.isnan(result.similarity[0, 3])
    torch.testing.assert_close(result.weights.sum(1), torch.ones(2))
    assert torch.isfinite(result.fids.abs()).all()


def test_no_usable_transient_gives_zeros():
    result = average(tensor(np.full((1, 4, POINTS), np.nan, dtype=complex)))
    assert not result.fids.any()
    assert not result.weights.any()


def test_identical_transients_are_all_kept():
    result = average(tensor(np.tile(SIGNAL, (1, 8, 1))))
    np.testing.assert_allclose(result.weights.numpy(), 1 / 8)
    np.testing.assert_allclose(result.similarity.numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_few_transients_are_never_rejected(number):
    fids = transients()[:, :number]
    fids[0, 0] *= -1
    assert (average(tensor(fids)).weights > 0).all()
