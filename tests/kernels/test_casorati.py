"""Casorati water removal: the reduction, the rank, and what it takes away."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.kernels import casorati
from mrsi_engine.kernels.hsvd import BandPlan

POINTS, DWELL = 512, 1e-3
BAND = (-60.0, 60.0)
PLAN = BandPlan.design(POINTS, DWELL, BAND)
TIME = np.arange(POINTS) * DWELL
NOISE = 0.02
INSIDE = np.abs(np.fft.fftfreq(POINTS, DWELL)) <= 55


def line(hertz, damping):
    return np.exp((2j * np.pi * hertz - damping) * TIME)


def scan(voxels: int = 200, level: float = 20.0, seed: int = 0):
    """(metabolites, water, noise): every voxel's water has its own strength, phase and shape."""
    rng = np.random.default_rng(seed)
    turn = np.exp(2j * np.pi * rng.random((voxels, 1)))
    shape = np.exp(1j * rng.normal(0, 0.4, (voxels, 1)))
    water = (
        level
        * turn
        * rng.uniform(0.5, 1.5, (voxels, 1))
        * (line(0, 12) + 0.3 * shape * line(8, 25))
    )
    metabolites = rng.uniform(0.7, 1.3, (voxels, 3)) @ np.array(
        [line(325, 12), line(200, 12), line(-250, 12)]
    )
    noise = rng.standard_normal((voxels, POINTS)) + 1j * rng.standard_normal((voxels, POINTS))
    return metabolites, water, NOISE * noise


def tensor(fids):
    return torch.from_numpy(np.asarray(fids, dtype=np.complex64))


def state(fids, **settings):
    found = casorati.finish(casorati.summarise(tensor(fids)), **settings)
    return casorati.band_of(found, PLAN), found


def energy(fids):
    """Mean energy in the band over that of the noise."""
    spectra = np.fft.fft(fids, axis=1, norm="ortho")[:, INSIDE]
    return (np.abs(spectra) ** 2).mean(1) / (2 * NOISE**2)


def noise_sd(voxels):
    return torch.full((voxels,), NOISE)


def test_water_goes_and_metabolites_stay():
    metabolites, water, noise = scan()
    fids = metabolites + water + noise
    removed = casorati.apply(tensor(fids), state(fids)[0]).numpy()
    wrong = removed - water
    assert energy(wrong).mean() < 0.3
    outside = np.fft.fft(wrong, axis=1, norm="ortho")[:, ~INSIDE]
    assert (np.abs(outside) ** 2).mean() < 0.05 * 2 * NOISE**2


def test_blocks_do_not_matter():
    fids = tensor(sum(scan()))
    whole = casorati.summarise(fids)
    parts = reduce(casorati.combine, [casorati.summarise(part) for part in fids.split(33)])
    assert parts.voxels == whole.voxels == 200
    torch.testing.assert_close(parts.matrix, whole.matrix, rtol=1e-12, atol=1e-9)


def test_rank_is_that_of_the_signal():
    _, found = state(sum(scan()))
    assert found.rank == 5
    assert state(sum(scan()), noise_sd=NOISE)[1].rank == 5


def test_rank_never_fails():
    """No value above the threshold (noise), or all of them (rank as high as the data allow)."""
    assert state(scan()[2])[1].rank == 1
    assert casorati.automatic_rank(torch.tensor([5.0, 4.0, 3.0]), 3, 3, noise_sd=1e-9) == 3
    assert casorati.automatic_rank(torch.zeros(4), 4, 4) == 1


def test_one_voxel_is_enough():
    metabolites, water, noise = scan(1)
    fids = metabolites + water + noise
    removed = casorati.apply(tensor(fids), state(fids)[0]).numpy()
    assert energy(removed - water)[0] < 1.0


@pytest.mark.parametrize("rank", [0, -1, 11, 1000])
def test_impossible_rank_is_refused(rank):
    with pytest.raises(InputError, match="allow 1 to 10"):
        state(sum(scan(10)), rank=rank)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_bad_voxels_harm_no_other(value):
    fids = sum(scan(20))
    spoilt = np.concatenate([fids, np.full((1, POINTS), value)])
    basis, found = state(spoilt)
    assert found.voxels == 20
    removed = casorati.apply(tensor(spoilt), basis).numpy()
    assert not removed[20].any()
    np.testing.assert_allclose(removed[:20], casorati.apply(tensor(fids), basis), atol=1e-4)


def test_scan_without_signal_is_refused():
    with pytest.raises(InputError, match="no voxel has a signal"):
        state(np.zeros((5, POINTS)))


def test_water_free_data_change_by_less_than_noise():
    metabolites, _, noise = scan()
    removed = casorati.apply(tensor(metabolites + noise), state(metabolites + noise)[0]).numpy()
    assert energy(removed).mean() < 0.05


def test_unlike_voxel_is_done_alone():
    """A voxel 25 Hz off and 50 times as strong is not in the others' subspace of rank 5."""
    metabolites, water, noise = scan()
    water[7] = 1000 * line(25, 30)
    water[90] = 40 * line(-30, 40)
    fids = metabolites + water + noise
    common = np.delete(fids, [7, 90], axis=0)
    basis = state(common)[0]
    result = casorati.remove(tensor(fids), basis, PLAN, noise_sd(200))
    assert result.by_voxel.nonzero().squeeze(1).tolist() == [7, 90]
    assert energy(result.removed.numpy() - water)[[7, 90]].max() < 1.0
    assert result.residual.max() < casorati.DEFAULT_RESIDUAL


def test_voxels_share_their_water_once_aligned():
    """Water shifted by B0 (5 Hz) is not of low rank, and HSVD has to do most voxels alone."""
    metabolites, water, noise = scan()
    turn = np.exp(2j * np.pi * np.random.default_rng(1).normal(0, 5, (200, 1)) * TIME)
    alone = []
    for fids in ((metabolites + water) * turn + noise, metabolites + water + noise / turn):
        result = casorati.remove(tensor(fids), state(fids)[0], PLAN, noise_sd(200))
        alone.append(result.by_voxel.float().mean().item())
    assert alone[0] > 0.5
    assert alone[1] < 0.05


def test_band_without_a_bin_is_refused():
    plan = BandPlan(POINTS, DWELL, (0.1, 0.2), 1, 1, np.ones(1), 4)
    with pytest.raises(InputError, match="no two points"):
        casorati.band_roughness(torch.ones(1, POINTS, dtype=torch.complex64), plan)
