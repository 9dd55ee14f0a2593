"""Masks from signal energy."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mrsi_engine.io.signal_mask import signal_mask


def energies(voxels, seed, points=64):
    """FID energy of voxels of white noise: half a chi-squared of 2 * points."""
    return np.random.default_rng(seed).chisquare(2 * points, voxels) / 2


@given(st.integers(0, 200), st.floats(0.05, 0.9), st.floats(20, 1e4))
def test_head_over_noise(seed, share, contrast):
    energy = energies(1000, seed)
    head = np.arange(1000) < share * 1000
    spread = np.random.default_rng(seed).uniform(0.5, 1.5, head.sum())
    energy[head] *= contrast * spread
    np.testing.assert_array_equal(signal_mask(energy), head)


@given(st.integers(0, 200))
def test_voxels_that_are_all_alike_are_all_kept(seed):
    assert signal_mask(energies(500, seed)).all()


def test_one_voxel_and_equal_voxels_are_kept():
    assert signal_mask(np.array([3.0])).all()
    assert signal_mask(np.full(7, 3.0)).all()


def test_nothing_finite_and_positive_is_no_signal():
    energy = np.array([0.0, np.nan, np.inf, 1.0, 1.1])
    assert signal_mask(energy).tolist() == [False, False, False, True, True]
    assert not signal_mask(np.zeros(4)).any()


def test_scale_does_not_matter():
    energy = np.concatenate([energies(50, 1), energies(50, 2) * 1e3])
    np.testing.assert_array_equal(signal_mask(energy), signal_mask(energy * 1e-30))
