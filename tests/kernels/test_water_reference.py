"""The water amplitude against truth: line shapes, eddy currents, noise, voxels without water."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrsi_engine.kernels.water_reference import LEAST_SAMPLES, water_amplitude

DWELL = 0.4e-3
TIME = np.arange(1024) * DWELL


def white(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*shape, 2)).view(complex)[..., 0]


def batch(fids: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.atleast_2d(fids).astype(np.complex64))


@given(
    amplitude=st.floats(1e-8, 1e8),
    damping=st.floats(0, 60),
    gaussian=st.floats(0, 40),
    shift=st.floats(-1200, 1200),
    turn=st.floats(0, 30),
    dwell=st.sampled_from([0.1e-3, 0.4e-3, 0.8e-3]),
)
@settings(max_examples=60, deadline=None)
def test_any_voigt_line_whatever_its_phase(amplitude, damping, gaussian, shift, turn, dwell):
    time = np.arange(512) * dwell
    phase = 2 * math.pi * shift * time + turn * np.exp(-time / 0.02)
    fid = amplitude * np.exp(1j * phase - damping * time - (gaussian * time) ** 2)
    found = water_amplitude(batch(fid))
    assert found.amplitude.item() == pytest.approx(amplitude, rel=2e-6)


@pytest.mark.parametrize(
    ("shape", "bound"),
    [
        (0.6 * np.exp(-15 * TIME) + 0.4 * np.exp(-50 * TIME), 2e-4),
        (sum(w * np.exp(2j * np.pi * f * TIME - 15 * TIME) for w, f in
             [(0.6, 0), (0.25, 8), (0.15, -6)]), 5e-4),
        (np.exp(-10 * TIME) * np.sinc(8 * TIME), 1e-3),
        (np.exp(-20 * TIME) + 0.03 * np.exp(2j * np.pi * 420 * TIME - 60 * TIME), 5e-3),
    ],
    ids=["two pools", "uneven field", "linear gradient", "3 % fat"],
)  # fmt: skip
def test_lines_that_are_not_voigt(shape, bound):
    """The SD has to own up to what the model leaves."""
    water = 1.0
    found = water_amplitude(batch(shape))
    assert abs(found.amplitude.item() - water) < bound


@pytest.mark.parametrize("snr", [50.0, 1000.0])
def test_the_sd_is_the_spread(snr):
    voxels = 2000
    fids = 70 * (np.exp((30j - 25) * TIME) + white(voxels, 1024) / snr)
    found = water_amplitude(batch(fids))
    z = ((found.amplitude - 70) / found.sd).numpy()
    # The SD of an SD from n draws is 1/sqrt(2n); the SD in z is estimated from some 100 samples.
    assert abs(z.std() - 1) < 4 / math.sqrt(2 * voxels) + 0.01
    # Squaring the noise in the logarithm leaves a bias of order 1/snr of the SD.
    assert abs(z.mean()) < 4 / math.sqrt(voxels) + 5 / snr


def test_noise_is_no_water():
    fids = batch(white(2000, 1024))
    fids[0] = 0
    found = water_amplitude(fids)
    assert found.amplitude.isnan().all()
    assert found.sd.isnan().all()


def test_voxels_do_not_touch_each_other():
    fids = batch(np.stack([np.exp(-d * TIME) for d in (3.0, 40.0)] + [white(1024, seed=2)]))
    together = water_amplitude(fids)
    alone = torch.stack([water_amplitude(fid[None]).amplitude[0] for fid in fids])
    torch.testing.assert_close(together.amplitude, alone, rtol=1e-12, atol=0, equal_nan=True)


def test_too_few_samples():
    with pytest.raises(ValueError, match=f"15 samples, expected at least {LEAST_SAMPLES}"):
        water_amplitude(torch.ones(1, 15, dtype=torch.complex64))
