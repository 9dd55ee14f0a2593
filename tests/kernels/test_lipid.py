"""Lipid removal by projection and by band."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels import casorati, lipid
from mrsi_engine.kernels.hsvd import BandPlan, remove_band

AXIS = Acquisition(512, 0.8e-3, 123.23)
NOISE = 0.02
METABOLITES = (AXIS.ppm > 1.9) & (AXIS.ppm < 4.2)
LIPIDS = (AXIS.ppm > 0.6) & (AXIS.ppm < 1.7)


def line(ppm, damping):
    return np.exp((2j * np.pi * AXIS.frequency_of(ppm) - damping) * AXIS.time)


def scan(voxels: int = 60, seed: int = 0):
    """(metabolites, lipid leaked into the brain, scalp FIDs)."""
    rng = np.random.default_rng(seed)
    parts = np.array([line(0.9, 50), 2 * line(1.3, 45), 0.5 * line(1.6, 60)])
    mixed = rng.uniform(0.6, 1.4, (2, voxels, 3)) * np.exp(2j * np.pi * rng.random((2, voxels, 1)))
    noise = rng.standard_normal((2, voxels, 512)) + 1j * rng.standard_normal((2, voxels, 512))
    noise *= NOISE
    singlets = line(2.01, 10) + 0.7 * line(3.03, 10) + 0.5 * line(3.21, 10)
    brain = rng.uniform(0.8, 1.2, (voxels, 1)) * singlets + noise[0]
    return brain, 2 * mixed[0] @ parts, 20 * mixed[1] @ parts + noise[1]


def tensor(fids):
    return torch.from_numpy(np.asarray(fids, dtype=np.complex64))


def energy(fids, bins):
    return (np.abs(AXIS.spectrum(fids))[:, bins] ** 2).mean()


def basis(scalp, strength=1e6, rank=None):
    return lipid.finish(casorati.summarise(tensor(scalp)), strength, rank)


def test_projection_takes_lipids_and_leaves_metabolites():
    brain, leaked, scalp = scan()
    fids = brain + leaked
    cleaned = fids - lipid.remove(tensor(fids), basis(scalp)).numpy()
    assert energy(cleaned - brain, LIPIDS) < 0.01 * energy(leaked, LIPIDS)
    assert energy(cleaned - brain, METABOLITES) < 0.05 * energy(leaked, METABOLITES)
    assert energy(cleaned - brain, METABOLITES) < 0.02 * energy(brain, METABOLITES)


def test_rank_is_the_number_of_lipid_patterns():
    assert basis(scan()[2]).basis.shape == (512, 3)


def test_no_lipids_changes_nothing_above_noise():
    brain, _, scalp = scan()
    change = lipid.remove(tensor(brain), basis(scalp)).numpy()
    assert energy(change, METABOLITES) < 0.02 * energy(brain, METABOLITES)


def test_scale_and_number_of_scalp_voxels_do_not_matter():
    brain, leaked, scalp = scan()
    first = lipid.remove(tensor(brain + leaked), basis(scalp, 5.0, 3)).numpy()
    again = np.tile(scalp, (3, 1)) * 1e3
    second = lipid.remove(tensor(brain + leaked), basis(again, 5.0, 3)).numpy()
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_strength_sets_what_stays():
    """A single pattern holds all energy, so 1 / (1 + strength) of it stays."""
    scalp = np.outer(np.arange(1, 6), line(1.3, 45))
    left = scalp - lipid.remove(tensor(scalp), basis(scalp, 3.0, 1)).numpy()
    np.testing.assert_allclose(left, scalp / 4, atol=1e-4)


def test_bad_voxels_are_left_alone():
    removed = lipid.remove(tensor(np.full((1, 512), np.nan)), basis(scan()[2]))
    assert not removed.any()


@pytest.mark.parametrize("strength", [0.0, -1.0, np.nan, np.inf])
def test_impossible_strength_is_refused(strength):
    with pytest.raises(InputError, match="strength"):
        basis(scan()[2], strength)


def test_empty_scalp_is_refused():
    with pytest.raises(InputError, match="scalp mask"):
        basis(np.zeros((4, 512)))


def test_band_removal_takes_the_same_lipids():
    brain, leaked, _ = scan(20)
    plan = BandPlan.design(512, 0.8e-3, lipid.lipid_band(AXIS))
    cleaned = brain + leaked - remove_band(tensor(brain + leaked), plan).removed.numpy()
    assert energy(cleaned - brain, LIPIDS) < 0.02 * energy(leaked, LIPIDS)


def test_lipid_band_is_ascending_and_at_the_lipids():
    low, high = lipid.lipid_band(AXIS)
    assert low < AXIS.frequency_of(1.3) < high
