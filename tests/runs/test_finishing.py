"""Finishing a scan: who gets a report, what a second scan of a protocol need not make again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine.choices import Reports
from mrsi_engine.io.nifti_mrs import read_header
from mrsi_engine.io.result_store import ResultStore
from mrsi_engine.io.scan_store import ScanStore
from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.pipeline.stage import Context, Stage
from mrsi_engine.report.verdict import Verdict
from mrsi_engine.runs import finishing
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.runs.finishing import Clock, finish_scan, is_flagged
from mrsi_engine.runs.folder import result_folder, scan_folder
from mrsi_engine.runs.one_scan import FinishedRun, Options, process
from mrsi_engine.spectra.phantom import PhantomSettings
from tests.runs.phantom_run import BASIS, inputs_of


@pytest.fixture
def finished(outcome: FinishedRun, tmp_path: Path) -> FinishedRun:
    """A copy of a run that may be finished again."""
    return replace(outcome, folder=Path(shutil.copytree(outcome.folder, tmp_path / "out")))


def finish_again(run: FinishedRun, reports: Reports) -> FinishedRun:
    return finish_scan(run.folder, run.summary, Options(workers=0), Clock(), reports=reports)


class TestReports:
    def test_none_leaves_none_and_all_the_rest(
        self, finished: FinishedRun, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(finishing, "report_on", lambda *_, **__: pytest.fail("a report"))
        again = finish_again(finished, "none")
        assert again.report is None
        assert not (finished.folder / "report.html").exists(), "that of the run before is stale"
        assert again.verdict == finished.verdict
        assert len(again.maps) == len(finished.maps)
        summary = json.loads((finished.folder / "summary.json").read_text())
        assert summary["row"] == again.row == finished.row

    @pytest.mark.parametrize("flagged", [True, False])
    def test_flagged_makes_one_of_those(
        self, finished: FinishedRun, flagged: bool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(finishing, "is_flagged", lambda *_: flagged)
        assert (finish_again(finished, "flagged").report is not None) == flagged
        assert (finished.folder / "report.html").is_file() == flagged

    @pytest.mark.parametrize(
        ("advice", "remarks", "accepted", "flagged"),
        [
            ("", (), True, False),
            ("", (), False, True),
            ("look at the shim", (), True, True),
            ("", ("off by 20 Hz",), True, True),
        ],
    )
    def test_what_is_flagged(
        self, advice: str, remarks: tuple[str, ...], accepted: bool, flagged: bool
    ) -> None:
        reasons = (("SNR", 1),)
        assert is_flagged(Verdict(9, 10, 10, reasons, advice, remarks), accepted) == flagged


def test_stores_are_opened_once(finished: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Counter[str]()
    for kind in (ResultStore, ScanStore):
        _count(monkeypatch, kind, opened)
    finish_again(finished, "all")
    assert opened == {str(result_folder(finished.folder)): 1, str(scan_folder(finished.folder)): 1}


def _count(monkeypatch: pytest.MonkeyPatch, kind: type, opened: Counter[str]) -> None:
    really = kind.open.__func__  # type: ignore[attr-defined]

    def counted(cls: type, path: Path) -> object:
        opened[str(path)] += 1
        return really(cls, path)

    monkeypatch.setattr(kind, "open", classmethod(counted))


def test_scans_of_a_protocol_share_the_tables_of_their_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a pass over the scan found is its own; all other tables are made once."""
    built = Counter[tuple[str, bool]]()
    pipeline = Pipeline.load("brain-1h-3t")
    for stage in pipeline.stages:
        _watch_build(monkeypatch, type(stage), built)
    monkeypatch.setattr(finishing, "report_on", lambda folder, **_: folder / "report.html")
    maps = []
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        # Of few points, as nothing else has: tables that another test made are no use.
        simulate_scan(folder, PhantomSettings(shape=(6, 6, 1), seed=seed))
        inputs = replace(inputs_of(folder), points=500)
        assert read_header(inputs.scan).acquisition.points > 500
        run = process(inputs, BASIS, pipeline, folder / "out", Options(workers=0))
        maps.append(run.result["estimate"].values)
        if seed == 1:
            first = built.copy()
    assert not np.array_equal(*maps)
    added = built - first
    assert first[("quantify", False)] == 2, "the fit, and the one that may choose a delay"
    assert added, "stages that looked at the whole scan are built for each"
    assert all(of_scan for _, of_scan in added)


def _watch_build(
    monkeypatch: pytest.MonkeyPatch, kind: type[Stage], built: Counter[tuple[str, bool]]
) -> None:
    really = kind.build

    def counted(self: Stage, context: Context) -> object:
        built[(self.stage, bool(context.state))] += 1
        return really(self, context)

    monkeypatch.setattr(kind, "build", counted)


def test_the_beginnings_of_files_that_a_killed_export_left_are_removed(
    finished: FinishedRun,
) -> None:
    left = [finished.folder / f"{name}.partial" for name in ("maps/.a_mrsi.nii.gz.0", ".report.0")]
    for path in left:
        path.write_bytes(b"half")
    finish_again(finished, "none")
    assert not [path for path in left if path.exists()]
