"""What a worker is said to need for a whole scan is what it takes, and not much more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mrsi_engine.engine.clusters import WORKER_ENVIRONMENT, bytes_of_scan


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are asked of Linux")
def test_peak_of_a_worker_that_does_a_whole_scan(phantom: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("whole_peak.py"), phantom, tmp_path / "out"],
        env={**os.environ, **WORKER_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout)
    assert peak < bytes_of_scan(1024, 16, metabolites=20) < 1.6 * peak
