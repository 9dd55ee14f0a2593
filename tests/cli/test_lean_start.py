"""Help is there at once: nothing heavy is imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("dask", "matplotlib", "nibabel", "numpy", "pandas", "torch", "xarray", "zarr")

PROGRAM = """
import sys
from mrsi_engine.cli import main
main(sys.argv[1:])
print("imported:", *{name.split(".")[0] for name in sys.modules})
"""


@pytest.mark.parametrize(
    "command",
    ["--help", "run --help", "cohort --help", "status --help", "basis --help", "--version"],
)
def test_nothing_heavy_is_imported(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command.split()], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    imported = done.stdout.splitlines()[-1].split()
    assert imported[0] == "imported:"
    assert not set(HEAVY) & set(imported)


def test_workers_of_blocks_do_without_what_only_finishing_needs() -> None:
    program = (
        "import sys, mrsi_engine.engine.blocks, mrsi_engine.engine.passes; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not {"matplotlib", "nibabel", "pandas", "xarray"} & set(done.stdout.split())
