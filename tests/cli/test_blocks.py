"""One scan by ``mrsi blocks``: the same maps as by ``mrsi run``, whatever is done twice or late."""

from __future__ import annotations

from pathlib import Path

import pytest

from mrsi_engine.engine import blocks as engine_blocks
from mrsi_engine.io.result_store import ResultStore
from mrsi_engine.runs import blocks
from mrsi_engine.runs.blocks import in_ranges
from tests.cli.helpers import Mrsi, of_phantom

pytestmark = pytest.mark.usefixtures("quick_report")


def planned(mrsi: Mrsi, phantom: Path, out: Path, *more: object) -> int:
    """Plans a scan and returns how many blocks it has."""
    _, scan, *options = of_phantom(phantom)
    given = [o for o in options if o not in ("--workers", 0)]
    return int(mrsi("blocks", "plan", scan, *given, "--out", out, *more))


def maps(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "maps").iterdir()}


def test_as_a_run(mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    mrsi(*of_phantom(phantom), "--block-size", 3, "--out", whole)
    count = planned(mrsi, phantom, parts, "--block-size", 3)
    assert count == 6
    assert "block 5: 1 voxels" in mrsi("blocks", "run", parts, 5)
    assert "5 of 6 blocks are missing: 0-4;" in mrsi.refused("blocks", "finish", parts, code=1)
    assert not (parts / "maps").exists()
    # Twice the same, a plan in between, and shares that overlap with what is done.
    assert planned(mrsi, phantom, parts, "--block-size", 3) == count
    assert mrsi("blocks", "run", parts, 5) == ""
    for share in range(4):
        mrsi("blocks", "run", parts, share, "--of", 4)
    mrsi("blocks", "finish", parts)
    assert maps(parts) == maps(whole)
    assert ResultStore.open(parts / "result.zarr").attributes["finished"]


def test_a_block_that_fails(
    mrsi: Mrsi, phantom: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    planned(mrsi, phantom, out, "--block-size", 3)

    def unlucky(plan: object, block: int) -> object:
        if block == 2:
            raise ValueError("no luck")
        return engine_blocks.run_block(plan, block)  # type: ignore[arg-type]

    monkeypatch.setattr(blocks, "run_block", unlucky)
    error = mrsi.error("blocks", "run", out, 0, "--of", 2, code=1)
    assert "block 2: ValueError: no luck" in error
    assert "block 4: 3 voxels" in mrsi.printed
    monkeypatch.undo()
    assert "blocks are missing: 1-3,5;" in mrsi.refused("blocks", "finish", out, code=1)


def test_bad_use(mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
    assert "no such result store" in mrsi.refused("blocks", "run", tmp_path / "none", 0)
    planned(mrsi, phantom, tmp_path / "out")
    error = mrsi.refused("blocks", "run", tmp_path / "out", 3, "--of", 3)
    assert "shares are counted from 0 to 2" in error


def test_numbers_as_arrays_take_them() -> None:
    assert in_ranges((0, 1, 2, 4, 6, 7)) == "0-2,4,6-7"
    assert in_ranges((5,)) == "5"
    assert in_ranges(()) == ""
