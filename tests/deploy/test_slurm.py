"""Scripts for SLURM with a stand-in for sbatch; ``tests/slurm`` has them with SLURM itself."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mrsi_engine.engine.clusters import ClusterChoice
from tests.deploy.slurm_scripts import call, given, maps, run_whole

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
    return run_whole(phantom, tmp_path_factory.mktemp("whole") / "out")


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
