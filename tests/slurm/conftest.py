"""A SLURM of this machine for the session, and a profile for it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ENGINE = HERE.parent / "engine"

# Stages that sleep by a script, and stores with known answers.
sys.path[:0] = [path for path in (str(HERE), str(ENGINE)) if path not in sys.path]

from box import slurm, what_is_missing  # noqa: E402

PROFILE = """\
class = "dask_jobqueue.SLURMCluster"
extra = "hpc"

[cluster]
queue = "main"
cores = 1
memory = "2GB"
walltime = "00:30:00"
interface = "lo"
job_script_prologue = ["export PYTHONPATH={path}"]
{further}

[adapt]
minimum = {jobs}
maximum = {jobs}
"""


@pytest.fixture(scope="session")
def box() -> Iterator[None]:
    """SLURM is up, and this process and its children know where."""
    missing = what_is_missing()
    if missing:
        pytest.skip(missing)
    # Not of pytest: the socket of munge must have a short path that everybody may enter.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    try:
        with slurm(folder) as environment, pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", environment["SLURM_CONF"])
            yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def profile(box: None, tmp_path: Path) -> Callable[..., str]:
    """Writes the profile of so many jobs."""

    def written(jobs: int = 2, further: str = "") -> str:
        path = tmp_path / f"box-{jobs}.toml"
        searched = os.pathsep.join([str(ENGINE), *(p for p in sys.path if p)])
        path.write_text(PROFILE.format(path=searched, jobs=jobs, further=further))
        return str(path)

    return written
