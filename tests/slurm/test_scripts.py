"""The scripts of deploy/slurm on a real SLURM: ``make test-slurm``."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.deploy.slurm_scripts import call, given, maps, run_whole

pytestmark = pytest.mark.usefixtures("box")


@pytest.fixture(scope="module")
def whole(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_whole(phantom, tmp_path_factory.mktemp("whole") / "out")


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where they lie; logs of jobs go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    return Path(__file__).parents[2] / "deploy" / "slurm"


def test_an_array(scripts: Path, phantom: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call([str(scripts / "submit-array.sh"), "3", str(out), *given(phantom)], os.environ)
    assert done.returncode == 0, done.stdout
    wait_for_jobs()
    assert maps(out) == maps(whole), logs(tmp_path)


def test_all_in_one_allocation(scripts: Path, phantom: Path, whole: Path, tmp_path: Path) -> None:
    out, script = tmp_path / "out", str(scripts / "driver.sbatch")
    command = ["sbatch", "--ntasks=2", "--mem-per-cpu=2G", "--time=10", script]
    command += ["run", *given(phantom), "--out", str(out)]
    done = call(command, {**os.environ, "MRSI_INTERFACE": "lo"})
    assert done.returncode == 0, done.stdout
    wait_for_jobs()
    assert maps(out) == maps(whole), logs(tmp_path)
    # What the processes trusted each other by is gone with the job.
    assert not list(tmp_path.glob(".mrsi-*")), logs(tmp_path)


def wait_for_jobs() -> None:
    deadline = time.monotonic() + 600
    while said := subprocess.check_output(["squeue", "--me", "--noheader"], text=True).strip():
        assert time.monotonic() < deadline, said
        time.sleep(1)


def logs(folder: Path) -> str:
    return "\n".join(f"{p.name}:\n{p.read_text()}" for p in sorted(folder.glob("mrsi-*.out")))
