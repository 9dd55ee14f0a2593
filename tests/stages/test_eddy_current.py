"""A good water reference corrects as ever; one that would ruin a voxel is not applied."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.io.nifti_mrs import read_header
from mrsi_engine.kernels import eddy
from mrsi_engine.nuclei import nucleus
from mrsi_engine.stages.eddy_current import EddyCurrent
from tests.stages.passes import Scan, run

ALIGNMENT = nucleus("1H").alignment
assert ALIGNMENT is not None
SINGLETS = ALIGNMENT.singlets

AXIS = Acquisition(1024, 0.4e-3, 127.7)
TIME = AXIS.time
VOXELS = 30
TE16 = Path(__file__).resolve().parents[3] / "shared" / "data" / "mrsi_3t_te16"


def line(ppm: float, damping: float = 12.0) -> np.ndarray:
    return np.exp((2j * np.pi * float(AXIS.frequency_of(ppm)) - damping) * TIME)


def white(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((*shape, 2)).view(complex)[..., 0]


BRAIN = sum(10 * height * line(ppm) for ppm, height in SINGLETS)
WATER = 1e4 * line(4.65, 15.0)


def turned(hertz: float) -> np.ndarray:
    return np.exp(2j * np.pi * hertz * TIME)


def course(radians: float, seconds: float) -> np.ndarray:
    return np.exp(1j * radians * (1 - np.exp(-TIME / seconds)))


def scan(water: np.ndarray, metabolites: np.ndarray = BRAIN) -> Scan:
    fids = metabolites + 0.5 * white(VOXELS, AXIS.points)
    both = water + white(VOXELS, AXIS.points, seed=1)
    return Scan(AXIS, torch.from_numpy(fids).cfloat(), torch.from_numpy(both).cfloat())


def as_klose(given: Scan) -> torch.Tensor:
    assert given.water is not None
    return eddy.correct(given.fids, given.water).fids


@pytest.mark.parametrize(
    "effect",
    [course(0, 1), course(1.5, 0.03), course(40, 0.05), turned(15), turned(60), turned(100)],
    ids=["none", "weak", "strong", "15 Hz", "60 Hz", "100 Hz"],
)
def test_what_metabolites_share_with_their_reference_goes(effect: np.ndarray) -> None:
    given = scan(WATER * effect, BRAIN * effect)
    done = run(EddyCurrent(), given)
    assert torch.equal(done.fids, as_klose(given))
    assert (done.measures["eddy_trusted"] > 0.3).all()


def test_a_reference_without_doubt_is_not_even_tried() -> None:
    done = run(EddyCurrent(), scan(WATER * turned(5)))
    assert done.measures["eddy_gain"].isnan().all()
    assert done.measures["water_offset"].numpy() == pytest.approx(5, abs=1)


ALTERNATING = (-1.0) ** np.arange(AXIS.points)
DOUBTFUL: dict[str, Callable[[], np.ndarray]] = {
    "alternates in sign": lambda: WATER * ALTERNATING,
    "205 Hz off": lambda: WATER * turned(205),
    "another phase every point": lambda: WATER * np.exp(3j * white(1, AXIS.points, seed=2).real),
    "drifting phase": lambda: WATER * course(200, 0.1),
    "none": lambda: 0 * WATER,
}


@pytest.mark.parametrize("name", DOUBTFUL)
def test_a_reference_that_would_ruin_the_spectra_is_left(name: str) -> None:
    given = scan(DOUBTFUL[name]())
    done = run(EddyCurrent(), given)
    assert torch.equal(done.fids, given.fids)
    assert (done.measures["eddy_trusted"] == 0).all()
    assert done.estimate["eddy_shift"].isnan().all()


def test_a_reference_that_overdrove_the_receiver_is_left() -> None:
    given = scan(WATER * turned(5))
    assert given.water is not None
    channels = torch.view_as_real(given.water).clamp(-4e3, 4e3)
    cut = Scan(AXIS, given.fids, torch.view_as_complex(channels))
    assert torch.equal(run(EddyCurrent(), cut).fids, given.fids)


def test_each_voxel_is_judged_for_itself() -> None:
    given = scan(WATER)
    assert given.water is not None
    given.water[::3] *= torch.from_numpy(ALTERNATING).cfloat()
    done = run(EddyCurrent(), given)
    left = done.measures["eddy_trusted"] == 0
    assert left.nonzero().flatten().tolist() == list(range(0, VOXELS, 3))
    assert torch.equal(done.fids[~left], as_klose(given)[~left])


def test_transients_of_a_voxel_are_judged_together() -> None:
    whole = scan(WATER * turned(205))
    assert whole.water is not None
    fids = whole.fids.reshape(10, 3, -1)
    given = Scan(AXIS, fids, whole.water[:10, None], dimensions=("dynamic",))
    assert torch.equal(run(EddyCurrent(), given).fids, fids)


def test_a_nucleus_without_landmarks_is_corrected_unless_far_off() -> None:
    axis = Acquisition(1024, 0.4e-3, 45.6, 4.65, "2H")
    near, far = scan(WATER * turned(20)), scan(WATER * turned(205))
    corrected = run(EddyCurrent(), Scan(axis, near.fids, near.water))
    assert torch.equal(corrected.fids, as_klose(near))
    assert torch.equal(run(EddyCurrent(), Scan(axis, far.fids, far.water)).fids, far.fids)


@pytest.mark.skipif(not TE16.exists(), reason=f"the real scan is not at {TE16}")
def test_the_alternating_reference_of_a_real_scan_is_left() -> None:
    header = read_header(TE16 / "mrsi.nii.gz")
    inside = read(TE16 / "mask.nii.gz") > 0
    fids, water = (read(TE16 / f"{name}.nii.gz")[inside] for name in ("mrsi", "wref"))
    given = Scan(header.acquisition, *(torch.from_numpy(v).cfloat() for v in (fids, water)))
    done = run(EddyCurrent(), given)
    assert torch.equal(done.fids, given.fids)
    assert 600 < float(done.measures["water_offset"].abs().nanmedian()) <= 625
    # Without the sign it is a good one.
    sign = torch.from_numpy((-1.0) ** np.arange(header.acquisition.points)).cfloat()
    assert given.water is not None
    good = Scan(given.acquisition, given.fids, given.water * sign)
    assert (run(EddyCurrent(), good).measures["eddy_trusted"] > 0).all()


def read(path: Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)
