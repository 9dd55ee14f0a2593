"""The example of a stage of one's own: short, and it runs."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "own_stage.py"


def test_it_is_under_forty_lines_and_runs(capsys: pytest.CaptureFixture[str]):
    assert len(EXAMPLE.read_text().splitlines()) < 40
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    shown = capsys.readouterr().out
    assert "energy_kept" in shown
    assert "water_residual" in shown
