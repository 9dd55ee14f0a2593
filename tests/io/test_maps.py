"""Maps are judged by what another program reads from the files."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from nifti_mrs.nifti_mrs import NIFTI_MRS
from nifti_mrs.validator import validate_nifti_mrs

from mrsi_engine.conventions import Acquisition
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.files import safe_stem, write_atomically
from mrsi_engine.io.maps import export_maps
from mrsi_engine.io.result_quantities import relative_crlb, total_of
from mrsi_engine.io.signals import export_signals
from mrsi_engine.quantities import CRLB, amplitude, lineshape, ratio, safe_label
from tests.report.synthetic import (
    AFFINE,
    amplitudes,
    brain_result,
    renamed_parameter,
    with_parameter,
)

SHAPE = (8, 7, 3)
SHIFT = lineshape("fpc_shift", "Hz", "corrected", adds_to="b0shift", signed=True)
PHASE = lineshape("fpc_phase", "rad", "corrected", adds_to="phase", signed=True)
PREFIX = "sub-01_ses-1_space-orig"


@pytest.fixture(scope="module")
def result() -> xr.Dataset:
    return brain_result(SHAPE, signals=True)


@pytest.fixture(scope="module")
def folder(result: xr.Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("maps")
    export_maps(result, out)
    return out


def read(folder: Path, entities: str) -> np.ndarray:
    return nib.load(folder / f"{PREFIX}_{entities}_mrsi.nii.gz").get_fdata()


def sidecar(folder: Path, entities: str) -> dict:
    return json.loads((folder / f"{PREFIX}_{entities}_mrsi.json").read_text())


def at_voxels(result: xr.Dataset, volume: np.ndarray) -> np.ndarray:
    return volume[tuple(result[a].values for a in "xyz")]


def test_names_are_those_the_issue_asks_for(folder: Path) -> None:
    names = {p.name for p in folder.glob("*.nii.gz")}
    expected = {
        f"{PREFIX}_met-{met}_desc-{desc}_mrsi.nii.gz"
        for met in ("NAA", "MM09", "NAANAAG", "CrPCr", "GPCPCh", "GluGln")
        for desc in ("signal", "crlb", "sd")
    } | {
        f"{PREFIX}_desc-{desc}_mrsi.nii.gz"
        for desc in ("snr", "fwhm", "fitquality", "b0shift", "phase", "status", "brainmask")
    }
    assert expected <= names
    assert {n.removesuffix(".nii.gz") for n in names} == {p.stem for p in folder.glob("*.json")}
    assert len(names) * 2 == len(list(folder.iterdir())), "something else lies in the folder"


def test_values_stand_at_their_voxels(result: xr.Dataset, folder: Path) -> None:
    x, y, z = (int(result[a][10]) for a in "xyz")
    for desc, variable in (("signal", "estimate"), ("sd", "sd")):
        expected = result[variable].sel(parameter="CrPCr")[10]
        assert read(folder, f"met-CrPCr_desc-{desc}")[x, y, z] == expected
    assert read(folder, "desc-fwhm")[x, y, z] == result["quality"].sel(measure="fwhm")[10]
    assert read(folder, "desc-b0shift")[x, y, z] == result["estimate"].sel(parameter="shift")[10]


def test_ratios_have_maps_and_errors(result: xr.Dataset, tmp_path: Path) -> None:
    known = {q.name: q for q in amplitudes()}
    own = ratio(known["NAA"], known["CrPCr"], "NAA over tCr", CRLB)
    naa = result.sel(parameter="NAA")
    export_maps(with_parameter(result, own, naa["estimate"], naa["sd"]), tmp_path)
    for desc, variable in (("ratio", "estimate"), ("ratiosd", "sd")):
        values = at_voxels(result, read(tmp_path, f"met-NAAperCrPCr_desc-{desc}"))
        np.testing.assert_array_equal(values[2:], result[variable].sel(parameter="NAA")[2:])
    assert sidecar(tmp_path, "met-NAAperCrPCr_desc-ratio")["Units"] == "1"


def test_a_shift_moves_the_map_of_b0_only_if_it_says_so(result: xr.Dataset, tmp_path: Path) -> None:
    respiration = lineshape("resp_shift", "Hz", "shift by respiration")
    export_maps(with_parameter(result, respiration, 50.0, 1.0), tmp_path / "silent")
    own = at_voxels(result, read(tmp_path / "silent", "desc-b0shift"))
    np.testing.assert_array_equal(own[2:], result["estimate"].sel(parameter="shift")[2:])
    assert (at_voxels(result, read(tmp_path / "silent", "desc-respshift"))[2:] == 50).all()

    added = replace(respiration, adds_to="b0shift")
    export_maps(with_parameter(result, added, 50.0, 1.0), tmp_path / "added")
    moved = at_voxels(result, read(tmp_path / "added", "desc-b0shift"))
    np.testing.assert_allclose(moved[2:], own[2:] + 50, rtol=1e-6)
    assert sidecar(tmp_path / "added", "desc-b0shift")["SumOf"] == ["shift", "resp_shift"]
    assert sidecar(tmp_path / "added", "desc-respshift")["AddsTo"] == "b0shift"


def corrected_before_the_fit(result: xr.Dataset) -> xr.Dataset:
    """The result as if a stage before the fit had moved every voxel but number 4 by 3 Hz."""
    known = np.arange(result.sizes["voxel"]) != 4
    shift, phase, sd = (np.where(known, v, np.nan) for v in (3.0, 2.0, 0.7))
    moved = with_parameter(result, PHASE, phase, sd, first=True)
    return with_parameter(moved, SHIFT, shift, sd, first=True)


def test_shifts_and_phases_of_all_stages_add_up(result: xr.Dataset, tmp_path: Path) -> None:
    both = corrected_before_the_fit(result)
    export_maps(both, tmp_path)
    maps = {
        desc: at_voxels(result, read(tmp_path, f"desc-{desc}"))
        for desc in ("b0shift", "fitshift", "fpcshift", "phase", "fitphase", "fpcphase")
    }
    np.testing.assert_allclose(maps["b0shift"][5:], maps["fitshift"][5:] + 3, rtol=1e-6)
    assert maps["b0shift"][4] == maps["fitshift"][4]
    turned = np.exp(1j * (maps["phase"] - maps["fitphase"] - 2))[5:]
    np.testing.assert_allclose(turned, 1, atol=1e-6)
    assert np.nanmax(np.abs(maps["phase"])) <= np.pi
    # The fit finds again what the correction got wrong: its bound holds for the sum.
    fit, total = result["sd"].sel(parameter="shift"), total_of(both, "b0shift")["sd"]
    np.testing.assert_array_equal(total[2:], fit[2:])
    assert sidecar(tmp_path, "desc-b0shift")["Definition"].endswith("(fpc_shift + shift)")


def test_a_shift_that_only_a_correction_found_has_its_bound(result: xr.Dataset) -> None:
    both = corrected_before_the_fit(result)
    total = total_of(both.sel(parameter=both["parameter"] != "shift"), "b0shift")
    assert np.isnan(total["estimate"][4])
    assert float(total["estimate"][5]) == 3
    assert float(total["sd"][5]) == np.float32(0.7)
    with pytest.raises(InputError, match="no stage"):
        total_of(result.sel(parameter=["NAA"]), "b0shift")


def test_crlb_is_percent_of_the_estimate(result: xr.Dataset, folder: Path) -> None:
    signal, sd, crlb = (read(folder, f"met-Ins_desc-{d}") for d in ("signal", "sd", "crlb"))
    known = np.isfinite(signal) & (signal > 0)
    np.testing.assert_allclose(crlb[known], 100 * sd[known] / signal[known], rtol=1e-6)


def test_a_zero_amplitude_keeps_its_absolute_bound_only(result: xr.Dataset, tmp_path: Path) -> None:
    changed = result.copy(deep=True)
    changed["estimate"].loc[{"parameter": "GABA", "voxel": 5}] = 0.0
    export_maps(changed, tmp_path)
    signal, sd, crlb = (at_voxels(result, read(tmp_path, f"met-GABA_desc-{d}"))[5]
                        for d in ("signal", "sd", "crlb"))  # fmt: skip
    assert signal == 0
    assert sd == result["sd"].sel(parameter="GABA")[5]
    assert np.isnan(crlb)


def test_a_negative_amplitude_has_a_positive_crlb(result: xr.Dataset) -> None:
    changed = result.copy(deep=True)
    changed["estimate"].loc[{"parameter": "GABA", "voxel": 5}] = -2.0
    changed["sd"].loc[{"parameter": "GABA", "voxel": 5}] = 0.5
    assert relative_crlb(changed, "GABA")[5] == 25.0


def test_no_fit_is_nan_even_where_the_store_holds_a_number(
    result: xr.Dataset, tmp_path: Path
) -> None:
    changed = result.copy(deep=True)
    changed["quality"][0] = 7.0
    changed["estimate"][0] = 7.0
    export_maps(changed, tmp_path)
    for entities in ("met-NAA_desc-signal", "met-NAA_desc-crlb", "desc-snr", "desc-phase"):
        values = read(tmp_path, entities)
        assert np.isnan(at_voxels(result, values)[:2]).all()
        assert np.isfinite(values).sum() == result.sizes["voxel"] - 2


def test_status_and_mask(result: xr.Dataset, folder: Path) -> None:
    status, mask = read(folder, "desc-status"), read(folder, "desc-brainmask")
    np.testing.assert_array_equal(at_voxels(result, status), result["status"])
    assert set(np.unique(mask)) == {0, 1}
    assert mask.sum() == result.sizes["voxel"]
    assert np.isnan(status[mask == 0]).all()


def test_mrsiprep_fill(result: xr.Dataset, tmp_path: Path) -> None:
    changed = result.copy(deep=True)
    changed["estimate"].loc[{"parameter": "GABA", "voxel": 5}] = 0.0
    changed["estimate"].loc[{"parameter": "GABA", "voxel": 6}] = 1e-6
    export_maps(changed, tmp_path, fill="mrsiprep")
    outside = read(tmp_path, "desc-brainmask") == 0
    for entities, blank in (
        ("met-GABA_desc-signal", 0),
        ("met-GABA_desc-crlb", 999),
        ("desc-snr", 0),
    ):
        values = read(tmp_path, entities)
        assert (values[outside] == blank).all()
        assert (at_voxels(result, values)[:2] == blank).all()
        assert np.isfinite(values).all()
        assert sidecar(tmp_path, entities)["NoFit"] == blank
    crlb = at_voxels(result, read(tmp_path, "met-GABA_desc-crlb"))
    assert (crlb[5:7] == 999).all(), "unknown, and larger than the largest, are both 999"


def test_unknown_fill_is_refused(result: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="allowed are nan, mrsiprep"):
        export_maps(result, tmp_path, fill="zero")  # type: ignore[arg-type]


def test_header_places_the_map_like_the_scan(folder: Path) -> None:
    image = nib.load(folder / f"{PREFIX}_met-NAA_desc-signal_mrsi.nii.gz")
    assert image.get_data_dtype() == np.float32
    assert image.header["qform_code"] == image.header["sform_code"] == 1
    np.testing.assert_allclose(image.get_sform(), AFFINE, rtol=1e-6)
    np.testing.assert_allclose(image.get_qform(), AFFINE, atol=1e-4)
    assert image.header.get_xyzt_units()[0] == "mm"


def test_sheared_affine_keeps_its_sform_and_says_so(result: xr.Dataset, tmp_path: Path) -> None:
    sheared = np.array(AFFINE)
    sheared[0, 1] = 2.0
    export_maps(result.assign_attrs(affine=sheared.tolist()), tmp_path)
    image = nib.load(tmp_path / f"{PREFIX}_desc-snr_mrsi.nii.gz")
    np.testing.assert_allclose(image.affine, sheared, rtol=1e-6)
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (1, 0)
    assert "the sform is exact" in sidecar(tmp_path, "desc-snr")["Notes"][0]


def test_maps_of_a_scan_without_position_claim_none(result: xr.Dataset, tmp_path: Path) -> None:
    export_maps(result.assign_attrs(position_code=0), tmp_path)
    image = nib.load(tmp_path / f"{PREFIX}_desc-snr_mrsi.nii.gz")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (0, 0)
    assert "states no position" in sidecar(tmp_path, "desc-snr")["Notes"][0]


def test_left_handed_and_aligned_spaces_stay_so(result: xr.Dataset, tmp_path: Path) -> None:
    mirrored = np.array(AFFINE) @ np.diag([-1, 1, 1, 1])
    export_maps(result.assign_attrs(affine=mirrored.tolist(), position_code=4), tmp_path)
    image = nib.load(tmp_path / f"{PREFIX}_desc-snr_mrsi.nii.gz")
    assert (int(image.header["sform_code"]), int(image.header["qform_code"])) == (4, 4)
    np.testing.assert_allclose(image.get_sform(), mirrored, rtol=1e-6)
    np.testing.assert_allclose(image.get_qform(), mirrored, atol=1e-4)


def test_exact_affine_has_no_note(folder: Path) -> None:
    assert "Notes" not in sidecar(folder, "desc-snr")


@pytest.mark.parametrize(
    "affine", [np.diag([1.0, 0, 1, 1]), np.full((4, 4), np.nan), np.ones((4, 4)), np.eye(3)]
)
def test_affine_without_a_place_is_refused(
    result: xr.Dataset, tmp_path: Path, affine: np.ndarray
) -> None:
    with pytest.raises(InputError, match="not an invertible 4x4"):
        export_maps(result.assign_attrs(affine=affine.tolist()), tmp_path)
    assert not list(tmp_path.iterdir())


def test_sidecar_says_what_where_from_and_by_whom(folder: Path) -> None:
    written = sidecar(folder, "met-NAANAAG_desc-crlb")
    assert written["Units"] == "%"
    assert "tNAA" in written["Definition"]
    assert written["Sources"] == ["/data/sub-01_ses-1.nii.gz"]
    assert written["SourceSHA256"] == "ab" * 32
    assert written["Basis"]["source"] == "press-3t-te30"
    assert written["Pipeline"]["name"] == "brain-1h-3t"
    assert written["GeneratedBy"] == [{"Name": "mrsi_engine", "Version": "0.1.0"}]
    assert (written["Role"], written["Of"]) == ("combination", "NAANAAG")
    assert written["Statistic"] == "relative standard deviation"
    assert written["Estimator"] == "main"
    assert sidecar(folder, "desc-fwhm")["Units"] == "ppm"
    assert all("Role" in json.loads(p.read_text()) for p in folder.glob("*.json"))
    assert sidecar(folder, "desc-b0shift")["Units"] == "Hz"
    assert "3 least_squares" in sidecar(folder, "desc-status")["Definition"]


def test_two_metabolites_of_one_file_name_are_refused(result: xr.Dataset, tmp_path: Path) -> None:
    same = renamed_parameter(result, "NAAG", amplitude("N-A-A", "another spelling"))
    with pytest.raises(InputError, match="met-NAA_desc-signal"):
        export_maps(same, tmp_path)
    assert not list(tmp_path.iterdir())


def test_exporting_twice_gives_the_same_bytes(result: xr.Dataset, tmp_path: Path) -> None:
    first = {p.name: p.read_bytes() for p in export_maps(result, tmp_path)}
    second = {p.name: p.read_bytes() for p in export_maps(result, tmp_path)}
    assert first == second


def test_not_a_result_store(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"attributes .*'affine'"):
        export_maps(xr.Dataset(attrs={"shape": [1, 1, 1]}), tmp_path)


@pytest.mark.parametrize("stem", ["../../etc/x", "/abs/x", "..", ".hidden", "a b/c", "x\x00y"])
def test_files_stay_in_the_folder(result: xr.Dataset, tmp_path: Path, stem: str) -> None:
    inner = tmp_path / "maps"
    try:
        paths = export_maps(result.isel(parameter=[0]), inner, stem=stem)
    except InputError:
        assert not inner.exists()
        return
    assert all(p.resolve().parent == inner.resolve() for p in paths)
    assert {p.name for p in tmp_path.iterdir()} == {"maps"}


@given(st.text(max_size=30))
def test_safe_names_hold_no_path(text: str) -> None:
    for make, allowed in ((safe_stem, "._-"), (safe_label, "")):
        try:
            safe = make(text)
        except InputError:
            continue
        assert safe.isascii()
        assert all(c.isalnum() or c in allowed for c in safe)
        assert Path(safe).name == safe
        assert not safe.startswith(".")


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_atomically(tmp_path / "a.txt", b"old")

    def no_space(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(RunError, match="No space left"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


class TestSignals:
    def test_files_are_valid_nifti_mrs(self, result: xr.Dataset, tmp_path: Path) -> None:
        paths = export_signals(result, tmp_path)
        kinds = ("corrected", "fit", "baseline", "residual")
        assert [p.name for p in paths] == [f"{PREFIX}_desc-{k}_mrsi.nii.gz" for k in kinds]
        for path in paths:
            validate_nifti_mrs(NIFTI_MRS(path))

    def test_residual_is_what_the_model_leaves(self, result: xr.Dataset, tmp_path: Path) -> None:
        paths = export_signals(result, tmp_path)
        corrected, fit, _, residual = (np.asarray(nib.load(p).dataobj) for p in paths)
        np.testing.assert_allclose(residual, corrected - fit, atol=1e-4)
        inside = at_voxels(result, corrected)[5]
        np.testing.assert_array_equal(inside, result["corrected"][5])

    def test_a_signal_of_anybodys_stage_is_written(
        self, result: xr.Dataset, tmp_path: Path
    ) -> None:
        water = result["corrected"].assign_attrs(long_name="water that was taken away")
        paths = export_signals(result[["status"]].assign(water_taken=water), tmp_path)
        assert [p.name for p in paths] == [f"{PREFIX}_desc-watertaken_mrsi.nii.gz"]
        history = NIFTI_MRS(paths[0]).hdr_ext.to_dict()["ProcessingApplied"]
        assert history[-1]["Details"] == "water that was taken away"

    def test_axis_survives(self, result: xr.Dataset, tmp_path: Path) -> None:
        image = NIFTI_MRS(export_signals(result, tmp_path)[0])
        acquisition = Acquisition(**result.attrs["acquisition"])
        assert image.dwelltime == pytest.approx(acquisition.dwell_time)
        assert image.spectrometer_frequency[0] == acquisition.spectrometer_frequency

    def test_provenance_is_appended(self, result: xr.Dataset, tmp_path: Path) -> None:
        image = NIFTI_MRS(export_signals(result, tmp_path)[0])
        history = image.hdr_ext.to_dict()["ProcessingApplied"]
        methods = [entry["Method"] for entry in history]
        assert methods == ["RF coil combination", "Nuisance peak removal", "quantify", "Export"]
        assert json.loads(history[1]["Details"])["components"] == 8
        assert history[1]["Version"] == "0.1.0"

    def test_what_was_passed_over_is_left_out_and_the_rest_has_a_time(
        self, result: xr.Dataset, tmp_path: Path
    ) -> None:
        applied = result.attrs["pipeline"]["stages"][:1]
        done = result.assign_attrs(applied=applied, finished="2026-11-28T11:46:21+00:00")
        history = NIFTI_MRS(export_signals(done, tmp_path)[0]).hdr_ext.to_dict()
        own = [e for e in history["ProcessingApplied"] if e["Program"] == "mrsi_engine"]
        assert [entry["Method"] for entry in own] == ["Nuisance peak removal", "Export"]
        assert own[0]["Time"] == "2026-11-28T11:46:21.000"

    def test_none_stored(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="keep the signals"):
            export_signals(brain_result(SHAPE), tmp_path)


def test_all_maps_have_one_shape(folder: Path) -> None:
    shapes: set[tuple[int, ...]] = {nib.load(p).shape for p in folder.glob("*.nii.gz")}
    assert shapes == {SHAPE}
