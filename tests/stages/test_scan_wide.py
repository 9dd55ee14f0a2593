"""Casorati water removal, lipid removal and denoising: stages that learn from the whole scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.stages.denoise import Denoise
from mrsi_engine.stages.lipid_removal import LipidRemoval
from mrsi_engine.stages.water_removal import WaterRemoval
from tests.stages.passes import Scan, run

AXIS = Acquisition(512, 0.5e-3, 123.25)
NOISE = 0.05


def line(ppm: float, damping: float = 12.0) -> np.ndarray:
    return np.exp((2j * np.pi * float(AXIS.frequency_of(ppm)) - damping) * AXIS.time)


def white(*shape: int, seed: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((*shape, 2)).view(complex)[..., 0]


def brain(voxels: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    heights = rng.uniform(0.7, 1.3, (voxels, 3)) * np.array([10, 7, 4])
    return heights @ np.array([line(2.01), line(3.03), line(3.21)])


def wet(voxels: int = 200, water: float = 200.0) -> tuple[Scan, np.ndarray]:
    """Brain under water of two lines that voxels share in different parts; the dry brain."""
    rng = np.random.default_rng(1)
    weights = (
        water * rng.uniform(0.3, 1, (voxels, 2)) * np.exp(2j * np.pi * rng.random((voxels, 2)))
    )
    dry = brain(voxels) + NOISE * white(voxels, AXIS.points)
    fids = dry + weights @ np.array([line(4.66, 15), line(4.55, 40)])
    return Scan(AXIS, torch.from_numpy(fids.astype(np.complex64))), dry


def energy(fids: np.ndarray, low: float, high: float) -> float:
    inside = (AXIS.ppm > low) & (AXIS.ppm < high)
    return float((np.abs(AXIS.spectrum(fids)[:, inside]) ** 2).mean() / AXIS.points)


@pytest.mark.parametrize("method", ["hsvd", "casorati"])
def test_water_goes_and_metabolites_stay(method):
    scan, dry = wet()
    done = run(WaterRemoval(method=method), scan)
    error = done.fids.numpy() - dry
    assert energy(error, 4.2, 5.1) < 2 * energy(NOISE * white(200, 512), 4.2, 5.1)
    assert energy(error, 1.9, 4.1) < 0.2 * 2 * NOISE**2
    assert (done.measures["water_residual"] < 1e-3).all()


@pytest.mark.parametrize("method", ["hsvd", "casorati"])
def test_nothing_is_taken_where_there_is_no_water(method):
    scan, dry = wet(water=0.0)
    done = run(WaterRemoval(method=method), scan)
    assert energy(done.fids.numpy() - dry, 1.9, 4.1) < 0.1 * 2 * NOISE**2
    assert (done.measures["metabolite_change"] < 1e-3).all()


def test_voxels_outside_the_shared_water_are_done_alone():
    """Two waters do not fit into one time course: HSVD voxel by voxel has to help."""
    scan, dry = wet(water=5.0)
    shared, alone = (run(WaterRemoval(method="casorati", rank=r), scan) for r in (None, 1))
    assert shared.measures["water_by_voxel"].mean() < 0.05
    assert alone.measures["water_by_voxel"].mean() > 0.9
    assert energy(alone.fids.numpy() - dry, 1.9, 4.1) < 0.2 * 2 * NOISE**2


def scalped(voxels: int = 80, leak: float = 10.0) -> tuple[Scan, np.ndarray]:
    """Brain with lipids leaked into it and 40 voxels of scalp; the brain without."""
    rng = np.random.default_rng(4)
    parts = np.array([line(0.9, 50), 2 * line(1.3, 45), 0.5 * line(1.6, 60)])
    mixed = rng.uniform(0.6, 1.4, (voxels + 40, 3)) * np.exp(
        2j * np.pi * rng.random((voxels + 40, 1))
    )
    inside = brain(voxels) + NOISE * white(voxels, AXIS.points)
    scalp = 300 * mixed[voxels:] @ parts + NOISE * white(40, AXIS.points, seed=8)
    fids = np.concatenate([inside + leak * mixed[:voxels] @ parts, scalp])
    marked = torch.arange(voxels + 40) >= voxels
    return Scan(AXIS, torch.from_numpy(fids.astype(np.complex64)), scalp=marked), inside


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scalp": "found", "lipid_ratio": 3},
        {"method": "hsvd"},
    ],
    ids=["given", "found", "hsvd"],
)
def test_lipids_go_and_metabolites_stay(settings):
    scan, inside = scalped(leak=30.0)
    before = scan.fids[:80].numpy()
    done = run(LipidRemoval(**settings), scan)
    after = done.fids[:80].numpy()
    assert energy(after - inside, 0.6, 1.7) < 0.05 * energy(before - inside, 0.6, 1.7)
    assert energy(after - inside, 1.9, 4.1) < 0.2 * energy(before - inside, 1.9, 4.1)
    assert done.measures["lipid_residual"].median() < 0.05
    assert (done.measures["lipid_after"] < 0.1 * done.measures["lipid_before"])[:80].all()


def test_brain_without_lipids_is_left_as_it_is():
    scan, _ = scalped(leak=0.0)
    done = run(LipidRemoval(), scan)
    assert torch.equal(done.fids[:80], scan.fids[:80])


def test_no_scalp_is_refused_or_passed_over():
    with pytest.raises(InputError, match=r"--scalp MASK.*optional = true"):
        LipidRemoval().check(Context(AXIS))
    scan, _ = wet()
    assert torch.equal(run(LipidRemoval(optional=True), scan).fids, scan.fids)


def test_no_lipid_voxel_to_be_found_is_refused():
    scan, _ = wet(water=0.0)
    with pytest.raises(InputError, match="no voxel is scalp"):
        run(LipidRemoval(scalp="found"), scan)


def test_denoising_takes_noise_and_tells_of_it():
    scan, _ = wet(400, water=0.0)
    clean = brain(400)
    done = run(Denoise(), scan)
    error = energy(done.fids.numpy() - clean, -5, 14)
    assert error < 0.1 * 2 * NOISE**2
    assert float(done.measures["denoise_removed"].median()) == pytest.approx(1, abs=0.1)
    # Noise is known to a tenth from the quiet part of 512 points.
    assert float(done.noise_sd.median()) == pytest.approx(NOISE, rel=0.1)


class PlacedScan(Scan):
    """Voxels on a grid 20 wide."""

    def blocks(self, size: int) -> list[Block]:
        number = torch.arange(len(self.fids), dtype=torch.int32)
        places = torch.stack([number % 20, number // 20, 0 * number], 1).split(size)
        blocks = super().blocks(size)
        for block, place in zip(blocks, places, strict=True):
            block.coordinates = place
        return blocks


def test_denoising_in_patches_follows_the_composition():
    """Every place has a line of its own: patches keep fewer time courses than the scan has."""
    number = np.arange(400)
    own = np.stack([line(ppm) for ppm in np.linspace(1.0, 4.0, 16)])
    clean = brain(400) + 5 * own[(number // 20 // 5) * 4 + number % 20 // 5]
    fids = torch.from_numpy((clean + NOISE * white(400, 512)).astype(np.complex64))
    scan = PlacedScan(AXIS, fids)
    whole, patches = run(Denoise(), scan), run(Denoise(patch=5), scan)
    left = [energy(done.fids.numpy() - clean, -5, 14) for done in (whole, patches)]
    assert left[1] < left[0] < 0.2 * 2 * NOISE**2
    assert torch.equal(patches.noise_sd, whole.noise_sd)


@pytest.mark.parametrize("patch", [None, 7])
def test_denoising_keeps_nothing_of_noise(patch):
    scan = PlacedScan(AXIS, torch.from_numpy(white(400, 512).astype(np.complex64)))
    left = run(Denoise(patch=patch), scan).fids
    assert float(left.abs().square().mean()) < 0.01 * float(scan.fids.abs().square().mean())


def test_denoising_beyond_the_memory_of_workers_is_refused():
    with pytest.raises(InputError, match=r"268 MB in every worker.*leave the stage out"):
        Denoise().check(Context(Acquisition(4096, 0.25e-3, 297.2)))
    scan, stage = wet(100, water=0.0)[0], Denoise(patch=3, courses=100)
    block = PlacedScan(AXIS, scan.fids).blocks(100)[0]
    block.coordinates *= 20
    with pytest.raises(InputError, match="choose larger patches than patch = 3 or fewer courses"):
        stage.finish(scan.context, stage.summarise(scan.context, block, 0), 0)


def test_patches_without_coordinates_are_refused():
    with pytest.raises(InputError, match="coordinates"):
        Denoise(patch=5).summarise(Context(AXIS), Block(wet(20, water=0.0)[0].fids), 0)


STAGES = [
    WaterRemoval(method="casorati"),
    LipidRemoval(),
    LipidRemoval(scalp="found"),
    Denoise(),
    Denoise(patch=5),
]


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: f"{s.stage}-{getattr(s, 'scalp', '')}")
def test_block_size_does_not_matter(stage):
    scan, _ = scalped(30)
    scan = PlacedScan(AXIS, scan.fids, scalp=scan.scalp)
    whole, few, single = (run(stage, scan, size) for size in (1000, 17, 1))
    for other in (few, single):
        torch.testing.assert_close(other.fids, whole.fids, rtol=1e-4, atol=1e-3)
        for name, values in whole.measures.items():
            torch.testing.assert_close(other.measures[name], values, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("stage", [WaterRemoval(method="casorati"), Denoise()])
def test_one_voxel_is_enough(stage):
    scan, _ = wet(1)
    done = run(stage, scan)
    assert torch.isfinite(done.fids.abs()).all()


@pytest.mark.parametrize("kind", [Denoise, WaterRemoval, LipidRemoval])
def test_ranks_larger_than_the_data_are_refused(kind):
    settings = {"method": "casorati"} if kind is WaterRemoval else {}
    scan, _ = scalped(4)
    with pytest.raises(InputError, match="rank"):
        kind(rank=513, **settings).check(scan.context)
    with pytest.raises(InputError, match="rank"):
        run(kind(rank=50, **settings), Scan(AXIS, scan.fids[:10], scalp=scan.scalp[:10]))


@pytest.mark.parametrize("kind", [Denoise, WaterRemoval, LipidRemoval])
def test_coils_and_transients_must_have_gone(kind):
    with pytest.raises(InputError, match="put coil_combination and averaging before"):
        kind().check(Context(AXIS, dimensions=("dynamic",), companions=("scalp",)))


def test_settings_come_back():
    tables = [
        {"stage": "water_removal", "method": "casorati", "rank": 8},
        {"stage": "lipid_removal", "scalp": "found"},
        {"stage": "denoise", "rank": 12, "patch": 5},
    ]
    pipeline = Pipeline.from_settings({"name": "test", "stages": tables})
    assert Pipeline.from_settings(pipeline.settings()) == pipeline
