"""Penalised splines against their definition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from mrsi_engine.kernels.baseline import Baseline

CPU = torch.device("cpu")
BINS, COEFFICIENTS = 90, 12


def explicit_weights(stiffness: float) -> np.ndarray:
    """``I - B (B'B + P)^-1 B'`` of one channel, from scipy's B-splines."""
    step = 1 / (COEFFICIENTS - 3)
    knots = step * np.arange(-3, COEFFICIENTS + 1)
    at = np.linspace(0, 1, BINS) * (1 - 1e-12)
    splines = np.stack([BSpline(knots, e, 3)(at) for e in np.eye(COEFFICIENTS)], axis=1)
    second = np.diff(np.eye(COEFFICIENTS), 2, axis=0)
    penalty = stiffness * BINS / COEFFICIENTS * second.T @ second
    return np.eye(BINS) - splines @ np.linalg.solve(splines.T @ splines + penalty, splines.T)


def real_and_imaginary(channel: np.ndarray) -> np.ndarray:
    """The same matrix for interleaved real and imaginary parts."""
    return np.kron(channel, np.eye(2))


@pytest.mark.parametrize("stiffness", [0.0, 0.03, 1.0, 1e4])
def test_remove_is_the_root_of_the_weights(stiffness):
    baseline = Baseline.splines(BINS, COEFFICIENTS, stiffness, CPU)
    root = baseline.remove(torch.eye(2 * BINS, dtype=torch.float64)).numpy()
    expected = real_and_imaginary(explicit_weights(stiffness))
    # Curves are float32; a root near zero amplifies that.
    np.testing.assert_allclose(root @ root.T, expected, atol=3e-6)


@pytest.mark.parametrize("stiffness", [0.0, 1.0])
def test_fitted_is_the_smoothing_spline(stiffness):
    baseline = Baseline.splines(BINS, COEFFICIENTS, stiffness, CPU)
    residual = np.random.default_rng(0).standard_normal((4, 2 * BINS)).astype(np.float32)
    smoother = np.eye(2 * BINS) - real_and_imaginary(explicit_weights(stiffness))
    fitted = baseline.fitted(torch.from_numpy(residual)).numpy()
    np.testing.assert_allclose(fitted, residual @ smoother, atol=1e-5)


@pytest.mark.parametrize("stiffness", [0.0, 0.5])
def test_degrees_of_freedom_is_the_trace_of_the_smoother(stiffness):
    baseline = Baseline.splines(BINS, COEFFICIENTS, stiffness, CPU)
    expected = 2 * np.trace(np.eye(BINS) - explicit_weights(stiffness))
    assert baseline.degrees_of_freedom() == pytest.approx(expected, rel=1e-5)


def test_stiff_splines_leave_a_straight_line():
    baseline = Baseline.splines(BINS, COEFFICIENTS, 1e7, CPU)
    assert baseline.degrees_of_freedom() == pytest.approx(4.0, abs=0.01)
    line = torch.linspace(-1, 2, BINS).repeat_interleave(2)
    torch.testing.assert_close(baseline.fitted(line), line, atol=1e-4, rtol=0)


def test_same_stiffness_is_the_same_curve_for_any_number_of_bins():
    curves = []
    for bins in (100, 400):
        bump = torch.exp(-((torch.linspace(0, 1, bins) - 0.5) ** 2) / 0.01).repeat_interleave(2)
        fitted = Baseline.splines(bins, COEFFICIENTS, 2.0, CPU).fitted(bump)[::2]
        curves.append(np.interp(np.linspace(0, 1, 50), np.linspace(0, 1, bins), fitted.numpy()))
    np.testing.assert_allclose(curves[0], curves[1], atol=0.01)


def test_a_turned_baseline_is_still_one():
    baseline = Baseline.splines(BINS, COEFFICIENTS, 0.3, CPU)
    spectrum = torch.randn(BINS, dtype=torch.complex64, generator=torch.manual_seed(1))

    def removed(x: torch.Tensor) -> torch.Tensor:
        return torch.view_as_complex(baseline.remove(torch.view_as_real(x).flatten()).view(-1, 2))

    torch.testing.assert_close(removed(1j * spectrum), 1j * removed(spectrum))


def test_none_changes_nothing():
    baseline = Baseline.none(BINS, CPU)
    rows = torch.randn(3, 2 * BINS)
    assert torch.equal(baseline.remove(rows), rows)
    assert not baseline.fitted(rows).any()
    assert baseline.degrees_of_freedom() == 0


@pytest.mark.parametrize("order", [0, 3])
def test_a_polynomial_is_fitted_as_numpy_fits_it(order):
    residual = np.random.default_rng(0).standard_normal((2, 2 * BINS)).astype(np.float32)
    baseline = Baseline.polynomial(BINS, order, CPU)
    fitted = baseline.fitted(torch.from_numpy(residual)).numpy()
    x = np.linspace(-1, 1, BINS)
    for channel in (0, 1):
        expected = [np.polyval(np.polyfit(x, r, order), x) for r in residual[:, channel::2]]
        np.testing.assert_allclose(fitted[:, channel::2], expected, atol=1e-5)
    assert float(baseline.degrees_of_freedom()) == 2 * (order + 1)


def test_each_voxel_may_have_its_own_stiffness():
    stiffnesses, rows = (0.01, 50.0), torch.randn(2, 3, 2 * BINS)
    made = [Baseline.splines(BINS, COEFFICIENTS, s, CPU) for s in stiffnesses]
    shares = torch.stack([made[0].shares(s) for s in stiffnesses])
    removed = made[0].remove(rows, shares)
    fitted = made[0].fitted(rows[:, 0], shares)
    for v, one in enumerate(made):
        torch.testing.assert_close(removed[v], one.remove(rows[v]), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(fitted[v], one.fitted(rows[v, 0]), atol=1e-5, rtol=1e-4)
        dimension = one.degrees_of_freedom().item()
        assert made[0].degrees_of_freedom(shares)[v].item() == pytest.approx(dimension, rel=1e-5)
