"""The report of a whole run."""

from __future__ import annotations

from mrsi_engine.runs.one_scan import FinishedRun


def test_report_stands_alone_and_shows_everything(outcome: FinishedRun) -> None:
    assert outcome.report is not None
    page = outcome.report.read_text()
    for part in ("tNAA", "Glx", "16 in the mask", "Best voxel", "Worst voxel", "Truth"):
        assert part.lower() in page.lower()
    for step in ("import", "basis", "process", "export"):
        assert step in outcome.timings
        assert step in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script src" not in page
