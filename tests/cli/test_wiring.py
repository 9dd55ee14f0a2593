"""Options reach the library with the values that were typed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mrsi_engine.cli import output
from mrsi_engine.cohort import run as cohort_run
from mrsi_engine.cohort.options import CohortOptions
from mrsi_engine.cohort.run import CohortOutcome
from mrsi_engine.runs import demo as runs_demo
from mrsi_engine.runs import one_scan, reporting
from mrsi_engine.runs.bases import BasisChoice
from mrsi_engine.runs.one_scan import Inputs, Options
from mrsi_engine.spectra import simulation
from mrsi_engine.spectra.phantom import PhantomSettings
from mrsi_engine.spectra.simulation import simulate_basis
from tests.cli.helpers import Mrsi


class Recorder:
    """Stands for a function of the workflow and keeps what it was called with."""

    def __init__(self, result: object) -> None:
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self._result = result

    def __call__(self, *arguments: Any, **options: Any) -> object:
        self.calls.append((arguments, options))
        return self._result


class TestWiring:
    """Options reach the library with the values that were typed."""

    @pytest.fixture
    def process(self, monkeypatch: pytest.MonkeyPatch) -> Recorder:
        recorder = Recorder(SimpleNamespace(accepted=True))
        monkeypatch.setattr(one_scan, "process", recorder)
        monkeypatch.setattr(output, "announce", lambda outcome: None)
        return recorder

    @pytest.fixture
    def cohort(self, monkeypatch: pytest.MonkeyPatch) -> Recorder:
        recorder = Recorder(CohortOutcome(Path("c")))
        monkeypatch.setattr(cohort_run, "run_cohort", recorder)
        return recorder

    def test_run_by_default(self, mrsi: Mrsi, process: Recorder) -> None:
        mrsi("run", "a.nii.gz", "--basis", "b", "--out", "c")
        [((inputs, basis, pipeline, folder, options), further)] = process.calls
        assert inputs == Inputs(Path("a.nii.gz"))
        assert basis == BasisChoice("b")
        assert pipeline.name == "brain-1h-3t"
        assert folder == Path("c")
        assert options == Options()
        assert len(further["sinks"]) == 2
        assert callable(further["progress"])

    def test_run_with_everything(self, mrsi: Mrsi, process: Recorder, tmp_path: Path) -> None:
        mrsi(
            *["run", "a.nii.gz", "--basis", "b", "--basis-reference", 4.7, "--basis-conjugate"],
            *["--basis-te-mismatch", "allow"],
            *["--out", "c", "--pipeline", "minimal", "--mask", "m", "--water", "w"],
            *["--tissue", "t", "--tissue-classes", "csf", "gm", "wm", "--points", 256],
            *["--keep", "corrected", "fit", "--fill", "mrsiprep", "--workers", 3],
            *["--threads-per-worker", 2, "--block-size", 64, "--device", "cuda"],
            *["--overwrite", "--log", tmp_path / "log.jsonl", "--min-usable", 0.5],
        )
        [((inputs, basis, pipeline, _, options), further)] = process.calls
        assert inputs == Inputs.of(
            Path("a.nii.gz"),
            mask=Path("m"),
            water=Path("w"),
            tissue=Path("t"),
            tissue_classes=("csf", "gm", "wm"),
            points=256,
        )
        assert basis == BasisChoice("b", 4.7, True, "allow")
        assert pipeline.name == "minimal"
        assert options == Options(
            *("local", 3, 2, None, 64, "cuda", ("corrected", "fit"), "mrsiprep", True, 0.5),
        )
        assert len(further["sinks"]) == 3

    def test_tissue_a_file_a_class(self, mrsi: Mrsi, process: Recorder) -> None:
        mrsi("run", "a.nii.gz", "--basis", "b", "--out", "c", "--gm", "g", "--csf", "f")
        assert process.calls[0][0][0].files["tissue"] == {"gm": Path("g"), "csf": Path("f")}

    def test_tissue_twice(self, mrsi: Mrsi, process: Recorder) -> None:
        error = mrsi.refused(
            *["run", "a.nii.gz", "--basis", "b", "--out", "c", "--gm", "g", "--tissue", "t"]
        )
        assert "give tissue fractions once" in error
        assert not process.calls

    def test_several_scans_are_a_cohort(
        self, mrsi: Mrsi, process: Recorder, cohort: Recorder, tmp_path: Path
    ) -> None:
        mrsi(
            *["run", "x/a.nii.gz", "x/b.nii", "--basis", "b", "--out", "c", "--mask", "m"],
            *["--scheduler", "tcp://h", "--points", 256, "--keep-personal"],
        )
        [((rows, folder), given)] = cohort.calls
        here = Path.cwd()
        assert [(row.folder, row.scan) for row in rows] == [
            ("a", str(here / "x/a.nii.gz")),
            ("b", str(here / "x/b.nii")),
        ]
        assert [row.files for row in rows] == [{"mask": str(here / "m")}] * 2
        assert folder == Path("c")
        assert given["basis"] == BasisChoice("b")
        options = CohortOptions(Options("tcp://h"), points=256, keep_personal=True)
        assert given["options"] == options
        assert not process.calls

    def test_scans_of_one_name(self, mrsi: Mrsi, process: Recorder) -> None:
        error = mrsi.refused("run", "x/a.nii.gz", "y/a.nii", "--basis", "b", "--out", "c")
        assert "y/a.nii: the same output folder a as" in error
        assert not Path("c").exists()

    def test_cohort_by_default(self, mrsi: Mrsi, cohort: Recorder) -> None:
        mrsi("cohort", "t.tsv", "--out", "c")
        [((table, folder), given)] = cohort.calls
        assert (table, folder) == (Path("t.tsv"), Path("c"))
        assert given["basis"] is None
        assert given["pipeline"] == "brain-1h-3t"
        assert given["options"] == CohortOptions()
        assert len(given["sinks"]) == 1

    def test_cohort_with_everything(self, mrsi: Mrsi, cohort: Recorder, tmp_path: Path) -> None:
        mrsi(
            *["cohort", "t.tsv", "--out", "c", "--basis", "b", "--pipeline", "minimal"],
            *["--rerun", "failed", "--retries", 3, "--reports", "flagged", "--dry-run"],
            *["--stop-on-first-failure", "--points", 256, "--keep-personal", "--overwrite"],
            *["--workers", 2, "--log", tmp_path / "log.jsonl"],
        )
        [(_, given)] = cohort.calls
        assert given["options"] == CohortOptions(
            Options(workers=2, overwrite=True), 256, True, "failed", 3, "flagged", True, True
        )
        assert len(given["sinks"]) == 2

    def test_import(self, mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch, phantom: Path) -> None:
        store = one_scan.import_once(Inputs(phantom / "scan.nii.gz"), phantom / "wired.zarr")
        recorder = Recorder(store)
        monkeypatch.setattr(one_scan, "import_once", recorder)
        out = mrsi("import", "a.nii.gz", "--out", "s.zarr", "--water", "w", "--overwrite")
        arguments = recorder.calls[0][0]
        assert arguments[:3] == (
            Inputs.of(Path("a.nii.gz"), water=Path("w")),
            Path("s.zarr"),
            True,
        )
        last = out.splitlines()[-1]
        assert last.startswith(f"s.zarr: {store.voxels} voxels of 6 x 6 x 1, 1024 points")

    def test_simulate(self, mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch) -> None:
        class Simulated:
            mask = np.ones((6, 7, 1), bool)

        recorder = Recorder(Simulated())
        monkeypatch.setattr(runs_demo, "simulate_scan", recorder)
        out = mrsi(
            *["simulate", "--out", "[s]", "--shape", 6, 7, 1, "--seed", 5, "--snr", 12.5],
            *["--nuisance", "all", "--b0-hz", 7, "--basis", "b"],
        )
        settings = PhantomSettings((6, 7, 1), seed=5, snr=12.5, nuisance="all", b0_hz=7.0)
        assert recorder.calls == [((Path("[s]"), settings, BasisChoice("b")), {})]
        assert out == "[s]: 42 brain voxels of 42\n"

    def test_demo(self, mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch) -> None:
        recorder = Recorder((None, []))
        monkeypatch.setattr(runs_demo, "demo", recorder)
        monkeypatch.setattr(output, "announce", lambda outcome: None)
        mrsi("demo", "--out", "d", "--shape", 6, 6, 1, "--seed", 3, "--snr", 20, "--workers", 2)
        [((folder, settings, options), _)] = recorder.calls
        assert folder == Path("d")
        assert settings == PhantomSettings((6, 6, 1), seed=3, snr=20.0, nuisance="water")
        assert options == Options(workers=2)

    def test_basis_simulate(
        self, mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        made = simulate_basis(
            "steam",
            field=3.0,
            echo_time=0.02,
            mixing_time=0.01,
            points=64,
            metabolites=("NAA", "Cr"),
        )
        recorder = Recorder(made)
        monkeypatch.setattr(simulation, "simulate_basis", recorder)
        command = ["basis", "simulate", "--sequence", "steam", "--te", 20, "--tm", 10]
        out = mrsi(
            *[*command, "--out", tmp_path / "b", "--frequency", 297.2, "--points", 64],
            *["--dwell", 0.2, "--linewidth", 2, "--metabolites", "NAA", "Cr"],
            "--no-macromolecules",
        )
        [(arguments, options)] = recorder.calls
        assert arguments == ("steam",)
        assert options == {
            "echo_time": pytest.approx(0.02),
            "mixing_time": pytest.approx(0.01),
            "field": None,
            "spectrometer_frequency": 297.2,
            "points": 64,
            "nucleus": "1H",
            "dwell_time": pytest.approx(2e-4),
            "linewidth": 2.0,
            "metabolites": ("NAA", "Cr"),
        }
        assert out == f"{tmp_path / 'b'}: NAA, Cr\n"
        assert "2 columns, 64 points of 0.25 ms" in mrsi("basis", "show", tmp_path / "b")

    def test_compare(self, mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch) -> None:
        recorder = Recorder(None)
        monkeypatch.setattr(reporting, "compare_run", recorder)
        monkeypatch.setattr(output, "comparison_table", lambda comparison: "")
        mrsi(
            *["compare", "out", "--lcmodel", "l.csv", "--max-percent-sd", 15],
            *["--slice", 2, "--voxel", 3, 4],
        )
        limits = {"max_percent_sd": 15.0, "max_fit_quality": 3.0, "max_relative_residual": 0.2}
        limits |= {"z": 2, "voxel": (3, 4)}
        assert recorder.calls == [((Path("out"), Path("l.csv")), limits)]
