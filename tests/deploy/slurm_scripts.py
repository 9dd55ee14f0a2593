"""Calling the scripts of deploy/slurm in the environment of the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.cli.helpers import BASIS


def given(phantom: Path) -> list[str]:
    scan, mask = (str(phantom / f"{name}.nii.gz") for name in ("scan", "mask"))
    return [scan, "--mask", mask, "--basis", BASIS, "--block-size", "3"]


def with_tools(environment: dict[str, str]) -> dict[str, str]:
    """Commands of the environment that the tests run in, and this tree."""
    path = f"{Path(sys.executable).parent}:{environment['PATH']}"
    tree = str(Path(__file__).parents[2])
    return {**environment, "PATH": path, "PYTHONPATH": tree}


def call(command: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
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


def run_whole(phantom: Path, out: Path) -> Path:
    """The scan as ``mrsi run`` does it, in blocks of 3 voxels."""
    done = call(["mrsi", "run", *given(phantom), "--workers", "0", "--out", str(out)], os.environ)
    assert done.returncode == 0, done.stdout
    return out
