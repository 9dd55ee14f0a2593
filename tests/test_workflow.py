"""A tiny phantom from files to report: every output is there and says what it should."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import nifti_mrs.nifti_mrs
import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr
from scipy.stats import norm

import mrsi_engine as me
from mrsi_engine import workflow
from mrsi_engine.conventions import Acquisition, Status
from mrsi_engine.engine.events import Event, RunStarted
from mrsi_engine.errors import InputError
from mrsi_engine.networks.model import load_model, save_model
from mrsi_engine.report.html import write_report
from mrsi_engine.report.truth import TruthRow, result_truth_table
from mrsi_engine.spectra.phantom import PhantomSettings
from mrsi_engine.spectra.simulation import parse_basis_name
from mrsi_engine.stages.pipeline import Pipeline
from mrsi_engine.workflow import (
    BasisChoice,
    Inputs,
    Options,
    Outcome,
    completed,
    demo,
    export,
    fitted_examples,
    folders_of,
    imported,
    load_basis,
    process,
    report_on,
    simulate_scan,
    traced_examples,
)

BASIS = BasisChoice("press-3t-te30")
KEPT = ("corrected", "fit", "baseline")


@pytest.fixture(autouse=True)
def _basis_cache(basis_cache: Path) -> None:
    """Simulated bases come from the session's cache."""


@pytest.fixture
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report takes longer than all the rest; one test draws it."""
    monkeypatch.setattr(
        workflow, "report_on", lambda folder, **content: Path(folder, "report.html")
    )


def inputs_of(phantom: Path) -> Inputs:
    return Inputs(
        scan=phantom / "scan.nii.gz",
        mask=phantom / "mask.nii.gz",
        water=phantom / "water.nii.gz",
        tissue={name: phantom / f"{name}.nii.gz" for name in ("gm", "wm", "csf")},
    )


def truth_of(phantom: Path) -> dict[str, np.ndarray]:
    files = (phantom / "truth").glob("*.nii.gz")
    return {f.name.removesuffix(".nii.gz"): nib.load(f).get_fdata() for f in files}


@pytest.fixture(scope="module")
def outcome(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run with everything asked for."""
    return process(
        inputs_of(phantom),
        BASIS,
        Pipeline.load("brain-1h-3t"),
        tmp_path_factory.mktemp("outcome") / "out",
        Options(workers=0, keep=KEPT),
        truth=truth_of(phantom),
    )


@pytest.fixture(scope="module")
def result(outcome: Outcome) -> xr.Dataset:
    return outcome.result.load()


def volume(outcome: Outcome, entities: str) -> np.ndarray:
    path = outcome.folder / "maps" / f"scan_space-orig_{entities}_mrsi.nii.gz"
    return np.asarray(nib.load(path).dataobj)


class TestMaps:
    def test_every_map_of_every_metabolite(self, outcome: Outcome, result: xr.Dataset) -> None:
        amplitudes = result.parameter.values[result.role.values != "lineshape"]
        assert {"NAA", "Cr", "Ins", "MM", "NAANAAG", "CrPCr", "GPCPCh", "GluGln"} <= {*amplitudes}
        expected = {f"met-{m}_desc-{d}" for m in amplitudes for d in ("signal", "crlb", "sd")}
        expected |= {
            f"desc-{name}"
            for name in ("snr", "fwhm", "fitquality", "b0shift", "phase", "status", "brainmask")
        }
        written = {path.name for path in outcome.maps}
        assert {f"scan_space-orig_{e}_mrsi.nii.gz" for e in expected} <= written
        assert {path.name for path in (outcome.folder / "maps").glob("*.nii.gz")} == written

    def test_maps_lie_where_the_scan_lies(self, outcome: Outcome, phantom: Path) -> None:
        scan = nib.load(phantom / "scan.nii.gz")
        for path in outcome.maps:
            image = nib.load(path)
            assert image.get_data_dtype() == np.float32
            assert image.shape == scan.shape[:3]
            assert image.header["qform_code"] == image.header["sform_code"] == 1
            np.testing.assert_allclose(image.affine, scan.affine, atol=1e-4)

    def test_numbers_stand_in_their_voxels(
        self, outcome: Outcome, result: xr.Dataset, phantom: Path
    ) -> None:
        place = tuple(result[axis].values for axis in "xyz")
        outside = nib.load(phantom / "mask.nii.gz").get_fdata() == 0
        naa = result.sel(parameter="NAA")
        signal, sd = (volume(outcome, f"met-NAA_desc-{d}") for d in ("signal", "sd"))
        np.testing.assert_array_equal(signal[place], naa["estimate"])
        np.testing.assert_array_equal(sd[place], naa["sd"])
        np.testing.assert_allclose(
            volume(outcome, "met-NAA_desc-crlb"), 100 * sd / np.abs(signal), rtol=1e-5
        )
        assert np.isnan(signal[outside]).all()
        np.testing.assert_array_equal(volume(outcome, "desc-brainmask") == 0, outside)
        assert (volume(outcome, "desc-status")[~outside] == Status.NETWORK_REFINED).all()

    def test_estimates_are_near_the_truth(self, result: xr.Dataset, phantom: Path) -> None:
        """In the voxel where it is worst, by less than 5 of its SDs (p = 1e-5 in 16 voxels)."""
        place = tuple(result[axis].values for axis in "xyz")
        truth = truth_of(phantom)
        for name in ("NAANAAG", "CrPCr", "GPCPCh", "GluGln", "Ins"):
            row = result.sel(parameter=name)
            off = (row["estimate"] - truth[name][place]) / row["sd"]
            assert np.abs(off).max() < 5

    def test_sidecars(self, outcome: Outcome, phantom: Path, result: xr.Dataset) -> None:
        for path in outcome.maps:
            fields = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
            assert fields["Definition"]
            assert fields["Sources"] == [str(phantom / "scan.nii.gz")]
            assert fields["GeneratedBy"][0]["Version"] == me.__version__
        units = {
            "met-NAA_desc-crlb": "%",
            "desc-fwhm": "ppm",
            "desc-b0shift": "Hz",
            "desc-snr": "1",
        }
        for entities, unit in units.items():
            path = outcome.folder / "maps" / f"scan_space-orig_{entities}_mrsi.json"
            assert json.loads(path.read_text())["Units"] == unit

    def test_fill_for_mrsiprep(self, outcome: Outcome, result: xr.Dataset, tmp_path: Path) -> None:
        export(result, tmp_path, "mrsiprep")
        for entities, background in {
            "met-NAANAAG_desc-signal": 0.0,
            "desc-snr": 0.0,
            "met-NAANAAG_desc-crlb": 999.0,
        }.items():
            path = tmp_path / "maps" / f"scan_space-orig_{entities}_mrsi.nii.gz"
            filled, ours = np.asarray(nib.load(path).dataobj), volume(outcome, entities)
            assert (filled[np.isnan(ours)] == background).all()
            np.testing.assert_array_equal(filled[~np.isnan(ours)], ours[~np.isnan(ours)])


def test_table_has_a_row_a_voxel(outcome: Outcome, result: xr.Dataset) -> None:
    table = pq.read_table(outcome.folder / "voxels.parquet").to_pandas()
    assert len(table) == result.sizes["voxel"] == 16
    for axis in "xyz":
        np.testing.assert_array_equal(table[axis], result[axis])
    np.testing.assert_array_equal(table["GluGln"], result.estimate.sel(parameter="GluGln"))
    np.testing.assert_array_equal(table["GluGln_sd"], result.sd.sel(parameter="GluGln"))
    np.testing.assert_array_equal(table["snr"], result.quality.sel(measure="snr"))


def test_report_stands_alone_and_shows_everything(outcome: Outcome) -> None:
    page = outcome.report.read_text()
    for part in ("tNAA", "Glx", "16 in the mask", "Best voxel", "Worst voxel", "Truth"):
        assert part.lower() in page.lower()
    for step in ("import", "basis", "process", "export"):
        assert step in outcome.timings
        assert step in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page


class TestSignals:
    @pytest.fixture
    def signals(self, outcome: Outcome) -> dict[str, Path]:
        folder = outcome.folder / "signals"
        names = (*KEPT, "residual")
        return {n: folder / f"scan_space-orig_desc-{n}_mrsi.nii.gz" for n in names}

    def test_are_nifti_mrs(self, signals: dict[str, Path], phantom: Path) -> None:
        scan = nifti_mrs.nifti_mrs.NIFTI_MRS(str(phantom / "scan.nii.gz"))
        for path in signals.values():
            # The package checks the file against the standard as it opens it.
            image = nifti_mrs.nifti_mrs.NIFTI_MRS(str(path))
            assert image.shape == scan.shape
            assert image.dwelltime == pytest.approx(scan.dwelltime)
            assert image.spectrometer_frequency == scan.spectrometer_frequency

    def test_tell_what_was_done(self, signals: dict[str, Path]) -> None:
        for path in signals.values():
            header = json.loads(nib.load(path).header.extensions[0].get_content())
            applied = header["ProcessingApplied"]
            assert len(applied) >= 2
            assert {entry["Program"] for entry in applied} == {"mrsi_engine"}
            assert "Nuisance peak removal" in {entry["Method"] for entry in applied}

    def test_add_up(self, signals: dict[str, Path], result: xr.Dataset) -> None:
        place = tuple(result[axis].values for axis in "xyz")
        fids = {n: np.asarray(nib.load(path).dataobj)[place] for n, path in signals.items()}
        scale = np.abs(fids["corrected"]).max()
        np.testing.assert_allclose(
            fids["residual"], fids["corrected"] - fids["fit"], atol=1e-6 * scale
        )
        acquisition = Acquisition(**result.attrs["acquisition"])
        inside = (acquisition.ppm > 0.6) & (acquisition.ppm < 3.9)
        energy = {
            n: np.square(np.abs(acquisition.spectrum(f)[:, inside])).sum() for n, f in fids.items()
        }
        # At an SNR of 40 the fit explains all but a few per cent of the energy.
        assert energy["residual"] < 0.05 * energy["corrected"]

    def test_examples_fitted_again_are_those_kept(
        self, outcome: Outcome, result: xr.Dataset
    ) -> None:
        """The report draws fits made anew, of the same voxels with the same numbers."""
        kept = {e.title: e for e in workflow.stored_examples(result, (0.5, 4.0))}
        anew = fitted_examples(outcome.folder)
        assert [example.title for example in anew] == list(kept)
        for example in anew:
            assert example.voxel == kept[example.title].voxel
            scale = np.abs(example.fit).max()
            np.testing.assert_allclose(example.fit, kept[example.title].fit, atol=1e-3 * scale)

    def test_the_report_shows_them_before_and_after_each_stage(self, outcome: Outcome) -> None:
        traces = traced_examples(outcome.folder)
        assert {trace.name: trace.changed for trace in traces}.items() >= {
            ("water_removal", True),
            ("quantify", False),
        }
        page = outcome.report.read_text()
        for trace in traces:
            assert (f'alt="Before and after stage {trace.name}"' in page) == trace.changed
        assert len(traces[-1].after) == len(fitted_examples(outcome.folder))

    def test_a_report_without_the_scan_says_what_it_lacks(
        self, outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: dict[str, Any] = {}
        monkeypatch.setattr(workflow, "write_report", lambda *_, **content: said.update(content))
        monkeypatch.setattr(workflow, "scan_folder", lambda folder: tmp_path / "gone.zarr")
        report_on(outcome.folder)
        assert (said["examples"], said["traces"]) == ([], ())
        (remark,) = said["remarks"]
        assert remark.startswith("No spectra are drawn")
        assert "gone.zarr" in remark


@pytest.mark.usefixtures("quick_report")
class TestAgain:
    def test_a_finished_run_does_nothing(self, outcome: Outcome, phantom: Path) -> None:
        stores = [workflow.scan_folder(outcome.folder), workflow.result_folder(outcome.folder)]
        before = {p: p.stat().st_mtime_ns for s in stores for p in s.rglob("*") if p.is_file()}
        events: list[Event] = []
        again = process(
            *(inputs_of(phantom), BASIS, Pipeline.load("brain-1h-3t"), outcome.folder),
            Options(workers=0, keep=KEPT),
            sinks=[events.append],
        )
        started = next(event for event in events if isinstance(event, RunStarted))
        assert started.pending == 0
        assert again.summary.statuses == outcome.summary.statuses
        after = {p: p.stat().st_mtime_ns for s in stores for p in s.rglob("*") if p.is_file()}
        assert after == before

    def test_the_same_files_elsewhere_are_the_same_scan(
        self, phantom: Path, tmp_path: Path
    ) -> None:
        store = imported(inputs_of(phantom), tmp_path / "s.zarr")
        moved = Path(shutil.copytree(phantom, tmp_path / "moved"))
        ticks: list[tuple[int, int]] = []
        again = imported(
            inputs_of(moved), store.path, progress=lambda done, total: ticks.append((done, total))
        )
        assert not ticks
        assert again.source == store.source

    def test_other_files_need_overwrite(self, phantom: Path, tmp_path: Path) -> None:
        imported(inputs_of(phantom), tmp_path / "s.zarr")
        with pytest.raises(InputError, match="imported from other files or with other settings"):
            imported(Inputs(phantom / "scan.nii.gz"), tmp_path / "s.zarr")
        store = imported(Inputs(phantom / "scan.nii.gz"), tmp_path / "s.zarr", overwrite=True)
        assert store.mask_origin == "signal energy"


@pytest.mark.usefixtures("quick_report")
def test_several_scans_get_a_folder_each(phantom: Path, tmp_path: Path) -> None:
    scans = [tmp_path / name for name in ("first.nii.gz", "second.nii.gz")]
    for scan in scans:
        shutil.copy(phantom / "scan.nii.gz", scan)
    values = []
    for scan, folder in folders_of(scans, tmp_path / "out").items():
        inputs = Inputs(scan, mask=phantom / "mask.nii.gz")
        done = process(inputs, BASIS, Pipeline.load("minimal"), folder, Options(workers=0))
        assert done.folder == tmp_path / "out" / scan.name.removesuffix(".nii.gz")
        assert all(path.name.startswith(f"{folder.name}_space-orig") for path in done.maps)
        values.append(done.result["estimate"].values)
    np.testing.assert_array_equal(*values)
    assert folders_of(scans[:1], tmp_path / "one") == {scans[0]: tmp_path / "one"}


class TestPythonInterface:
    def test_lazy_result_is_that_of_the_run(self, outcome: Outcome, result: xr.Dataset) -> None:
        scan = me.open_scan(workflow.scan_folder(outcome.folder))
        basis = me.load_basis("press-3t-te30", scan)
        lazy = me.quantify(scan, basis, me.load_pipeline("brain-1h-3t"), keep_signals=KEPT)
        assert lazy["estimate"].chunks is not None
        computed = lazy.compute(scheduler="sync")
        for name, values in result.data_vars.items():
            np.testing.assert_allclose(computed[name], values, rtol=1e-5, atol=1e-5)
        assert list(computed.parameter.values) == list(result.parameter.values)
        stored = me.open_result(workflow.result_folder(outcome.folder))
        np.testing.assert_array_equal(stored["estimate"], result["estimate"])

    def test_what_is_no_scan(self, result: xr.Dataset) -> None:
        with pytest.raises(InputError, match=r"not a scan: it lacks .*dwell_time"):
            me.load_basis("press-3t-te30", result)

    def test_no_such_attribute(self) -> None:
        with pytest.raises(AttributeError, match="quantfy"):
            _ = me.quantfy  # type: ignore[attr-defined]


class TestBasis:
    @pytest.mark.parametrize(
        ("name", "macromolecules"),
        [
            ("press-3t-te30", ("MM",)),
            ("press-3t-te144", ()),
            ("press-7t-te30", ("MM09", "MM12", "MM14", "MM17", "MM20")),
        ],
    )
    def test_macromolecules_by_field_and_echo_time(
        self, name: str, macromolecules: tuple[str, ...]
    ) -> None:
        settings = parse_basis_name(name)
        assert settings is not None
        basis = load_basis(BasisChoice(name), settings.acquisition)
        assert set(macromolecules) <= set(basis.macromolecules)
        assert bool(macromolecules) == bool(basis.macromolecules)
        assert completed(basis).names == basis.names

    def test_made_once(self, basis_cache: Path) -> None:
        axis = Acquisition(512, 5e-4, 123.25)
        files = len(list(basis_cache.iterdir()))
        first = load_basis(BasisChoice("press-3t-te35"), axis)
        assert len(list(basis_cache.iterdir())) == files + 1
        again = load_basis(BasisChoice("press-3t-te35"), axis)
        assert len(list(basis_cache.iterdir())) == files + 1
        assert again.fingerprint == first.fingerprint


def bounds_of_ratio(
    row: TruthRow, result: xr.Dataset, low: float, high: float
) -> tuple[float, float]:
    """Range of RMSE/CRLB at 99.99 % for a true SD of ``low`` to ``high`` CRLBs.

    The mean of squared errors of voxels with unequal variances v has a relative variance of
    2 sum(v^2) / sum(v)^2, its root a quarter of that.
    """
    variance = np.square(result["sd"].sel(parameter=row.label).values.astype(float))
    spread = np.sqrt(0.5 * np.sum(variance**2)) / np.sum(variance)
    margin = norm.ppf(1 - 0.5e-4) * spread
    return low * (1 - margin), high * (1 + margin)


@pytest.mark.usefixtures("quick_report")
class TestTruth:
    def test_errors_are_those_the_bounds_say(self, tmp_path: Path) -> None:
        """The bar of the issue: an SD of 0.95 to 1.10 CRLBs where the CRLB is below 20 %."""
        settings = PhantomSettings(shape=(12, 12, 3), seed=2, snr=40.0, nuisance="none")
        phantom = simulate_scan(tmp_path / "phantom", settings)
        pipeline = Pipeline.load("minimal")
        inputs = inputs_of(tmp_path / "phantom")
        done = process(inputs, BASIS, pipeline, tmp_path / "out", Options(workers=0))
        result = done.result.load()
        rows = result_truth_table(result, phantom.truth, min_snr=0.0)
        certain = [row for row in rows if row.crlb < 0.2 * row.truth]
        assert len(certain) >= 8
        for row in certain:
            assert row.voxels == int(phantom.mask.sum())
            low, high = bounds_of_ratio(row, result, 0.95, 1.10)
            assert low < row.ratio < high, row
            assert abs(row.bias) < 4 * row.bias_error, row

    def test_demo(self, tmp_path: Path) -> None:
        """Default pipeline, residual water, spline baseline. Measured 0.84 to 1.02."""
        settings = PhantomSettings(shape=(12, 12, 3), seed=1, snr=40.0, nuisance="water")
        done, rows = demo(tmp_path, settings, Options(workers=0))
        result = done.result.load()
        assert done.summary.finished
        assert (tmp_path / "scan" / "truth" / "NAA.nii.gz").exists()
        assert {"tNAA", "tCr", "tCho", "Glx", "Ins"} <= {row.title for row in rows}
        certain = [row for row in rows if row.crlb < 0.2 * row.truth]
        assert len(certain) >= 8
        for row in certain:
            low, high = bounds_of_ratio(row, result, 0.8, 1.10)
            assert low < row.ratio < high, row
            assert abs(row.bias) < 4 * row.bias_error, row


@pytest.fixture(scope="module")
def told(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A run with the word of an ensemble; its report is not drawn."""
    folder = tmp_path_factory.mktemp("ensemble")
    model = load_model("press-3t-te30")
    others = tuple(load_model("press-3t-te30").encoder for _ in range(2))
    for number, other in enumerate(others, 1):
        weights = other.state_dict().items()
        other.load_state_dict({name: w * (1 + 0.01 * number) for name, w in weights})
    card = model.card.model_copy(update={"members": 3, "calibration": None})
    save_model(folder / "model", replace(model, card=card, others=others))
    settings = {"stage": "quantify", "method": "network", "model": str(folder / "model")}
    pipeline = Pipeline.from_settings({"name": "network", "stages": [settings]})
    inputs = Inputs(scan=phantom / "scan.nii.gz", mask=phantom / "mask.nii.gz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "report_on", lambda folder, **content: Path(folder, "report.html"))
        return process(inputs, BASIS, pipeline, folder / "out", Options(workers=0))


class TestNetworksOwnWord:
    """``method = "network"`` with an ensemble, from files to report."""

    def test_parts_of_its_errors_are_maps(self, told: Outcome) -> None:
        sd, bound, apart = (
            volume(told, f"met-NAANAAG_desc-{d}") for d in ("sd", "crlbabs", "epistemic")
        )
        inside = np.isfinite(sd)
        assert inside.sum() == 16
        assert (apart[inside] > 0).all()
        np.testing.assert_allclose(np.hypot(bound, apart)[inside], sd[inside], rtol=1e-4)
        maps = told.folder / "maps"
        about = json.loads((maps / "scan_space-orig_met-NAA_desc-epistemic_mrsi.json").read_text())
        assert about["Units"] == "data units"
        assert "between the networks of the ensemble" in about["Definition"]
        assert list(about["Networks"]["quantify"]) == ["press-3t-te30"]
        about = json.loads((maps / "scan_space-orig_met-NAA_desc-crlb_mrsi.json").read_text())
        assert "network's own estimate" in about["Definition"]

    def test_and_columns(self, told: Outcome) -> None:
        table = pq.read_table(told.folder / "voxels.parquet")
        columns = [table[f"NAA_{n}"].to_numpy() for n in ("sd", "crlbabs", "epistemic")]
        np.testing.assert_allclose(np.hypot(*columns[1:]), columns[0], rtol=1e-4)
        field = table.schema.field("NAA_epistemic")
        assert field.metadata[b"unit"] == b"data units"
        assert b"network's own estimate" in table.schema.field("NAA_crlb").metadata[b"description"]

    def test_and_pictures(self, told: Outcome, tmp_path: Path) -> None:
        few = told.result.load().sel(parameter=["NAANAAG", "shift"])
        text = write_report(few, tmp_path / "report.html").read_text()
        shown = [f'alt="Relative {n} of tNAA"' for n in ("SD", "CRLB", "Epistemic SD")]
        assert all(alt in text for alt in shown)
        assert "errors of the network&#39;s estimates may be too small" in text
        assert "Median SD (%)" in text
        assert 'id="ways"' in text
