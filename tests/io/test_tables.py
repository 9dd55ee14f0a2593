from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mrsi_engine.errors import InputError
from mrsi_engine.io.tables import voxel_table, write_table
from mrsi_engine.quantities import amplitude
from tests.report.synthetic import AFFINE, brain_result, renamed_parameter


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
    numbers = frame.drop(columns=["x", "y", "z", "x_mm", "y_mm", "z_mm", "status"])
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
