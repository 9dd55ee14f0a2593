"""Coil combination against the best SNR there can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.kernels import coils

COILS, POINTS = 4, 1024
TIME = np.arange(POINTS) * 5e-4
SIGNAL = np.exp((2j * np.pi * 40 - 20) * TIME)


def setting(seed: int = 0):
    """Sensitivities and the noise's mixing matrix: coils of unequal, correlated noise."""
    rng = np.random.default_rng(seed)
    complex_normal = lambda *s: rng.standard_normal(s) + 1j * rng.standard_normal(s)  # noqa: E731
    sensitivity = complex_normal(COILS)
    mixing = np.diag([0.05, 0.1, 0.4, 0.1]) @ (np.eye(COILS) + 0.3 * complex_normal(COILS, COILS))
    return rng, sensitivity, mixing, complex_normal


def tensor(values):
    return torch.from_numpy(np.array(values))


def measured(voxels: int = 50):
    _, sensitivity, mixing, normal = setting()
    noise = mixing @ normal(voxels, COILS, POINTS)
    return sensitivity[:, None] * SIGNAL + noise, noise, sensitivity, mixing


def white(mixing):
    return coils.whitening(tensor(2 * mixing @ mixing.conj().T))


def test_whitened_noise_is_white():
    _, _, mixing, normal = setting()
    noise = white(mixing).numpy() @ (mixing @ normal(COILS, 100_000))
    np.testing.assert_allclose(np.cov(noise), np.eye(COILS), atol=5 / np.sqrt(100_000))


def test_reaches_the_best_snr():
    """The matched filter's SNR, sqrt(s^H C^-1 s), within the error of the weights."""
    fids, noise, sensitivity, mixing = measured()
    weights = coils.coil_weights(tensor(fids), white(mixing))
    signal = coils.combine(
        tensor(np.broadcast_to(sensitivity[:, None] * SIGNAL, fids.shape)), weights
    )
    left = coils.combine(tensor(noise), weights)
    found = signal[:, 0].abs() / left.abs().square().mean(1).sqrt()
    covariance = 2 * mixing @ mixing.conj().T
    best = np.sqrt((sensitivity.conj() @ np.linalg.solve(covariance, sensitivity)).real)
    assert found.mean().item() > 0.98 * best
    one_coil = np.abs(sensitivity) / np.sqrt(np.diag(covariance).real)
    assert found.mean().item() > one_coil.max()


def test_amplitude_and_phase_are_those_of_the_coils():
    fids, _, sensitivity, mixing = measured()
    combined = coils.combine(tensor(fids), coils.coil_weights(tensor(fids), white(mixing)))
    amplitude = (combined.numpy() @ SIGNAL.conj()) / (np.abs(SIGNAL) ** 2).sum()
    strongest = sensitivity[np.abs(sensitivity).argmax()]
    truth = np.linalg.norm(sensitivity) * strongest / abs(strongest)
    assert np.abs(amplitude.mean() - truth) < 0.02 * np.abs(truth)


def test_same_weights_for_every_transient():
    fids, _, _, mixing = measured(3)
    weights = coils.coil_weights(tensor(fids), white(mixing))
    transients = tensor(np.stack([fids, 2 * fids], axis=2))
    combined = coils.combine(transients, weights)
    assert combined.shape == (3, 2, POINTS)
    torch.testing.assert_close(combined[:, 1], 2 * combined[:, 0])
    torch.testing.assert_close(combined[:, 0], coils.combine(tensor(fids), weights))


def test_quality_tells_signal_from_noise():
    fids, noise, _, mixing = measured()
    strong = coils.coil_weights(tensor(50 * fids - 49 * noise), white(mixing)).quality
    alone = coils.coil_weights(tensor(noise), white(mixing)).quality
    assert strong.min() > 0.99
    assert alone.max() < 0.1


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_bad_voxel_harms_no_other(value):
    fids, _, _, mixing = measured(3)
    alone = coils.coil_weights(tensor(fids), white(mixing)).weights
    fids[1] = value
    found = coils.coil_weights(tensor(fids), white(mixing))
    assert not found.weights[1].any()
    assert torch.isnan(found.quality).tolist() == [False, True, False]
    torch.testing.assert_close(found.weights[[0, 2]], alone[[0, 2]])


def test_one_coil_keeps_its_signal():
    fids = tensor((2j * SIGNAL)[None, None])
    weights = coils.coil_weights(fids, torch.eye(1, dtype=torch.complex128))
    torch.testing.assert_close(coils.combine(fids, weights)[0], fids[0, 0].to(torch.complex64))


def test_a_copied_or_dead_coil_is_named():
    _, _, _, normal = setting()
    noise = normal(COILS, 1000)
    noise[2] = noise[0]
    with pytest.raises(InputError, match="coil 2"):
        coils.whitening(torch.cov(tensor(noise)))
    noise[2] = 0
    with pytest.raises(InputError, match="coil 2"):
        coils.whitening(torch.cov(tensor(noise)))
