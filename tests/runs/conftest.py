"""A run of the phantom with everything asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import xarray as xr

from mrsi_engine.pipeline.pipeline import Pipeline
from mrsi_engine.runs import finishing
from mrsi_engine.runs.one_scan import FinishedRun, Options, process
from tests.runs.phantom_run import BASIS, KEPT, inputs_of, truth_of


@pytest.fixture(autouse=True)
def _basis_cache(basis_cache: Path) -> None:
    """Simulated bases come from the session's cache."""


@pytest.fixture
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report takes longer than all the rest; one test draws it."""
    monkeypatch.setattr(
        finishing, "report_on", lambda folder, **content: Path(folder, "report.html")
    )


@pytest.fixture(scope="session")
def outcome(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """A run with everything asked for."""
    return process(
        inputs_of(phantom),
        BASIS,
        Pipeline.load("brain-1h-3t"),
        tmp_path_factory.mktemp("outcome") / "out",
        Options(workers=0, keep=KEPT),
        truth=truth_of(phantom),
    )


@pytest.fixture(scope="session")
def result(outcome: FinishedRun) -> xr.Dataset:
    return outcome.result.load()
