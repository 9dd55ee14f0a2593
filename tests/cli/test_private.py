"""Who may read what a run writes, where it writes, and what it says of whom."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.cli.helpers import BASIS, Mrsi, of_phantom, resaved

pytestmark = pytest.mark.usefixtures("quick_report")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may look into, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp(prefix="mrsi-open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.rglob("*"))}


class TestUmask:
    def test_only_the_owner_by_default(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        before = os.umask(0o022)
        try:
            mrsi(*of_phantom(phantom), "--out", tmp_path / "out")
            assert os.umask(0o022) == 0o022
        finally:
            os.umask(before)
        assert modes(tmp_path / "out") == {0o700, 0o600}

    @pytest.mark.parametrize("option", [["--umask", "027"], ["--umask=0o027"]])
    def test_others_if_asked(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path, option: list[str]
    ) -> None:
        mrsi(*of_phantom(phantom), *option, "--out", tmp_path / "out")
        assert modes(tmp_path / "out") == {0o750, 0o640}

    @pytest.mark.parametrize("option", [["--umask", "888"], ["--umask"], ["--umask", "a"]])
    def test_no_umask(self, mrsi: Mrsi, tmp_path: Path, option: list[str]) -> None:
        error = mrsi.refused("export", tmp_path, *option)
        assert "expected octal digits such as 077" in error

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can be somebody else")
    def test_somebody_else(self, mrsi: Mrsi, phantom: Path, open_folder: Path) -> None:
        mrsi(*of_phantom(phantom), "--out", open_folder / "private")
        mrsi(*of_phantom(phantom), "--umask", "022", "--out", open_folder / "shared")

        def listed(folder: Path) -> int:
            look = "import os, sys; os.listdir(sys.argv[1]); open(sys.argv[1] + '/voxels.parquet')"
            command = [sys.executable, "-c", look, str(folder)]
            # A Python that everybody may run: that of a virtual environment may lie in a home.
            command[0] = shutil.which("python3", path="/usr/bin:/usr/local/bin") or command[0]
            return subprocess.run(command, user="nobody", cwd="/", check=False).returncode

        assert listed(open_folder / "shared") == 0
        assert listed(open_folder / "private") != 0


class TestLinks:
    @pytest.mark.parametrize(
        "link", ["maps/sub", "scan.zarr/fid/c", "result.zarr/estimate", "maps", "report.html"]
    )
    def test_at_any_level(
        self, mrsi: Mrsi, phantom: Path, copied: Path, tmp_path: Path, link: str
    ) -> None:
        elsewhere = tmp_path / "elsewhere"
        path = copied / link
        if path.exists():
            path.rename(elsewhere)
        else:
            elsewhere.mkdir()
        path.symlink_to(elsewhere)
        before = sorted((p, p.stat().st_mtime_ns) for p in elsewhere.rglob("*"))
        for command in ([*of_phantom(phantom), "--out", copied], ["export", copied]):
            error = mrsi.refused(*command)
            assert f"{path}: is a link to {elsewhere}, outside the output folder" in error
        assert sorted((p, p.stat().st_mtime_ns) for p in elsewhere.rglob("*")) == before

    def test_inside_and_the_folder_itself(
        self, mrsi: Mrsi, phantom: Path, copied: Path, tmp_path: Path
    ) -> None:
        (copied / "maps" / "latest").symlink_to(copied / "maps")
        (tmp_path / "link").symlink_to(copied)
        mrsi(*of_phantom(phantom), "--out", tmp_path / "link")


class TestLateRefusals:
    """What used to be said after the fit is said before the import."""

    def test_an_affine_without_an_inverse(self, mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
        flat = np.array(nib.load(phantom / "scan.nii.gz").affine)
        flat[:3, 2] = flat[:3, 1]
        scan = tmp_path / "flat.nii"
        image = nib.load(resaved(phantom / "scan.nii.gz", tmp_path / "scan.nii"))
        image.set_sform(flat, 1)
        image.set_qform(None, 0)
        nib.save(image, scan)
        command = ["run", scan, "--basis", BASIS, "--workers", 0, "--out", tmp_path / "out"]
        assert "is not an invertible 4x4 matrix" in mrsi.refused(*command)
        assert not (tmp_path / "out").exists()

    def test_a_name_without_room_for_those_of_maps(
        self, mrsi: Mrsi, phantom: Path, tmp_path: Path
    ) -> None:
        for length, code in ((120, 0), (121, 2)):
            scan = tmp_path / f"{'s' * length}.nii.gz"
            scan.symlink_to(phantom / "scan.nii.gz")
            command = [*of_phantom(phantom)[2:], "--out", tmp_path / f"out{length}"]
            if code:
                assert "give the scan a shorter name" in mrsi.refused("run", scan, *command)
                assert not (tmp_path / f"out{length}").exists()
            else:
                mrsi("run", scan, *command)

    def test_a_name_with_commands_of_a_terminal(self, mrsi: Mrsi, tmp_path: Path) -> None:
        error = mrsi.refused("run", "\x1b[2Jscan.nii", "--out", tmp_path)
        assert "\x1b" not in error
        assert "\\x1b[2Jscan" in error


def test_nothing_says_who_and_where(mrsi: Mrsi, phantom: Path, tmp_path: Path) -> None:
    """Neither folders, user nor machine stand in what a run writes (chunks packed or not)."""
    home = tmp_path / "Jane-Doe-1970"
    home.mkdir()

    def named(fields: dict[str, object]) -> dict[str, object]:
        return {**fields, "PatientName": "Roe^Richard", "OriginalFile": ["/data/Roe/meas.dat"]}

    for name in ("scan.nii.gz", "mask.nii.gz"):
        shutil.copy(phantom / name, home / name)
    resaved(phantom / "scan.nii.gz", home / "scan.nii.gz", extension=named)
    out = tmp_path / "out"
    given = ["--mask", home / "mask.nii.gz", "--basis", BASIS, "--workers", 0]
    mrsi("run", home / "scan.nii.gz", *given, "--out", out, "--keep", "fit")
    (out / "report.html").unlink()
    secrets = ["Jane", "Roe", str(tmp_path)]
    # Short ones are part of other words, or of packed samples.
    names = (getpass.getuser(), socket.gethostname())
    secrets += [name for name in names if len(name) > 5 and name != "runner"]
    found = [
        (path.name, secret)
        for path in out.rglob("*")
        if path.is_file()
        for secret in secrets
        if secret.encode() in (content_of(path) + str(path.relative_to(out)).encode())
    ]
    assert not found


def content_of(path: Path) -> bytes:
    if path.name.endswith(".nii.gz"):
        image = nib.load(path)
        return bytes(image.header.binaryblock) + b"".join(
            bytes(extension.content) for extension in image.header.extensions
        )
    return path.read_bytes()
