"""Eddy current correction against a known phase course."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.kernels.eddy import correct

POINTS, DWELL = 1024, 5e-4
TIME = np.arange(POINTS) * DWELL
# Radians: a constant phase, a shift of 4 Hz and two decaying eddy currents.
COURSE = 0.5 + 2 * np.pi * 4 * TIME + 3 * (1 - np.exp(-TIME / 0.05)) + np.exp(-TIME / 0.1)


def line(hertz, damping):
    return np.exp((2j * np.pi * hertz - damping) * TIME)


METABOLITES = line(325, 12) + 0.6 * line(200, 12)


def noise(sd, seed=0):
    rng = np.random.default_rng(seed)
    return sd * (rng.standard_normal((1, POINTS)) + 1j * rng.standard_normal((1, POINTS)))


def corrected(fids, water):
    result = correct(torch.from_numpy(fids), torch.from_numpy(water))
    return result.fids.numpy(), result.trusted.tolist()


def spoilt(signal):
    return (signal * np.exp(1j * COURSE))[None]


def test_exact_without_noise():
    found, trusted = corrected(spoilt(METABOLITES), spoilt(line(0, 5) + 1e-12))
    assert trusted == [POINTS]
    np.testing.assert_allclose(found[0], METABOLITES, atol=1e-5)


def test_reference_noise_does_not_reach_the_late_fid():
    """Where it is lost its phase is random; the plain method puts that on the data."""
    water = spoilt(100 * line(0, 25)) + noise(0.2)
    found, trusted = corrected(spoilt(METABOLITES), water)
    assert 200 < trusted[0] < 700
    plain = spoilt(METABOLITES) * np.exp(-1j * np.angle(water))
    error, plain_error = (np.linalg.norm(fid[0] - METABOLITES) for fid in (found, plain))
    assert error < 0.05 * np.linalg.norm(METABOLITES)
    assert error < 0.6 * plain_error
    # The shift goes on being removed where the reference is lost.
    late = slice(trusted[0], POINTS)
    turned = np.abs(np.vdot(METABOLITES[late], found[0, late]))
    assert turned > 0.98 * np.linalg.norm(METABOLITES[late]) ** 2


def test_line_is_narrower_after():
    water = spoilt(100 * line(0, 15)) + noise(0.1)
    raw = spoilt(line(325, 8))
    height = lambda fids: np.abs(np.fft.fft(fids[0], 8 * POINTS)).max()  # noqa: E731
    clean = np.abs(np.fft.fft(line(325, 8), 8 * POINTS)).max()
    assert height(raw) < 0.95 * clean
    assert height(corrected(raw, water)[0]) > 0.99 * clean


@pytest.mark.parametrize("water", [np.zeros((1, POINTS)), np.full((1, POINTS), np.nan), noise(1.0)])
def test_voxel_without_a_reference_is_left_alone(water):
    raw = spoilt(METABOLITES)
    found, trusted = corrected(raw, water.astype(complex))
    assert trusted == [0]
    np.testing.assert_array_equal(found, raw.astype(np.complex64))


def test_bad_voxel_harms_no_other():
    raw = np.repeat(spoilt(METABOLITES), 3, axis=0)
    water = np.repeat(spoilt(100 * line(0, 10)) + noise(0.1), 3, axis=0)
    water[1] = np.nan
    found, _ = corrected(raw, water)
    np.testing.assert_allclose(found[0], found[2], atol=1e-6)
    np.testing.assert_allclose(found[0], METABOLITES, atol=0.05)
