"""Cramér-Rao bounds against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.crlb import covariance, sums_with_sd


def fishers(voxels: int, n: int) -> np.ndarray:
    design = np.random.default_rng(0).standard_normal((voxels, 50, n)) + 0.5
    return design.transpose(0, 2, 1) @ design


def test_covariance_is_the_inverse_times_the_noise_variance():
    fisher, sd = fishers(4, 6), np.array([0.5, 1.0, 2.0, 1e3])
    bound = covariance(torch.from_numpy(fisher), torch.from_numpy(sd)).numpy()
    expected = np.linalg.inv(fisher) * sd[:, None, None] ** 2
    np.testing.assert_allclose(bound, expected, rtol=1e-4, atol=1e-5 * sd.min())


def test_sums_use_the_covariance():
    fisher = torch.from_numpy(fishers(3, 4))
    bound = covariance(fisher, torch.ones(3).double())
    weights = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, -2]]).double()
    values = torch.arange(12.0).double().view(3, 4)
    sums, sd = sums_with_sd(values, bound, weights)
    inverse = np.linalg.inv(fisher.numpy())
    for w, s in zip(weights.numpy(), sd.numpy().T, strict=True):
        np.testing.assert_allclose(s, np.sqrt([w @ c @ w for c in inverse]), rtol=1e-4)
    np.testing.assert_allclose(sums, values.numpy() @ weights.numpy().T)


def test_what_the_data_do_not_tell_is_nan_and_the_rest_is_not():
    design = np.random.default_rng(1).standard_normal((50, 5))
    design[:, 1] = design[:, 0]
    design[:, 3] = 0.0
    fisher = torch.from_numpy((design.T @ design)[None])
    bound = covariance(fisher, torch.ones(1).double())
    sd = bound.diagonal(dim1=1, dim2=2).sqrt()[0]
    assert sd.isnan().tolist() == [True, True, False, True, False]
    alone = np.linalg.inv(design[:, [0, 2, 4]].T @ design[:, [0, 2, 4]])
    np.testing.assert_allclose(sd[[2, 4]], np.sqrt(np.diag(alone))[1:], rtol=1e-4)
    _, sums = sums_with_sd(torch.zeros(1, 5).double(), bound, torch.eye(5).double()[[2]] * 2)
    assert sums[0, 0] == pytest.approx(2 * float(sd[2]))


def test_a_sum_of_something_unknown_is_unknown():
    bound = torch.eye(3).double()[None].clone()
    bound[:, 1, :] = bound[:, :, 1] = torch.nan
    weights = torch.tensor([[1.0, 0, 1], [1, 1, 0]]).double()
    _, sd = sums_with_sd(torch.zeros(1, 3).double(), bound, weights)
    assert sd[0, 0] == pytest.approx(2**0.5)
    assert sd[0, 1].isnan()


def test_bad_or_silent_voxels_are_nan_and_spare_the_rest():
    fisher = torch.from_numpy(fishers(4, 3))
    expected = covariance(fisher, torch.ones(4).double())[3]
    fisher[0] = torch.nan
    fisher[1] = 0.0
    noise = torch.tensor([1.0, 1.0, torch.nan, 1.0]).double()
    bound = covariance(fisher, noise)
    assert bound[:3].isnan().all()
    torch.testing.assert_close(bound[3], expected)
