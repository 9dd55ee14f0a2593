"""Small linear systems in batches against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from mrsi_engine.kernels.linear import Factor, inverse_spd, restricted, solve_nonnegative, solve_spd


def systems(seed: int, count: int, n: int, rows: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Design matrices of overlapping positive columns, and data."""
    rng = np.random.default_rng(seed)
    designs = rng.standard_normal((count, rows, n)) + 0.7
    return designs, rng.standard_normal((count, rows))


def gram_and_moment(designs: np.ndarray, data: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    gram = designs.transpose(0, 2, 1) @ designs
    moment = (designs.transpose(0, 2, 1) @ data[:, :, None])[:, :, 0]
    return torch.from_numpy(gram), torch.from_numpy(moment)


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_solutions_are_least_squares_at_any_scale(scale):
    designs, data = systems(0, 5, 7)
    gram, moment = gram_and_moment(designs * scale, data)
    solution, ok = solve_spd(gram, moment[:, :, None])
    expected = [np.linalg.lstsq(d, y, rcond=None)[0] for d, y in zip(designs, data, strict=True)]
    assert ok.all()
    np.testing.assert_allclose(solution[:, :, 0].numpy() * scale, expected, rtol=1e-4, atol=1e-5)


def test_columns_of_very_different_size_do_not_matter():
    designs, data = systems(1, 4, 5)
    sizes = np.array([1e-9, 1.0, 1e6, 1e-3, 1e9])
    gram, moment = gram_and_moment(designs * sizes, data)
    solution, _ = solve_spd(gram, moment[:, :, None])
    gram, moment = gram_and_moment(designs, data)
    plain, _ = solve_spd(gram, moment[:, :, None])
    np.testing.assert_allclose(solution[:, :, 0].numpy() * sizes, plain[:, :, 0], rtol=1e-6)


def test_inverse():
    gram, _ = gram_and_moment(*systems(2, 3, 6))
    inverse, ok = inverse_spd(gram)
    assert ok.all()
    np.testing.assert_allclose(inverse, np.linalg.inv(gram.numpy()), rtol=1e-3, atol=1e-5)


def test_one_bad_system_does_not_touch_its_neighbours():
    gram, moment = gram_and_moment(*systems(3, 5, 4))
    expected, _ = solve_spd(gram, moment[:, :, None])
    bad, rhs = gram.clone(), moment.clone()
    bad[1, 0, 0] = torch.nan
    bad[2] = -bad[2]
    rhs[3, 2] = torch.inf
    solution, ok = solve_spd(bad, rhs[:, :, None])
    assert ok.tolist() == [True, False, False, False, True]
    assert solution[1:4].isnan().all()
    torch.testing.assert_close(solution[[0, 4]], expected[[0, 4]])


def test_identical_columns_share_and_a_silent_one_stays_silent():
    designs, data = systems(4, 3, 4)
    designs[:, :, 1] = designs[:, :, 0]
    designs[:, :, 3] = 0.0
    gram, moment = gram_and_moment(designs, data)
    solution, ok = solve_spd(gram, moment[:, :, None])
    x = solution[:, :, 0].numpy()
    assert ok.all()
    np.testing.assert_allclose(x[:, 0], x[:, 1], atol=1e-6)
    np.testing.assert_array_equal(x[:, 3], 0)
    expected = [np.linalg.lstsq(d, y, rcond=None)[0] for d, y in zip(designs, data, strict=True)]
    np.testing.assert_allclose(x, expected, atol=1e-4)


def test_nearly_identical_float32_columns_are_solved():
    # Products in float32 make the matrix indefinite; no exception and no failed system.
    designs, data = systems(5, 200, 6)
    designs[:, :, 1] = designs[:, :, 0] * (1 + 1e-6 * np.random.default_rng(0).random((200, 40)))
    columns = torch.from_numpy(designs).float().mT.contiguous()
    gram = (columns @ columns.mT).double()
    moment = (columns @ torch.from_numpy(data).float()[:, :, None]).double()
    solution, ok = solve_spd(gram, moment)
    assert ok.all()
    assert solution.abs().max() < 1e3


def test_factor_serves_several_right_hand_sides():
    gram, moment = gram_and_moment(*systems(6, 3, 4))
    factor = Factor.of(gram)
    both = torch.stack([moment, 2 * moment + 1], dim=2)
    torch.testing.assert_close(factor.solve(both)[0], solve_spd(gram, both)[0])


def test_restricted_leaves_the_identity_elsewhere():
    gram, _ = gram_and_moment(*systems(7, 1, 3))
    kept = restricted(gram, torch.tensor([[True, False, True]]))[0]
    assert kept[1].tolist() == [0.0, 1.0, 0.0]
    assert kept[0, 2] == gram[0, 0, 2]


@given(seed=st.integers(0, 10**6), n=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_nonnegative_is_scipys(seed, n):
    designs, data = systems(seed, 6, n)
    x, passive, ok = solve_nonnegative(*gram_and_moment(designs, data))
    expected = np.stack([nnls(d, y)[0] for d, y in zip(designs, data, strict=True)])
    assert ok.all()
    assert (x >= 0).all()
    assert ((x > 0) <= passive).all()
    np.testing.assert_allclose(x, expected, rtol=1e-3, atol=1e-4 * max(expected.max(), 1e-3))


def test_nonnegative_from_any_first_guess():
    gram, moment = gram_and_moment(*systems(8, 50, 12))
    expected, _, _ = solve_nonnegative(gram, moment)
    guess = torch.rand(50, 12, generator=torch.manual_seed(0)) > 0.5
    x, _, ok = solve_nonnegative(gram, moment, passive=guess)
    assert ok.all()
    torch.testing.assert_close(x, expected, rtol=1e-5, atol=1e-7)


def test_signed_variables_are_left_free():
    designs, data = systems(9, 20, 5)
    gram, moment = gram_and_moment(designs, data)
    signed = torch.tensor([False, True, False, True, True])
    x, _, ok = solve_nonnegative(gram, moment, signed)
    assert ok.all()
    assert (x[:, ~signed] >= 0).all()
    assert (x[:, signed] < 0).any()
    # Optimal: no gain along free variables, none inwards along those on their bound.
    gradient = (gram @ x[:, :, None])[:, :, 0] - moment
    size = moment.abs().amax(1, keepdim=True)
    assert (gradient.abs() < 1e-4 * size)[:, signed].all()
    assert (gradient > -1e-4 * size).all()


def test_a_system_that_is_given_up_is_not_called_solved():
    gram, moment = gram_and_moment(*systems(10, 60, 15))
    x, _, ok = solve_nonnegative(gram, moment, max_steps=1)
    assert not ok.all()
    assert (x[ok] >= 0).all()


def test_nonnegative_with_a_bad_system_spares_the_rest():
    gram, moment = gram_and_moment(*systems(11, 4, 6))
    expected, _, _ = solve_nonnegative(gram, moment)
    gram[2] = torch.nan
    x, _, ok = solve_nonnegative(gram, moment)
    assert ok.tolist() == [True, True, False, True]
    torch.testing.assert_close(x[ok], expected[ok])


def test_a_matrix_that_rounding_made_indefinite_is_solved():
    rng = np.random.default_rng(12)
    vectors = np.linalg.qr(rng.standard_normal((8, 8)))[0]
    eigenvalues = np.array([-3e-6, 1e-6, 0.01, 0.1, 1, 1, 2, 3])
    matrix = (vectors * eigenvalues) @ vectors.T
    size = 1 / np.sqrt(np.diag(matrix))
    scaled = torch.from_numpy(matrix * size[:, None] * size)[None]
    assert np.linalg.eigvalsh(scaled[0].numpy())[0] < -2e-6
    _, ok = inverse_spd(scaled)
    assert ok.all()
