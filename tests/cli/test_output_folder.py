"""What lies in an output folder already."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import pytest

from mrsi_engine.errors import RunError
from mrsi_engine.io.result_store import open_result
from mrsi_engine.runs import one_scan
from tests.cli.helpers import BASIS, Mrsi, of_phantom


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
            (["--basis", "slaser-3t-te30"], "changed since: basis '"),
            (
                ["--pipeline", "minimal"],
                r"'lipid_removal', 'quantify', 'quality_control'] -> ['scan_shift', 'quantify']",
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

        monkeypatch.setattr(one_scan, "run", lost)
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
