"""Low-rank denoising with known ranks and known noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.errors import InputError
from mrsi_engine.kernels import casorati, denoise

POINTS, SIDE, NOISE = 128, 12, 0.5
VOXELS = SIDE * SIDE
PLACES = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), -1).reshape(-1, 2)


def scan(rank: int = 3, seed: int = 0):
    rng = np.random.default_rng(seed)
    time = np.arange(POINTS) * 1e-3
    hertz = np.linspace(-300, 300, max(rank, 1))[:rank]
    courses = np.exp((2j * np.pi * hertz[:, None] - 15) * time)
    maps = 3 * (rng.standard_normal((VOXELS, rank)) + 1j * rng.standard_normal((VOXELS, rank)))
    noise = rng.standard_normal((VOXELS, POINTS)) + 1j * rng.standard_normal((VOXELS, POINTS))
    return maps @ courses, NOISE * noise


def tensor(fids):
    return torch.from_numpy(np.asarray(fids, dtype=np.complex64))


def noise_map(level=NOISE):
    return torch.full((VOXELS,), level)


def error(found, truth):
    return np.mean(np.abs(found.numpy() - truth) ** 2) / (2 * NOISE**2)


def globally(fids, **settings):
    found = denoise.signal_subspace(casorati.summarise(tensor(fids)), NOISE, **settings)
    return denoise.project(tensor(fids), found, noise_map())


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_global_rank_and_gain(rank):
    """What stays of the noise is the share of the basis' dimensions, and the basis' own error."""
    signal, noise = scan(rank)
    result = globally(signal + noise)
    assert (result.rank == rank).all()
    assert error(result.fids, signal) < 1.2 * rank * (1 / POINTS + 1 / VOXELS)


def test_patches_find_the_rank_and_gain():
    signal, noise = scan(3)
    result = denoise.in_patches(tensor(signal + noise), PLACES, noise_map(), neighbours=36)
    assert (result.rank == 3).float().mean() > 0.95
    # One patch alone keeps this share; averaging overlapping ones can only lower it.
    assert error(result.fids, signal) < 3 * (1 / POINTS + 1 / 36)


def test_noise_only_has_no_rank():
    _, noise = scan(0)
    result = denoise.in_patches(tensor(noise), PLACES, noise_map(), neighbours=49)
    assert (result.rank == 0).float().mean() > 0.9
    assert error(result.fids, 0) < 0.02


@pytest.mark.parametrize("method", ["global", "patches"])
def test_noise_level_passes_untouched(method):
    signal, noise = scan()
    level = torch.linspace(0.4, 0.6, VOXELS)
    fids = tensor(signal + noise)
    if method == "global":
        found = denoise.signal_subspace(casorati.summarise(fids), NOISE)
        result = denoise.project(fids, found, level)
    else:
        result = denoise.in_patches(fids, PLACES, level, neighbours=20)
    assert torch.equal(result.noise_sd, level)


def test_a_local_signal_survives_in_patches():
    """One voxel's own line, strong enough to stand above the noise of its patch."""
    signal, noise = scan(2)
    own = 15 * np.exp((2j * np.pi * 420 - 20) * np.arange(POINTS) * 1e-3)
    signal[70] += own
    result = denoise.in_patches(tensor(signal + noise), PLACES, noise_map(), neighbours=25)
    assert np.linalg.norm(result.fids[70].numpy() - signal[70]) < 0.3 * np.linalg.norm(own)


def test_bad_voxels_come_back_as_they_are():
    fids = tensor(sum(scan()))
    fids[5, 3] = torch.nan
    alone = denoise.in_patches(fids, PLACES, noise_map(), neighbours=20)
    assert torch.isnan(alone.fids[5].abs()).sum() == 1
    assert alone.rank[5] == 0
    assert torch.isfinite(alone.fids[torch.arange(VOXELS) != 5].abs()).all()
    together = globally(fids.numpy())
    assert torch.isfinite(together.fids[torch.arange(VOXELS) != 5].abs()).all()


def test_fewer_voxels_than_a_patch():
    fids = tensor(sum(scan()))[:1]
    result = denoise.in_patches(fids, PLACES[:1], noise_map()[:1], rank=1)
    torch.testing.assert_close(result.fids, fids, rtol=1e-5, atol=1e-5)


def test_nothing_usable_is_returned_as_is():
    fids = torch.full((3, POINTS), torch.nan, dtype=torch.complex64)
    result = denoise.in_patches(fids, PLACES[:3], noise_map()[:3])
    assert torch.isnan(result.fids.abs()).all()
    assert not result.rank.any()


def test_full_rank_changes_nothing():
    fids = tensor(sum(scan()))
    result = denoise.in_patches(fids, PLACES, noise_map(), neighbours=10, rank=10)
    torch.testing.assert_close(result.fids, fids, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("neighbours", "rank"), [(0, None), (20, 0), (20, 21), (500, 145)])
def test_impossible_patches_are_refused(neighbours, rank):
    fids = tensor(sum(scan()))
    with pytest.raises(InputError, match="neighbours"):
        denoise.in_patches(fids, PLACES, noise_map(), neighbours=neighbours, rank=rank)


@pytest.mark.parametrize("level", [0.0, np.nan, -1.0])
def test_impossible_noise_is_refused(level):
    gram = casorati.summarise(tensor(sum(scan())))
    with pytest.raises(InputError, match="noise SD"):
        denoise.signal_subspace(gram, level)


def test_global_rank_beyond_the_data_is_refused():
    with pytest.raises(InputError, match="rank 200"):
        globally(sum(scan()), rank=200)
