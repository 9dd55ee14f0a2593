"""A tiny phantom from files to report: every output is there and says what it should."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import nifti_mrs.nifti_mrs
import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr

import mrsi_engine as me
from mrsi_engine.conventions import Acquisition, Status
from mrsi_engine.engine.events import Event, RunStarted
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.report.examples import stored_examples
from mrsi_engine.runs import opened, reporting
from mrsi_engine.runs.folder import result_folder, scan_folder
from mrsi_engine.runs.one_scan import FinishedRun, Inputs, Options, import_once, process
from mrsi_engine.runs.opened import open_run
from mrsi_engine.runs.reporting import export, fitted_examples, report_on, traced_examples
from tests.runs.phantom_run import BASIS, KEPT, inputs_of, truth_of, volume

METABOLITES = (
    "Ala", "Asc", "Asp", "Cr", "GABA", "Glc", "Gln", "Glu", "GPC", "GSH", "Gly", "Ins", "Lac",
    "MM", "NAA", "NAAG", "PCh", "PCr", "PE", "Tau", "sIns",
    "CrPCr", "GPCPCh", "GluGln", "NAANAAG",
)  # fmt: skip

DESCS = (
    "b0shift", "phase", "fitshift", "fitphase", "fpcshift", "fpcphase", "eddyshift", "eddyphase",
    "lorentzian", "snr", "fwhm", "fwhmhz", "fitquality", "relativeresidual", "noisesd",
    "iterations", "condition", "converged", "novelty", "baselinedimension", "similarity",
    "similaritybefore", "fpcapplied", "eddytrusted", "waterresidual", "metabolitechange",
    "lipidratio", "eddygain", "wateroffset", "scanshift", "status", "flags", "brainmask",
)  # fmt: skip


class TestMaps:
    def test_every_map_of_every_metabolite(self, outcome: FinishedRun, result: xr.Dataset) -> None:
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

    def test_their_names_are_those_that_other_programs_know(self, outcome: FinishedRun) -> None:
        expected = {f"met-{m}_desc-{d}" for m in METABOLITES for d in ("signal", "crlb", "sd")}
        expected |= {f"desc-{name}" for name in DESCS}
        assert {p.name for p in outcome.maps} == {
            f"scan_space-orig_{entities}_mrsi.nii.gz" for entities in expected
        }

    def test_maps_lie_where_the_scan_lies(self, outcome: FinishedRun, phantom: Path) -> None:
        scan = nib.load(phantom / "scan.nii.gz")
        for path in outcome.maps:
            image = nib.load(path)
            assert image.get_data_dtype() == np.float32
            assert image.shape == scan.shape[:3]
            assert image.header["qform_code"] == image.header["sform_code"] == 1
            np.testing.assert_allclose(image.affine, scan.affine, atol=1e-4)

    def test_numbers_stand_in_their_voxels(
        self, outcome: FinishedRun, result: xr.Dataset, phantom: Path
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

    def test_sidecars(self, outcome: FinishedRun, result: xr.Dataset) -> None:
        for path in outcome.maps:
            fields = json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
            assert fields["Definition"]
            assert fields["Sources"] == ["scan.nii.gz"]
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

    def test_fill_for_mrsiprep(
        self, outcome: FinishedRun, result: xr.Dataset, tmp_path: Path
    ) -> None:
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


def test_table_has_a_row_a_voxel(outcome: FinishedRun, result: xr.Dataset) -> None:
    table = pq.read_table(outcome.folder / "voxels.parquet").to_pandas()
    assert len(table) == result.sizes["voxel"] == 16
    for axis in "xyz":
        np.testing.assert_array_equal(table[axis], result[axis])
    np.testing.assert_array_equal(table["GluGln"], result.estimate.sel(parameter="GluGln"))
    np.testing.assert_array_equal(table["GluGln_sd"], result.sd.sel(parameter="GluGln"))
    np.testing.assert_array_equal(table["snr"], result.quality.sel(measure="snr"))


class TestSignals:
    @pytest.fixture
    def signals(self, outcome: FinishedRun) -> dict[str, Path]:
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
        self, outcome: FinishedRun, result: xr.Dataset
    ) -> None:
        """The report draws fits made anew, of the same voxels with the same numbers."""
        kept = {e.title: e for e in stored_examples(result, (0.5, 4.0))}
        anew = fitted_examples(open_run(outcome.folder))
        assert [example.title for example in anew] == list(kept)
        for example in anew:
            assert example.voxel == kept[example.title].voxel
            scale = np.abs(example.fit).max()
            np.testing.assert_allclose(example.fit, kept[example.title].fit, atol=1e-3 * scale)

    def test_the_report_shows_them_before_and_after_each_stage(self, outcome: FinishedRun) -> None:
        traces = traced_examples(open_run(outcome.folder))
        assert {trace.name: trace.changed for trace in traces}.items() >= {
            ("water_removal", True),
            ("quantify", False),
        }
        page = Path(outcome.folder, "report.html").read_text()
        for trace in traces:
            assert (f'alt="Before and after stage {trace.name}"' in page) == trace.changed
        assert len(traces[-1].after) == len(fitted_examples(open_run(outcome.folder)))

    def test_a_report_without_the_scan_says_what_it_lacks(
        self, outcome: FinishedRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        said: dict[str, Any] = {}
        monkeypatch.setattr(reporting, "write_report", lambda *_, **content: said.update(content))
        monkeypatch.setattr(opened, "scan_folder", lambda folder: tmp_path / "gone.zarr")
        report_on(outcome.folder)
        assert (said["examples"], said["traces"]) == ([], ())
        (remark,) = said["remarks"]
        assert remark.startswith("No spectra are drawn")
        assert "gone.zarr" in remark


@pytest.mark.usefixtures("quick_report")
class TestAgain:
    def test_a_finished_run_does_nothing(self, outcome: FinishedRun, phantom: Path) -> None:
        stores = [scan_folder(outcome.folder), result_folder(outcome.folder)]
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
        store = import_once(inputs_of(phantom), tmp_path / "s.zarr")
        moved = Path(shutil.copytree(phantom, tmp_path / "moved"))
        ticks: list[tuple[int, int]] = []
        again = import_once(
            inputs_of(moved), store.path, progress=lambda done, total: ticks.append((done, total))
        )
        assert not ticks
        assert again.source == store.source

    def test_other_files_need_overwrite(self, phantom: Path, tmp_path: Path) -> None:
        import_once(inputs_of(phantom), tmp_path / "s.zarr")
        with pytest.raises(InputError, match="imported from other files or with other settings"):
            import_once(Inputs(phantom / "scan.nii.gz"), tmp_path / "s.zarr")
        store = import_once(Inputs(phantom / "scan.nii.gz"), tmp_path / "s.zarr", overwrite=True)
        assert store.mask_origin == "signal energy"


class TestPythonInterface:
    def test_lazy_result_is_that_of_the_run(self, outcome: FinishedRun, result: xr.Dataset) -> None:
        scan = me.open_scan(scan_folder(outcome.folder))
        basis = me.load_basis("press-3t-te30", scan)
        lazy = me.quantify(scan, basis, me.load_pipeline("brain-1h-3t"), keep=KEPT)
        assert lazy["estimate"].chunks is not None
        computed = lazy.compute(scheduler="sync")
        for name, values in result.data_vars.items():
            np.testing.assert_allclose(computed[name], values, rtol=1e-5, atol=1e-5)
        assert list(computed.parameter.values) == list(result.parameter.values)
        stored = me.open_result(result_folder(outcome.folder))
        np.testing.assert_array_equal(stored["estimate"], result["estimate"])

    def test_what_is_no_scan(self, result: xr.Dataset) -> None:
        with pytest.raises(InputError, match=r"not a scan: it lacks .*dwell_time"):
            me.load_basis("press-3t-te30", result)

    def test_no_such_attribute(self) -> None:
        with pytest.raises(AttributeError, match="quantfy"):
            _ = me.quantfy  # type: ignore[attr-defined]


class TestVerdict:
    def test_it_is_kept_and_stands_in_the_report(self, outcome: FinishedRun) -> None:
        assert outcome.accepted
        assert re.match(r"\d+ of \d+ voxels usable", outcome.verdict.text)
        assert outcome.result.attrs["verdict"]["text"] == outcome.verdict.text
        assert f'<p class="verdict">{outcome.verdict.text}' in Path(
            outcome.folder, "report.html"
        ).read_text("utf-8")

    def test_a_share_is_a_share(self) -> None:
        with pytest.raises(InputError, match=r"min_usable is 20, expected a share from 0 to 1"):
            Options(min_usable=20).check()
