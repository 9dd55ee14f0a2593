"""The command line in this process, and a finished run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mrsi_engine.runs import finishing
from tests.cli.helpers import Mrsi, of_phantom, run_quickly, write_quick_report


@pytest.fixture
def mrsi(capsys: pytest.CaptureFixture[str]) -> Mrsi:
    return Mrsi(capsys)


@pytest.fixture
def quick_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report takes longer than all the rest and is tested elsewhere."""
    monkeypatch.setattr(finishing, "report_on", write_quick_report)


@pytest.fixture(scope="session")
def finished(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the phantom; to be copied, never changed."""
    out = tmp_path_factory.mktemp("finished") / "out"
    run_quickly([*of_phantom(phantom), "--out", out])
    return out


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "out"))
