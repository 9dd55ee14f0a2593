"""The command line on an object store: the same files, and the same crashes survived."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mrsi_engine as me
from mrsi_engine.io.places import filesystem, key, place
from mrsi_engine.io.result_store import ResultStore
from tests.cli.helpers import BASIS, Mrsi, blocks_of

#: The command line in a process that kills a worker once 2 blocks are done, and itself after 4.
PROGRAM = """
import os, signal
import psutil
from mrsi_engine.cli import main
from mrsi_engine.engine import driver
from mrsi_engine.engine.events import BlockDone
from mrsi_engine.engine.progress import RichProgress

driver.PROCESSES_FROM = 0
draw, done = RichProgress.__call__, []

def draw_and_kill(self, event):
    draw(self, event)
    done.append(isinstance(event, BlockDone))
    if sum(done) == 2 and done[-1]:
        below = psutil.Process().children(recursive=True)
        # Workers are forked by a process that is kept for that.
        workers = [p for p in below if p.ppid() != os.getpid()]
        workers[0].kill()
        print("killed a worker", flush=True)
    if sum(done) == 4:
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    RichProgress.__call__ = draw_and_kill
    main()
"""


def on_store(address: str, folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """Addresses of files that are put there."""
    found = {}
    for name in names:
        target = place(address) / f"{name}.nii.gz"
        target.write_bytes((folder / f"{name}.nii.gz").read_bytes())
        found[name] = str(target)
    return found


def objects(folder: Path) -> dict[str, bytes]:
    """What lies on an object store below a place, by its name there."""
    store = filesystem(folder)
    start = len(key(folder)) + 1
    return {name[start:]: store.cat_file(name) for name in store.find(key(folder))}


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.mark.usefixtures("quick_report")
def test_a_run_whose_worker_and_driver_are_killed_goes_on_to_the_same_files(
    mrsi: Mrsi, s3: str, phantom: Path, tmp_path: Path
) -> None:
    inputs = on_store(f"{s3}/killed/in", phantom, ("scan", "mask"))
    out = f"{s3}/killed/out"
    run = ["--mask", inputs["mask"], "--basis", BASIS, "--pipeline", "minimal"]
    command = ["run", inputs["scan"], *run, "--block-size", "1", "--out"]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    killed = [sys.executable, str(program), *command, out, "--workers", "2"]
    # Its workers hold the other ends too: this ends with the last of them.
    ended = subprocess.run(killed, capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert b"killed a worker" in ended.stdout
    store = ResultStore.open(f"{out}/result.zarr")
    missing = store.missing()
    assert 0 < len(missing) <= store.blocks - 4
    assert not (place(out) / "maps").exists()
    log = tmp_path / "log.jsonl"
    mrsi(*command, out, "--workers", 0, "--log", log)
    assert sorted(blocks_of(log)) == missing
    mrsi(*command, tmp_path / "out", "--workers", 0)
    ours, expected = objects(place(out)), files(tmp_path / "out")
    assert ours.keys() == expected.keys()
    assert len(ours) > 200
    # When and how long it ran stands there, too.
    own = {"result.zarr/zarr.json", "summary.json"}
    assert {name for name in ours if ours[name] != expected[name]} <= own
    result = me.open_result(f"{out}/result.zarr")
    near = me.open_result(tmp_path / "out" / "result.zarr")
    np.testing.assert_array_equal(result.estimate, near.estimate)
    assert result.encoding["source"] == f"{out}/result.zarr"
    assert me.open_scan(f"{out}/scan.zarr").fid.shape[0] == store.voxels


def test_addresses_of_files_are_local_paths(mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
    scan, out = (phantom / "scan.nii.gz").as_uri(), (tmp_path / "a b" / "scan.zarr")
    mrsi("import", scan, "--out", out.as_uri())
    assert me.open_scan(out).sizes["time"] == 1024


@pytest.mark.parametrize("option", ["--out", "--mask"])
def test_unknown_schemes_are_refused(
    option: str, mrsi: Mrsi, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"--out": tmp_path / "out", "--mask": phantom / "mask.nii.gz"}
    given[option] = "s4://bucket/a"
    options = [part for pair in given.items() for part in pair]
    told = mrsi.refused("run", phantom / "scan.nii.gz", "--basis", BASIS, *options)
    assert "s4://" in told
    assert "s3://BUCKET/PATH" in told
    assert not list(tmp_path.iterdir())


def test_what_can_only_be_local_is_refused_elsewhere(
    mrsi: Mrsi, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scan = ["run", phantom / "scan.nii.gz", "--basis", BASIS, "--out", tmp_path / "out"]
    assert "local path" in mrsi.refused(*scan, "--log", "s3://bucket/log")
    assert "local path" in mrsi.refused("train", "--out", "s3://bucket/model")
    assert not list(tmp_path.iterdir())


def test_a_bucket_that_is_not_there_is_said(mrsi: Mrsi, s3: str, phantom: Path) -> None:
    scan = ["run", phantom / "scan.nii.gz", "--basis", BASIS, "--workers", 0, "--out"]
    assert "no such bucket" in mrsi.refused(*scan, "s3://nobody/out")
    assert not place("s3://nobody").exists(), "it was not made either"
    told = mrsi.refused("import", phantom / "scan.nii.gz", "--out", s3)
    assert "give a folder in it" in told
