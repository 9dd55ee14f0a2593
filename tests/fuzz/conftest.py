"""A tiny scan, and the command line in this process with a limit on its time."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import pytest

from mrsi_engine import cli
from mrsi_engine.runs import finishing
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.spectra.phantom import PhantomSettings
from tests.cases.scan import Scan
from tests.cli.helpers import write_quick_report

#: Seconds that no broken file may take.
LIMIT = 30

Call = Callable[..., tuple[int, str]]


@contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took more than {LIMIT} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Exit code and text of a command: one of 0, 1, 2 and 3, no traceback, no defect, no hang."""
    monkeypatch.setattr(finishing, "report_on", write_quick_report)

    def run(*arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        code = 0
        with _limited():
            try:
                cli.main([str(argument) for argument in arguments])
            except SystemExit as ended:
                code = int(ended.code or 0)
        captured = capsys.readouterr()
        text = captured.out + captured.err
        assert code in (0, 1, 2, 3), text
        assert "Traceback" not in text, text
        assert "defect of mrsi" not in text, text
        assert (code == 0) == ("error: " not in text) or code == 3, text
        return code, text

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, basis_cache: Path) -> Scan:
    """4 x 4 x 1 voxels of a phantom."""
    folder = tmp_path_factory.mktemp("tiny")
    simulate_scan(folder, PhantomSettings(shape=(6, 6, 1), seed=1, snr=40.0))
    return Scan.of(folder)
