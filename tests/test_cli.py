"""The command line as a user meets it: exit codes, one readable message, nothing half-written."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine import __version__, cli, workflow
from mrsi_engine.engine import driver
from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io.basis_files import write_basis
from mrsi_engine.io.result_store import ResultStore, open_result
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.spectra.phantom import PhantomSettings
from mrsi_engine.spectra.simulation import simulate_basis
from mrsi_engine.workflow import BasisChoice, Inputs, Options

BASIS = "press-3t-te30"

#: What progress bars leave on a standard error that is no terminal.
PROGRESS = re.compile(r"(import|prepare|fit|dashboard:)\s.*|\s*")


class Mrsi:
    """Calls ``main`` in this process and checks what every call owes to a user."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> str:
        """Standard output of a command that succeeds."""
        self._capsys.readouterr()
        cli.main([str(argument) for argument in arguments])
        captured = self._capsys.readouterr()
        assert not [line for line in captured.err.splitlines() if not PROGRESS.fullmatch(line)]
        return captured.out

    def refused(self, *arguments: object, code: int = 2) -> str:
        """The one message of a command that fails with ``code``."""
        error = self.error(*arguments, code=code)
        lines = [line for line in error.splitlines() if not PROGRESS.fullmatch(line)]
        assert lines[0].startswith("error: ")
        assert not [line for line in lines[1:] if line.startswith("error: ")]
        assert "Traceback" not in error
        assert "defect" not in error
        return "\n".join(lines)

    def error(self, *arguments: object, code: int) -> str:
        """Standard error of a command that ends with ``code``."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        error = self._capsys.readouterr().err
        assert ended.value.code == code, error
        return error


@pytest.fixture
def mrsi(capsys: pytest.CaptureFixture[str]) -> Mrsi:
    return Mrsi(capsys)


def write_quick_report(folder: Path, **content: object) -> Path:
    (folder / "report.html").write_text("quick")
    return folder / "report.html"


@pytest.fixture
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report takes longer than all the rest and is tested elsewhere."""
    monkeypatch.setattr(workflow, "report_on", write_quick_report)


def of_phantom(phantom: Path, *, mask: bool = True) -> list[object]:
    """``mrsi run`` of the phantom, still without ``--out``."""
    named = ["--mask", phantom / "mask.nii.gz"] if mask else []
    return ["run", phantom / "scan.nii.gz", *named, "--basis", BASIS, "--workers", 0]


@pytest.fixture(scope="session")
def finished(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the phantom; to be copied, never changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "report_on", write_quick_report)
        cli.main([str(a) for a in (*of_phantom(phantom), "--out", out)])
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))


def resaved(
    source: Path,
    target: Path,
    *,
    data: Callable[[np.ndarray], np.ndarray] = lambda data: data,
    affine: np.ndarray | None = None,
    extension: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> Path:
    """A NIfTI file with something changed, written by nibabel alone."""
    image = nib.load(source)
    values = data(np.asarray(image.dataobj).copy())
    changed = type(image)(values, image.affine if affine is None else affine, image.header)
    changed.set_data_dtype(values.dtype)
    if extension is not None:
        fields = extension(json.loads(image.header.extensions[0].get_content()))
        coded = nib.nifti1.Nifti1Extension(44, json.dumps(fields).encode())
        changed.header.extensions[:] = [coded] if fields else []
    nib.save(changed, target)
    return target


def without(key: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda fields: {name: value for name, value in fields.items() if name != key}


def shifted(path: Path, mm: float) -> np.ndarray:
    affine = np.array(nib.load(path).affine)
    affine[0, 3] += mm
    return affine


class TestWithoutACommand:
    def test_version(self, mrsi: Mrsi) -> None:
        assert mrsi("--version") == f"{__version__}\n"

    def test_help_names_every_command(self, mrsi: Mrsi) -> None:
        text = mrsi("--help")
        for command in ("demo", "simulate", "import", "run", "export", "compare", "basis"):
            assert re.search(rf"^│ {command} +\w", text, re.MULTILINE)
        assert "--debug" in text

    @pytest.mark.parametrize(
        "command",
        ["demo", "simulate", "import", "run", "export", "compare", "basis simulate"],
    )
    def test_every_option_is_explained(
        self, mrsi: Mrsi, command: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "240")
        text = mrsi(*command.split(), "--help")
        options = re.findall(r"^│[* ]+(--[\w-]+.*)│$", text, re.MULTILINE)
        assert options
        for option in options:
            assert re.match(r"--[\w-]+ .*?  +[^\s\[]{2,} ?", option), option
        assert "--empty" not in text
        assert not re.search(r"default: (\(\)|None|False)", text)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["runn"], 'Unknown command "runn". Did you mean "run"?'),
            (["run"], "SCANS requires an argument"),
            (["run", "a.nii", "--basis", "b"], "--out requires an argument"),
            (["run", "a.nii", "--basis", "b", "--out", "c", "--maks", "d"], "mean --mask?"),
            (["run", "a.nii", "--basis", "b", "--out", "c", "--workers", "two"], '"two" into int'),
            (["run", "a.nii", "--basis", "b", "--out", "c", "--fill", "0"], '"nan", "mrsiprep"'),
            (["simulate", "--out", "c", "--shape", "6", "6"], "requires 3 positional arguments"),
            (["pipeline", "show"], "NAME requires an argument"),
            (["basis", "simulate", "--sequence", "spiral"], '"press", "slaser"'),
        ],
    )
    def test_wrong_usage(self, mrsi: Mrsi, arguments: list[str], message: str) -> None:
        error = mrsi.refused(*arguments)
        assert message in error
        assert len(error.splitlines()) == 1

    def test_debug_shows_where(self, mrsi: Mrsi, tmp_path: Path) -> None:
        error = mrsi.error(
            "run", "none.nii.gz", "--basis", BASIS, "--out", tmp_path, "--debug", code=2
        )
        assert "Traceback" in error
        assert error.splitlines()[-1] == "error: none.nii.gz: no such file"

    @pytest.mark.parametrize(
        ("raised", "code", "message"),
        [
            (InputError("a [b]"), 2, "error: a [b]"),
            (RunError("lost"), 1, "error: lost"),
            (OSError(28, "No space left on device", "x"), 1, "error: x: No space left on device"),
            (KeyboardInterrupt(), 130, "error: stopped; the same command goes on"),
            (ZeroDivisionError("b"), 1, "error: ZeroDivisionError: b\nThis is a defect of mrsi"),
        ],
    )
    def test_exit_codes(
        self,
        mrsi: Mrsi,
        monkeypatch: pytest.MonkeyPatch,
        raised: BaseException,
        code: int,
        message: str,
    ) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise raised

        monkeypatch.setattr(cli, "process", fail)
        error = mrsi.error("run", "a.nii", "--basis", "b", "--out", "c", code=code)
        assert error.startswith(message)


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
        recorder = Recorder(None)
        monkeypatch.setattr(cli, "process", recorder)
        monkeypatch.setattr(cli, "_announce", lambda outcome: None)
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
            *["--out", "c", "--pipeline", "minimal", "--mask", "m", "--water", "w"],
            *["--tissue", "t", "--tissue-classes", "csf", "gm", "wm", "--points", 256],
            *["--keep", "corrected", "fit", "--fill", "mrsiprep", "--workers", 3],
            *["--threads-per-worker", 2, "--block-size", 64, "--device", "cuda"],
            *["--overwrite", "--log", tmp_path / "log.jsonl"],
        )
        [((inputs, basis, pipeline, _, options), further)] = process.calls
        assert inputs == Inputs(
            *map(Path, ("a.nii.gz", "m", "w", "t")), tissue_classes=("csf", "gm", "wm"), points=256
        )
        assert basis == BasisChoice("b", 4.7, True)
        assert pipeline.name == "minimal"
        assert options == Options(
            *(3, None, 2, 64, "cuda", ("corrected", "fit"), "mrsiprep", True),
        )
        assert len(further["sinks"]) == 3

    def test_tissue_a_file_a_class(self, mrsi: Mrsi, process: Recorder) -> None:
        mrsi("run", "a.nii.gz", "--basis", "b", "--out", "c", "--gm", "g", "--csf", "f")
        assert process.calls[0][0][0].tissue == {"gm": Path("g"), "csf": Path("f")}

    def test_tissue_twice(self, mrsi: Mrsi, process: Recorder) -> None:
        error = mrsi.refused(
            *["run", "a.nii.gz", "--basis", "b", "--out", "c", "--gm", "g", "--tissue", "t"]
        )
        assert "give tissue fractions once" in error
        assert not process.calls

    def test_a_folder_a_scan(self, mrsi: Mrsi, process: Recorder) -> None:
        mrsi("run", "x/a.nii.gz", "x/b.nii", "--basis", "b", "--out", "c", "--scheduler", "tcp://h")
        assert [call[0][3] for call in process.calls] == [Path("c/a"), Path("c/b")]
        assert {call[0][4].scheduler for call in process.calls} == {"tcp://h"}

    def test_scans_of_one_name(self, mrsi: Mrsi, process: Recorder) -> None:
        error = mrsi.refused("run", "x/a.nii.gz", "y/a.nii", "--basis", "b", "--out", "c")
        assert "x/a.nii.gz, y/a.nii: same name" in error
        assert not process.calls

    def test_import(self, mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch, phantom: Path) -> None:
        store = workflow.imported(Inputs(phantom / "scan.nii.gz"), phantom / "wired.zarr")
        recorder = Recorder(store)
        monkeypatch.setattr(cli, "imported", recorder)
        out = mrsi("import", "a.nii.gz", "--out", "s.zarr", "--water", "w", "--overwrite")
        arguments = recorder.calls[0][0]
        assert arguments[:3] == (
            Inputs(Path("a.nii.gz"), water=Path("w")),
            Path("s.zarr"),
            True,
        )
        assert out.startswith(f"s.zarr: {store.voxels} voxels of 6 x 6 x 1, 1024 points")

    def test_simulate(self, mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch) -> None:
        class Simulated:
            mask = np.ones((6, 7, 1), bool)

        recorder = Recorder(Simulated())
        monkeypatch.setattr(cli, "simulate_scan", recorder)
        out = mrsi(
            *["simulate", "--out", "[s]", "--shape", 6, 7, 1, "--seed", 5, "--snr", 12.5],
            *["--nuisance", "all", "--b0-hz", 7, "--basis", "b"],
        )
        settings = PhantomSettings((6, 7, 1), seed=5, snr=12.5, nuisance="all", b0_hz=7.0)
        assert recorder.calls == [((Path("[s]"), settings, BasisChoice("b")), {})]
        assert out == "[s]: 42 brain voxels of 42\n"

    def test_demo(self, mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch) -> None:
        recorder = Recorder((None, []))
        monkeypatch.setattr(cli, "demo", recorder)
        monkeypatch.setattr(cli, "_announce", lambda outcome: None)
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
        monkeypatch.setattr(cli, "simulate_basis", recorder)
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
            "dwell_time": pytest.approx(2e-4),
            "linewidth": 2.0,
            "metabolites": ("NAA", "Cr"),
        }
        assert out == f"{tmp_path / 'b'}: NAA, Cr\n"
        assert "2 columns, 64 points of 0.25 ms" in mrsi("basis", "show", tmp_path / "b")

    def test_compare(self, mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch) -> None:
        recorder = Recorder(None)
        monkeypatch.setattr(cli, "compared", recorder)
        monkeypatch.setattr(cli, "_comparison_table", lambda comparison: "")
        mrsi("compare", "out", "--lcmodel", "l.csv", "--max-percent-sd", 15)
        limits = {"max_percent_sd": 15.0, "max_fit_quality": 3.0, "max_relative_residual": 0.2}
        assert recorder.calls == [((Path("out"), Path("l.csv")), limits)]


class TestPipelines:
    def test_list_and_show(self, mrsi: Mrsi, tmp_path: Path) -> None:
        listed = mrsi("pipeline", "list").splitlines()
        assert {"brain-1h-3t", "minimal"} <= {line.split(":")[0] for line in listed}
        text = mrsi("pipeline", "show", "brain-1h-3t")
        (tmp_path / "own.toml").write_text(text)
        assert mrsi("pipeline", "show", tmp_path / "own.toml") == text

    def test_unknown(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        error = mrsi.refused(*of_phantom(phantom), "--out", tmp_path / "o", "--pipeline", "brian")
        assert re.search(r"brian: no such pipeline; shipped are .*brain-1h-3t, .*minimal", error)
        assert not (tmp_path / "o").exists()

    def test_wrong_key(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        pipeline = tmp_path / "p.toml"
        pipeline.write_text('name = "p"\n[[stages]]\nstage = "quantify"\nwindow = [0.5, 4.0]\n')
        error = mrsi.refused(*of_phantom(phantom), "--out", tmp_path / "o", "--pipeline", pipeline)
        assert re.search(r"p\.toml.*unknown key 'window'; allowed are .*window_ppm", error)
        assert not (tmp_path / "o").exists()

    def test_impossible_for_the_scan(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        """Known before the import, so that the corrected command finds an empty folder."""
        run = [*of_phantom(phantom), "--out", tmp_path / "o"]
        assert "noise is measured; 48 are needed" in mrsi.refused(*run, "--points", 64)
        error = mrsi.refused(*run, "--keep", "residual")
        assert "writes no signal ['residual']; it writes ['corrected', 'fit', 'baseline']" in error
        assert not (tmp_path / "o").exists()


class TestBadInput:
    """What is wrong with a file is said by both commands that read it."""

    @pytest.fixture(params=["run", "import"])
    def refused(
        self, request: pytest.FixtureRequest, mrsi: Mrsi, phantom: Path, tmp_path: Path
    ) -> Callable[..., str]:
        def call(scan: Path = phantom / "scan.nii.gz", **files: Path) -> str:
            options = [part for name, path in files.items() for part in (f"--{name}", path)]
            if request.param == "run":
                options += ["--basis", BASIS, "--workers", 0]
            error = mrsi.refused(request.param, scan, *options, "--out", tmp_path / "out")
            assert not [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
            assert not list(tmp_path.glob("*.zarr"))
            return error

        return call

    def test_missing(self, refused: Callable[..., str], tmp_path: Path) -> None:
        assert "no such file" in refused(tmp_path / "scan.nii.gz")

    def test_not_nifti(self, refused: Callable[..., str], tmp_path: Path) -> None:
        (tmp_path / "scan.nii.gz").write_text("spectra")
        assert re.search(r"scan\.nii\.gz: not a NIfTI file", refused(tmp_path / "scan.nii.gz"))

    def test_no_extension(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        scan = resaved(phantom / "scan.nii.gz", tmp_path / "s.nii.gz", extension=lambda fields: {})
        assert "without the NIfTI-MRS header extension" in refused(scan)

    def test_no_frequency(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        lacking = without("SpectrometerFrequency")
        scan = resaved(phantom / "scan.nii.gz", tmp_path / "s.nii.gz", extension=lacking)
        assert "the header extension lacks SpectrometerFrequency" in refused(scan)

    def test_real_valued(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        scan = resaved(phantom / "scan.nii.gz", tmp_path / "s.nii.gz", data=np.real)
        assert "holds float32 data, expected complex64" in refused(scan)

    def test_truncated(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        whole = (phantom / "scan.nii.gz").read_bytes()
        (tmp_path / "s.nii.gz").write_bytes(whole[: len(whole) // 2])
        assert re.search(r"s\.nii\.gz: truncated", refused(tmp_path / "s.nii.gz"))

    def test_mask_of_another_shape(
        self, refused: Callable[..., str], phantom: Path, tmp_path: Path
    ) -> None:
        mask = resaved(phantom / "mask.nii.gz", tmp_path / "m.nii.gz", data=lambda d: d[1:])
        error = refused(mask=mask)
        assert "not on the scan's grid: its shape is (5, 6, 1), the scan's is (6, 6, 1)" in error

    def test_mask_of_another_affine(
        self, refused: Callable[..., str], phantom: Path, tmp_path: Path
    ) -> None:
        given = phantom / "mask.nii.gz"
        mask = resaved(given, tmp_path / "m.nii.gz", affine=shifted(given, 4.0))
        assert "its affine places it up to 4 mm from the scan's voxels" in refused(mask=mask)

    def test_empty_mask(self, refused: Callable[..., str], phantom: Path, tmp_path: Path) -> None:
        mask = resaved(phantom / "mask.nii.gz", tmp_path / "m.nii.gz", data=np.zeros_like)
        assert "the mask selects no voxel" in refused(mask=mask)

    def test_water_of_another_place(
        self, refused: Callable[..., str], phantom: Path, tmp_path: Path
    ) -> None:
        given = phantom / "water.nii.gz"
        water = resaved(given, tmp_path / "w.nii.gz", affine=shifted(given, 4000.0))
        error = refused(water=water)
        assert "w.nii.gz: the water reference reaches none of the scan's voxels" in error


class TestBadBasis:
    @pytest.fixture
    def refused(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> Callable[[object], str]:
        def call(basis: object, *options: object) -> str:
            scan, out = phantom / "scan.nii.gz", tmp_path / "out"
            error = mrsi.refused("run", scan, "--basis", basis, "--out", out, *options)
            assert not out.exists()
            return error

        return call

    @staticmethod
    def written(folder: Path, **settings: Any) -> Path:
        axis = {"points": 1024, "dwell_time": 4e-4, "spectrometer_frequency": 127.7, **settings}
        metabolites = ("NAA", "Cr")
        write_basis(
            simulate_basis("press", echo_time=0.03, metabolites=metabolites, **axis), folder
        )
        return folder

    def test_no_such(self, refused: Callable[..., str]) -> None:
        error = refused("press-3tt-te30")
        assert "press-3tt-te30: no such basis file or folder, and not the name of" in error

    def test_another_frequency(self, refused: Callable[..., str], tmp_path: Path) -> None:
        basis = self.written(tmp_path / "b", spectrometer_frequency=297.2)
        assert re.search(r"for 297\.200 MHz, the scan has 12\d\.\d+ MHz", refused(basis))

    def test_shorter(self, refused: Callable[..., str], tmp_path: Path) -> None:
        error = refused(self.written(tmp_path / "b", points=512))
        assert "the basis lasts 204.8 ms (512 points), the scan's FIDs 409.6 ms" in error

    def test_nan(self, refused: Callable[..., str], tmp_path: Path) -> None:
        basis = self.written(tmp_path / "b")
        content = json.loads((basis / "NAA.json").read_text())
        content["basis"]["basis_re"][7] = float("nan")
        (basis / "NAA.json").write_text(json.dumps(content))
        assert re.search(r"NAA.* holds NaN or Inf; export the basis again", refused(basis))

    def test_a_simulated_basis_needs_no_reference(self, refused: Callable[..., str]) -> None:
        assert "knows its reference" in refused(BASIS, "--basis-reference", 4.7)


class TestWhere:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--workers", "-1"], "workers is -1, expected at least 0"),
            (["--workers", "0", "--block-size", "0"], "block_size is 0, expected at least 1"),
            (["--threads-per-worker", "0"], "threads_per_worker is 0, expected at least 1"),
            (["--workers", "2", "--scheduler", "tcp://h:1"], "give one of them"),
            (["--device", "abacus"], "device is 'abacus', expected auto, cpu or cuda"),
        ],
    )
    def test_impossible(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path, options: list[str], message: str
    ) -> None:
        scan, out = phantom / "scan.nii.gz", tmp_path / "out"
        assert message in mrsi.refused("run", scan, "--basis", BASIS, "--out", out, *options)
        assert not out.exists()

    def test_no_gpu(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        run = [*of_phantom(phantom), "--out", tmp_path / "out", "--device", "cuda"]
        assert "torch sees no GPU on this machine" in mrsi.refused(*run)

    def test_nobody_at_the_address(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver, "connected", partial(driver.connected, timeout=0.5))
        run = ["run", phantom / "scan.nii.gz", "--basis", BASIS, "--out", tmp_path / "out"]
        error = mrsi.refused(*run, "--scheduler", "tcp://127.0.0.1:1", code=1)
        assert "tcp://127.0.0.1:1: no Dask scheduler answers at this address" in error
        assert not ResultStore.open(tmp_path / "out" / "result.zarr").done()

    @pytest.mark.usefixtures("quick_report")
    def test_a_real_cluster(
        self, mrsi: Mrsi, phantom: Path, finished: Path, tmp_path: Path
    ) -> None:
        command = [a for a in of_phantom(phantom) if a not in ("--workers", 0)]
        out = mrsi(*command, "--out", tmp_path / "out", "--workers", 2, "--block-size", 4)
        assert "16 voxels: 16 network refined" in out
        ours, single = (open_result(f / "result.zarr") for f in (tmp_path / "out", finished))
        np.testing.assert_allclose(ours["estimate"], single["estimate"], rtol=1e-4, atol=1e-4)


class TestOutputFolder:
    def test_a_strangers_folder(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        (tmp_path / "scan").mkdir()
        (tmp_path / "scan" / "thesis.tex").write_text("Chapter 1")
        shape = ["--shape", 6, 6, 1, "--workers", 0]
        for command in (of_phantom(phantom), ["demo", *shape], ["simulate", *shape[:-2]]):
            assert "holds files that are not of a" in mrsi.refused(*command, "--out", tmp_path)
        assert [p.name for p in tmp_path.rglob("*")] == ["scan", "thesis.tex"]

    def test_a_file(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_text("notes")
        error = mrsi.refused(*of_phantom(phantom), "--out", tmp_path / "out")
        assert "out: is a file; --out needs a folder" in error
        assert (tmp_path / "out").read_text() == "notes"

    @pytest.mark.usefixtures("quick_report")
    def test_what_a_killed_import_left(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        leftover = tmp_path / ".scan.zarr.0123.partial"
        leftover.mkdir()
        mrsi(*of_phantom(phantom), "--out", tmp_path)
        assert not leftover.exists()

    def test_another_scan(self, mrsi: Mrsi, phantom: Path, copied: Path) -> None:
        error = mrsi.refused(*of_phantom(phantom, mask=False), "--out", copied)
        assert "scan.zarr: imported from other files or with other settings" in error
        assert "--overwrite" in error

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            (["--basis", "press-3t-te35"], "changed since: basis '"),
            (
                ["--pipeline", "minimal"],
                r"'water_removal', 'lipid_removal', 'quantify', 'quality_control'] -> ['quantify']",
            ),
            (["--block-size", 5], "block size 128 -> 5"),
            (["--keep", "fit"], "kept signals [] -> ['fit']"),
        ],
    )
    def test_another_run(
        self, mrsi: Mrsi, phantom: Path, copied: Path, changed: list[object], message: str
    ) -> None:
        before = sorted((p, p.stat().st_mtime_ns) for p in copied.rglob("*"))
        command = of_phantom(phantom)
        if changed[0] == "--basis":
            command = [a for a in command if a not in ("--basis", BASIS)]
        error = mrsi.refused(*command, "--out", copied, *changed)
        assert "result.zarr: holds the results of another run" in error
        assert message in error
        assert sorted((p, p.stat().st_mtime_ns) for p in copied.rglob("*")) == before

    @pytest.mark.usefixtures("quick_report")
    def test_overwrite_leaves_nothing_of_the_other_run(
        self, mrsi: Mrsi, phantom: Path, copied: Path, tmp_path: Path
    ) -> None:
        pipeline = tmp_path / "p.toml"
        pipeline.write_text(
            'name = "p"\n[[stages]]\nstage = "quantify"\nleave_out = ["Lac"]\nnoise_ppm = [-1, 8]\n'
        )
        lactate = "scan_space-orig_met-Lac_desc-signal_mrsi.nii.gz"
        assert (copied / "maps" / lactate).exists()
        (copied / "maps" / "mine.txt").write_text("a note")
        mrsi(*of_phantom(phantom), "--out", copied, "--pipeline", pipeline, "--overwrite")
        assert not (copied / "maps" / lactate).exists()
        assert (copied / "maps" / "mine.txt").exists()
        assert open_result(copied / "result.zarr").attrs["pipeline"]["name"] == "p"

    def test_an_overwrite_that_fails_leaves_no_report_of_the_other_run(
        self, mrsi: Mrsi, phantom: Path, copied: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lost(*arguments: object, **options: object) -> None:
            raise RunError("lost")

        monkeypatch.setattr(workflow, "run", lost)
        run = [*of_phantom(phantom), "--out", copied, "--pipeline", "minimal", "--overwrite"]
        mrsi.refused(*run, code=1)
        assert (
            sorted(p.name for p in copied.rglob("*") if p.is_file() and "zarr" not in str(p)) == []
        )

    @pytest.mark.parametrize("store", ["scan.zarr", "result.zarr"])
    def test_a_store_of_a_newer_version(
        self, mrsi: Mrsi, phantom: Path, copied: Path, store: str
    ) -> None:
        path = copied / store / "zarr.json"
        content = json.loads(path.read_text())
        content["attributes"]["schema_version"] = 99
        path.write_text(json.dumps(content))
        error = mrsi.refused(*of_phantom(phantom), "--out", copied)
        assert f"{store}: " in error
        assert "99" in error
        assert "this is mrsi_engine" in error

    def test_nothing_to_export_or_compare(self, mrsi: Mrsi, tmp_path: Path) -> None:
        assert "no such result store" in mrsi.refused("export", tmp_path)
        error = mrsi.refused("compare", tmp_path, "--lcmodel", tmp_path / "l.csv")
        assert "no such result store" in error

    def test_export_writes_the_same_again(self, mrsi: Mrsi, copied: Path, finished: Path) -> None:
        shutil.rmtree(copied / "maps")
        (copied / "report.html").unlink()
        assert "maps in" in mrsi("export", copied, "--fill", "mrsiprep")
        assert (copied / "report.html").exists()
        names = [sorted(p.name for p in (f / "maps").iterdir()) for f in (copied, finished)]
        assert names[0] == names[1]
        crlb = nib.load(copied / "maps" / "scan_space-orig_met-NAA_desc-crlb_mrsi.nii.gz")
        assert crlb.get_fdata()[0, 0, 0] == 999.0


@pytest.mark.usefixtures("quick_report")
class TestBadVoxels:
    def test_they_cost_nothing_and_get_nan(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        inside = np.argwhere(nib.load(phantom / "mask.nii.gz").get_fdata())
        # In the order of the store x runs fastest.
        inside = inside[np.lexsort(inside.T)]

        def spoil(data: np.ndarray) -> np.ndarray:
            for voxel, value in zip(inside[:6], 2 * (np.nan, np.inf, 0), strict=True):
                data[tuple(voxel)] = value
            data[(*inside[8], 700)] = np.nan
            return data

        scan = resaved(phantom / "scan.nii.gz", tmp_path / "scan.nii.gz", data=spoil)
        command = [a if a != phantom / "scan.nii.gz" else scan for a in of_phantom(phantom)]
        events = tmp_path / "log.jsonl"
        out = mrsi(*command, "--out", tmp_path / "out", "--block-size", 6, "--log", events)
        assert "16 voxels: 7 no fit, 9 network refined" in out
        told = [json.loads(line) for line in events.read_text().splitlines()]
        first = next(event for event in told if event["event"] == "BlockDone")
        assert first["receipt"]["kernel_seconds"] == 0.0
        prefix = str(tmp_path / "out" / "maps" / "scan_space-orig_")
        bad = tuple(inside[[0, 1, 2, 3, 4, 5, 8]].T)
        for name in ("met-NAA_desc-signal", "met-NAA_desc-sd", "desc-snr", "desc-fitquality"):
            values = nib.load(f"{prefix}{name}_mrsi.nii.gz").get_fdata()
            assert np.isnan(values[bad]).all()
            assert np.isfinite(values).sum() == 9

    def test_nothing_but_bad_voxels(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        scan = resaved(phantom / "scan.nii.gz", tmp_path / "scan.nii.gz", data=np.zeros_like)
        command = [a if a != phantom / "scan.nii.gz" else scan for a in of_phantom(phantom)]
        assert "16 voxels: 16 no fit" in mrsi(*command, "--out", tmp_path / "out")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(size: int) -> Path:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a small tmpfs needs root")
        return folder

    yield mounted
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def space(*folders: Path) -> int:
    """Bytes that the files take on a disk of pages of 4 KiB."""
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    return sum(-(-f.stat().st_size // 4096) * 4096 for f in files)


@pytest.mark.usefixtures("quick_report")
class TestFullDisk:
    def test_while_importing(
        self, mrsi: Mrsi, phantom: Path, small_disk: Callable[[int], Path]
    ) -> None:
        disk = small_disk(65_536)
        error = mrsi.refused(*of_phantom(phantom), "--out", disk / "out", code=1)
        assert "the disk is full" in error
        assert not [p for p in disk.rglob("*") if p.is_file()]

    def test_while_fitting(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path, small_disk: Callable[[int], Path]
    ) -> None:
        keep = ["--block-size", 2, "--keep", "corrected", "fit", "baseline"]
        command = [*of_phantom(phantom), "--pipeline", "minimal", *keep]
        roomy = tmp_path / "roomy"
        mrsi(*command, "--out", roomy)
        # Room for all but some of the eight blocks, each with three signals of 16 KiB.
        disk = small_disk(space(roomy / "scan.zarr", roomy / "result.zarr") - 200_000)
        run = [*command, "--out", disk / "out"]
        assert "disk full" in mrsi.refused(*run, code=1)
        store = ResultStore.open(disk / "out" / "result.zarr")
        done = store.done()
        assert 0 < len(done) < store.blocks
        assert not (disk / "out" / "maps").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        log = disk / "log.jsonl"
        assert "16 voxels: 16 least squares" in mrsi(*run, "--log", log)
        assert len(blocks_of(log)) == store.blocks - len(done)

    def test_while_exporting(
        self, mrsi: Mrsi, phantom: Path, finished: Path, small_disk: Callable[[int], Path]
    ) -> None:
        stores = space(finished / "scan.zarr", finished / "result.zarr")
        disk = small_disk(stores + space(finished / "maps") // 2)
        error = mrsi.refused(*of_phantom(phantom), "--out", disk / "out", code=1)
        assert re.search(r"maps/\S+: c(ould not be|annot be|ould not) writ", error)
        assert not ResultStore.open(disk / "out" / "result.zarr").missing()
        assert not list(disk.rglob("*.partial"))
        assert not (disk / "out" / "report.html").exists()


def blocks_of(log: Path) -> list[int]:
    """Blocks that a run did, by its log."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [e["receipt"]["block"] for e in events if e["event"] == "BlockDone"]


def wait_for_blocks(result: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        folder = result / "status" / "c"
        if folder.is_dir() and sum(name.isdecimal() for name in os.listdir(folder)) >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"the run ended ({process.poll()}) or stood still before {count} blocks")


@pytest.mark.usefixtures("quick_report")
def test_a_killed_run_goes_on_where_it_ended(mrsi: Mrsi, tmp_path: Path) -> None:
    mrsi("simulate", "--out", tmp_path / "scan", "--shape", 8, 8, 2, "--nuisance", "water")
    run = [*of_phantom(tmp_path / "scan"), "--block-size", 1]
    program = [sys.executable, "-c", "from mrsi_engine.cli import main; main()"]
    killed = [*program, *map(str, run), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(killed, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for_blocks(tmp_path / "killed" / "result.zarr", 5, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    store = ResultStore.open(tmp_path / "killed" / "result.zarr")
    missing = store.missing()
    assert 0 < len(missing) <= store.blocks - 5
    assert not (tmp_path / "killed" / "maps").exists()
    mrsi(*run, "--out", tmp_path / "killed", "--log", tmp_path / "log.jsonl")
    assert sorted(blocks_of(tmp_path / "log.jsonl")) == missing
    mrsi(*run, "--out", tmp_path / "whole")
    assert ScanStore.open(tmp_path / "whole" / "scan.zarr").voxels == store.blocks
    maps = sorted((tmp_path / "whole" / "maps").glob("*.nii.gz"))
    assert len(maps) > 80
    for path in maps:
        ours, expected = (nib.load(p) for p in (tmp_path / "killed" / "maps" / path.name, path))
        assert np.asarray(ours.dataobj).tobytes() == np.asarray(expected.dataobj).tobytes()
