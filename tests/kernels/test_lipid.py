"""Lipid removal by projection and by band."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.kernels import lipid
from mrsi_engine.kernels.hsvd import BandPlan, remove_band

AXIS = Acquisition(512, 0.8e-3, 123.23)
PLAN = lipid.LipidPlan.design(AXIS)
NOISE = 0.02
METABOLITES = (AXIS.ppm > 1.9) & (AXIS.ppm < 4.2)
LIPIDS = (AXIS.ppm > 0.6) & (AXIS.ppm < 1.7)


def line(ppm, damping):
    return np.exp((2j * np.pi * AXIS.frequency_of(ppm) - damping) * AXIS.time)


def scan(voxels: int = 60, seed: int = 0):
    """(metabolites, lipid leaked into the brain, scalp FIDs); lipids have a line beside NAA."""
    rng = np.random.default_rng(seed)
    tail = 0.5 * line(1.6, 60) + 0.5 * line(2.03, 60)
    parts = np.array([line(0.9, 50) + tail, 2 * line(1.3, 45), tail])
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


def basis(scalp, rank=None, plan=PLAN):
    inside = (np.abs(AXIS.spectrum(scan()[0])[:, METABOLITES]) ** 2).sum(1).mean() / AXIS.points
    background = plan.background(NOISE, inside, 0.02 * inside)
    return lipid.finish(lipid.summarise(tensor(scalp), plan), plan, background, rank)


def removed(fids, lipids, **settings):
    return lipid.remove(tensor(fids), lipids, **settings).removed.numpy()


def test_lipids_go_under_naa_too_and_metabolites_stay():
    """The line at 2.03 ppm is inferred from those where there is no NAA."""
    brain, leaked, scalp = scan()
    error = removed(brain + leaked, basis(scalp)) - leaked
    assert energy(error, LIPIDS) < 1e-3 * energy(leaked, LIPIDS)
    assert energy(error, METABOLITES) < 0.01 * energy(leaked, METABOLITES)


def test_rank_is_the_number_of_lipid_patterns():
    assert basis(scan()[2]).patterns.shape == (512, 3)


def test_a_voxel_without_lipids_is_not_touched():
    brain, _, scalp = scan()
    found = lipid.remove(tensor(brain), basis(scalp))
    assert not found.removed.any()
    assert not found.level.any()


def test_level_is_the_energy_over_the_scalps():
    brain, leaked, scalp = scan(200)
    level = lipid.remove(tensor(brain + leaked), basis(scalp)).level
    # Lipids in the brain are a tenth of those of the scalp; 3 numbers a voxel tell of it.
    assert float(level.log10().mean()) == pytest.approx(-2, abs=0.15)


def test_brain_in_the_scalp_voxels_is_no_lipid():
    """Brain of one phase beside lipids of one phase: regression alone would take it for lipid."""
    rng = np.random.default_rng(5)
    brain, _, scalp = scan(60)
    in_phase = scalp * np.exp(-1j * np.angle(scalp[:, :1]))
    turns = np.exp(2j * np.pi * rng.random((60, 1)))
    found = removed(brain + turns * in_phase, basis(brain + in_phase))
    assert energy(found - turns * in_phase, METABOLITES) < 0.1 * energy(brain, METABOLITES)


def test_scale_and_number_of_scalp_voxels_do_not_matter():
    brain, leaked, scalp = scan()
    first = removed(brain + leaked, basis(scalp, 3))
    second = removed(brain + leaked, basis(np.tile(scalp, (3, 1)) * 1e3, 3))
    np.testing.assert_allclose(first, second, atol=2e-3 * np.abs(leaked).max())


def test_less_strength_takes_less():
    brain, leaked, scalp = scan()
    taken = [
        energy(removed(brain + leaked, basis(scalp), strength=s), LIPIDS) for s in (1e-4, 1e-2, 1)
    ]
    assert taken[0] < 0.9 * taken[1] < 0.9 * taken[2]


def test_bad_voxels_are_left_alone():
    assert not removed(np.full((1, 512), np.nan), basis(scan()[2])).any()


@pytest.mark.parametrize("strength", [0.0, -1.0, np.nan, np.inf])
def test_impossible_strength_is_refused(strength):
    with pytest.raises(InputError, match="strength"):
        removed(scan()[0], basis(scan()[2]), strength=strength)


def test_scalp_without_signal_or_lipids_is_refused():
    with pytest.raises(InputError, match="scalp mask has a signal"):
        basis(np.zeros((4, 512)))
    with pytest.raises(InputError, match="hold no lipids"):
        basis(scan()[0])


def test_a_spectrum_that_ends_before_the_metabolites_is_refused():
    with pytest.raises(InputError, match=r"must hold 0.3 to 4.2 ppm"):
        lipid.LipidPlan.design(Acquisition(512, 2e-3, 123.23, reference_ppm=1.0))


def test_band_removal_takes_the_same_lipids():
    brain, leaked, _ = scan(20)
    plan = BandPlan.design(512, 0.8e-3, lipid.lipid_band(AXIS))
    cleaned = brain + leaked - remove_band(tensor(brain + leaked), plan).removed.numpy()
    assert energy(cleaned - brain, LIPIDS) < 0.02 * energy(leaked, LIPIDS)


def test_lipid_band_is_ascending_and_at_the_lipids():
    low, high = lipid.lipid_band(AXIS)
    assert low < AXIS.frequency_of(1.3) < high
