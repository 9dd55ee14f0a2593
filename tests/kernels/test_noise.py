"""The noise level of spectra with known noise."""

from __future__ import annotations

import numpy as np
import torch

from mrsi_engine.kernels.noise import noise_sd
from tests.scenes import GREY_MATTER, Lineshape, clean_fid, noise, press_basis

BASIS = press_basis()
PPM = np.fft.ifftshift(BASIS.acquisition.ppm)
QUIET = torch.from_numpy((PPM < -1) | (PPM > 8.5))


def measured(fids: np.ndarray) -> np.ndarray:
    return noise_sd(torch.from_numpy(fids.astype(np.complex64)), QUIET).numpy()


def test_white_noise():
    voxels, sd = 2000, 3.0
    estimates = measured(noise(np.random.default_rng(0), voxels, 1024, sd)) / sd
    # The median of n absolute differences has an SD of 1.17 / sqrt(n), more by their correlation;
    # the mean over the voxels is known to its standard error.
    assert abs(estimates.mean() - 1) < 3 * estimates.std() / np.sqrt(voxels) + 1 / QUIET.sum()
    assert estimates.std() < 2 * 1.17 / np.sqrt(2 * int(QUIET.sum()))


def test_a_strong_spectrum_and_residual_water_do_not_raise_it():
    rng = np.random.default_rng(1)
    time = BASIS.acquisition.time
    water = 4e3 * np.exp(-np.pi * 10 * time)
    signal = 10 * clean_fid(BASIS, GREY_MATTER, Lineshape()) + water
    white = noise(rng, 500, 1024, 10.0)
    np.testing.assert_allclose(measured(white + signal).mean(), measured(white).mean(), rtol=0.02)


def test_a_spike_in_the_quiet_range_does_not_raise_it():
    white = noise(np.random.default_rng(2), 500, 1024, 1.0)
    spike = 50 * np.exp(-2j * np.pi * 1500 * BASIS.acquisition.time)
    np.testing.assert_allclose(measured(white + spike), measured(white), rtol=0.1)


def test_scales_with_the_data():
    white = noise(np.random.default_rng(3), 5, 1024, 1.0)
    np.testing.assert_allclose(measured(1e12 * white), 1e12 * measured(white), rtol=1e-5)


def test_no_noise_is_zero():
    assert measured(np.full((1, 1024), 2.0 + 1j))[0] < 1e-6
