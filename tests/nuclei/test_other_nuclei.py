"""31P and 2H from file to report, and what is refused, through the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import mrsi_engine as me
from mrsi_engine.conventions import Acquisition
from mrsi_engine.nuclei import nucleus
from mrsi_engine.spectra.simulation import simulate_basis
from tests.cli.helpers import Mrsi
from tests.nuclei.other_nuclei import (
    DEUTERIUM_7T,
    PHOSPHORUS_7T,
    SHAPE,
    Experiment,
)

VOXELS = int(np.prod(SHAPE))

#: Of a mean over voxels of errors in their SDs, and of their mean square; one in 1e5 is beyond.
MEAN_LIMIT = 4.4 / np.sqrt(VOXELS)
SQUARE_LIMITS = (0.16, 3.2)


@pytest.fixture
def mrsi(capsys: pytest.CaptureFixture[str]) -> Mrsi:
    return Mrsi(capsys)


def mapped(out: Path, desc: str) -> np.ndarray:
    (path,) = (out / "maps").glob(f"*_desc-{desc}_mrsi.nii.gz")
    return np.asarray(nib.load(path).get_fdata())


def check_amounts(out: Path, experiment: Experiment) -> None:
    result = me.open_result(out / "result.zarr")
    for name, (_, amount, _) in experiment.lines.items():
        row = result.sel(parameter=name)
        off = ((row["estimate"] - amount) / row["sd"]).values
        assert abs(off.mean()) < MEAN_LIMIT, name
        assert SQUARE_LIMITS[0] < np.mean(off**2) < SQUARE_LIMITS[1], name


def check_quality(out: Path, experiment: Experiment, name: str) -> None:
    """SNR and linewidth of the peak that the table prefers, from the lines themselves."""
    result, axis = me.open_result(out / "result.zarr"), experiment.acquisition
    quality = result["quality"].sel(measure=["snr", "fwhm", "fwhm_hz"]).median("voxel").values
    # A Voigt line (Olivero & Longbothum, J Quant Spectrosc Radiat Transf 1977;17:233).
    lorentz, gauss = experiment.lorentzian, experiment.gaussian
    width = 0.5346 * lorentz + np.sqrt(0.2166 * lorentz**2 + gauss**2)
    assert quality[2] == pytest.approx(width, rel=0.05)
    assert quality[1] == pytest.approx(width / axis.spectrometer_frequency, rel=0.05)
    spread = gauss / (2 * np.sqrt(2 * np.log(2)))
    envelope = np.exp(-np.pi * lorentz * axis.time - 2 * (np.pi * spread * axis.time) ** 2)
    height = experiment.lines[name][1] * envelope.sum() / np.sqrt(axis.points)
    assert quality[0] == pytest.approx(height / experiment.noise, rel=0.1)
    assert not mapped(out, "flags").any()


def test_31p_from_file_to_report(mrsi: Mrsi, tmp_path: Path) -> None:
    run = PHOSPHORUS_7T.write(tmp_path)
    out = tmp_path / "out"
    mrsi(*run, "--basis", "fid-31p-7t", "--pipeline", "brain-31p-7t", "--out", out)
    check_amounts(out, PHOSPHORUS_7T)
    check_quality(out, PHOSPHORUS_7T, "PCr")
    amounts = {"tATP": 24.0, "PME": 4.5, "PDE": 5.0}
    for label, amount in amounts.items():
        off = (_named(out, label, "signal") - amount) / _named(out, label, "sd")
        assert abs(off.mean()) < MEAN_LIMIT, label
    result = me.open_result(out / "result.zarr")
    assert not {"lipid_ratio", "water_residual"} & set(result["measure"].values)
    stages = {s["stage"]: s for s in result.attrs["pipeline"]["stages"]}
    window = stages["quantify"]["window_ppm"]
    assert tuple(window) == nucleus("31P").windows.fit
    assert (out / "report.html").stat().st_size > 10_000


def _named(out: Path, label: str, desc: str) -> np.ndarray:
    (path,) = (out / "maps").glob(f"*_met-{label}_desc-{desc}_mrsi.nii.gz")
    return np.asarray(nib.load(path).get_fdata())


def test_2h_from_file_to_report(mrsi: Mrsi, tmp_path: Path) -> None:
    run = DEUTERIUM_7T.write(tmp_path)
    mrsi(*run, "--basis", "fid-2h-7t", "--pipeline", "dmi-2h", "--out", tmp_path / "out")
    check_amounts(tmp_path / "out", DEUTERIUM_7T)
    check_quality(tmp_path / "out", DEUTERIUM_7T, "HDO")


def test_ratios_are_to_what_the_nucleus_has(mrsi: Mrsi, tmp_path: Path) -> None:
    run, text = PHOSPHORUS_7T.write(tmp_path), mrsi("pipeline", "show", "brain-31p-7t")
    (tmp_path / "own.toml").write_text(text + '\n[[stages]]\nstage = "scale"\n')
    out = tmp_path / "out"
    mrsi(*run, "--basis", "fid-31p-7t", "--pipeline", tmp_path / "own.toml", "--out", out)
    ratio = _named(out, "PCr", "signal") / _named(out, "tATP", "signal")
    np.testing.assert_allclose(_named(out, "PCr", "conc"), ratio, rtol=1e-5)


def test_the_proton_pipeline_names_the_right_one(mrsi: Mrsi, tmp_path: Path) -> None:
    run = [*PHOSPHORUS_7T.write(tmp_path), "--out", tmp_path / "out"]
    error = mrsi.refused(*run, "--basis", "fid-31p-7t")
    assert "for 1H, the scan is of 31P; give --pipeline brain-31p-7t" in error
    error = mrsi.refused(*run, "--basis", "press-3t-te30", "--pipeline", "brain-31p-7t")
    assert re.search("basis asked for is of 1H, the scan is of 31P; name one.*fid-31p", error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stage", ["water_removal", 'lipid_removal"\nmethod = "hsvd'])
def test_stages_of_protons_are_refused_for_others(mrsi: Mrsi, tmp_path: Path, stage: str) -> None:
    own = tmp_path / "own.toml"
    own.write_text(f'name = "own"\n[[stages]]\nstage = "{stage}"\n[[stages]]\nstage = "quantify"\n')
    run = [*PHOSPHORUS_7T.write(tmp_path), "--pipeline", own, "--out", tmp_path / "out"]
    error = mrsi.refused(*run, "--basis", "fid-31p-7t")
    assert re.search(r"stage '(water|lipid)_removal': there is no (water|lipids).* in 31P", error)


@pytest.mark.parametrize(("symbol", "frequency"), [("13C", 74.5), ("19F", 279.0)])
def test_a_scan_whose_reference_nobody_knows_is_refused(
    mrsi: Mrsi, tmp_path: Path, symbol: str, frequency: float
) -> None:
    axis = Acquisition(128, 1e-4, frequency, 100.0, symbol)
    lines = {"X": (100.0, 1.0, ((0.0, 1.0),))}
    run = Experiment(axis, lines, 10, 1, 0.1).write(tmp_path)
    _without(tmp_path / "scan.nii.gz", "SpecFreqChemShift")
    error = mrsi.refused(*run, "--pipeline", "minimal", "--basis", "x", "--out", tmp_path / "out")
    assert f"{symbol} data without SpecFreqChemShift" in error


def _without(path: Path, field: str) -> None:
    image = nib.load(path)
    (extension,) = image.header.extensions
    content = json.loads(extension.content.rstrip(b"\0 "))
    del content[field]
    image.header.extensions.clear()
    text = json.dumps(content).encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension(44, text))
    nib.save(nib.Nifti2Image(np.asarray(image.dataobj), image.affine, image.header), path)


def test_a_simulated_basis_has_the_couplings_of_atp(mrsi: Mrsi, tmp_path: Path) -> None:
    simulate = ["basis", "simulate", "--sequence", "fid", "--nucleus", "31P", "--te", 0]
    said = mrsi(*simulate, "--field", 7, "--out", tmp_path / "basis")
    assert "gATP, aATP, bATP" in said
    basis = simulate_basis("fid", echo_time=0.0, field=7.0, nucleus="31P", points=8192)
    axis = basis.acquisition
    for name, count in (("PCr", 1), ("gATP", 2), ("aATP", 2), ("bATP", 3)):
        peaks = _peaks(np.abs(axis.spectrum(basis[name])))
        assert len(peaks) == count, name
        apart = np.abs(np.diff(axis.frequencies[peaks]))
        assert np.allclose(apart, 16.2, atol=1.0)
        assert basis[name][0] == pytest.approx(1.0, abs=0.01)


def _peaks(height: np.ndarray) -> np.ndarray:
    inner = height[1:-1]
    top = (inner > height[:-2]) & (inner >= height[2:]) & (inner > 0.2 * height.max())
    return np.flatnonzero(top) + 1
