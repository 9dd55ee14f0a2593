"""The example of a stage of one's own: short, and it runs."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrsi_engine import cli
from mrsi_engine.io.result_store import open_result
from mrsi_engine.pipeline.stage import Stage
from mrsi_engine.runs import finishing

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_stage.py"


@pytest.fixture
def forgotten() -> Iterator[None]:
    """What other tests loaded is gone, and so is what this one loads."""
    before = dict(Stage.registry)
    Stage.registry.pop("apodise", None)
    yield
    sys.modules.pop("own_stage", None)
    Stage.registry.clear()
    Stage.registry.update(before)


@pytest.mark.usefixtures("forgotten")
def test_it_is_under_forty_lines_and_runs(capsys: pytest.CaptureFixture[str]):
    assert len(EXAMPLE.read_text().splitlines()) < 40
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    shown = capsys.readouterr().out
    assert "energy_kept" in shown
    assert "water_residual" in shown


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize("way", ["environment", "entry point"])
def test_it_runs_from_the_command_line(
    way: str, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "report_on", lambda folder, **_: Path(folder, "report.html"))
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    if way == "environment":
        monkeypatch.setenv("MRSI_ENGINE_PLUGINS", "own_stage")
    else:
        about = tmp_path / "own_stage-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: own-stage\nVersion: 1.0\n")
        offers = "[mrsi_engine.stages]\napodise = own_stage:Apodise\n"
        (about / "entry_points.txt").write_text(offers)
        monkeypatch.syspath_prepend(tmp_path)
    scan, mask = (str(phantom / name) for name in ("scan.nii.gz", "mask.nii.gz"))
    command = ["run", scan, "--mask", mask, "--basis", "press-3t-te30", "--workers", "0"]
    pipeline = str(EXAMPLE.with_suffix(".toml"))
    cli.main([*command, "--pipeline", pipeline, "--out", str(tmp_path / "out")])
    result = open_result(tmp_path / "out" / "result.zarr")
    kept = result["quality"].sel(measure="energy_kept").values
    assert ((kept > 0.1) & (kept < 1)).all()
    about_map = tmp_path / "out" / "maps" / "scan_space-orig_desc-energykept_mrsi.json"
    assert json.loads(about_map.read_text())["Definition"].startswith("share of the FID's energy")
