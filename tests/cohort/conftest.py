"""Cohorts whose scans live at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mrsi_engine.cohort import run as cohort_run
from mrsi_engine.cohort.run import CohortOutcome, run_cohort
from tests.cohort.lives import BASIS, HERE, Lives, rows

Run = Callable[..., CohortOutcome]


@pytest.fixture
def lives(monkeypatch: pytest.MonkeyPatch) -> Lives:
    found = Lives()
    monkeypatch.setattr(cohort_run, "live", found)
    return found


@pytest.fixture
def grouped(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The scans of each group level that was made, none of which is."""
    made: list[list[str]] = []

    def write_group(out: Path, scans: Any, states: Any) -> Path:
        made.append([row.folder for row in scans])
        return out / "group_mrsi.html"

    monkeypatch.setattr(cohort_run, "write_group", write_group)
    return made


@pytest.fixture
def run(lives: Lives, grouped: list[list[str]], phantom: Path, tmp_path: Path) -> Run:
    """Runs a cohort of scans a, b and c, or others, in ``tmp_path / "out"``."""

    def call(*names: str, **how: Any) -> CohortOutcome:
        table = rows(phantom, tmp_path, *(names or ("a", "b", "c")))
        given = {"basis": BASIS, "pipeline": "minimal", "options": HERE, **how}
        return run_cohort(table, tmp_path / "out", **given)

    return call
