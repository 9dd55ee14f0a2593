"""Figures of a cohort as Prometheus reads them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mrsi_engine.cohort.events import (
    CohortStarted,
    ScanAdvanced,
    ScanFailed,
    ScanFinished,
    ScanStarted,
    Step,
)
from mrsi_engine.cohort.metrics import METRICS, Metrics
from mrsi_engine.errors import InputError


def read(path: Path) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(path.read_text())
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, next(iter(s.labels.values()), "")): s.value for s in samples}


def test_counts(tmp_path: Path) -> None:
    path = tmp_path / "node" / "mrsi.prom"
    with Metrics(path, every=0) as sink:
        assert read(path)["mrsi_scans", "waiting"] == 0
        sink(CohortStarted(pending=5, finished=2, refused=1))
        sink(ScanFailed("f", Step.IMPORT, "no such file", refused=True))
        for scan in "abc":
            sink(ScanStarted(scan, 1))
        sink(ScanAdvanced("a", Step.IMPORT, 1.5, voxels=64))
        sink(ScanAdvanced("a", Step.PROCESS, 2.0, 1.25, voxels=64))
        sink(ScanFinished("a", 64, True, "usable"))
        sink(ScanFailed("b", Step.PROCESS, "3 of 9 blocks failed", again=True, blocks=3))
        sink(ScanFinished("c", 64, False, "of no use"))
        found = read(path)
        states = {label: value for (name, label), value in found.items() if name == "mrsi_scans"}
        assert states == {"waiting": 2, "running": 0, "done": 3, "unusable": 1, "failed": 1}
        sink(ScanStarted("b", 2))
        assert read(path)["mrsi_scans", "running"] == 1
    assert found["mrsi_voxels_total", ""] == 64
    assert found["mrsi_kernel_seconds_total", ""] == 1.25
    assert found["mrsi_blocks_failed_total", ""] == 3
    assert found["mrsi_tries_failed_total", "import"] == 1
    assert found["mrsi_step_seconds_total", "process"] == 2
    assert found["mrsi_last_event_timestamp_seconds", ""] > 1.7e9
    assert {f.name for f in text_string_to_metric_families(path.read_text())} == set(METRICS)


def test_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "mrsi.prom"
    with Metrics(path, every=3600) as sink:
        sink(CohortStarted(pending=5))
        assert read(path)["mrsi_scans", "waiting"] == 0
    assert read(path)["mrsi_scans", "waiting"] == 5


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(InputError, match=r"pip install 'mrsi-engine\[monitoring\]'"):
        Metrics(tmp_path / "mrsi.prom")
