"""A scan in one row: the numbers are those of its voxels, and nothing personal is among them."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from mrsi_engine.conventions import Flag, Status
from mrsi_engine.errors import InputError
from mrsi_engine.quantities import Role, amplitude, quality, ratio
from mrsi_engine.report.columns import summary_columns
from mrsi_engine.report.summary import (
    SUMMARY_FILE,
    read_summary,
    reference_of,
    summarise_scan,
    write_summary,
)
from mrsi_engine.report.tables import median, metabolite_table, usable_voxels
from tests.report.synthetic import (
    PROTON,
    brain_result,
    renamed_parameter,
    with_measure,
    with_parameter,
)

SHAPE = (10, 10, 4)


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    return brain_result(SHAPE)


@pytest.fixture(scope="module")
def row(result: xr.Dataset) -> dict[str, object]:
    return summarise_scan(result)


def values(result: xr.Dataset, name: str, variable: str = "estimate") -> np.ndarray:
    return result[variable].sel(parameter=name).values[usable_voxels(result)].astype(float)


class TestRow:
    def test_numbers_are_those_of_usable_voxels(
        self, result: xr.Dataset, row: dict[str, object]
    ) -> None:
        estimate, sd = values(result, "NAANAAG"), values(result, "NAANAAG", "sd")
        percent = 100 * sd / np.abs(estimate)
        assert row["NAANAAG_median"] == pytest.approx(np.median(estimate), rel=1e-5)
        assert row["NAANAAG_crlb"] == pytest.approx(np.median(percent), rel=1e-5)
        assert row["NAANAAG_coverage"] == pytest.approx(100 * np.mean(percent < 20), rel=1e-5)

    def test_measures_are_those_of_the_scans_own_report(
        self, result: xr.Dataset, row: dict[str, object]
    ) -> None:
        fitted = result["quality"].sel(measure="snr").values[result["status"] != Status.NO_FIT]
        low, middle, high = np.nanpercentile(fitted, [25, 50, 75])
        assert row["snr_median"] == pytest.approx(middle, rel=1e-5)
        assert row["snr_q1"] == pytest.approx(low, rel=1e-5)
        assert row["snr_q3"] == pytest.approx(high, rel=1e-5)

    def test_ratios_are_to_the_reference_of_the_nucleus(
        self, result: xr.Dataset, row: dict[str, object]
    ) -> None:
        quotient = values(result, "GPCPCh") / values(result, "CrPCr")
        assert row["ratio_to"] == "CrPCr"
        assert row["GPCPCh_per_CrPCr_median"] == pytest.approx(np.median(quotient), rel=1e-5)
        assert "CrPCr_per_CrPCr_median" not in row

    def test_where_the_reference_could_be_nothing_there_is_no_ratio(
        self, result: xr.Dataset
    ) -> None:
        no_creatine = result.copy(deep=True)
        place = result["parameter"].values.tolist().index("CrPCr")
        no_creatine["estimate"].values[:, place] = no_creatine["sd"].values[:, place]
        assert summarise_scan(no_creatine)["GPCPCh_per_CrPCr_median"] is None

    def test_a_ratio_of_the_result_stands_in_its_own_place(self, result: xr.Dataset) -> None:
        """It has the covariance, which two amplitudes alone do not."""
        above, below = (amplitude(n, n, title=n, units="a.u.") for n in ("GPCPCh", "CrPCr"))
        own = with_parameter(result, ratio(above, below, "as fitted", "SD"), 0.2, 0.01)
        row = summarise_scan(own)
        assert row["GPCPCh_per_CrPCr_median"] == pytest.approx(0.2)
        assert row["GPCPCh_per_CrPCr_crlb"] == pytest.approx(5.0)

    def test_spread_of_the_frequency(self, result: xr.Dataset, row: dict[str, object]) -> None:
        shift = result["estimate"].sel(parameter="shift").values[2:]
        spread = 1.4826 * np.median(np.abs(shift - np.median(shift)))
        assert row["b0_shift_spread"] == pytest.approx(spread, rel=1e-4)

    def test_reasons_are_counts_of_flags(self, result: xr.Dataset) -> None:
        flags = np.zeros(result.sizes["voxel"], np.uint16)
        flags[5:9], flags[8:12] = Flag.LIPIDS, Flag.LIPIDS | Flag.POOR_FIT
        row = summarise_scan(result.assign(flags=("voxel", flags)))
        assert (row["flag_lipids"], row["flag_poor_fit"]) == (7, 4)
        assert row["usable"] == result.sizes["voxel"] - 2 - 7
        assert row["main_reason"] == "lipids"

    def test_a_measure_of_someone_elses_stage_travels(self, result: xr.Dataset) -> None:
        own = with_measure(result, quality("my_measure", "Hz", "what I measure"), 3.0)
        assert summarise_scan(own)["my_measure_median"] == pytest.approx(3.0)

    def test_names_are_no_matter(self, result: xr.Dataset) -> None:
        """A lineshape parameter called like a metabolite's concentration is none."""
        said = amplitude("damping_conc", "something", units="a.u.", role=Role.METABOLITE)
        own = summarise_scan(renamed_parameter(result, "lorentzian", said))
        assert "damping_conc_coverage" in own
        assert "lorentzian_median" not in own

    def test_a_scan_in_which_nothing_was_fitted_has_a_row(self, result: xr.Dataset) -> None:
        nothing = result.copy(deep=True)
        nothing["status"].values[:] = Status.NO_FIT
        for name in ("estimate", "sd", "quality"):
            nothing[name].values[:] = np.nan
        row = summarise_scan(nothing)
        assert (row["fitted"], row["usable"], row["snr_median"]) == (0, 0, None)
        assert row["NAANAAG_coverage"] is None

    def test_a_scan_that_was_only_corrected_has_a_row(self, result: xr.Dataset) -> None:
        clean = result.sel(parameter=["shift", "phase"]).assign(
            status=("voxel", np.full(result.sizes["voxel"], Status.CORRECTED, np.uint8))
        )
        row = summarise_scan(clean, {"gm": np.ones(result.sizes["voxel"])})
        assert row["ratio_to"] is None
        assert row["shift_median"] is not None
        assert not [name for name in row if name.endswith("_coverage")]

    def test_it_is_cheap(self) -> None:
        """Bound of a loaded machine; on an idle one it takes 20 ms of CPU."""
        brain = brain_result((16, 16, 6))
        summarise_scan(brain)
        began = time.process_time()
        summarise_scan(brain)
        assert time.process_time() - began < 0.2


class TestTissue:
    def test_medians_are_over_voxels_that_are_mostly_of_it(self, result: xr.Dataset) -> None:
        grey = np.linspace(0, 1, result.sizes["voxel"])
        row = summarise_scan(result, {"gm": grey, "wm": 1 - grey})
        inside = usable_voxels(result) & (grey > 0.6)
        naa = result["estimate"].sel(parameter="NAA").values[inside].astype(float)
        assert row["voxels_gm"] == inside.sum()
        assert row["NAA_median_gm"] == pytest.approx(median(naa), rel=1e-5)
        assert row["NAA_median_gm"] != row["NAA_median_wm"]

    def test_without_fractions_there_are_no_such_columns(self, row: dict[str, object]) -> None:
        assert not [name for name in row if name.endswith("_gm")]


class TestFile:
    def test_it_holds_the_row_and_what_its_columns_are(
        self, result: xr.Dataset, tmp_path: Path
    ) -> None:
        row = write_summary(tmp_path, result)
        summary = read_summary(tmp_path)
        assert summary.row == row == summarise_scan(result)
        columns = summary_columns(summary.quantities, summary.tissues)
        assert set(columns) == set(row)
        assert all(column.description for column in columns.values())
        assert columns["fwhm_hz_median"].unit == "Hz"
        assert columns["NAANAAG_crlb"].unit == "%"
        assert columns["NAANAAG_median"].unit == "a.u."

    def test_numbers_are_plain_json(self, result: xr.Dataset, tmp_path: Path) -> None:
        write_summary(tmp_path, result)
        text = (tmp_path / SUMMARY_FILE).read_text()
        assert "NaN" not in text
        assert json.loads(text)["row"]["voxels"] == result.sizes["voxel"]

    def test_one_that_is_missing_or_of_another_version_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"summary\.json: no summary of a scan"):
            read_summary(tmp_path)
        (tmp_path / SUMMARY_FILE).write_text('{"version": 99}')
        with pytest.raises(InputError, match="summary of version 99, this mrsi_engine reads 1"):
            read_summary(tmp_path)

    def test_nothing_of_the_header_but_the_protocol_is_in_it(
        self, result: xr.Dataset, tmp_path: Path
    ) -> None:
        header = {
            **result.attrs["header"],
            "Manufacturer": "Siemens",
            "SequenceName": "svs_slaser",
            "PatientName": "Doe^Jane",
            "PatientID": "1234567",
            "OriginalFile": ["/home/jane/doe.dat"],
            "InstitutionName": "St Elsewhere",
            "private_note": "seen by Dr House",
        }
        basis = {**result.attrs["basis"], "source": "bases of jane/te30.basis"}
        kept = result.assign_attrs(header=header, source="/home/jane/doe.nii.gz", basis=basis)
        row = write_summary(tmp_path, kept)
        assert row["basis"] == "te30.basis"
        assert (row["manufacturer"], row["sequence"]) == ("Siemens", "svs_slaser")
        assert row["protocol"] == "1H 2.9 T svs_slaser TE 30 ms TR 1500 ms"
        text = (tmp_path / SUMMARY_FILE).read_text().lower()
        for secret in ("jane", "doe", "1234567", "elsewhere", "house"):
            assert secret not in text


def test_the_reference_is_the_part_of_it_that_was_quantified() -> None:
    assert reference_of(["NAA", "Cr", "CrPCr"], PROTON) == "CrPCr"
    assert reference_of(["NAA", "Cr"], PROTON) == "Cr"
    assert reference_of(["NAA"], PROTON) == ""


def test_rows_agree_with_the_table_of_the_report(result: xr.Dataset) -> None:
    """Where every fitted voxel is usable they are the same numbers."""
    good = result.copy(deep=True)
    good["quality"].values[:] = np.where(np.isfinite(good["quality"]), 50.0, np.nan)
    place = good["measure"].values.tolist().index("fwhm")
    good["quality"].values[:, place] = 0.05
    own = summarise_scan(good)
    for line in metabolite_table(good):
        assert own[f"{line.label}_median"] == pytest.approx(line.median, rel=1e-5)
