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


def error(found, truth):
    return np.mean(np.abs(found.numpy() - truth) ** 2) / (2 * NOISE**2)


def globally(fids, **settings):
    found = denoise.signal_subspace(casorati.summarise(tensor(fids)), NOISE, **settings)
    return denoise.project(tensor(fids), found.basis), found.rank


def in_patches(fids, patch=5, courses=None, rank=None):
    """Denoised FIDs and the ranks of the patches."""
    reduced = denoise.reduction(casorati.summarise(tensor(fids)), NOISE, courses)
    grid = denoise.PatchGrid.over((0, 0), (SIDE - 1, SIDE - 1), patch)
    scores = tensor(fids).to(torch.complex128) @ (reduced.basis / reduced.scale).conj()
    grams = denoise.summarise_patches(scores, torch.from_numpy(PLACES), grid)
    projectors = denoise.patch_projectors(grams, rank)
    kept = denoise.project_patches(scores, torch.from_numpy(PLACES), grid, projectors)
    ranks = projectors.diagonal(dim1=1, dim2=2).real.sum(1)
    return kept @ (reduced.basis * reduced.scale).T, ranks


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_global_rank_and_gain(rank):
    """What stays of the noise is the share of the basis' dimensions, and the basis' own error."""
    signal, noise = scan(rank)
    fids, found = globally(signal + noise)
    assert found == rank
    assert error(fids, signal) < 1.2 * rank * (1 / POINTS + 1 / VOXELS)


def test_patches_find_the_rank_and_gain():
    signal, noise = scan(3)
    fids, ranks = in_patches(signal + noise)
    assert (ranks.round() == 3).double().mean() > 0.95
    # The inner patches hold 25 voxels, those in the corners 9; averaging can only help.
    assert error(fids, signal) < 3 * (1 / POINTS + 1 / 16)


def test_noise_only_has_no_rank():
    """The edge is passed by chance in 3 % of large matrices, and less often in small ones."""
    _, noise = scan(0)
    assert globally(noise)[1] == 0
    fids, ranks = in_patches(noise)
    assert (ranks.round() == 0).double().mean() > 0.9
    assert error(fids, 0) < 0.02


def test_patches_are_better_where_every_place_has_its_own_signal():
    """Nine regions of two lines each: 18 time courses in the scan, few in a patch."""
    rng = np.random.default_rng(2)
    _, noise = scan(0)
    region = (PLACES // 4) @ (3, 1)
    time = np.arange(POINTS) * 1e-3
    lines = np.exp((2j * np.pi * np.linspace(-400, 400, 18)[:, None] - 15) * time).reshape(9, 2, -1)
    weights = 4 * rng.standard_normal((VOXELS, 2, 2)).view(complex)[..., 0]
    signal = np.einsum("vl,vlt->vt", weights, lines[region])
    assert error(in_patches(signal + noise)[0], signal) < error(globally(signal + noise)[0], signal)


def test_a_local_signal_survives_in_patches():
    """One voxel's own line, strong enough to stand above the noise of its patch."""
    signal, noise = scan(2)
    own = 15 * np.exp((2j * np.pi * 420 - 20) * np.arange(POINTS) * 1e-3)
    signal[70] += own
    fids, _ = in_patches(signal + noise)
    assert np.linalg.norm(fids[70].numpy() - signal[70]) < 0.3 * np.linalg.norm(own)


def test_full_rank_changes_nothing():
    fids = tensor(sum(scan()))
    found, _ = in_patches(fids, patch=11, courses=POINTS, rank=POINTS)
    torch.testing.assert_close(found.to(torch.complex64), fids, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("patch", "high"), [(3, (7, 7, 0)), (4, (6, 0, 3)), (9, (3, 2, 1))])
def test_every_voxel_has_weights_that_sum_to_one(patch, high):
    low = (-2, 0, 5)
    grid = denoise.PatchGrid.over(low, tuple(a + b for a, b in zip(low, high, strict=True)), patch)
    axes = [torch.arange(a, a + b + 1) for a, b in zip(low, high, strict=True)]
    places = torch.cartesian_prod(*axes)
    number, weight = (torch.stack(part) for part in zip(*grid.members(places), strict=True))
    torch.testing.assert_close(weight.sum(0), torch.ones(len(places), dtype=torch.float64))
    assert number[weight > 0].max() == grid.patches - 1
    for patch_number in range(grid.patches):
        inside = places[((number == patch_number) & (weight > 0)).any(0)]
        assert (inside.amax(0) - inside.amin(0)).max() < grid.step * 2 - 1


def test_bad_voxels_come_back_as_they_are():
    fids = tensor(sum(scan()))
    fids[5, 3] = torch.nan
    found, _ = globally(fids.numpy())
    assert torch.isnan(found[5].abs()).sum() == 1
    assert torch.isfinite(found[torch.arange(VOXELS) != 5].abs()).all()


@pytest.mark.parametrize("level", [0.0, np.nan, -1.0])
def test_impossible_noise_is_refused(level):
    gram = casorati.summarise(tensor(sum(scan())))
    with pytest.raises(InputError, match="noise SD"):
        denoise.signal_subspace(gram, level)
    with pytest.raises(InputError, match="noise SD"):
        denoise.reduction(gram, level, 10)


def test_global_rank_beyond_the_data_is_refused():
    with pytest.raises(InputError, match="rank 200"):
        globally(sum(scan()), rank=200)


def test_states_too_large_for_workers_are_refused():
    casorati.refuse_large("denoise", 1, 2048, "")
    with pytest.raises(InputError, match=r"268 MB in every worker.*choose"):
        casorati.refuse_large("denoise", 1, 4096, "choose fewer")
