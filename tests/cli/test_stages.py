"""What stages there are and what they may be told, from the command line and in the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrsi_engine.cli import output
from mrsi_engine.cli.reference import stages_page
from mrsi_engine.pipeline.registry import every_stage, is_shipped
from tests.cli.helpers import Mrsi

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_list(mrsi: Mrsi) -> None:
    lines = mrsi("stage", "list").splitlines()
    shipped = [key for key, kind in every_stage().kinds.items() if is_shipped(kind)]
    assert {line.split(":")[0] for line in lines} >= set(shipped)
    assert any(line.startswith("averaging: Mean of the transients") for line in lines)


def test_show(mrsi: Mrsi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.out_console, "width", 200)
    text = mrsi("stage", "show", "quantify")
    assert "Linear combination modelling" in text
    assert "baseline.splines_per_ppm" in text
    assert "1/ppm" in text
    assert "no stage 'quantfy'; there are " in mrsi.refused("stage", "show", "quantfy")


def test_the_page_of_the_docs_is_up_to_date() -> None:
    assert (DOCS / "stages.md").read_text() == stages_page(), "run `make reference`"
