"""A run that is killed goes on where it ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine.io.result_store import ResultStore
from mrsi_engine.io.scan_store import ScanStore
from tests.cli.helpers import Mrsi, blocks_of, of_phantom


def wait_for_blocks(result: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        folder = result / "status" / "c"
        if folder.is_dir() and sum(name.isdecimal() for name in os.listdir(folder)) >= count:
            return
        time.sleep(0.002)
    raise AssertionError(f"the run ended ({process.poll()}) or stood still before {count} blocks")


@pytest.mark.usefixtures("quick_report")
def test_a_killed_run_goes_on_where_it_ended(mrsi: Mrsi, tmp_path: Path) -> None:
    mrsi("simulate", "--out", tmp_path / "scan", "--shape", 8, 8, 2, "--nuisance", "water")
    run = [*of_phantom(tmp_path / "scan"), "--block-size", 1]
    program = [sys.executable, "-c", "from mrsi_engine.cli import main; main()"]
    killed = [*program, *map(str, run), "--out", str(tmp_path / "killed")]
    process = subprocess.Popen(killed, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for_blocks(tmp_path / "killed" / "result.zarr", 5, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    store = ResultStore.open(tmp_path / "killed" / "result.zarr")
    missing = store.missing()
    assert 0 < len(missing) <= store.blocks - 5
    assert not (tmp_path / "killed" / "maps").exists()
    mrsi(*run, "--out", tmp_path / "killed", "--log", tmp_path / "log.jsonl")
    assert sorted(blocks_of(tmp_path / "log.jsonl")) == missing
    mrsi(*run, "--out", tmp_path / "whole")
    assert ScanStore.open(tmp_path / "whole" / "scan.zarr").voxels == store.blocks
    maps = sorted((tmp_path / "whole" / "maps").glob("*.nii.gz"))
    assert len(maps) > 80
    for path in maps:
        ours, expected = (nib.load(p) for p in (tmp_path / "killed" / "maps" / path.name, path))
        assert np.asarray(ours.dataobj).tobytes() == np.asarray(expected.dataobj).tobytes()
