"""A scan that is off as a whole is found; one that is where it should be stays as it is."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition
from mrsi_engine.nuclei import nucleus
from mrsi_engine.stages.scan_shift import ScanShift, chosen_shift
from tests.stages.passes import Scan, run

ALIGNMENT = nucleus("1H").alignment
assert ALIGNMENT is not None
SINGLETS = ALIGNMENT.singlets

AXIS = Acquisition(512, 0.5e-3, 123.25)


def line(ppm: float, hertz: np.ndarray | float = 0.0, damping: float = 12.0) -> np.ndarray:
    frequency = np.atleast_1d(float(AXIS.frequency_of(ppm)) + hertz)[:, None]
    return np.exp((2j * np.pi * frequency - damping) * AXIS.time)


def scan(offset: float, voxels: int = 40, noise: float = 0.1, water: float | None = None) -> Scan:
    """Voxels that differ by 5 Hz (SD) about ``offset``; a water reference at ``water`` Hz."""
    rng = np.random.default_rng(0)
    hertz = offset + 5 * rng.standard_normal(voxels)
    fids = sum(height * line(ppm, hertz) for ppm, height in SINGLETS)
    fids = fids + 20 * line(4.65, hertz, 30)
    white = rng.standard_normal((voxels, AXIS.points, 2)).view(complex)[..., 0]
    reference = None
    if water is not None:
        reference = torch.from_numpy(100 * line(4.65, np.full(voxels, water))).cfloat()
    return Scan(AXIS, torch.from_numpy(fids + noise * white).cfloat(), reference)


def shift_of(done) -> float:
    return float(done.estimate["scan_shift"][0])


@pytest.mark.parametrize("offset", [-64.0, -40.0, 21.6, 40.0, 64.0, 110.0])
def test_it_is_brought_back(offset: float) -> None:
    moved = scan(offset)
    done = run(ScanShift(), moved)
    found = shift_of(done)
    assert found == pytest.approx(offset, abs=4)
    t = torch.from_numpy(AXIS.time)
    back = torch.polar(torch.ones_like(t), -2 * torch.pi * found * t)
    assert torch.allclose(done.fids, (moved.fids * back).cfloat(), atol=1e-3)


@pytest.mark.parametrize("offset", [-9.0, 0.0, 9.0])
def test_one_in_its_place_stays_to_the_bit(offset: float) -> None:
    here = scan(offset, water=offset)
    done = run(ScanShift(), here)
    assert torch.equal(done.fids, here.fids)
    assert torch.equal(done.water, here.water)
    assert np.isnan(shift_of(done))


def test_noise_is_left_alone() -> None:
    """By the bound of 4 SDs, and for few voxels 8 nats, one scan of noise in a hundred moves."""
    noise = Scan(AXIS, torch.view_as_complex(torch.randn(100, 512, 2, generator=seeded())))
    assert torch.equal(run(ScanShift(), noise).fids, noise.fids)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_few_voxels_far_off_do_not_move_the_rest() -> None:
    most, few = scan(0.0), scan(60.0, voxels=12)
    both = Scan(AXIS, torch.cat([most.fids, few.fids]))
    assert torch.equal(run(ScanShift(), both).fids, both.fids)


def test_blocks_and_transients_find_the_same() -> None:
    whole = scan(40.0)
    transients = Scan(AXIS, whole.fids.reshape(10, 4, -1), dimensions=("dynamic",))
    one, other = run(ScanShift(), whole, size=7), run(ScanShift(), transients, size=3)
    assert shift_of(one) == pytest.approx(shift_of(other), abs=1e-6)
    assert torch.equal(one.fids, other.fids.reshape(one.fids.shape))


def test_a_reference_that_is_off_with_the_scan_goes_with_it() -> None:
    there, here = run(ScanShift(), scan(40.0, water=40.0)), scan(40.0, water=0.0)
    turn = there.water[0, 1] * there.water[0, 0].conj()
    assert abs(float(turn.angle()) / (2 * np.pi * AXIS.dwell_time)) < 4
    assert torch.equal(run(ScanShift(), here).water, here.water)


def test_scalp_has_no_vote() -> None:
    most, few = scan(0.0, voxels=10), scan(60.0, voxels=60)
    scalp = torch.arange(70) >= 10
    both = Scan(AXIS, torch.cat([most.fids, few.fids]), scalp=scalp)
    assert np.isnan(shift_of(run(ScanShift(), both)))


def test_a_nucleus_without_landmarks_is_not_searched() -> None:
    axis = Acquisition(512, 0.5e-3, 45.6, 4.65, "2H")
    other = Scan(axis, scan(0.0).fids)
    stage = ScanShift()
    assert stage.passes(other.context) == 0
    assert "no landmark lines" in stage.assumptions(other.context)["search"]
    assert stage.declare(other.context).parameters == ()
    assert torch.equal(run(stage, other).fids, other.fids)


def test_another_place_has_to_be_clearly_better() -> None:
    shifts = torch.arange(-50.0, 51.0, 5.0).double()
    votes = torch.full_like(shifts, 10.0)
    votes[10], votes[18] = 30.0, 37.0
    assert float(chosen_shift(votes, shifts, 1, 12.0)) == 0.0
    votes[18] = 60.0
    assert float(chosen_shift(votes, shifts, 1, 12.0)) == pytest.approx(40, abs=1)
    assert float(chosen_shift(votes, shifts, 100, 12.0)) == 0.0
