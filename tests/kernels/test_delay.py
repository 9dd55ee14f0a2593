"""Late acquisition: first-order phase and missing first points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.kernels.delay import first_order_phase, prepend

POINTS, DWELL = 1024, 5e-4


def signal(start: float = 0.0):
    time = start + np.arange(POINTS) * DWELL
    lines = ((325, 15, 1), (200, 20, 0.7j), (-150, 60, 0.5), (5, 25, 4))
    return sum(a * np.exp((2j * np.pi * f - d) * time) for f, d, a in lines)[None]


def tensor(fids):
    return torch.from_numpy(fids)


@pytest.mark.parametrize("delay", [1e-3, 0.7e-3, -0.4e-3])
def test_phase_of_a_periodic_signal_is_exact(delay):
    def periodic(start):
        time = start + np.arange(POINTS) * DWELL
        hertz = np.array([7, -30, 100])[:, None] / (POINTS * DWELL)
        return np.exp(2j * np.pi * hertz * time).sum(0)[None]

    found = first_order_phase(tensor(periodic(delay)), DWELL, delay).numpy()
    np.testing.assert_allclose(found, periodic(0), atol=1e-4)


def test_whole_samples_are_moved():
    moved = first_order_phase(tensor(signal()), DWELL, 3 * DWELL).numpy()
    np.testing.assert_allclose(moved[:, 3:], signal()[:, :-3], atol=1e-5)


@pytest.mark.parametrize("missing", [1, 4])
def test_missing_points_come_back(missing):
    found = prepend(tensor(signal(missing * DWELL)), missing).numpy()
    assert found.shape == (1, missing + POINTS)
    np.testing.assert_allclose(found[0, :POINTS], signal()[0], atol=1e-3)


def test_noise_is_hardly_amplified():
    """A predicted point is a weighted sum of measured ones: no worse than a few of them."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((200, POINTS)) + 1j * rng.standard_normal((200, POINTS))
    found = prepend(tensor(signal(2 * DWELL) + 0.05 * noise), 2, order=32).numpy()
    error = np.sqrt(np.mean(np.abs(found[:, :2] - signal()[:, :2]) ** 2)) / (0.05 * np.sqrt(2))
    assert error < 3


def test_bad_voxels_harm_no_other():
    fids = np.repeat(signal(DWELL), 3, axis=0)
    fids[1], fids[2] = np.nan, 0
    found = prepend(tensor(fids), 1)
    assert torch.isnan(found[1, 0].abs())
    assert found[2].abs().max() == 0
    torch.testing.assert_close(found[:1], prepend(tensor(fids[:1]), 1))


@pytest.mark.parametrize(("missing", "order", "points"), [(0, 8, 64), (1, 0, 64), (1, 32, 64)])
def test_impossible_predictions_are_refused(missing, order, points):
    with pytest.raises(InputError, match="missing points"):
        prepend(tensor(signal()[:, :points]), missing, order)
