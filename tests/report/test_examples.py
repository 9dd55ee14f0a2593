from __future__ import annotations

import numpy as np

from mrsi_engine.conventions import Status
from mrsi_engine.report.examples import choose_examples, stored_examples, voxel_caption
from tests.report.synthetic import brain_result


def test_ranking_is_by_snr_over_fit_quality_of_fitted_voxels() -> None:
    result = brain_result((6, 6, 2)).isel(voxel=slice(0, 7))
    result["quality"].loc[{"measure": "fit_quality"}] = [1, 1, 1, 2, 1, 1, 4]
    result["quality"].loc[{"measure": "snr"}] = [900, 0.1, 10, 40, 30, np.nan, 10]
    assert choose_examples(result) == {"best": 4, "median": 3, "worst": 6}


def test_nothing_fitted_gives_no_examples() -> None:
    result = brain_result((6, 6, 2), signals=True)
    result["status"][:] = Status.NO_FIT
    assert choose_examples(result) == {}
    assert stored_examples(result) == []


def test_the_only_voxel_is_shown_once() -> None:
    assert choose_examples(brain_result((6, 6, 2)).isel(voxel=[5])) == {"median": 0}


def test_stored_spectra_are_phased_and_aligned() -> None:
    result = brain_result((8, 8, 4), signals=True)
    for example in stored_examples(result):
        window = (example.ppm > 1.8) & (example.ppm < 2.2)
        fit = example.fit[window]
        assert abs(example.ppm[window][fit.real.argmax()] - 2.01) < 0.01
        assert abs(np.angle(fit[np.abs(fit).argmax()])) < 0.2
        x, y, z = example.voxel
        place = (result["x"] == x) & (result["y"] == y) & (result["z"] == z)
        assert place.sum() == 1
    assert [e.title for e in stored_examples(result)] == [
        "Best voxel", "Median voxel", "Worst voxel",
    ]  # fmt: skip


def test_no_signals_no_spectra() -> None:
    assert stored_examples(brain_result((6, 6, 2))) == []


def test_caption_leaves_out_what_is_unknown() -> None:
    result = brain_result((6, 6, 2))
    result["quality"].loc[{"measure": "fwhm", "voxel": 3}] = np.nan
    assert voxel_caption(result, 3).startswith("SNR ")
    assert "FWHM" not in voxel_caption(result, 3)
    assert "FWHM" in voxel_caption(result, 4)
