"""A cohort of 12 small scans on SLURM, a job of it cancelled, against the same on this machine."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mrsi_engine import cli
from mrsi_engine.engine.clusters import pool
from mrsi_engine.io.result_store import open_result
from mrsi_engine.runs.demo import simulate_scan
from mrsi_engine.spectra.phantom import PhantomSettings

SCANS = 12


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    lines = ["subject\tscan\tmask"]
    for number in range(SCANS):
        made = folder / f"{number:02d}"
        simulate_scan(made, PhantomSettings(shape=(6, 6, 1), seed=number))
        lines.append(f"{number:02d}\t{made / 'scan.nii.gz'}\t{made / 'mask.nii.gz'}")
    path = folder / "cohort.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def cohort(table: Path, out: Path, *options: object) -> None:
    command = ["cohort", table, "--out", out, "--basis", "press-3t-te30", "--pipeline", "minimal"]
    cli.main([*map(str, command), "--reports", "none", *map(str, options)])


def cancel_one(finished: Path, cancelled: list[str]) -> None:
    """Cancel a running job once some scans are done."""
    deadline = time.monotonic() + 300
    while len(list(finished.glob("sub-*/*/summary.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    command = ["squeue", "--me", "--noheader", "--format=%i", "--states=RUNNING"]
    running = subprocess.check_output(command, text=True).split()
    if running:
        subprocess.run(["scancel", running[0]], check=True)
        cancelled.append(running[0])


def test_a_cohort_one_of_whose_jobs_is_cancelled(
    profile: Callable[..., str], table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_LOOK_AT_QUEUE", 1.0)
    ours, theirs = tmp_path / "slurm", tmp_path / "local"
    cancelled: list[str] = []
    killer = threading.Thread(target=cancel_one, args=(ours, cancelled))
    killer.start()
    cohort(table, ours, "--cluster", profile(2))
    killer.join()
    assert cancelled
    cohort(table, theirs, "--workers", 0)

    stores = sorted(path.relative_to(theirs) for path in theirs.glob("sub-*/*/result.zarr"))
    assert len(stores) == SCANS
    for store in stores:
        one, other = open_result(ours / store), open_result(theirs / store)
        for name in one.data_vars:
            np.testing.assert_array_equal(one[name].values, other[name].values, err_msg=name)
    left = subprocess.check_output(["squeue", "--me", "--noheader"], text=True)
    assert left == ""
