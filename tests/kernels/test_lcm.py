"""The signal model against a plain loop over columns."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.lcm import Layout, LinearCombinationModel

RNG = np.random.default_rng(0)
TIME = np.arange(64) * 1e-3
COLUMNS = RNG.standard_normal((5, 64)) + 1j * RNG.standard_normal((5, 64))


def model(group: list[int]) -> LinearCombinationModel:
    return LinearCombinationModel(
        torch.from_numpy(COLUMNS), torch.tensor(group), torch.from_numpy(TIME)
    )


def theta_of(groups: int, voxels: int = 3) -> np.ndarray:
    theta = RNG.uniform(0, 5, (voxels, Layout(groups).size))
    theta[:, 3::3] = RNG.uniform(0, 400, (voxels, groups))
    return theta


def looped(group: list[int], amplitudes: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """One voxel, written as the module's formula."""
    total = np.zeros(64, complex)
    for m, g in enumerate(group):
        shift = theta[1] + (theta[1 + 3 * g] if g else 0.0)
        d, q = theta[2 + 3 * g], theta[3 + 3 * g]
        shape = np.exp(2j * np.pi * shift * TIME - d * TIME - q * TIME**2)
        total += amplitudes[m] * COLUMNS[m] * shape
    return np.exp(1j * theta[0]) * total


@pytest.mark.parametrize("group", [[0, 0, 0, 0, 0], [0, 1, 0, 1, 1], [0, 1, 2, 0, 2]])
def test_synthesise(group):
    theta, amplitudes = theta_of(max(group) + 1), RNG.standard_normal((3, 5))
    signals = model(group).synthesise(torch.from_numpy(amplitudes), torch.from_numpy(theta))
    expected = [looped(group, a, t) for a, t in zip(amplitudes, theta, strict=True)]
    np.testing.assert_allclose(signals.numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("group", [[0, 0, 0, 0, 0], [0, 1, 0, 1, 1]])
def test_modulated_columns_sum_to_the_signal(group):
    lcm = model(group)
    theta, amplitudes = torch.from_numpy(theta_of(max(group) + 1)), torch.rand(3, 5).double()
    theta[:, 0] = 0.0
    columns = lcm.modulated(lcm.columns, lcm.layout.lineshape(theta, lcm.time))
    summed = (amplitudes[:, :, None] * columns).sum(1)
    torch.testing.assert_close(summed, lcm.synthesise(amplitudes, theta))


def test_precision_follows_theta():
    shapes = Layout(2).lineshape(torch.zeros(1, 7), torch.from_numpy(TIME).float())
    assert shapes.dtype == torch.complex64
    assert Layout(2).lineshape(torch.zeros(1, 7).double(), torch.from_numpy(TIME)).dtype == (
        torch.complex128
    )


def test_layout_columns_are_all_there_once():
    layout = Layout(3)
    named = [0] + [
        f(g) for g in range(3) for f in (layout.shift, layout.lorentzian, layout.gaussian)
    ]
    assert sorted(named) == list(range(layout.size))
