from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mrsi_engine.errors import InputError
from mrsi_engine.report.compare import compare_with_lcmodel
from tests.report.synthetic import brain_result


@pytest.fixture
def result() -> xr.Dataset:
    whole = brain_result((12, 12, 3)).isel(voxel=slice(2, None))
    return whole.isel(voxel=np.flatnonzero(whole["z"].values == 1))


def lcmodel(
    result: xr.Dataset, labels: tuple[str, ...], slope: float, offset: float, reference: str
) -> pd.DataFrame:
    """A table whose ratios are ``slope * ours + offset``, as another program might find them."""
    estimate = result["estimate"]
    below = estimate.sel(parameter=reference).values
    frames = []
    for label in labels:
        ratio = slope * estimate.sel(parameter=label).values / below + offset
        frames.append(
            pd.DataFrame(
                {
                    "x": result["x"].values, "y": result["y"].values, "label": label, "name": label,
                    "amplitude": 1.0, "percent_sd": 5.0, "ratio": ratio,
                }
            )
        )  # fmt: skip
    table = pd.concat(frames, ignore_index=True)
    table.attrs["reference"] = reference
    return table


def test_an_exact_line_is_found(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "CrPCr", "GPCPCh"), 2.0, 0.5, "CrPCr")
    comparison = compare_with_lcmodel(result, table)
    assert [r.label for r in comparison.rows] == ["NAA", "GPCPCh"]
    for row in comparison.rows:
        assert row.r == pytest.approx(1.0)
        assert row.slope == pytest.approx(0.5)
        assert row.intercept == pytest.approx(-0.25)
        assert row.median_lcmodel == pytest.approx(2 * row.median_ours + 0.5)
    assert comparison["GPCPCh"].title == "tCho"


def test_rows_may_stand_in_any_order(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "CrPCr"), 2.0, 0.5, "CrPCr")
    shuffled = table.sample(frac=1, random_state=3)
    shuffled.attrs = table.attrs
    assert compare_with_lcmodel(result, shuffled)["NAA"].r == pytest.approx(1.0)


def test_uncertain_voxels_are_left_out_metabolite_by_metabolite(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "Ins", "CrPCr"), 1.0, 0.0, "CrPCr")
    bad = (table["label"] == "NAA") & (table["x"] < 6)
    table.loc[bad, ["percent_sd", "ratio"]] = 11.0, 1e9
    comparison = compare_with_lcmodel(result, table)
    assert comparison["NAA"].voxels == (result["x"].values >= 6).sum()
    assert comparison["NAA"].r == pytest.approx(1.0)
    assert comparison["Ins"].voxels == result.sizes["voxel"]
    assert compare_with_lcmodel(result, table, max_percent_sd=11)["NAA"].r < 0.9


def test_an_uncertain_reference_spoils_every_ratio(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "CrPCr"), 1.0, 0.0, "CrPCr")
    table.loc[(table["label"] == "CrPCr") & (table["x"] < 6), "percent_sd"] = 999.0
    comparison = compare_with_lcmodel(result, table)
    assert comparison["NAA"].voxels == comparison.passing == (result["x"].values >= 6).sum()
    assert comparison.compared == result.sizes["voxel"]


def test_our_poor_fits_and_no_fits_are_left_out(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "CrPCr"), 1.0, 0.0, "CrPCr")
    changed = result.copy(deep=True)
    changed["status"][0] = 0
    changed["quality"].loc[{"measure": "fit_quality", "voxel": 1}] = 3.1
    changed["quality"].loc[{"measure": "fit_quality", "voxel": 2}] = np.nan
    changed["estimate"].loc[{"parameter": "CrPCr", "voxel": 3}] = 0.0
    used = compare_with_lcmodel(changed, table)["NAA"].voxel
    assert set(range(result.sizes["voxel"])) - set(used.tolist()) == {0, 1, 2, 3}
    assert 1 in compare_with_lcmodel(changed, table, max_fit_quality=3.2)["NAA"].voxel


def test_creatine_of_a_basis_without_phosphocreatine_is_total_creatine(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "CrPCr"), 1.0, 0.0, "CrPCr").replace({"label": {"CrPCr": "Cr"}})
    table.attrs["reference"] = "Cr"
    comparison = compare_with_lcmodel(result, table)
    assert comparison.reference == "CrPCr"
    assert comparison.reference_title == "tCr"
    assert [r.label for r in comparison.rows] == ["NAA"]
    assert comparison["NAA"].slope == pytest.approx(1.0)


def test_creatine_beside_phosphocreatine_is_itself(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "Cr", "PCr"), 1.0, 0.0, "Cr")
    assert compare_with_lcmodel(result, table).reference == "Cr"


def test_what_only_lcmodel_reports_is_named(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "CrPCr", "Tau"), 1.0, 0.0, "CrPCr")
    table = table.replace({"label": {"Tau": "-CrCH2"}})
    table.attrs["reference"] = "CrPCr"
    assert compare_with_lcmodel(result, table).missing == ("-CrCH2",)


def test_too_few_voxels_have_no_correlation(result: xr.Dataset) -> None:
    two = result.isel(voxel=[4, 5])
    row = compare_with_lcmodel(two, lcmodel(two, ("NAA", "CrPCr"), 1, 0, "CrPCr"))["NAA"]
    assert row.voxels == 2
    assert math.isnan(row.r)
    assert math.isnan(row.agreement.bias)
    assert math.isfinite(row.median_ours)


def test_slices(result: xr.Dataset) -> None:
    whole = brain_result((12, 12, 3))
    table = lcmodel(result, ("NAA", "CrPCr"), 1.0, 0.0, "CrPCr")
    with pytest.raises(InputError, match=r"slices \[0, 1, 2\].*say which"):
        compare_with_lcmodel(whole, table)
    assert compare_with_lcmodel(whole, table, z=1)["NAA"].r == pytest.approx(1.0)
    assert compare_with_lcmodel(whole, table, z=2)["NAA"].r < 0.99


def test_another_scan_or_another_basis_is_refused(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "CrPCr"), 1.0, 0.0, "CrPCr")
    moved = table.assign(x=table["x"] + 100)
    moved.attrs = table.attrs
    with pytest.raises(InputError, match="no voxel of LCModel's table"):
        compare_with_lcmodel(result, moved)
    table.attrs["reference"] = "Water"
    with pytest.raises(InputError, match="ratios are to Water"):
        compare_with_lcmodel(result, table)


def test_limits_of_agreement_hold_a_constant_factor_and_noise(result: xr.Dataset) -> None:
    """LCModel's ratios 1/1.2 of ours: 18.2 % of the mean of both, and 95 % within the limits."""
    table = lcmodel(result, ("NAA", "CrPCr"), 1 / 1.2, 0.0, "CrPCr")
    exact = compare_with_lcmodel(result, table)["NAA"].percent_agreement
    assert exact.bias == pytest.approx(100 * 0.2 / 1.1)
    assert exact.half_width == pytest.approx(0.0, abs=1e-4)

    noise = np.random.default_rng(5).normal(0.0, 0.05, len(table))
    row = compare_with_lcmodel(result, table.assign(ratio=table["ratio"] + noise))["NAA"]
    low, high = row.agreement.limits
    differences = row.ours - row.lcmodel
    assert row.agreement.bias == pytest.approx(differences.mean())
    assert (high - low) / (2 * 1.96) == pytest.approx(np.std(differences, ddof=1))
    assert ((differences > low) & (differences < high)).mean() > 0.9
    assert row.percent_differences == pytest.approx(200 * differences / (row.ours + row.lcmodel))


def test_a_mean_that_is_not_positive_has_no_percent(result: xr.Dataset) -> None:
    table = lcmodel(result, ("NAA", "CrPCr"), 1.0, 0.0, "CrPCr")
    changed = result.copy(deep=True)
    changed["estimate"].loc[{"parameter": "NAA", "voxel": 0}] *= -2
    row = compare_with_lcmodel(changed, table)["NAA"]
    assert np.flatnonzero(np.isnan(row.percent_differences)).tolist() == [0]
    assert row.percent_agreement.bias == pytest.approx(0.0, abs=1e-4)
    assert row.agreement.bias < 0
