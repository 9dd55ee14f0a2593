from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.tables import voxel_table, write_table
from mrsi_engine.quantities import amplitude, concentration, error_part, ratio
from tests.report.synthetic import (
    AFFINE,
    amplitudes,
    brain_result,
    renamed_parameter,
    with_measure,
    with_parameter,
)


def test_one_row_a_voxel_with_its_numbers(tmp_path: Path) -> None:
    result = brain_result((8, 7, 3))
    frame = pd.read_parquet(write_table(result, tmp_path / "deep" / "voxels.parquet"))
    assert len(frame) == result.sizes["voxel"]
    row, voxel = frame.iloc[9], result.isel(voxel=9)
    naa = voxel.sel(parameter="NAANAAG")
    assert row["NAANAAG"] == naa["estimate"]
    assert row["NAANAAG_sd"] == naa["sd"]
    assert row["NAANAAG_crlb"] == pytest.approx(100 * float(naa["sd"] / naa["estimate"]))
    assert row["fwhm"] == voxel.sel(measure="fwhm")["quality"]
    assert row["status"] == voxel["status"]
    assert [row["x"], row["y"], row["z"]] == [voxel["x"], voxel["y"], voxel["z"]]
    world = AFFINE @ [row["x"], row["y"], row["z"], 1]
    np.testing.assert_allclose([row["x_mm"], row["y_mm"], row["z_mm"]], world[:3])


def test_lineshape_has_no_percent() -> None:
    names = voxel_table(brain_result((6, 6, 2))).column_names
    assert {"shift", "shift_sd"} <= set(names)
    assert "shift_crlb" not in names


def test_no_fit_is_nan() -> None:
    result = brain_result((6, 6, 2))
    result["estimate"][0] = 3.0
    result["quality"][0] = 3.0
    frame = voxel_table(result).to_pandas()
    numbers = frame.drop(columns=["stem", "x", "y", "z", "x_mm", "y_mm", "z_mm", "status"])
    assert numbers.iloc[:2].isna().all().all()
    amounts = numbers.loc[:, ~numbers.columns.str.endswith("_crlb")]
    assert amounts.iloc[2:].notna().all(axis=None)


def test_units_and_provenance_survive_the_file(tmp_path: Path) -> None:
    schema = pq.read_schema(write_table(brain_result((6, 6, 2)), tmp_path / "v.parquet"))
    units = {f.name: f.metadata[b"unit"].decode() for f in schema}
    assert units["NAA"] == units["NAA_sd"] == "a.u."
    assert units["NAA_crlb"] == "%"
    assert (units["shift"], units["fwhm"], units["x_mm"]) == ("Hz", "ppm", "mm")
    assert b"least_squares" in schema.field("status").metadata[b"description"]
    assert schema.metadata[b"checksum"] == b"ab" * 32


def test_colliding_columns_are_refused(tmp_path: Path) -> None:
    result = brain_result((6, 6, 2))
    same = renamed_parameter(result, "Tau", amplitude("snr", "no metabolite is called so"))
    with pytest.raises(InputError, match="snr"):
        write_table(same, tmp_path / "v.parquet")
    assert not list(tmp_path.iterdir())


def test_what_an_error_is_made_of_stands_behind_its_amplitude() -> None:
    result = brain_result((6, 6, 2))
    known = {q.name: q for q in amplitudes()}
    part = error_part(known["NAANAAG"], "epistemic", "spread of an ensemble", title="Spread")
    table = voxel_table(with_measure(result, part, 0.25))
    assert (table["NAANAAG_epistemic"].to_numpy()[2:] == 0.25).all()
    said = table.field("NAANAAG_epistemic").metadata
    assert (said[b"role"], said[b"of"], said[b"unit"]) == (b"error part", b"NAANAAG", b"a.u.")


def test_ratios_and_concentrations_have_sds_but_no_percent() -> None:
    known = {q.name: q for q in amplitudes()}
    own = ratio(known["NAA"], known["CrPCr"], "NAA over tCr", "of both")
    amount = concentration(known["NAA"], "mmol/L", "NAA by water", "of the fit")
    result = with_parameter(with_parameter(brain_result((6, 6, 2)), own, 1.5, 0.1), amount, 9, 1)
    table = voxel_table(result)
    said = table.field("NAA_per_CrPCr").metadata
    assert (said[b"of"], said[b"reference"], said[b"role"]) == (b"NAA", b"CrPCr", b"ratio")
    assert table.field("NAA_per_CrPCr_sd").metadata[b"description"] == b"of both"
    assert table.field("NAA_conc").metadata[b"unit"] == b"mmol/L"
    assert not {"NAA_per_CrPCr_crlb", "NAA_conc_crlb"} & set(table.column_names)


def test_the_shift_of_the_data_is_there_if_a_stage_found_a_part_of_it() -> None:
    result = brain_result((6, 6, 2))
    table = voxel_table(result)
    np.testing.assert_array_equal(table["b0_shift"], table["shift"])
    np.testing.assert_array_equal(table["b0_shift_sd"], table["shift_sd"])
    names = voxel_table(result.sel(parameter=["NAA", "lorentzian"])).column_names
    assert "b0_shift" not in names
    assert "flags" not in names
    flagged = result.assign(flags=("voxel", np.ones(result.sizes["voxel"], np.uint16)))
    assert b"low_snr" in voxel_table(flagged).field("flags").metadata[b"description"]


def test_a_result_that_lost_its_meanings_is_refused() -> None:
    result = brain_result((6, 6, 2)).drop_vars(["role", "measure_role"])
    with pytest.raises(InputError, match=r"coordinates \['role'\] are missing"):
        voxel_table(result)
