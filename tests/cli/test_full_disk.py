"""A disk that fills, at any moment of a run."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mrsi_engine.io import importing
from mrsi_engine.io.result_store import ResultStore
from tests.cli.helpers import Mrsi, blocks_of, of_phantom


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of so many bytes."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mounted(size: int) -> Path:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a small tmpfs needs root")
        return folder

    yield mounted
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def space(*folders: Path) -> int:
    """Bytes that the files take on a disk of pages of 4 KiB."""
    files = [f for folder in folders for f in folder.rglob("*") if f.is_file()]
    return sum(-(-f.stat().st_size // 4096) * 4096 for f in files)


@pytest.mark.usefixtures("quick_report")
class TestFullDisk:
    def test_while_importing(
        self,
        mrsi: Mrsi,
        phantom: Path,
        small_disk: Callable[[int], Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        disk = small_disk(65_536)
        command = [*of_phantom(phantom), "--out", disk / "out"]
        assert "65.5 kB are free" in mrsi.refused(*command)
        # Someone else may fill it after it was looked at.
        monkeypatch.setattr(importing, "check_room", lambda *_: None)
        assert "the disk is full" in mrsi.refused(*command, code=1)
        assert not [p for p in disk.rglob("*") if p.is_file()]

    def test_while_fitting(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path, small_disk: Callable[[int], Path]
    ) -> None:
        keep = ["--block-size", 2, "--keep", "corrected", "fit", "baseline"]
        command = [*of_phantom(phantom), "--pipeline", "minimal", *keep]
        roomy = tmp_path / "roomy"
        mrsi(*command, "--out", roomy)
        # Room for all but some of the eight blocks, each with three signals of 16 KiB.
        disk = small_disk(space(roomy / "scan.zarr", roomy / "result.zarr") - 200_000)
        run = [*command, "--out", disk / "out"]
        assert "disk full" in mrsi.refused(*run, code=1)
        store = ResultStore.open(disk / "out" / "result.zarr")
        done = store.done()
        assert 0 < len(done) < store.blocks
        assert not (disk / "out" / "maps").exists()
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        log = disk / "log.jsonl"
        assert "16 voxels: 16 least squares" in mrsi(*run, "--log", log)
        assert len(blocks_of(log)) == store.blocks - len(done)

    def test_while_exporting(
        self, mrsi: Mrsi, phantom: Path, finished: Path, small_disk: Callable[[int], Path]
    ) -> None:
        stores = space(finished / "scan.zarr", finished / "result.zarr")
        disk = small_disk(stores + space(finished / "maps") // 2)
        error = mrsi.refused(*of_phantom(phantom), "--out", disk / "out", code=1)
        assert re.search(r"maps/\S+: c(ould not be|annot be|ould not) writ", error)
        assert not ResultStore.open(disk / "out" / "result.zarr").missing()
        assert not list(disk.rglob("*.partial"))
        assert not (disk / "out" / "report.html").exists()
