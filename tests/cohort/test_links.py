"""A cohort writes nowhere but into its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrsi_engine.cohort.job import ScanJob
from mrsi_engine.cohort.rows import ScanRow
from mrsi_engine.cohort.run import run_cohort
from mrsi_engine.cohort.steps import StepFailed, begin_scan
from mrsi_engine.errors import InputError
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs.bases import BasisChoice

BASIS = BasisChoice("press-3t-te30")


@pytest.fixture
def row(phantom: Path) -> ScanRow:
    return ScanRow(str(phantom / "scan.nii.gz"), "01", "01")


@pytest.mark.parametrize("link", ["sub-01", "sub-01/ses-01", "ledger", "crash/x", "voxels"])
def test_a_link_that_leads_out(row: ScanRow, tmp_path: Path, link: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (out / link).parent.mkdir(parents=True)
    (out / link).symlink_to(elsewhere)
    with pytest.raises(InputError, match=rf"{link}: is a link to .*elsewhere, outside"):
        run_cohort([row], out, basis=BASIS, pipeline="minimal")
    assert not list(elsewhere.iterdir())


def test_a_link_that_came_after_the_preflight(row: ScanRow, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    out.mkdir()
    (out / "sub-01").symlink_to(elsewhere)
    ended = begin_scan(ScanJob.of(row, out, Pipeline.load("minimal"), BASIS))
    assert isinstance(ended, StepFailed)
    assert "sub-01: is a link to" in ended.failure.error
    assert not list(elsewhere.iterdir())
