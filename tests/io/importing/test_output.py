"""Where an import writes: what it replaces, full disks, kills, and bounded memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import zarr

from mrsi_engine.errors import InputError, RunError
from mrsi_engine.io import importing, streaming
from mrsi_engine.io.importing import import_scan
from mrsi_engine.io.scan_schema import SCHEMA_VERSION
from mrsi_engine.io.scan_store import ScanStore


class TestOutput:
    def test_existing_store_needs_overwrite(self, tmp_path, scan, mask):
        first = import_scan(scan, tmp_path / "out", mask=mask)
        with pytest.raises(InputError, match="exists already; replace it with --overwrite"):
            import_scan(scan, tmp_path / "out")
        assert ScanStore.open(tmp_path / "out").voxels == first.voxels
        assert import_scan(scan, tmp_path / "out", overwrite=True).voxels == 24
        assert sorted(os.listdir(tmp_path)) == ["mask.nii.gz", "out", "scan.nii.gz"]

    def test_a_failed_overwrite_keeps_the_old_store(self, tmp_path, scan, mask):
        import_scan(scan, tmp_path / "out", mask=mask)
        scan.write_bytes(scan.read_bytes()[:-4])
        with pytest.raises(InputError, match="truncated"):
            import_scan(scan, tmp_path / "out", overwrite=True)
        assert ScanStore.open(tmp_path / "out").voxels == 8

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_something_else_is_never_overwritten(self, tmp_path, scan, overwrite):
        zarr.create_group(tmp_path / "out", attributes={"schema": "mrsi_engine.result"})
        (tmp_path / "notes").mkdir()
        (tmp_path / "notes" / "thesis.txt").write_text("years of work")
        before = sorted(tmp_path.rglob("*"))
        for taken in (tmp_path / "out", tmp_path / "notes", scan):
            with pytest.raises(InputError, match="never overwritten"):
                import_scan(scan, taken, overwrite=overwrite)
        assert sorted(tmp_path.rglob("*")) == before

    def test_an_empty_folder_is_taken(self, tmp_path, scan):
        (tmp_path / "out").mkdir()
        assert import_scan(scan, tmp_path / "out").voxels == 24

    def test_a_store_of_another_version_is_refused_and_replaced(self, tmp_path, scan):
        store = import_scan(scan, tmp_path / "out")
        zarr.open_group(store.path, mode="r+").attrs["schema_version"] = SCHEMA_VERSION - 1
        with pytest.raises(InputError, match="import the scan again"):
            ScanStore.open(store.path)
        assert import_scan(scan, tmp_path / "out", overwrite=True).voxels == 24

    @pytest.fixture
    def nobody(self):
        """The rights of an ordinary user, for a test that root runs."""
        if os.geteuid() != 0:
            yield
            return
        os.seteuid(65534)
        yield
        os.seteuid(0)

    @pytest.fixture
    def open_folder(self, scan):
        """A folder every user reaches, with the scan in it."""
        with tempfile.TemporaryDirectory(dir="/tmp") as name:
            folder = Path(name)
            folder.chmod(0o755)
            (folder / "scan.nii.gz").write_bytes(scan.read_bytes())
            (folder / "closed").mkdir(mode=0o555)
            yield folder

    def test_no_permission_to_write(self, open_folder, nobody):
        with pytest.raises(InputError, match="no permission to write"):
            import_scan(open_folder / "scan.nii.gz", open_folder / "closed" / "out")

    def test_no_permission_to_read(self, open_folder, request):
        (open_folder / "scan.nii.gz").chmod(0)
        request.getfixturevalue("nobody")
        with pytest.raises(InputError, match="no permission to read"):
            import_scan(open_folder / "scan.nii.gz", open_folder / "out")

    @pytest.fixture
    def small_disk(self, tmp_path):
        """A disk of 256 kB."""
        folder = tmp_path / "disk"
        folder.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("mounting a small tmpfs needs root")
        yield folder
        subprocess.run(["umount", str(folder)], check=True)

    @pytest.mark.parametrize("memory_budget", [1, 1 << 30])
    def test_full_disk(self, tmp_path, scan_file, noise, small_disk, memory_budget, monkeypatch):
        scan = scan_file(tmp_path / "big.nii", noise((8, 8, 8, 128)))
        with pytest.raises(InputError, match=r"8 x 8 x 8 x 128 samples.*kB are free"):
            import_scan(scan, small_disk / "out", memory_budget=memory_budget)
        # Someone else may fill it meanwhile.
        monkeypatch.setattr(importing, "check_room", lambda *_: None)
        with pytest.raises(RunError, match=r"the disk is full.*Free space"):
            import_scan(scan, small_disk / "out", memory_budget=memory_budget)
        assert os.listdir(small_disk) == []

    def test_full_disk_without_root(self, tmp_path, scan, monkeypatch):
        def full(self, plane):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(streaming.Transposer, "append", full)
        with pytest.raises(RunError, match="the disk is full"):
            import_scan(scan, tmp_path / "out")
        assert os.listdir(tmp_path) == ["scan.nii.gz"]


KILLED_IMPORT = """
import os, signal, sys
from mrsi_engine.io.importing import import_scan
kill = lambda done, total: done == total and os.kill(os.getpid(), signal.SIGKILL)
import_scan(sys.argv[1], sys.argv[2], memory_budget=1, progress=kill)
"""


def test_a_killed_import_leaves_nothing_that_looks_done(tmp_path, scan):
    out = tmp_path / "out"
    killed = subprocess.run([sys.executable, "-c", KILLED_IMPORT, scan, out])
    assert killed.returncode == -9
    assert not out.exists()
    assert import_scan(scan, out).voxels == 24


IMPORT_IN_A_PROCESS = """
import resource, sys
from mrsi_engine.io.importing import import_scan
small, big, out = sys.argv[1:4]
import_scan(small, out + "-small")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
import_scan(big, out, memory_budget=int(sys.argv[4]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_is_bounded_by_the_budget_and_not_by_the_volume(tmp_path, scan_file, noise):
    budget = 16 << 20
    volume = np.broadcast_to(np.complex64(1 + 1j), (48, 48, 8, 640))
    assert volume.nbytes > 5 * budget
    small = scan_file(tmp_path / "small.nii.gz", noise((4, 4, 4, 64)))
    big = scan_file(tmp_path / "big.nii.gz", volume)
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_IN_A_PROCESS, small, big, tmp_path / "out", str(budget)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout) * 1024 < 2.5 * budget
