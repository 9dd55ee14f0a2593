"""One line on a run: how much is usable, the main reason for the rest, what to try."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mrsi_engine.conventions import Flag, Status
from mrsi_engine.report.verdict import verdict_on

FAR = "the water reference is 205 Hz off resonance, try --pipeline without eddy_current"


def result(flags: list[int], measures: dict[str, float] | None = None, shift: float = np.nan):
    """Voxels with these flags, alike in all else; those flagged ``NO_FIT`` have no fit."""
    values = np.array(flags, np.uint16)
    fitted = (values & Flag.NO_FIT) == 0
    status = np.where(fitted, Status.LEAST_SQUARES, Status.NO_FIT).astype(np.uint8)
    names, numbers = list(measures or {}), list((measures or {}).values())
    return xr.Dataset(
        {
            "flags": ("voxel", values),
            "status": ("voxel", status),
            "quality": (("voxel", "measure"), np.tile(numbers, (len(values), 1))),
            "estimate": (("voxel", "parameter"), np.full((len(values), 1), shift)),
        },
        {"measure": names, "parameter": ["scan_shift"]},
        {
            "pipeline": {"stages": [{"stage": "quality_control"}]},
            "acquisition": {"points": 512, "dwell_time": 5e-4, "spectrometer_frequency": 100.0},
        },
    )


def text(*flags: int, **given: object) -> str:
    return verdict_on(result(list(flags), **given)).text  # type: ignore[arg-type]


def test_all_is_well() -> None:
    assert text(0, 0, Flag.OUTLIER) == "3 of 3 voxels usable"


def test_the_main_reason_stands_first_and_every_voxel_counts_once() -> None:
    both = Flag.LOW_SNR | Flag.BROAD_LINES
    assert text(*[0] * 8, both, Flag.BROAD_LINES, both) == (
        "8 of 11 voxels usable, the others not for SNR (2), linewidth (1); average over more "
        "voxels or transients, or narrow the mask"
    )


def test_no_advice_where_there_is_little_to_mend() -> None:
    assert text(*[0] * 9, Flag.LIPIDS) == "9 of 10 voxels usable, the others not for lipids (1)"


@pytest.mark.parametrize("flag", [f for f in Flag if f in Flag.rejecting()])
def test_every_reason_has_words_and_advice(flag: Flag) -> None:
    found = verdict_on(result([int(flag)] * 4))
    assert found.text.startswith("4 of 4 voxels unusable: ")
    assert found.reasons[0][1] == 4
    assert len(found.advice) > 10


def test_a_reference_that_is_far_off_and_was_applied_is_blamed() -> None:
    measures = {"eddy_trusted": 0.5, "water_offset": -205.0}
    found = text(*[Flag.BROAD_LINES] * 96, measures=measures)
    assert found == f"96 of 96 voxels unusable: linewidth (96); {FAR}"


def test_one_that_was_not_applied_is_mentioned() -> None:
    measures = {"eddy_trusted": 0.0, "water_offset": 625.0}
    assert text(0, 0, measures=measures) == (
        "2 of 2 voxels usable; eddy currents were not corrected in 2 of 2: the water reference is "
        "625 Hz off resonance"
    )


@pytest.mark.parametrize(("offset", "words"), [(np.nan, "shows no water"), (3.0, "would do harm")])
def test_and_so_is_why(offset: float, words: str) -> None:
    measures = {"eddy_trusted": 0.0, "water_offset": offset}
    assert text(0, measures=measures).endswith(f"the water reference {words}")


def test_a_scan_that_was_off_says_by_how_much() -> None:
    assert text(0, shift=40.3) == (
        "1 of 1 voxels usable; the whole scan was off by +40.3 Hz (+0.403 ppm), which was corrected"
    )


def test_unknown_noise_is_usable_without_error_bars() -> None:
    found = verdict_on(result([int(Flag.UNKNOWN_NOISE)] * 3))
    assert found.share == 1
    assert found.text.endswith("3 have no error bars, their noise is unknown")


def test_acceptance() -> None:
    fifth = verdict_on(result([0, *[int(Flag.LOW_SNR)] * 4]))
    assert fifth.accepted(0.2)
    assert not fifth.accepted(0.21)
    nothing = verdict_on(result([int(Flag.NO_FIT)] * 4))
    assert not nothing.accepted(0.0)


def test_the_scalp_does_not_count() -> None:
    given = result([0, int(Flag.NO_FIT)]).assign_coords(scalp=("voxel", [False, True]))
    assert verdict_on(given).text == "1 of 1 voxels usable"


def test_attributes_are_plain() -> None:
    found = verdict_on(result([0, int(Flag.LIPIDS)])).attributes()
    assert found["usable"] == 1
    assert found["voxels"] == 2
    assert found["reasons"] == {"lipids": 1}


def test_usable_voxels_without_a_concentration_are_told() -> None:
    assert text(0, 0, Flag.LIPIDS, measures={"not_scaled": 5.0}).endswith(
        "; 2 of them have no concentration: the water reference is cut off by the receiver"
    )
    assert "concentration" not in text(0, 0, measures={"not_scaled": 0.0})


def test_a_basis_of_broader_lines_is_blamed() -> None:
    given = result([int(Flag.POOR_FIT)] * 4, shift=0.0)
    given = given.assign_coords(parameter=["lorentzian"])
    assert "in 4 voxels lines are narrower than those of the basis" in verdict_on(given).text
    assert "narrower" not in verdict_on(given.assign(estimate=given["estimate"] + 5)).text
