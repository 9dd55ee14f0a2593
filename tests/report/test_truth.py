from __future__ import annotations

import math

import numpy as np
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.map_files import volume
from mrsi_engine.io.result_quantities import fitted_voxels
from mrsi_engine.report.truth import result_truth_table, truth_table
from tests.report.synthetic import brain_result


def test_numbers_of_a_small_case() -> None:
    (row,) = truth_table(
        {"CrPCr": [4.0, 5.0, 9.0, np.nan]},
        {"CrPCr": [1.0, 1.0, 2.0, 1.0]},
        {"CrPCr": [3.0, 6.0, 6.0, 1.0]},
        {"CrPCr": "tCr"},
    )
    assert (row.label, row.title, row.voxels) == ("CrPCr", "tCr", 3)
    assert row.truth == 5.0
    assert row.bias == 1.0
    assert row.rmse == pytest.approx(math.sqrt(11 / 3))
    assert row.crlb == pytest.approx(math.sqrt(6 / 3))
    assert row.ratio == pytest.approx(math.sqrt(11 / 6))


def test_ratio_is_one_at_the_bound_whatever_its_spread() -> None:
    """Draws with exactly the stated SD; a plain mean of the bounds would give 1.15 here."""
    rng = np.random.default_rng(5)
    n = 20_000
    sd = rng.choice([0.1, 1.0], n)
    (row,) = truth_table({"NAA": 7 + sd * rng.standard_normal(n)}, {"NAA": sd}, {"NAA": [7.0] * n})
    # The SD of the mean of sd^2 z^2 over its mean is sqrt(2 E[sd^4]) / (E[sd^2] sqrt(n)) = 0.014.
    assert row.ratio == pytest.approx(1.0, abs=4 * 0.014 / 2)
    assert abs(row.bias) < 4 * row.bias_error


def test_bias_error_is_the_standard_error_of_the_mean() -> None:
    (row,) = truth_table({"NAA": [1.0, 3.0]}, {"NAA": [1.0, 1.0]}, {"NAA": [0.0, 0.0]})
    assert row.bias_error == pytest.approx(1 / math.sqrt(2))


def test_order_and_overlap() -> None:
    one = [1.0]
    rows = truth_table(
        {"Ins": one, "NAA": one, "Tau": one},
        {"Ins": one, "NAA": one, "Tau": one},
        {"NAA": one, "Ins": one, "Ala": one},
    )
    assert [r.label for r in rows] == ["Ins", "NAA"]


def test_no_overlap_and_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"none of \['Ala'\] was estimated"):
        truth_table({"NAA": [1.0]}, {"NAA": [1.0]}, {"Ala": [1.0]})
    with pytest.raises(InputError, match="truth of NAA: shapes"):
        truth_table({"NAA": [1.0]}, {"NAA": [1.0]}, {"NAA": [1.0, 2.0]})


def test_all_voxels_unknown() -> None:
    (row,) = truth_table({"NAA": [np.nan]}, {"NAA": [1.0]}, {"NAA": [1.0]})
    assert row.voxels == 0
    assert math.isnan(row.ratio)


def test_truth_volumes_are_read_at_the_fitted_voxels() -> None:
    result = brain_result((8, 7, 3))
    exact = result["estimate"].sel(parameter="NAANAAG").values
    known = volume(result, np.where(fitted_voxels(result), exact, 99.0) - 0.5, background=1e6)
    (row,) = result_truth_table(result, {"NAANAAG": known})
    assert row.bias == pytest.approx(0.5, abs=1e-5)
    assert row.voxels == fitted_voxels(result).sum()


def test_truth_of_another_scan() -> None:
    with pytest.raises(InputError, match=r"shape \(2, 2, 2\), the scan has \(8, 7, 3\)"):
        result_truth_table(brain_result((8, 7, 3)), {"NAA": np.ones((2, 2, 2))})
    with pytest.raises(InputError, match="none of"):
        result_truth_table(brain_result((8, 7, 3)), {"Ala": np.ones((8, 7, 3))})
