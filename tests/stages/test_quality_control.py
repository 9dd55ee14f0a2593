"""Each reason to reject a voxel, and the outliers of a scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mrsi_engine.conventions import Acquisition, Flag, Status
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.stage import Block, Context
from mrsi_engine.quantities import amplitude
from mrsi_engine.stages.quality_control import QualityControl

ACQUISITION = Acquisition(512, 0.5e-3, 123.25)
GOOD = {"snr": 20.0, "fwhm": 0.05, "fit_quality": 1.0, "converged": 1.0, "relative_residual": 0.1}


def flags_of(stage: QualityControl, ppm: float = 2.01, before: int = 0, **measures: float) -> Flag:
    """Flags of one voxel with a line at ``ppm`` that has some ``before``."""
    line = np.exp(2j * np.pi * ACQUISITION.frequency_of(ppm) * ACQUISITION.time)
    fid = line * np.exp(-20 * ACQUISITION.time)
    block = Block(torch.from_numpy(fid[None].astype(np.complex64)))
    block.measures = {n: torch.tensor([v]) for n, v in {**GOOD, **measures}.items()}
    block.flags |= before
    stage.build(Context(ACQUISITION))(block)
    return Flag(int(block.flags[0]))


@pytest.mark.parametrize(
    ("measures", "flag"),
    [
        ({}, Flag(0)),
        ({"snr": 3.9}, Flag.LOW_SNR),
        ({"snr": -30.0}, Flag.LOW_SNR),
        ({"fwhm": 0.11}, Flag.BROAD_LINES),
        ({"fwhm": float("nan"), "snr": float("nan")}, Flag.BROAD_LINES | Flag.LOW_SNR),
        ({"converged": 0.0}, Flag.NOT_CONVERGED),
        ({"fit_quality": 2.1}, Flag.POOR_FIT),
        ({"ppm": 1.3}, Flag.LIPIDS),
    ],
)
def test_a_voxel_is_flagged_for_its_own_reason(measures: dict[str, float], flag: Flag) -> None:
    assert flags_of(QualityControl(max_fit_quality=2.0), **measures) == flag


@pytest.mark.parametrize(
    ("snr", "fit_quality", "flag"),
    [(10, 1.2, Flag(0)), (10, 1.5, Flag.POOR_FIT), (100, 3.0, Flag(0)), (100, 3.5, Flag.POOR_FIT)],
)
def test_a_residual_may_be_larger_the_better_a_spectrum_is(
    snr: float, fit_quality: float, flag: Flag
) -> None:
    assert flags_of(QualityControl(), snr=snr, fit_quality=fit_quality) == flag


@pytest.mark.parametrize(("residual", "flag"), [(0.2, Flag(0)), (0.4, Flag.POOR_FIT)])
def test_unknown_noise_is_its_own_reason(residual: float, flag: Flag) -> None:
    unknown = {"snr": np.nan, "fit_quality": np.nan, "relative_residual": residual}
    found = flags_of(QualityControl(), before=Flag.UNKNOWN_NOISE, **unknown)
    assert found == Flag.UNKNOWN_NOISE | flag


def scan(voxels: int = 200) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return {
        "status": torch.full((voxels,), Status.LEAST_SQUARES, dtype=torch.uint8),
        "flags": torch.zeros(voxels, dtype=torch.int32),
        "NAANAAG": 10 + 0.1 * torch.randn(voxels, generator=draw),
        "NAANAAG_sd": torch.full((voxels,), 0.1),
    }


def test_outliers_are_far_in_units_of_spread_and_own_error() -> None:
    found = scan()
    found["NAANAAG"][:3] = torch.tensor([15.0, 15.0, torch.nan])
    found["NAANAAG_sd"][1] = 2.0
    found["status"][2] = Status.NO_FIT
    first = QualityControl().resolved(ACQUISITION).review(found)
    assert first is not None
    assert first.nonzero().flatten().tolist() == [0]
    # A run that is finished twice says the same.
    again = QualityControl().resolved(ACQUISITION).review({**found, "flags": first})
    assert again is not None
    assert torch.equal(first, again)


def test_few_good_voxels_have_no_outliers() -> None:
    found = scan(40)
    found["flags"][:30] = int(Flag.LOW_SNR)
    assert QualityControl().resolved(ACQUISITION).review(found) is None


def test_it_wants_a_fit_before_it() -> None:
    with pytest.raises(InputError, match="put a stage that quantifies before it"):
        QualityControl().check(Context(ACQUISITION))
    written = (amplitude("NAA", "its amount"),)
    assert QualityControl().check(Context(ACQUISITION, written=written))


@pytest.mark.parametrize(("share", "expected"), [(1.0, 200), (0.7, 140), (0.6, 0)])
def test_a_scan_of_lines_narrower_than_those_of_the_basis(share: float, expected: int) -> None:
    found = scan()
    narrow = torch.arange(200) < round(200 * share)
    found["lorentzian"] = torch.where(narrow, 0.0, 8.0)
    flags = QualityControl().resolved(ACQUISITION).review(found)
    assert flags is not None
    assert int(((flags & int(Flag.POOR_FIT)) != 0).sum()) == expected


def test_a_gaussian_width_is_a_width() -> None:
    found = scan()
    found["lorentzian"], found["gaussian"] = torch.zeros(200), torch.full((200,), 8.0)
    flags = QualityControl().resolved(ACQUISITION).review(found)
    assert flags is not None
    assert not (flags & int(Flag.POOR_FIT)).any()
