"""Scripts for SLURM: with a stand-in for sbatch everywhere, and with SLURM itself where it is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrsi_engine.engine.clusters import ClusterChoice
from tests.cli.helpers import BASIS
from tests.slurm import box
from tests.slurm.box import what_is_missing

#: Runs a script at once, as often as its array says; job numbers count up.
STAND_IN = """\
#!/bin/bash
set -euo pipefail
array=""
while [[ "$1" == --* ]]; do
    case $1 in --array=*) array=${1#--array=} ;; esac
    shift
done
number=$(($(cat "$JOBS" 2>/dev/null || echo 0) + 1))
echo $number > "$JOBS"
code=0
for task in $(seq ${array/-/ } 2>/dev/null || echo ""); do
    SLURM_ARRAY_TASK_ID=$task bash "$@" >> "$LOG" 2>&1 || code=$?
done
if [ -z "$array" ]; then bash "$@" >> "$LOG" 2>&1 || code=$?; fi
echo $number
"""


@pytest.fixture(scope="module")
def whole(phantom: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scan as ``mrsi run`` does it, in blocks of 3 voxels."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = call(["mrsi", "run", *given(phantom), "--workers", "0", "--out", str(out)], os.environ)
    assert done.returncode == 0, done.stdout
    return out


def given(phantom: Path) -> list[str]:
    scan, mask = (str(phantom / f"{name}.nii.gz") for name in ("scan", "mask"))
    return [scan, "--mask", mask, "--basis", BASIS, "--block-size", "3"]


def with_tools(environment: dict[str, str]) -> dict[str, str]:
    """Commands of the environment that the tests run in, and this tree."""
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    tree = str(Path(__file__).parents[2])
    return {**environment, "PATH": path, "PYTHONPATH": tree}


def call(
    command: list[str], environment: dict[str, str] | os._Environ[str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=with_tools(dict(environment)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def maps(out: Path) -> dict[str, bytes]:
    found = {path.name: path.read_bytes() for path in (out / "maps").iterdir()}
    assert found
    return found


@pytest.mark.parametrize("name", ["submit-array.sh", "driver.sbatch", *(
    f"array/{step}.sbatch" for step in ("plan", "run", "finish"))])  # fmt: skip
def test_shell(deploy: Path, name: str) -> None:
    path = deploy / "slurm" / name
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0
    assert "set -euo pipefail" in path.read_text()
    if shutil.which("shellcheck"):
        linted = call(["shellcheck", "-s", "bash", "-S", "warning", str(path)], os.environ)
        assert linted.returncode == 0, linted.stdout


def test_the_profile_is_one(deploy: Path) -> None:
    ClusterChoice(str(deploy / "slurm" / "profile.toml")).check()


def test_an_array_without_slurm(deploy: Path, phantom: Path, whole: Path, tmp_path: Path) -> None:
    """The script as it is, its jobs one after the other; a share that is lost is done again."""
    stand_in = tmp_path / "bin" / "sbatch"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    out, log = tmp_path / "out", tmp_path / "log"
    environment = {**os.environ, "JOBS": str(tmp_path / "jobs"), "LOG": str(log)}
    environment["PATH"] = f"{stand_in.parent}:{os.environ['PATH']}"
    submit = str(deploy / "slurm" / "submit-array.sh")
    done = call([submit, "4", str(out), *given(phantom)], environment)
    assert done.returncode == 0, done.stdout
    assert "plan: job 1, blocks: array 2, finish: job 3; its log is mrsi-3.out" in done.stdout
    assert maps(out) == maps(whole), log.read_text()
    lost = call([submit], environment)
    assert lost.returncode == 2
    assert "submit-array.sh SHARES OUT SCAN" in lost.stdout


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    if (missing := what_is_missing()) is not None:
        pytest.skip(missing)
    if os.environ.get("MRSI_TEST_SLURM") != "1":
        pytest.skip("starts SLURM: MRSI_TEST_SLURM=1 python -m pytest tests/deploy/test_slurm.py")
    with box.slurm(tmp_path_factory.mktemp("slurm")) as environment:
        yield environment


class TestSlurm:
    """With SLURM itself, one node."""

    def test_an_array(
        self,
        deploy: Path,
        phantom: Path,
        whole: Path,
        slurm: dict[str, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        out = tmp_path / "out"
        command = [str(deploy / "slurm" / "submit-array.sh"), "3", str(out), *given(phantom)]
        done = call(command, slurm)
        assert done.returncode == 0, done.stdout
        wait_for_jobs(slurm)
        assert maps(out) == maps(whole), logs(tmp_path)

    def test_all_in_one_allocation(
        self,
        deploy: Path,
        phantom: Path,
        whole: Path,
        slurm: dict[str, str],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        out, script = tmp_path / "out", str(deploy / "slurm" / "driver.sbatch")
        command = ["sbatch", "--ntasks=2", "--mem-per-cpu=2G", "--time=10", script]
        command += ["run", *given(phantom), "--out", str(out)]
        done = call(command, {**slurm, "MRSI_INTERFACE": "lo"})
        assert done.returncode == 0, done.stdout
        wait_for_jobs(slurm)
        assert maps(out) == maps(whole), logs(tmp_path)
        # What the processes trusted each other by is gone with the job.
        assert not list(tmp_path.glob(".mrsi-*")), logs(tmp_path)


def wait_for_jobs(environment: dict[str, str]) -> None:
    deadline = time.monotonic() + 600
    while said := call(["squeue", "-h"], environment).stdout.strip():
        assert time.monotonic() < deadline, said
        time.sleep(1)


def logs(folder: Path) -> str:
    return "\n".join(f"{p.name}:\n{p.read_text()}" for p in sorted(folder.glob("mrsi-*.out")))
