"""Cramér-Rao bounds against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.crlb import Bounds, sd_of_ratio


def fishers(voxels: int, n: int) -> np.ndarray:
    design = np.random.default_rng(0).standard_normal((voxels, 50, n)) + 0.5
    return design.transpose(0, 2, 1) @ design


def sd_of_sums(fisher: torch.Tensor, noise: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return Bounds.of(fisher, noise).sd(weights)


def test_covariance_is_the_inverse_times_the_noise_variance():
    fisher, sd = fishers(4, 6), np.array([0.5, 1.0, 2.0, 1e3])
    bound = Bounds.of(torch.from_numpy(fisher), torch.from_numpy(sd)).covariance.numpy()
    expected = np.linalg.inv(fisher) * sd[:, None, None] ** 2
    np.testing.assert_allclose(bound, expected, rtol=1e-3, atol=1e-4 * sd.min())


def test_sums_use_the_covariance():
    fisher = torch.from_numpy(fishers(3, 4))
    weights = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, -2]]).double()
    sd = sd_of_sums(fisher, torch.tensor([1.0, 2.0, 3.0]).double(), weights).numpy()
    for v, inverse in enumerate(np.linalg.inv(fisher.numpy())):
        expected = [(v + 1) * np.sqrt(w @ inverse @ w) for w in weights.numpy()]
        np.testing.assert_allclose(sd[v], expected, rtol=1e-3)


def test_what_the_data_do_not_tell_is_nan_and_the_rest_is_not():
    design = np.random.default_rng(1).standard_normal((50, 5))
    design[:, 1] = design[:, 0]
    design[:, 3] = 0.0
    fisher = torch.from_numpy((design.T @ design)[None])
    sd = sd_of_sums(fisher, torch.ones(1).double(), torch.eye(5).double())[0]
    assert sd.isnan().tolist() == [True, True, False, True, False]
    kept = design[:, [0, 2, 4]]
    alone = np.sqrt(np.diag(np.linalg.inv(kept.T @ kept)))
    np.testing.assert_allclose(sd[[2, 4]], alone[1:], rtol=1e-3)
    # The sum of the two that cannot be told apart is known as well as if they were one.
    both = sd_of_sums(fisher, torch.ones(1).double(), torch.tensor([[1.0, 1, 0, 0, 0]]).double())
    assert both.item() == pytest.approx(alone[0], rel=1e-3)


def test_a_sum_with_a_parameter_that_changes_nothing_is_unknown():
    fisher = torch.diag(torch.tensor([4.0, 0.0, 1.0])).double()[None]
    weights = torch.tensor([[1.0, 0, 1], [1, 1, 0]]).double()
    sd = sd_of_sums(fisher, torch.ones(1).double(), weights)[0]
    assert sd[0].item() == pytest.approx(np.sqrt(1.25), rel=1e-4)
    assert sd[1].isnan()


def test_bad_voxels_are_nan_and_spare_the_rest():
    fisher = torch.from_numpy(fishers(4, 3))
    expected = sd_of_sums(fisher, torch.ones(4).double(), torch.eye(3).double())[3]
    fisher[0] = torch.nan
    fisher[1] = 0.0
    noise = torch.tensor([1.0, 1.0, torch.nan, 1.0]).double()
    sd = sd_of_sums(fisher, noise, torch.eye(3).double())
    assert sd[:3].isnan().all()
    torch.testing.assert_close(sd[3], expected)


def test_a_ratio_knows_the_covariance():
    covariance = np.array([[0.0016, 0.0012], [0.0012, 0.0036]])
    draws = np.random.default_rng(0).multivariate_normal([9.0, 6.0], covariance, 200_000)
    values = torch.tensor([9.0, 6.0, 0.04, 0.06, 0.0012]).double()
    sd = sd_of_ratio(*values.unbind()).item()
    # 200 000 draws know an SD to 0.16 %; second order adds some (0.06 / 6)^2 of it.
    assert sd == pytest.approx((draws[:, 0] / draws[:, 1]).std(), rel=0.01)
    assert sd_of_ratio(*(values * torch.tensor([1.0, 0, 1, 1, 1])).unbind()).isnan()


def test_with_sum_is_the_covariance_of_sums():
    fisher = torch.from_numpy(fishers(2, 4))
    weights, reference = torch.eye(4).double(), torch.tensor([1.0, 1, 0, 0]).double()
    bounds = Bounds.of(fisher, torch.ones(2).double())
    torch.testing.assert_close(
        bounds.with_sum(weights, reference), bounds.covariance[:, :, :2].sum(2)
    )
    condition = [np.linalg.cond(f / np.sqrt(np.outer(np.diag(f), np.diag(f))), 1) for f in fisher]
    np.testing.assert_allclose(bounds.condition, condition, rtol=1e-3)
