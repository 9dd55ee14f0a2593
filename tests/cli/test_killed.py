"""A run that is killed goes on where it ended."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mrsi_engine.io.result_store import ResultStore
from mrsi_engine.io.scan_store import ScanStore
from tests.cli.helpers import Mrsi, blocks_of, of_phantom

#: The command line in a process that kills itself once 5 blocks are done.
PROGRAM = """
import os, signal
from mrsi_engine.cli import main
from mrsi_engine.engine.events import BlockDone
from mrsi_engine.engine.progress import RichProgress

draw, done = RichProgress.__call__, []

def draw_and_die(self, event):
    draw(self, event)
    done.append(isinstance(event, BlockDone))
    if sum(done) == 5:
        os.kill(os.getpid(), signal.SIGKILL)

RichProgress.__call__ = draw_and_die
main()
"""


@pytest.mark.usefixtures("quick_report")
def test_a_killed_run_goes_on_where_it_ended(mrsi: Mrsi, tmp_path: Path) -> None:
    mrsi("simulate", "--out", tmp_path / "scan", "--shape", 8, 8, 2, "--nuisance", "water")
    run = [*of_phantom(tmp_path / "scan"), "--block-size", 1]
    program = [sys.executable, "-c", PROGRAM]
    killed = [*program, *map(str, run), "--out", str(tmp_path / "killed")]
    ended = subprocess.run(killed, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    store = ResultStore.open(tmp_path / "killed" / "result.zarr")
    missing = store.missing()
    assert missing == list(range(5, store.blocks))
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
