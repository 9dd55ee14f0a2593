"""Pipelines by name and file."""

from __future__ import annotations

import re
from pathlib import Path

from tests.cli.helpers import Mrsi, of_phantom


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
        narrow = tmp_path / "p.toml"
        stage = 'stage = "quantify"\nnoise_ppm = [-5.1, 14.4]\nmethod = "least-squares"\n'
        narrow.write_text(f'name = "p"\n[[stages]]\n{stage}')
        error = mrsi.refused(*run, "--pipeline", narrow)
        assert "noise is measured; 32 are needed" in error
        assert "window holds 7 points, 8 are needed" in mrsi.refused(*run, "--points", 64)
        error = mrsi.refused(*run, "--keep", "residual")
        assert "writes no signal ['residual']; it writes ['corrected', 'fit', 'baseline']" in error
        assert not (tmp_path / "o").exists()
